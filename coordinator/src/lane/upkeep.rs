//! Jobs that read nothing: an expiry, a legal hold, an erasure.
//!
//! In: what the job asks for. Out: its outcome in the job's record, told before the job has succeeded. It is done in this process
//! between two batches. A leader that dies in it leaves at most a batch that the next one commits or gives up, and then does the
//! whole again: each of them comes to the same when it is done twice.

use std::time::Duration;

use millrace_pipeline::privacy::{Sealer, Subject};
use millrace_proto::v1::{self, job_input::Input as Asked, upkeep_outcome::Outcome as Told};

use super::LaneError;
use super::work::Lane;
use crate::causes::chain;
use crate::erasure::{self, ErasureError};
use crate::ledger::Why;
use crate::lifecycle::{Batches, now_us};
use crate::retention::hold::{self, Asked as Hold};
use crate::retention::{RetentionError, expire, wire};

/// How long an erasure waits for loads that are on their way.
const PATIENCE: Duration = Duration::from_secs(300);
/// Pause before they are looked at again.
const PAUSE: Duration = Duration::from_secs(1);

/// Why it was not done.
enum Stopped {
    /// Loads are on their way.
    Passing,
    /// Whatever it is, the lane is told.
    Error(LaneError),
}

impl Lane {
    /// Does what the job asks for; how long to wait where it cannot be done yet.
    pub(super) async fn upkeep(&mut self, id: &str) -> Result<Option<Duration>, LaneError> {
        let Some(running) = self.running.get(id) else {
            return Ok(None);
        };
        let (job, prepared) = (running.job.clone(), std::sync::Arc::clone(&running.prepared));
        if lets_go(&job) {
            // What it reads would leave, and what it writes could bring a person back.
            self.models.stop().await;
        }
        self.wear(&prepared, &job);
        let Some(batches) = &mut self.batches else {
            return Ok(None);
        };
        let last = batches.ledger.state().batches.keys().next_back().cloned();
        let came_to = come_to(batches, &job).await;
        if !matches!(&came_to, Err(Stopped::Error(error)) if error.is_fatal()) {
            self.forget_keys(last.as_ref()).await?;
        }
        match came_to {
            Ok(told) => {
                self.count_removed(&told);
                self.tell(id, Some(told)).await?;
                self.succeed(id, false).await?;
                Ok(None)
            }
            Err(Stopped::Passing) if wire::age(job.start_time.as_ref()) < PATIENCE => Ok(Some(PAUSE)),
            Err(Stopped::Passing) => {
                self.tell(id, None).await?;
                let text = "batches that hold the person wait for the warehouse still, and a load would bring them back";
                Err(LaneError::Input(text.to_owned()))
            }
            Err(Stopped::Error(error)) => {
                if !error.is_fatal() {
                    self.drop_upkeep().await?;
                    self.tell(id, None).await?;
                }
                Err(error)
            }
        }
    }

    /// Tells the job's outcome, and forgets whom it was about.
    async fn tell(&mut self, id: &str, told: Option<Told>) -> Result<(), LaneError> {
        let tell = |job: &mut v1::Job| {
            if let Some(told) = &told {
                job.upkeep = Some(v1::UpkeepOutcome {
                    outcome: Some(told.clone()),
                });
            }
            let input = job.input.as_mut().and_then(|input| input.input.as_mut());
            if let Some(Asked::Erasure(asked)) = input {
                asked.sealed_value.clear();
            }
        };
        self.tools.registry.update_job(&self.tools.lead, id, tell).await?;
        Ok(())
    }

    fn count_removed(&self, told: &Told) {
        let (metrics, name) = (&self.tools.metrics, self.name.as_str());
        let rows = |share: &Option<v1::RetentionShare>| share.as_ref().map_or(0, |share| share.rows);
        match told {
            Told::Retention(told) => {
                let counts = [
                    ("lake", rows(&told.data)),
                    ("quarantine", rows(&told.quarantine)),
                    ("keys", rows(&told.keys)),
                    ("warehouse", told.warehouse_rows.unwrap_or(0)),
                ];
                for (place, rows) in counts {
                    metrics.removed(name, place, Why::Expired, rows);
                }
            }
            Told::Erasure(told) if told.applied => {
                let counts = [
                    ("lake", told.rows),
                    ("quarantine", told.quarantined),
                    ("warehouse", told.warehouse_rows.unwrap_or(0)),
                    ("models", told.model_rows.unwrap_or(0)),
                ];
                for (place, rows) in counts {
                    metrics.removed(name, place, Why::Erased, rows);
                }
            }
            Told::Erasure(_) | Told::Hold(_) => {}
        }
    }
}

fn lets_go(job: &v1::Job) -> bool {
    let asked = job.input.as_ref().and_then(|input| input.input.as_ref());
    match asked {
        Some(Asked::Erasure(asked)) => !asked.dry_run,
        other => matches!(other, Some(Asked::Retention(_))),
    }
}

async fn come_to(batches: &mut Batches, job: &v1::Job) -> Result<Told, Stopped> {
    let by = job.submitter.as_str();
    match job.input.as_ref().and_then(|input| input.input.as_ref()) {
        Some(Asked::Retention(_)) => {
            let mut outcome = expire(batches, by, now_us()).await.map_err(retained)?;
            // A plan tells of each hour; a job's record is small.
            outcome.hours.clear();
            Ok(Told::Retention((&outcome).into()))
        }
        Some(Asked::Hold(asked)) => {
            let at =
                |stamp: &Option<prost_types::Timestamp>| stamp.as_ref().map(wire::micros).unwrap_or_default();
            let asked = Hold {
                from_us: at(&asked.from),
                to_us: at(&asked.to),
                reason: asked.reason.clone(),
                by: by.to_owned(),
            };
            let hold = hold::place(batches, asked).await.map_err(retained)?;
            Ok(Told::Hold((&hold).into()))
        }
        Some(Asked::ReleaseHold(asked)) => {
            let released = hold::release(batches, &asked.hold_id, by, &asked.reason).await;
            Ok(Told::Hold((&released.map_err(retained)?).into()))
        }
        Some(Asked::Erasure(asked)) => erase(batches, asked, by).await,
        Some(
            Asked::Hour(_)
            | Asked::Range(_)
            | Asked::Prefix(_)
            | Asked::Follow(_)
            | Asked::Redrive(_)
            | Asked::Models(_),
        )
        | None => Err(Stopped::Error(LaneError::Input(
            "the job asks for no upkeep".to_owned(),
        ))),
    }
}

async fn erase(batches: &mut Batches, asked: &v1::ErasureInput, by: &str) -> Result<Told, Stopped> {
    let value = Sealer::of(&batches.pipeline).and_then(|sealer| sealer.open(&asked.sealed_value));
    let value = value.map_err(|error| refused(&error))?;
    let value = String::from_utf8(value).map_err(|_| {
        let text = "the person's value is no text".to_owned();
        Stopped::Error(LaneError::Input(text))
    })?;
    let column = Some(asked.column.as_str()).filter(|column| !column.is_empty());
    let subject = Subject::new(&batches.pipeline, &value, column).map_err(|error| refused(&error))?;
    let outcome = if asked.dry_run {
        let state = batches.ledger.state();
        erasure::look(&batches.pipeline, &batches.lake, state, &subject).await
    } else {
        erasure::erase(batches, &subject, by).await
    };
    match outcome {
        Ok(outcome) => Ok(Told::Erasure((&outcome).into())),
        Err(error) if error.is_passing() => Err(Stopped::Passing),
        Err(error) => Err(erased(error)),
    }
}

fn refused(error: &(dyn std::error::Error + 'static)) -> Stopped {
    Stopped::Error(LaneError::Input(chain(error)))
}

fn retained(error: RetentionError) -> Stopped {
    match error.into_ledger() {
        Ok(ledger) => Stopped::Error(ledger.into()),
        Err(error) => refused(&error),
    }
}

fn erased(error: ErasureError) -> Stopped {
    match error.into_ledger() {
        Ok(ledger) => Stopped::Error(ledger.into()),
        Err(error) => refused(&error),
    }
}
