//! One job of the embedded run: finish what was interrupted, then plan, run and commit batch after batch.
//!
//! So a `kill -9` anywhere and a second run give what an undisturbed run gives.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use millrace_pipeline::dedup::KeyIndex;
use millrace_pipeline::plan::{PlanError, Steps};
use millrace_pipeline::sink::{SinkError, SinkSpec};
use millrace_pipeline::source::{SourceError, Stores, cut, list};
use millrace_pipeline::spec::model::Pipeline;
use millrace_proto::ids::{Attempt, BatchId, IdError, JobId};
use millrace_proto::manifest::{KeyFile, Manifest, SplitCounts, TaskReport};
use millrace_proto::split::Split;
use tokio::sync::watch;
use tracing::{Instrument, Span, error_span};

use crate::causes::chain;
use crate::commit::{CommitError, live};
use crate::compaction;
use crate::engine::embedded::{Counters, Embedded};
use crate::engine::{EngineError, stopped};
use crate::enrich::SnapshotError;
use crate::hours::{OBJECTS, PartitionTime};
use crate::lake::{Lake, LakeError};
use crate::ledger::embedded::EmbeddedLedger;
use crate::ledger::{Ledger, LedgerError, State};
use crate::lifecycle::{Batches, CommittedBatch, Hook, Moment};
use crate::report::Report;
use crate::split::{SPLIT_BYTES, next_batch, unpacked_bytes, unplanned};

/// Pause before a database is asked again that lookups wait for; doubles.
const WAIT: Duration = Duration::from_millis(500);
/// Longest pause.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Why a run ended early. What was committed before stays; running again goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The input could not be listed.
    #[error("the input could not be listed")]
    Source(#[from] SourceError),
    /// The pipeline does not fit together.
    #[error("the pipeline cannot be run")]
    Plan(#[from] PlanError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// An attempt failed.
    #[error("batch {batch} failed")]
    Engine {
        /// The batch.
        batch: BatchId,
        /// Why.
        #[source]
        source: EngineError,
    },
    /// A compaction could not read or write.
    #[error("compaction {batch} failed")]
    Compaction {
        /// The batch.
        batch: BatchId,
        /// Why.
        #[source]
        source: Box<SinkError>,
    },
    /// Computing that was ended from without, or has a bug.
    #[error(transparent)]
    Lost(#[from] crate::aside::Lost),
    /// A batch could not be committed.
    #[error("batch {batch} was not committed")]
    Commit {
        /// The batch.
        batch: BatchId,
        /// Why.
        #[source]
        source: CommitError,
    },
    /// A quality breach with `on_breach: fail`.
    #[error(
        "batch {batch}: clean ratio {clean:.5} is under minimum_clean {minimum}; `on_breach: fail` keeps it uncommitted"
    )]
    Breach {
        /// The batch.
        batch: BatchId,
        /// Share of clean events.
        clean: f64,
        /// What was asked for.
        minimum: f64,
    },
    /// A redrive could not read its records.
    #[error("redrive {batch} could not read its records")]
    Redrive {
        /// The batch.
        batch: BatchId,
        /// Why.
        #[source]
        source: Box<crate::quarantine::QuarantineError>,
    },
    /// Quality state that cannot be read back.
    #[error("quality state `{key}` cannot be read: {reason}")]
    State {
        /// Its key.
        key: String,
        /// Why.
        reason: String,
    },
    /// The lake.
    #[error("the lake could not be used")]
    Lake(#[from] LakeError),
    /// A model's period could not be computed.
    #[error("model `{mart}`: period {period} could not be computed")]
    Mart {
        /// The model.
        mart: String,
        /// `2026-01-01`, or `2026-01-01T05`.
        period: String,
        /// Why.
        #[source]
        source: Box<crate::marts::MartError>,
    },
    /// A batch of a run that was interrupted comes first.
    #[error("batch {batch} of an interrupted run is not finished yet; `millrace run` the pipeline first")]
    Interrupted {
        /// The batch.
        batch: BatchId,
    },
    /// Ids that do not fit; it points at a bug.
    #[error(transparent)]
    Id(#[from] IdError),
    /// A lookup has no snapshot that may be used.
    #[error(transparent)]
    Enrich(#[from] Box<SnapshotError>),
}

impl RunError {
    /// The ledger's refusal, if it is one: nobody may go on then.
    ///
    /// # Errors
    /// Itself, where it is not.
    pub fn into_ledger(self: Box<Self>) -> Result<LedgerError, Box<Self>> {
        if let Self::Ledger(error) = *self {
            Ok(error)
        } else {
            Err(self)
        }
    }

    /// Whether a batch waits for a snapshot, as its pipeline says.
    fn waits(&self) -> bool {
        matches!(self, Self::Enrich(error) if matches!(**error, SnapshotError::Waits { .. }))
    }
}

/// How a job is run.
#[derive(Clone)]
pub struct RunOptions {
    /// Environment that decides about masking.
    pub environment: Option<String>,
    /// Inputs that stand for the pipeline's own.
    pub inputs: Vec<String>,
    /// Tasks at once.
    pub threads: usize,
    /// Unpacked input that is committed at once, in bytes.
    pub batch_bytes: u64,
    /// Memory for keys and for rows that wait to be written, in bytes.
    pub memory_bytes: usize,
    /// Told of each moment.
    pub hook: Hook,
}

/// What a watcher may read while a job runs.
#[derive(Debug, Default)]
pub struct Progress {
    /// Unpacked input bytes of all planned and still unplanned splits.
    pub bytes_total: std::sync::atomic::AtomicU64,
    counters: Counters,
}

impl Progress {
    /// Bytes and events so far.
    #[must_use]
    pub fn snapshot(&self) -> (u64, u64) {
        self.counters.get()
    }

    pub(crate) fn running(&self, before: (u64, u64), bytes: u64, events: u64) {
        self.counters.set(before.0 + bytes, before.1 + events);
    }
}

/// What a job came to.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The job.
    pub job: JobId,
    /// Manifests that this run committed.
    pub manifests: Vec<Manifest>,
    /// Sums over them.
    pub counts: SplitCounts,
    /// The suite's result over them, in Great Expectations' format; none without a suite.
    pub quality: Option<serde_json::Value>,
    /// Key of the result file, if there is one.
    pub quality_key: Option<String>,
    /// Batches whose clean ratio was under the minimum.
    pub breached: Vec<BatchId>,
}

/// The job's tools, made once.
pub struct Runner {
    pub(crate) batches: Batches,
    pub(crate) engine: Embedded,
    pub(crate) options: RunOptions,
    pub(crate) job: JobId,
    pub(crate) stop: watch::Receiver<bool>,
    done: Vec<Manifest>,
    breached: Vec<BatchId>,
    mended: Option<Report>,
    /// Whether it waits itself where a lookup says `on_down: wait`; else whoever runs it does.
    waits: bool,
}

impl Runner {
    /// Takes the lake over and loads what is committed.
    ///
    /// # Errors
    /// When the pipeline cannot be run here, or the lake cannot be taken over.
    pub fn open(
        pipeline: Arc<Pipeline>,
        lake: Lake,
        stores: Arc<Stores>,
        options: RunOptions,
        stop: watch::Receiver<bool>,
    ) -> BoxFuture<'static, Result<Self, RunError>> {
        async move {
            let steps = Arc::new(Steps::new(Arc::clone(&pipeline), options.environment.as_deref())?);
            let ledger = Box::new(EmbeddedLedger::open(&lake, &pipeline.name).await?);
            (options.hook)(Moment::Opened);
            let keys = committed_keys(&lake, ledger.state()).await?;
            let keys = KeyIndex::new(
                Arc::clone(&lake.store),
                lake.root.clone(),
                keys,
                options.memory_bytes / 2,
            );
            let engine = Embedded {
                steps,
                stores,
                keys: Arc::new(keys),
                threads: options.threads,
                snapshots: Arc::default(),
            };
            let job = job_of(ledger.epoch())?;
            let (done, breached) = (Vec::new(), Vec::new());
            let batches = Batches {
                environment: options.environment.clone(),
                ..Batches::new(pipeline, lake, ledger, Arc::clone(&options.hook))
            };
            Ok(Self {
                batches,
                engine,
                options,
                job,
                stop,
                done,
                breached,
                mended: None,
                waits: true,
            })
        }
        .boxed()
    }

    /// A runner over batches that are open already, for work that a leader does itself.
    pub(crate) fn over(
        batches: Batches,
        engine: Embedded,
        options: RunOptions,
        job: JobId,
        stop: watch::Receiver<bool>,
    ) -> Self {
        Self {
            batches,
            engine,
            options,
            job,
            stop,
            done: Vec::new(),
            breached: Vec::new(),
            mended: None,
            waits: false,
        }
    }

    /// Gives the batches back, and what was committed meanwhile.
    pub(crate) fn into_parts(self) -> (Batches, Vec<Manifest>) {
        (self.batches, self.done)
    }

    /// Finishes what was interrupted, then reads everything that is new.
    ///
    /// # Errors
    /// The first thing that went wrong; what was committed stays.
    pub fn run<'a>(self, progress: &'a Progress) -> BoxFuture<'a, Result<Outcome, RunError>> {
        async move {
            let span = self.span();
            self.run_all(progress).instrument(span).await
        }
        .boxed()
    }

    /// The job's span.
    pub(crate) fn span(&self) -> Span {
        let (pipeline, epoch) = (&self.batches.pipeline.name, self.batches.ledger.epoch());
        error_span!("job", %pipeline, job = %self.job, epoch)
    }

    async fn run_all(mut self, progress: &Progress) -> Result<Outcome, RunError> {
        self.finish_interrupted(progress).await?;
        let objects = list(
            &self.engine.stores,
            &self.batches.pipeline.source,
            &self.options.inputs,
        )
        .await?;
        let all = cut(&objects, self.batches.pipeline.source.format(), SPLIT_BYTES);
        self.announce(&all, progress);
        loop {
            let splits = next_batch(
                &all,
                &self.batches.ledger.state().covered,
                self.options.batch_bytes,
                &unpacked_bytes,
            );
            if splits.is_empty() {
                break;
            }
            let (batch, attempt) = self.plan(&splits, Vec::new()).await?;
            self.attempt(&batch, attempt, &splits, progress).await?;
        }
        // Everything that was listed is committed: no hour waits for it any more.
        let closed = PartitionTime {
            partition: OBJECTS.to_owned(),
            time_us: Some(i64::MAX),
        };
        if !all.is_empty() {
            self.batches.reach(vec![closed]).await?;
        }
        self.finish().await
    }

    pub(crate) async fn finish_interrupted(&mut self, progress: &Progress) -> Result<(), RunError> {
        if let Some((report, held)) = self.missing_report().await? {
            self.mended = Some(report);
            self.breached.extend(held);
        }
        for (id, batch) in self.batches.open() {
            if batch.is_upkeep() {
                compaction::settle(&mut self.batches, &id, self.options.memory_bytes / 2).await?;
                continue;
            }
            if let Some(committed) = self.batches.adopt(&id, &batch.splits).await? {
                self.count(committed);
                continue;
            }
            if !self.engine.steps.fits(&batch.snapshots) {
                // The pipeline was changed meanwhile: what it looks up now was not fixed. Its positions are free again.
                self.batches.drop_batch(&id).await?;
                continue;
            }
            let attempt = self.batches.start(&id).await?;
            if batch.redrives.is_empty() {
                self.announce(&batch.splits, progress);
                self.attempt(&id, attempt, &batch.splits, progress).await?;
            } else {
                self.attempt_redrive(&id, attempt, &batch.redrives, progress)
                    .await?;
            }
        }
        Ok(())
    }

    fn announce(&self, splits: &[Split], progress: &Progress) {
        let covered = &self.batches.ledger.state().covered;
        let planned = |split: &Split| unplanned(covered, &split.object, split.start, split.end).is_empty();
        let new = splits.iter().filter(|split| !planned(split));
        let bytes = new.map(unpacked_bytes).sum();
        progress
            .bytes_total
            .fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
    }

    async fn attempt(
        &mut self,
        batch: &BatchId,
        attempt: Attempt,
        splits: &[Split],
        progress: &Progress,
    ) -> Result<(), RunError> {
        let sink = self.sink(batch, attempt);
        let span = error_span!("attempt", %batch, %attempt);
        let reports = self
            .engine
            .run(
                splits,
                &self.batches.snapshots_of(batch),
                sink,
                progress,
                &self.stop,
            )
            .instrument(span)
            .await
            .map_err(|source| RunError::Engine {
                batch: batch.clone(),
                source,
            })?;
        self.publish(batch, attempt, splits, reports).await
    }

    /// Where an attempt writes.
    pub(crate) fn sink(&self, batch: &BatchId, attempt: Attempt) -> SinkSpec {
        let memory_bytes = self.options.memory_bytes / 2 / self.options.threads.max(1);
        self.batches.sink(batch, attempt, memory_bytes)
    }

    /// Joins the reports and commits them.
    pub(crate) async fn publish(
        &mut self,
        batch: &BatchId,
        attempt: Attempt,
        splits: &[Split],
        reports: Vec<TaskReport>,
    ) -> Result<(), RunError> {
        let committed = self
            .batches
            .publish(&self.job, batch, attempt, splits, reports)
            .await?;
        self.count(committed);
        Ok(())
    }

    fn count(&mut self, CommittedBatch { manifest, breached }: CommittedBatch) {
        self.engine.keys.commit(&manifest.keys);
        if breached {
            self.breached.push(manifest.batch.clone());
        }
        self.done.push(manifest);
    }

    /// Fixes a batch's positions and opens its first attempt.
    pub(crate) async fn plan(
        &mut self,
        splits: &[Split],
        redrives: Vec<String>,
    ) -> Result<(BatchId, Attempt), RunError> {
        let mut pause = WAIT;
        loop {
            let planned = self.batches.plan(&self.job, splits, redrives.clone()).await;
            let waits = match planned {
                Err(error) if self.waits && error.waits() => error,
                planned => return planned,
            };
            tracing::warn!(error = chain(&waits), "waiting");
            let mut stop = self.stop.clone();
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stopped(&mut stop) => return Err(waits),
            }
            pause = (pause * 2).min(WAIT_MAX);
        }
    }

    pub(crate) async fn finish(self) -> Result<Outcome, RunError> {
        let mut counts = SplitCounts::default();
        for manifest in &self.done {
            counts.add(&manifest.total());
        }
        let report = match self.done.as_slice() {
            [] => self.mended,
            done => self.report(&self.job, done).await?,
        };
        let (quality_key, quality) = report.unzip();
        (self.options.hook)(Moment::Finished);
        let (job, manifests, breached) = (self.job, self.done, self.breached);
        Ok(Outcome {
            job,
            manifests,
            counts,
            quality,
            quality_key,
            breached,
        })
    }
}

/// Share of events that were not quarantined; 1 for none at all.
#[must_use]
pub fn clean_ratio(counts: &SplitCounts) -> f64 {
    if counts.read == 0 {
        return 1.0;
    }
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    let ratio = (counts.read - counts.quarantined) as f64 / counts.read as f64;
    ratio
}

/// The job that a run of this epoch is.
pub(crate) fn job_of(epoch: u64) -> Result<JobId, IdError> {
    JobId::try_from(format!("run-{epoch}"))
}

/// A committed manifest that cannot be read.
pub(crate) fn unread((batch, source): (BatchId, CommitError)) -> RunError {
    RunError::Commit { batch, source }
}

async fn committed_keys(lake: &Lake, state: &State) -> Result<Vec<KeyFile>, RunError> {
    let manifests = live::manifests(lake, state).await;
    let manifests = manifests.map_err(|error| unread(*error))?;
    Ok(live::key_files(&manifests).into_iter().cloned().collect())
}
