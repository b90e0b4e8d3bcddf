//! One job of the embedded run: finish what was interrupted, then plan, run and commit batch after batch.
//!
//! | a batch that the ledger...                    | is                                                    |
//! |-----------------------------------------------|-------------------------------------------------------|
//! | planned, and whose manifest is there           | committed as it is: the crash came after the manifest |
//! | planned, without a manifest                    | run again as a new attempt over the same positions    |
//! | committed                                      | never touched again                                   |
//!
//! So a `kill -9` anywhere and a second run give what an undisturbed run gives.

use std::sync::Arc;

use chrono::Utc;
use millrace_pipeline::dedup::KeyIndex;
use millrace_pipeline::plan::{PlanError, Steps};
use millrace_pipeline::sink::SinkSpec;
use millrace_pipeline::source::{SourceError, Stores, cut, list};
use millrace_pipeline::spec::model::{OnBreach, Pipeline, Warehouse};
use millrace_proto::ids::{Attempt, BatchId, IdError, JobId};
use millrace_proto::manifest::{KeyFile, Manifest, SplitCounts, TaskReport};
use millrace_proto::split::Split;
use tokio::sync::watch;

use crate::commit::{self, CommitError, Published};
use crate::engine::EngineError;
use crate::engine::embedded::{Counters, Embedded};
use crate::lake::{Lake, LakeError};
use crate::ledger::embedded::EmbeddedLedger;
use crate::ledger::{Entry, Ledger, LedgerError, State};
use crate::report::Report;
use crate::split::{next_batch, unpacked_bytes};

/// Size of a split of a plain file: small enough that cores finish together, large enough to be cheap.
const SPLIT_BYTES: u64 = 16 << 20;

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
    /// Ids that do not fit; it points at a bug.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The pipeline asks for what an embedded run does not do.
    #[error(
        "`{key}` needs a cluster: `millrace run` works on files and S3 without services; remove it or submit a job"
    )]
    NotEmbedded {
        /// The pipeline's key.
        key: &'static str,
    },
}

/// Steps of a batch, in order. A hook may be told of each: tests kill the process there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The ledger is ours.
    Opened,
    /// The batch's positions are in the ledger.
    Planned,
    /// Every file of the attempt is written, no manifest yet.
    Written,
    /// The manifest is put, the ledger does not name it yet.
    Published,
    /// The ledger names it.
    Committed,
    /// The result of the quality suite is written.
    Finished,
}

impl Moment {
    /// All of them, in order.
    pub const ALL: [Self; 6] = [
        Self::Opened,
        Self::Planned,
        Self::Written,
        Self::Published,
        Self::Committed,
        Self::Finished,
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Planned => "planned",
            Self::Written => "written",
            Self::Published => "published",
            Self::Committed => "committed",
            Self::Finished => "finished",
        }
    }
}

/// Called at each [`Moment`].
pub type Hook = Arc<dyn Fn(Moment) + Send + Sync>;

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
    pub(crate) pipeline: Arc<Pipeline>,
    pub(crate) lake: Lake,
    pub(crate) ledger: Box<dyn Ledger>,
    pub(crate) engine: Embedded,
    pub(crate) options: RunOptions,
    pub(crate) job: JobId,
    pub(crate) stop: watch::Receiver<bool>,
    done: Vec<Manifest>,
    breached: Vec<BatchId>,
    mended: Option<Report>,
}

impl Runner {
    /// Takes the lake over and loads what is committed.
    ///
    /// # Errors
    /// When the pipeline cannot be run here, or the lake cannot be taken over.
    pub async fn open(
        pipeline: Arc<Pipeline>,
        lake: Lake,
        stores: Arc<Stores>,
        options: RunOptions,
        stop: watch::Receiver<bool>,
    ) -> Result<Self, RunError> {
        if !pipeline.enrich.is_empty() {
            return Err(RunError::NotEmbedded { key: "enrich" });
        }
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
        };
        let job = job_of(ledger.epoch())?;
        let (done, breached) = (Vec::new(), Vec::new());
        Ok(Self {
            pipeline,
            lake,
            ledger,
            engine,
            options,
            job,
            stop,
            done,
            breached,
            mended: None,
        })
    }

    /// Finishes what was interrupted, then reads everything that is new.
    ///
    /// # Errors
    /// The first thing that went wrong; what was committed stays.
    pub async fn run(mut self, progress: &Progress) -> Result<Outcome, RunError> {
        self.finish_interrupted(progress).await?;
        let objects = list(&self.engine.stores, &self.pipeline.source, &self.options.inputs).await?;
        let all = cut(&objects, self.pipeline.source.format(), SPLIT_BYTES);
        self.announce(&all, progress);
        loop {
            let splits = next_batch(
                &all,
                &self.ledger.state().covered,
                self.options.batch_bytes,
                &unpacked_bytes,
            );
            if splits.is_empty() {
                break;
            }
            let (batch, attempt) = self.plan(&splits, Vec::new()).await?;
            self.attempt(&batch, attempt, &splits, progress).await?;
        }
        self.finish().await
    }

    /// Fixes a batch's positions and opens its first attempt, in one ledger write.
    pub(crate) async fn plan(
        &mut self,
        splits: &[Split],
        redrives: Vec<String>,
    ) -> Result<(BatchId, Attempt), RunError> {
        let epoch = self.ledger.epoch();
        let batch = BatchId::try_from(format!("b{:08}", self.ledger.state().batches.len() + 1))?;
        let attempt = Attempt { epoch, number: 1 };
        let job = self.job.clone();
        let planned = Entry::Planned {
            epoch,
            job,
            batch: batch.clone(),
            splits: splits.to_vec(),
            redrives,
        };
        let started = Entry::Started {
            epoch,
            batch: batch.clone(),
            attempt,
        };
        self.ledger.append(vec![planned, started]).await?;
        (self.options.hook)(Moment::Planned);
        Ok((batch, attempt))
    }

    pub(crate) async fn finish_interrupted(&mut self, progress: &Progress) -> Result<(), RunError> {
        if let Some((report, held)) = self.missing_report().await? {
            self.mended = Some(report);
            self.breached.extend(held);
        }
        let open: Vec<_> = self
            .ledger
            .state()
            .open_batches()
            .map(|(id, batch)| (id.clone(), batch.clone()))
            .collect();
        for (id, batch) in open {
            let adopted = commit::adopt(&self.lake, &id, &batch.splits)
                .await
                .map_err(|source| RunError::Commit {
                    batch: id.clone(),
                    source,
                })?;
            if let Some(published) = adopted {
                self.commit(published).await?;
                continue;
            }
            let epoch = self.ledger.epoch();
            let attempt = batch.next_attempt(epoch);
            self.ledger
                .append(vec![Entry::Started {
                    epoch,
                    batch: id.clone(),
                    attempt,
                }])
                .await?;
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
        let covered = &self.ledger.state().covered;
        let planned = |split: &Split| match covered.get(&split.object) {
            Some(ranges) => ranges.missing(split.start, split.end).is_empty(),
            None => false,
        };
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
        let reports = self
            .engine
            .run(splits, sink, progress, &self.stop)
            .await
            .map_err(|source| RunError::Engine {
                batch: batch.clone(),
                source,
            })?;
        self.publish(batch, attempt, splits, reports).await
    }

    /// Where an attempt writes.
    pub(crate) fn sink(&self, batch: &BatchId, attempt: Attempt) -> SinkSpec {
        SinkSpec {
            table: self.pipeline.table(),
            partition: self.pipeline.partition.clone(),
            lake: Arc::clone(&self.lake.store),
            root: self.lake.root.clone(),
            batch: batch.clone(),
            attempt,
            first_task: 0,
            file_bytes: self.pipeline.lake.file_bytes,
            local_root: self.lake.local(),
            // Redshift's COPY is documented for the classic encodings only.
            delta_encodings: !matches!(self.pipeline.warehouse, Some(Warehouse::Redshift { .. })),
            compression: self.pipeline.lake.compression,
            watermark_us: self.ledger.state().newest_us,
            quarantine_date: Utc::now().format("%Y-%m-%d").to_string(),
            memory_bytes: self.options.memory_bytes / 2 / self.options.threads.max(1),
            runner: None,
        }
    }

    /// Joins the reports and commits them.
    pub(crate) async fn publish(
        &mut self,
        batch: &BatchId,
        attempt: Attempt,
        splits: &[Split],
        reports: Vec<TaskReport>,
    ) -> Result<(), RunError> {
        (self.options.hook)(Moment::Written);
        let environment = self.options.environment.as_deref();
        let job = self.job.clone();
        let manifest = commit::join(&self.pipeline, environment, &job, batch, attempt, splits, reports);
        if let Some(clean) = self.breach(&manifest)
            && let Some(quality) = &self.pipeline.quality
            && quality.on_breach == OnBreach::Fail
        {
            let minimum = quality.minimum_clean;
            return Err(RunError::Breach {
                batch: batch.clone(),
                clean,
                minimum,
            });
        }
        let published = commit::publish(&self.lake, manifest)
            .await
            .map_err(|source| RunError::Commit {
                batch: batch.clone(),
                source,
            })?;
        (self.options.hook)(Moment::Published);
        self.commit(published).await
    }

    /// The ledger names the manifest; then what earlier attempts left behind is swept.
    async fn commit(&mut self, published: Published) -> Result<(), RunError> {
        let Published { manifest, digest } = published;
        let breached = self.breach(&manifest).is_some();
        let hold = |on: OnBreach| matches!(on, OnBreach::Hold | OnBreach::Fail);
        let held = breached
            && self
                .pipeline
                .quality
                .as_ref()
                .is_some_and(|quality| hold(quality.on_breach));
        let committed = Entry::Committed {
            epoch: self.ledger.epoch(),
            batch: manifest.batch.clone(),
            attempt: manifest.attempt,
            manifest: digest,
            counts: manifest.total(),
            newest_us: manifest.files.iter().map(|file| file.time_max).max(),
            held,
        };
        self.ledger.append(vec![committed]).await?;
        (self.options.hook)(Moment::Committed);
        self.engine.keys.commit(&manifest.keys);
        self.sweep(&manifest).await?;
        if breached {
            self.breached.push(manifest.batch.clone());
        }
        self.done.push(manifest);
        Ok(())
    }

    /// Deletes the objects of this batch's other attempts. They are fenced: no manifest can name them.
    async fn sweep(&self, manifest: &Manifest) -> Result<(), RunError> {
        let attempts = self
            .ledger
            .state()
            .batches
            .get(&manifest.batch)
            .map_or(&[][..], |batch| &batch.attempts);
        let stale: Vec<String> = attempts
            .iter()
            .filter(|attempt| **attempt != manifest.attempt)
            .map(|attempt| format!("/{}-{attempt}-", manifest.batch))
            .collect();
        if stale.is_empty() {
            return Ok(());
        }
        for folder in ["data", "quarantine", "keys", "quality"] {
            for (key, _) in self.lake.list(folder).await? {
                if stale.iter().any(|name| key.contains(name)) {
                    self.lake.delete(&key).await?;
                }
            }
        }
        Ok(())
    }

    /// The batch's share of clean events, when it is under the minimum. A redrive reads what was rejected
    /// and judged before: only new input is judged.
    fn breach(&self, manifest: &Manifest) -> Option<f64> {
        let batch = self.ledger.state().batches.get(&manifest.batch);
        if batch.is_some_and(|batch| !batch.redrives.is_empty()) {
            return None;
        }
        let minimum = self.pipeline.quality.as_ref()?.minimum_clean;
        let clean = clean_ratio(&manifest.total());
        (clean < minimum).then_some(clean)
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

async fn committed_keys(lake: &Lake, state: &State) -> Result<Vec<KeyFile>, RunError> {
    let mut keys = Vec::new();
    for (id, batch) in state.committed() {
        let digest = batch.manifest.as_deref().unwrap_or_default();
        let manifest = commit::committed(lake, id, digest)
            .await
            .map_err(|source| RunError::Commit {
                batch: id.clone(),
                source,
            })?;
        keys.extend(manifest.keys);
    }
    Ok(keys)
}
