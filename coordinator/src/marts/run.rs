//! The next period that is due, computed and committed.
//!
//! | step               | a crash after it                                                                       |
//! |--------------------|----------------------------------------------------------------------------------------|
//! | computed: the object is there, the ledger does not name it | the next writer computes the period again, under another name |
//! | committed          | nothing is left to do; objects that nothing names are swept some time                      |

use std::sync::Arc;
use std::time::Instant;

use millrace_pipeline::spec::marts::Mart;
use millrace_proto::ids::JobId;
use millrace_proto::keys;
use millrace_proto::manifest::WrittenObject;
use tokio::sync::Semaphore;

use super::compute::{Source, compute};
use super::due::{self, Period, Standing};
use super::state::MartRun;
use super::{MartError, period_name};
use crate::aside::{self, Running};
use crate::job::RunError;
use crate::ledger::Entry;
use crate::lifecycle::{Batches, Moment, now_us};

/// Queries of a process at once, whatever pipelines they are of: each has memory of its own. Not one, so that a long one does not
/// hold up the models of all others.
static QUERIES: Semaphore = Semaphore::const_new(2);

/// What a query may use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Compute threads.
    pub threads: usize,
    /// Memory of its operators, in bytes.
    pub memory_bytes: usize,
}

/// A period that is being computed, apart from whatever else its pipeline does meanwhile.
///
/// It is computed over what the ledger said when it began: where that has changed since, the period is due again. What it reads
/// must stay until it is over.
#[derive(Debug)]
pub struct Computing {
    mart: String,
    definition: String,
    period: Period,
    version: u64,
    job: Option<JobId>,
    began: Instant,
    work: Running<Result<WrittenObject, MartError>>,
    outcome: Option<Result<WrittenObject, MartError>>,
}

/// Begins to compute the next period that is due; none when there is none. `is_free` says which may be tried.
#[must_use]
pub fn begin(
    batches: &Batches,
    marts: &[Mart],
    limits: Limits,
    is_free: &(dyn Fn(&Mart, &Period) -> bool + Sync),
) -> Option<Computing> {
    let periods = periods(batches, marts);
    let free = |period: &Period| marts.get(period.mart).is_some_and(|mart| is_free(mart, period));
    let period = due::next(&periods, &free)?;
    one(batches, marts, period, None, limits)
}

/// Begins to compute the next period of a backfill, whether it is due or not: those whose input is complete, each once; none when
/// there is none. `is_asked` says which are meant.
#[must_use]
pub fn begin_backfill(
    batches: &Batches,
    marts: &[Mart],
    job: &JobId,
    limits: Limits,
    is_asked: &(dyn Fn(&Mart, &Period) -> bool + Sync),
) -> Option<Computing> {
    let periods = periods(batches, marts);
    let is_left = |period: &&Period| {
        let done = period.run.as_ref().and_then(|run| run.job.as_ref()) == Some(job);
        let asked = marts.get(period.mart).is_some_and(|mart| is_asked(mart, period));
        period.standing != Standing::Waiting && !period.expired && !done && asked
    };
    // By mart: one that reads another finds it done.
    let period = periods.iter().find(is_left)?;
    one(batches, marts, period, Some(job), limits)
}

fn periods(batches: &Batches, marts: &[Mart]) -> Vec<Period> {
    let lateness = batches.pipeline.partition.lateness_seconds;
    due::periods(batches.ledger.state(), marts, lateness)
}

fn one(
    batches: &Batches,
    marts: &[Mart],
    period: &Period,
    job: Option<&JobId>,
    limits: Limits,
) -> Option<Computing> {
    let mart = marts.get(period.mart)?;
    let name = period_name(period.from_hour, period.hours);
    let (epoch, version) = (batches.ledger.epoch(), batches.ledger.state().marts.versions + 1);
    let unique = uuid::Uuid::new_v4().simple().to_string();
    let key = keys::mart(&mart.name, &name, version, epoch, &unique[..8]);
    let source = Source {
        pipeline: Arc::clone(&batches.pipeline),
        lake: batches.lake.clone(),
        state: batches.ledger.state().clone(),
        mart: mart.clone(),
        period: period.clone(),
    };
    // It is not closed.
    let work = async move {
        let _turn = QUERIES.acquire().await;
        compute(source, key, limits).await
    };
    Some(Computing {
        mart: mart.name.clone(),
        definition: mart.digest.clone(),
        period: period.clone(),
        version,
        job: job.cloned(),
        began: Instant::now(),
        work: aside::begin("the query", work),
        outcome: None,
    })
}

impl Computing {
    /// The backfill that asked for it.
    #[must_use]
    pub fn job(&self) -> Option<&JobId> {
        self.job.as_ref()
    }

    /// When it began.
    #[must_use]
    pub fn began(&self) -> Instant {
        self.began
    }

    /// Whether its query has come to its end.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.outcome.is_some() || self.work.is_over()
    }

    /// Waits for that.
    pub async fn over(&mut self) {
        if self.outcome.is_none() {
            self.outcome = Some(outcome(&mut self.work).await);
        }
    }

    /// Ends it, and waits until it reads and writes nothing any more.
    pub async fn stop(self) {
        if self.outcome.is_none() {
            self.work.stop().await;
        }
    }

    /// Waits for it and commits it.
    ///
    /// # Errors
    /// The ledger's, or [`RunError::Mart`]: then others may be tried.
    pub async fn commit(mut self, batches: &mut Batches) -> Result<MartRun, RunError> {
        let object = match self.outcome.take() {
            Some(outcome) => outcome,
            None => outcome(&mut self.work).await,
        };
        let Period {
            from_hour,
            hours,
            input,
            ..
        } = self.period;
        let (mart, name) = (self.mart, period_name(from_hour, hours));
        let object = object.map_err(|source| RunError::Mart {
            mart: mart.clone(),
            period: name.clone(),
            source: Box::new(source),
        })?;
        (batches.hook)(Moment::Computed);
        let epoch = batches.ledger.epoch();
        let run = MartRun {
            mart,
            from_hour,
            hours,
            version: self.version,
            object,
            input,
            definition: self.definition,
            job: self.job,
            at_us: now_us(),
        };
        let entry = Entry::Modelled {
            epoch,
            run: Box::new(run.clone()),
        };
        batches.ledger.append(vec![entry]).await?;
        (batches.hook)(Moment::Modelled);
        tracing::info!(
            pipeline = %batches.pipeline.name, model = run.mart, period = name, version = run.version, epoch,
            rows = run.object.rows, milliseconds = self.began.elapsed().as_millis(), "a model's period is computed"
        );
        Ok(run)
    }
}

async fn outcome(work: &mut Running<Result<WrittenObject, MartError>>) -> Result<WrittenObject, MartError> {
    work.await?
}
