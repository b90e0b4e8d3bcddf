//! A batch's attempts: run on the workers, told of, cancelled, tried again, published.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use millrace_pipeline::codec::{AttemptSpec, PipelineText};
use millrace_pipeline::dedup::KeyIndex;
use millrace_pipeline::trace;
use millrace_proto::ids::{Attempt, BatchId, JobId};
use millrace_proto::manifest::{KeyFile, TaskReport};
use millrace_proto::split::Split;
use millrace_proto::v1;
use tokio::sync::watch;
use tracing::{Instrument, Span, error_span, info_span};

use super::input::SharedPipeline;
use super::work::{Lane, environment};
use super::{LaneError, Tools};
use crate::causes::chain;
use crate::commit::CommitError;
use crate::engine::EngineError;
use crate::engine::ballista::{TaskProgress, Work};
use crate::engine::embedded::Embedded;
use crate::job::{Progress, RunError, RunOptions, Runner};
use crate::lifecycle::{Batches, CommittedBatch};
use crate::quarantine::QuarantineError;

/// Attempts of one batch in a row before its job fails.
const ATTEMPTS_MAX: u32 = 8;
/// Pause after the first failed attempt; doubles.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(10);
/// Memory for keys while quarantine is read again, in bytes.
const REDRIVE_BYTES: usize = 256 << 20;

/// Who asks for a batch: a job, and the version of the pipeline that it runs.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) job: &'a v1::Job,
    pub(super) text: &'a PipelineText,
    pub(super) prepared: &'a SharedPipeline,
}

impl Lane {
    /// Sends what is in quarantine through the pipeline again, in this process: there is little of it, and it lies
    /// sealed in objects that have no splits. False when it was cancelled: what is committed stays.
    pub(super) async fn redrive(&mut self, id: &str) -> Result<bool, LaneError> {
        let Some(running) = self.running.get(id) else {
            return Ok(false);
        };
        let (job, prepared, job_id) = (
            running.job.clone(),
            Arc::clone(&running.prepared),
            running.id.clone(),
        );
        self.wear(&prepared, &job);
        let Some(batches) = self.batches.take() else {
            return Ok(false);
        };
        let keys = KeyIndex::new(
            Arc::clone(&prepared.lake),
            prepared.root.clone(),
            self.keys.clone(),
            REDRIVE_BYTES,
        );
        let engine = Embedded {
            steps: Arc::clone(&prepared.steps),
            stores: Arc::clone(&prepared.stores),
            keys: Arc::new(keys),
            threads: 1,
            snapshots: self.tools.workplace.snapshots(),
        };
        let options = RunOptions {
            environment: environment(&job),
            inputs: Vec::new(),
            threads: 1,
            batch_bytes: REDRIVE_BYTES as u64,
            memory_bytes: 2 * REDRIVE_BYTES,
            hook: Arc::clone(&self.tools.hook),
        };
        let (stop, stopped) = watch::channel(false);
        let mut runner = Runner::over(batches, engine, options, job_id, stopped);
        let progress = Progress::default();
        let redriven = tokio::select! {
            redriven = runner.redrive_waiting(&progress) => redriven,
            () = self.watch_cancel(id, stop) => Ok(()),
        };
        let (batches, manifests) = runner.into_parts();
        let left: Vec<BatchId> = batches.open().into_iter().map(|(id, _)| id).collect();
        self.batches = Some(batches);
        for manifest in manifests {
            let breached = false;
            self.committed(id, CommittedBatch { manifest, breached }).await?;
        }
        for batch in left {
            self.give_up(&batch).await?;
        }
        match redriven {
            Ok(()) => Ok(true),
            Err(_) if !self.jobs.borrow().contains_key(id) => Ok(false),
            Err(QuarantineError::Run(error)) if matches!(*error, RunError::Enrich(_)) => {
                Err(LaneError::Run(error))
            }
            Err(error) => Err(LaneError::Input(chain(&error))),
        }
    }

    /// Attempt after attempt over the same positions, until one is committed.
    pub(super) async fn attempts(
        &mut self,
        asked: Asked<'_>,
        batch: &BatchId,
        mut attempt: Attempt,
        splits: &[Split],
        tasks: Vec<Vec<Split>>,
    ) -> Result<CommittedBatch, LaneError> {
        let job = asked.job;
        let id = JobId::try_from(job.job_id.clone())?;
        let mut pause = RETRY_PAUSE;
        let mut tries = 1;
        loop {
            let began = Instant::now();
            let span = error_span!("attempt", attempt = %attempt);
            let ran = self.attempt(asked, &id, batch, attempt, &tasks);
            let ran = ran.instrument(span.clone()).await;
            let Some(batches) = &mut self.batches else {
                return Err(EngineError::Stopped.into());
            };
            let failed = match ran {
                Ok(reports) => {
                    self.tools.metrics.phase("run", began.elapsed());
                    let began = Instant::now();
                    let published = publish(batches, &id, batch, attempt, splits, reports);
                    let span = info_span!(parent: &span, "publish");
                    match published.instrument(span).await {
                        Ok(committed) => {
                            self.tools.metrics.phase("publish", began.elapsed());
                            return Ok(committed);
                        }
                        Err(error) if error.is_miscounted() => error,
                        Err(error) => return Err(error),
                    }
                }
                Err(EngineError::Stopped) => return Err(EngineError::Stopped.into()),
                Err(error) => error.into(),
            };
            if tries >= ATTEMPTS_MAX {
                return Err(failed);
            }
            self.tools.metrics.attempt_failed(self.name.as_str());
            tracing::warn!(job = job.job_id, batch = %batch, attempt = %attempt, error = chain(&failed), "an attempt failed");
            if !failed.is_disturbed() {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_PAUSE_MAX);
            }
            tries += 1;
            attempt = batches.start(batch).await?;
        }
    }

    async fn attempt(
        &self,
        Asked { job, text, prepared }: Asked<'_>,
        id: &JobId,
        batch: &BatchId,
        attempt: Attempt,
        tasks: &[Vec<Split>],
    ) -> Result<Vec<TaskReport>, EngineError> {
        let Some(batches) = &self.batches else {
            return Err(EngineError::Stopped);
        };
        let spec = AttemptSpec {
            pipeline: text.clone(),
            environment: environment(job),
            job: id.clone(),
            batch: batch.clone(),
            attempt,
            watermark_us: batches.ledger.state().newest_us,
            quarantine_date: Utc::now().format("%Y-%m-%d").to_string(),
            trace: trace::context_of(&Span::current()),
            snapshots: batches.snapshots_of(batch),
        };
        let (stop, stopped) = watch::channel(false);
        let watching = self.watch_cancel(&job.job_id, stop);
        let telling = Telling::begin(&self.tools, &job.job_id, batch, attempt);
        let progress = |now| telling.tell(now);
        let keys: &[KeyFile] = if prepared.steps.pipeline.dedup.is_some() {
            &self.keys
        } else {
            &[]
        };
        let work = Work {
            attempt: spec,
            is_follow: self
                .running
                .get(&job.job_id)
                .is_some_and(|running| running.input.is_follow()),
            tasks,
            committed: keys,
        };
        let running = self.tools.engine.run(work, &batches.lake, &progress, &stopped);
        tokio::select! {
            reports = running => reports,
            () = watching => Err(EngineError::Stopped),
        }
    }

    /// Says stop when the job is no longer active, and never ends.
    async fn watch_cancel(&self, job: &str, stop: watch::Sender<bool>) {
        let mut jobs = self.jobs.clone();
        let gone = jobs.wait_for(|jobs| !jobs.contains_key(job)).await.is_ok();
        if gone {
            stop.send_replace(true);
        }
        std::future::pending().await
    }
}

/// Publishes what an attempt wrote. A store that does not answer is asked again: the work is done already, and a manifest
/// that was put by a call without an answer is found.
async fn publish(
    batches: &mut Batches,
    job: &JobId,
    batch: &BatchId,
    attempt: Attempt,
    splits: &[Split],
    reports: Vec<TaskReport>,
) -> Result<CommittedBatch, LaneError> {
    let mut pause = RETRY_PAUSE;
    for _ in 1..ATTEMPTS_MAX {
        match batches
            .publish(job, batch, attempt, splits, reports.clone())
            .await
        {
            Err(RunError::Commit {
                source: CommitError::Lake(source),
                ..
            }) => {
                tracing::warn!(%job, %batch, %attempt, error = chain(&source), "publishing is tried again");
            }
            published => return Ok(published?),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_PAUSE_MAX);
    }
    Ok(batches.publish(job, batch, attempt, splits, reports).await?)
}

/// Tells the registry how far an attempt is, once a second at most.
struct Telling {
    now: watch::Sender<TaskProgress>,
    task: tokio::task::JoinHandle<()>,
}

impl Telling {
    fn begin(tools: &Arc<Tools>, job: &str, batch: &BatchId, attempt: Attempt) -> Self {
        let (now, mut told) = watch::channel(TaskProgress::default());
        let (tools, job) = (Arc::clone(tools), job.to_owned());
        let (batch, attempt) = (batch.to_string(), attempt.to_string());
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if told.changed().await.is_err() {
                    return;
                }
                let progress = *told.borrow_and_update();
                let update = |job: &mut v1::Job| {
                    let known = job.progress.clone().unwrap_or_default();
                    job.progress = Some(v1::Progress {
                        batch_id: batch.clone(),
                        attempt: attempt.clone(),
                        phase: "running".to_owned(),
                        tasks_done: progress.done,
                        tasks: progress.tasks,
                        ..known
                    });
                };
                if let Err(error) = tools.registry.update_job(&tools.lead, &job, update).await {
                    tracing::debug!(job, %error, "progress was not told");
                }
            }
        });
        Self { now, task }
    }

    fn tell(&self, progress: TaskProgress) {
        self.now.send_if_modified(|known| {
            let changed = *known != progress;
            *known = progress;
            changed
        });
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        self.task.abort();
    }
}
