//! A batch's attempts: run on the workers, told of, cancelled, tried again.
//!
//! The first attempt of a batch may run while the batch before it, of the same job, is being committed: see [`crate::ahead`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use millrace_pipeline::codec::{AttemptSpec, PipelineText};
use millrace_pipeline::trace;
use millrace_proto::ids::{Attempt, BatchId, JobId};
use millrace_proto::manifest::TaskReport;
use millrace_proto::split::Split;
use millrace_proto::v1;
use tokio::sync::watch;
use tracing::{Instrument, Span, error_span};

use super::LaneError;
use super::input::SharedPipeline;
use super::keys::Told;
use super::telling::Telling;
use super::work::{Lane, environment};
use crate::ahead::Ahead;
use crate::causes::chain;
use crate::engine::EngineError;
use crate::engine::ballista::Work;
use crate::hours::PartitionTime;
use crate::lifecycle::Moment;

/// Attempts of one batch in a row before its job fails.
const ATTEMPTS_MAX: u32 = 8;
/// Pause after the first failed attempt; doubles.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(10);

/// A batch on its way: all that its attempts need, so that one can run while the lane does something else.
pub(super) struct Flight {
    pub(super) job: v1::Job,
    pub(super) id: JobId,
    /// The version of the pipeline that the job runs.
    pub(super) text: PipelineText,
    pub(super) prepared: SharedPipeline,
    pub(super) batch: BatchId,
    pub(super) attempt: Attempt,
    pub(super) splits: Vec<Split>,
    pub(super) tasks: Arc<Vec<Vec<Split>>>,
    /// Input partitions that are read out up to these times once it is committed.
    pub(super) reached: Vec<PartitionTime>,
    pub(super) retry: Retry,
    pub(super) span: Span,
}

/// A batch whose every task is done.
pub(super) struct Written {
    pub(super) flight: Flight,
    pub(super) reports: Vec<TaskReport>,
}

/// How often a batch was tried.
pub(super) struct Retry {
    tries: u32,
    pause: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            tries: 1,
            pause: RETRY_PAUSE,
        }
    }
}

impl Retry {
    /// How long to wait before the next try; none when there were enough.
    pub(super) fn next(&mut self) -> Option<Duration> {
        self.tries += 1;
        let pause = self.pause;
        self.pause = (pause * 2).min(RETRY_PAUSE_MAX);
        (self.tries <= ATTEMPTS_MAX).then_some(pause)
    }
}

impl Flight {
    /// The same batch, whose tasks are done.
    fn written(self, reports: Vec<TaskReport>) -> Written {
        let flight = self;
        Written { flight, reports }
    }
}

impl Lane {
    /// Attempt after attempt over the same positions, until all tasks of one are done. Beside the first the batch before
    /// it is committed, where there is one.
    pub(super) async fn fly(&mut self, flight: Flight) -> Result<Written, LaneError> {
        let first = match self.written.take() {
            Some(before) => self.attempt_behind(&flight, before).await?,
            None => self.attempt(&flight).await,
        };
        self.fly_on(flight, first).await
    }

    /// The same from the first attempt's end on.
    async fn fly_on(
        &mut self,
        mut flight: Flight,
        mut ran: Result<Vec<TaskReport>, EngineError>,
    ) -> Result<Written, LaneError> {
        loop {
            match ran {
                Ok(reports) => return Ok(flight.written(reports)),
                Err(error) => self.again(&mut flight, error.into()).await?,
            }
            ran = self.attempt(&flight).await;
        }
    }

    /// Another attempt of a batch that failed so, and those after it.
    pub(super) async fn fly_again(
        &mut self,
        mut flight: Flight,
        failed: LaneError,
    ) -> Result<Written, LaneError> {
        self.again(&mut flight, failed).await?;
        let ran = self.attempt(&flight).await;
        self.fly_on(flight, ran).await
    }

    /// Opens the next attempt of a batch, when its time has come.
    async fn again(&mut self, flight: &mut Flight, failed: LaneError) -> Result<(), LaneError> {
        if matches!(failed, LaneError::Engine(EngineError::Stopped)) || failed.is_final() {
            return Err(failed);
        }
        let Some(pause) = flight.retry.next() else {
            return Err(failed);
        };
        self.tools.metrics.attempt_failed(self.name.as_str());
        tracing::warn!(
            job = flight.job.job_id, batch = %flight.batch, attempt = %flight.attempt, error = chain(&failed),
            "an attempt failed"
        );
        if !failed.is_disturbed() {
            tokio::time::sleep(pause).await;
        }
        let Some(batches) = &mut self.batches else {
            return Err(EngineError::Stopped.into());
        };
        flight.attempt = batches.start(&flight.batch).await?;
        Ok(())
    }

    /// One attempt, with nothing else under way.
    async fn attempt(&mut self, flight: &Flight) -> Result<Vec<TaskReport>, EngineError> {
        let mut told = self.told(flight, None)?;
        if let (Some((list, bytes)), Some(batches)) = (&told.list, &self.batches) {
            self.keys
                .put(&batches.lake, (list.clone(), bytes.clone()))
                .await?;
        }
        let (_halt, halted) = watch::channel(false);
        self.launch(flight, &mut told, None, halted)?.await
    }

    /// The first attempt of a batch, while the batch before it is committed.
    async fn attempt_behind(
        &mut self,
        flight: &Flight,
        before: Written,
    ) -> Result<Result<Vec<TaskReport>, EngineError>, LaneError> {
        let ahead = Ahead::of(&before.flight.batch, before.flight.attempt, &before.reports);
        let mut told = self.told(flight, Some(&ahead))?;
        let (halt, halted) = watch::channel(false);
        let run = self.launch(flight, &mut told, Some(&ahead), halted)?;
        self.tools.metrics.read_ahead(self.name.as_str());
        let list = told.list;
        let landing = async {
            let landed = self.land(&before, &ahead, list).await;
            if !matches!(landed, Ok(true)) {
                halt.send_replace(true);
            }
            landed
        };
        let (ran, landed) = tokio::join!(run, landing);
        match landed {
            Ok(true) => return Ok(ran),
            Ok(false) => {}
            // The slots are free again: now it can be run once more.
            Err(error) if error.is_miscounted() => self.commit(before).await?,
            Err(error) => return Err(self.abandon(&before.flight.batch, error).await?),
        }
        let what = format!(
            "batch {} before it was not committed as it was read ahead of",
            ahead.batch()
        );
        Ok(Err(EngineError::Disturbed { what }))
    }

    /// Commits the batch before another one, and lets that one see its keys. Whether it may count on them.
    async fn land(
        &mut self,
        before: &Written,
        ahead: &Ahead,
        list: Option<(millrace_pipeline::dedup::KeyList, bytes::Bytes)>,
    ) -> Result<bool, LaneError> {
        let committed = self.publish(before).await?;
        let is_it = ahead.is(&committed.manifest);
        let told = async {
            let (Some(batches), Some(list), true) = (&self.batches, list, is_it) else {
                return Ok(is_it);
            };
            (batches.hook)(Moment::Awaited);
            self.keys.put(&batches.lake, list).await?;
            (batches.hook)(Moment::Told);
            Ok::<_, EngineError>(true)
        };
        let counts = told.await.unwrap_or_else(|error| {
            tracing::warn!(batch = %ahead.batch(), error = chain(&error), "the batch behind it is read again");
            false
        });
        let span = before.flight.span.clone();
        self.committed(&before.flight.job.job_id, committed)
            .instrument(span)
            .await?;
        Ok(counts)
    }

    /// What the attempt is told of committed keys.
    fn told(&self, flight: &Flight, ahead: Option<&Ahead>) -> Result<Told, EngineError> {
        if flight.prepared.steps.pipeline.dedup.is_none() {
            return Ok(Told::default());
        }
        self.keys.told(ahead)
    }

    /// Runs one attempt, apart from the lane.
    fn launch(
        &self,
        flight: &Flight,
        told: &mut Told,
        ahead: Option<&Ahead>,
        mut halted: watch::Receiver<bool>,
    ) -> Result<impl Future<Output = Result<Vec<TaskReport>, EngineError>> + use<>, EngineError> {
        let Some(batches) = &self.batches else {
            return Err(EngineError::Stopped);
        };
        let span = error_span!(parent: &flight.span, "attempt", attempt = %flight.attempt);
        let newest_us = batches.ledger.state().newest_us;
        let spec = AttemptSpec {
            pipeline: flight.text.clone(),
            environment: environment(&flight.job),
            job: flight.id.clone(),
            batch: flight.batch.clone(),
            attempt: flight.attempt,
            watermark_us: ahead.map_or(newest_us, |ahead| ahead.newest(newest_us)),
            quarantine_date: Utc::now().format("%Y-%m-%d").to_string(),
            trace: trace::context_of(&span),
            snapshots: batches.snapshots_of(&flight.batch),
            keys: told.list.as_ref().map(|(list, _)| list.clone()),
        };
        let is_follow = self
            .running
            .get(&flight.job.job_id)
            .is_some_and(|running| running.input.is_follow());
        let (tools, lake, tasks) = (
            Arc::clone(&self.tools),
            batches.lake.clone(),
            Arc::clone(&flight.tasks),
        );
        let (mut jobs, job) = (self.jobs.clone(), flight.job.job_id.clone());
        let committed = std::mem::take(&mut told.files);
        let run = async move {
            let began = Instant::now();
            let (stop, stopped) = watch::channel(false);
            // Says stop when the job is no longer active, or nobody wants the attempt any more; never ends.
            let watching = async {
                let cancelled = async { jobs.wait_for(|jobs| !jobs.contains_key(&job)).await.is_ok() };
                let dropped = async { halted.wait_for(|halted| *halted).await.is_ok() };
                let is_over = tokio::select! {
                    true = cancelled => true,
                    true = dropped => true,
                    else => false,
                };
                if is_over {
                    stop.send_replace(true);
                }
                std::future::pending::<()>().await;
            };
            let telling = Telling::begin(&tools, &job, &spec.batch, spec.attempt);
            let progress = |now| telling.tell(now);
            let work = Work {
                attempt: spec,
                is_follow,
                tasks: &tasks,
                committed: &committed,
            };
            let running = tools.engine.run(work, &lake, &progress, &stopped);
            let ran = tokio::select! {
                ran = running => ran,
                () = watching => Err(EngineError::Stopped),
            };
            if ran.is_ok() {
                tools.metrics.phase("run", began.elapsed());
            }
            ran
        };
        Ok(run.instrument(span))
    }

    /// Says stop when the job is no longer active, and never ends.
    pub(super) async fn watch_cancel(&self, job: &str, stop: watch::Sender<bool>) {
        let mut jobs = self.jobs.clone();
        let gone = jobs.wait_for(|jobs| !jobs.contains_key(job)).await.is_ok();
        if gone {
            stop.send_replace(true);
        }
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_tried_eight_times_with_growing_pauses() {
        let mut retry = Retry::default();
        let pauses: Vec<Duration> = std::iter::from_fn(|| retry.next()).collect();
        assert_eq!(pauses.len(), 7);
        assert!(pauses.is_sorted() && pauses.iter().all(|pause| *pause <= RETRY_PAUSE_MAX));
    }
}
