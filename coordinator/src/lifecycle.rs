//! The way of a batch: planned, attempted, published, committed.
//!
//! What is the same for every engine and every ledger. In: splits, and the reports of an attempt. Out: entries in the
//! ledger, one manifest, and nothing left of attempts that died.
//!
//! | a batch that the ledger...                    | is                                                    |
//! |-----------------------------------------------|-------------------------------------------------------|
//! | planned, and whose manifest is there           | committed as it is: the crash came after the manifest |
//! | planned, without a manifest                    | run again as a new attempt over the same positions    |
//! | committed                                      | never touched again                                   |

use std::sync::Arc;

use chrono::Utc;
use millrace_pipeline::sink::SinkSpec;
use millrace_pipeline::spec::model::{OnBreach, Pipeline, Warehouse};
use millrace_proto::ids::{Attempt, BatchId, JobId};
use millrace_proto::manifest::{Manifest, Snapshot, TaskReport};
use millrace_proto::split::Split;

use crate::commit::{self, Published};
use crate::enrich::Snapshots;
use crate::hours::{self, PartitionTime};
use crate::job::{RunError, clean_ratio};
use crate::lake::Lake;
use crate::ledger::embedded::EmbeddedLedger;
use crate::ledger::{Batch, Entry, Ledger, Removal};

/// Partitions that are read out are noted so often at most, unless an hour becomes complete.
const NOTED_EVERY_US: i64 = 60_000_000;

/// Steps of a batch, in order, then those of its load into the warehouse. A hook may be told of each: tests kill the process there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The ledger is ours.
    Opened,
    /// The objects that a job reads are known: they stand in the ledger, or will with its first batch.
    Listed,
    /// The batch's positions are in the ledger.
    Planned,
    /// Every file of the attempt is written, no manifest yet.
    Written,
    /// The manifest is put, the ledger does not name it yet.
    Published,
    /// The ledger names it.
    Committed,
    /// It does, and the list of committed keys that the batch read behind it waits for is not put yet.
    Awaited,
    /// That list is put: the batch behind it goes on.
    Told,
    /// Another attempt of a batch is opened: the one before it failed, or its leader died.
    Again,
    /// The result of the quality suite is written.
    Finished,
    /// Its load into the warehouse begins.
    Loading,
    /// The load ledger has its row, in a transaction that is not committed.
    Claimed,
    /// Its rows are sent, in the same transaction.
    Copied,
    /// The transaction is committed.
    Loaded,
    /// Files that were replaced are deleted, the ledger does not say so yet.
    Swept,
    /// The ledger says that copies of personal data are erased; they are still there.
    Forgotten,
    /// Quality reports have lost a person, results of models have not.
    Blanked,
    /// A model's period is computed, the ledger does not name its result yet.
    Computed,
    /// The ledger names it.
    Modelled,
    /// Rows are deleted in the warehouse, in a transaction that is not committed.
    Deleted,
}

impl Moment {
    /// All of them, in order.
    pub const ALL: [Self; 20] = [
        Self::Opened,
        Self::Listed,
        Self::Planned,
        Self::Written,
        Self::Published,
        Self::Committed,
        Self::Awaited,
        Self::Told,
        Self::Again,
        Self::Finished,
        Self::Loading,
        Self::Claimed,
        Self::Copied,
        Self::Loaded,
        Self::Swept,
        Self::Forgotten,
        Self::Blanked,
        Self::Computed,
        Self::Modelled,
        Self::Deleted,
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Listed => "listed",
            Self::Planned => "planned",
            Self::Written => "written",
            Self::Published => "published",
            Self::Committed => "committed",
            Self::Awaited => "awaited",
            Self::Told => "told",
            Self::Again => "again",
            Self::Finished => "finished",
            Self::Loading => "loading",
            Self::Claimed => "claimed",
            Self::Copied => "copied",
            Self::Loaded => "loaded",
            Self::Swept => "swept",
            Self::Forgotten => "forgotten",
            Self::Blanked => "blanked",
            Self::Computed => "computed",
            Self::Modelled => "modelled",
            Self::Deleted => "deleted",
        }
    }
}

/// Called at each [`Moment`].
pub type Hook = Arc<dyn Fn(Moment) + Send + Sync>;

/// The batches of one pipeline, under one writer.
pub struct Batches {
    /// The pipeline as it runs now.
    pub pipeline: Arc<Pipeline>,
    /// Its lake.
    pub lake: Lake,
    /// Its ledger, open for writing.
    pub ledger: Box<dyn Ledger>,
    /// Decides about masking.
    pub environment: Option<String>,
    /// Told of each moment.
    pub hook: Hook,
    /// Input partitions that are read out up to these times once the batch at work is committed.
    pub reached: Vec<PartitionTime>,
    /// What goes into the ledger with the next batch's positions.
    pub beside: Vec<Entry>,
    /// Takes the snapshots that events are looked up in.
    pub snapshots: Snapshots,
}

/// A batch that was committed.
#[derive(Debug, Clone)]
pub struct CommittedBatch {
    /// Its manifest.
    pub manifest: Manifest,
    /// Whether its share of clean events is under the minimum.
    pub breached: bool,
}

impl Batches {
    /// A pipeline's batches, outside of any environment, beside a ledger that is open.
    pub fn new(pipeline: Arc<Pipeline>, lake: Lake, ledger: Box<dyn Ledger>, hook: Hook) -> Self {
        Self {
            pipeline,
            lake,
            ledger,
            environment: None,
            hook,
            reached: Vec::new(),
            beside: Vec::new(),
            snapshots: Snapshots::default(),
        }
    }

    /// The same, where the lake keeps the ledger itself: it is taken over.
    pub(crate) async fn of_lake(pipeline: Arc<Pipeline>, lake: Lake, hook: Hook) -> Result<Self, RunError> {
        let ledger = Box::new(EmbeddedLedger::open(&lake, &pipeline.name).await?);
        hook(Moment::Opened);
        Ok(Self::new(pipeline, lake, ledger, hook))
    }

    /// Fixes a batch's positions and its snapshots, and opens its first attempt, in one ledger write.
    ///
    /// # Errors
    /// The ledger's, or when a lookup has no snapshot that may be used.
    pub async fn plan(
        &mut self,
        job: &JobId,
        splits: &[Split],
        redrives: Vec<String>,
    ) -> Result<(BatchId, Attempt), RunError> {
        let (environment, state) = (self.environment.as_deref(), self.ledger.state());
        let current = self
            .snapshots
            .current(&self.pipeline, environment, &self.lake, state);
        let snapshots = current.await.map_err(Box::new)?;
        self.plan_batch(job, splits, redrives, Vec::new(), snapshots, None)
            .await
    }

    /// The snapshots that were fixed with a batch.
    #[must_use]
    pub fn snapshots_of(&self, batch: &BatchId) -> Vec<Snapshot> {
        let batch = self.ledger.state().batches.get(batch);
        batch.map(|batch| batch.snapshots.clone()).unwrap_or_default()
    }

    /// The same for upkeep too, which has no splits.
    pub(crate) async fn plan_batch(
        &mut self,
        job: &JobId,
        splits: &[Split],
        redrives: Vec<String>,
        compacts: Vec<i64>,
        snapshots: Vec<Snapshot>,
        removes: Option<Removal>,
    ) -> Result<(BatchId, Attempt), RunError> {
        let epoch = self.ledger.epoch();
        let batch = BatchId::try_from(format!("b{:08}", self.ledger.state().batches.len() + 1))?;
        let attempt = Attempt { epoch, number: 1 };
        let planned = Entry::Planned {
            epoch,
            job: job.clone(),
            batch: batch.clone(),
            splits: splits.to_vec(),
            redrives,
            compacts,
            snapshots,
            removes: removes.map(Box::new),
        };
        let started = Entry::Started {
            epoch,
            batch: batch.clone(),
            attempt,
        };
        let mut entries = std::mem::take(&mut self.beside);
        entries.extend([planned, started]);
        self.ledger.append(entries).await?;
        (self.hook)(Moment::Planned);
        Ok((batch, attempt))
    }

    /// Where an attempt that runs in this process writes.
    #[must_use]
    pub fn sink(&self, batch: &BatchId, attempt: Attempt, memory_bytes: usize) -> SinkSpec {
        let (pipeline, lake) = (&self.pipeline, &self.lake);
        SinkSpec {
            table: pipeline.table(),
            partition: pipeline.partition.clone(),
            lake: Arc::clone(&lake.store),
            root: lake.root.clone(),
            batch: batch.clone(),
            attempt,
            first_task: 0,
            file_bytes: pipeline.lake.file_bytes,
            local_root: lake.local(),
            // Redshift's COPY is documented for the classic encodings only.
            delta_encodings: !matches!(pipeline.warehouse, Some(Warehouse::Redshift { .. })),
            compression: pipeline.lake.compression,
            watermark_us: self.ledger.state().newest_us,
            quarantine_date: Utc::now().format("%Y-%m-%d").to_string(),
            memory_bytes,
            runner: None,
            waiting: Arc::default(),
        }
    }

    /// Batches that are planned and not committed, in order.
    #[must_use]
    pub fn open(&self) -> Vec<(BatchId, Batch)> {
        let open = self.ledger.state().open_batches();
        open.map(|(id, batch)| (id.clone(), batch.clone())).collect()
    }

    /// Commits an open batch whose manifest is there already.
    ///
    /// # Errors
    /// When the lake or the ledger fail, or the manifest is not this batch's.
    pub async fn adopt(
        &mut self,
        batch: &BatchId,
        splits: &[Split],
    ) -> Result<Option<CommittedBatch>, RunError> {
        let adopted = commit::adopt(&self.lake, batch, splits).await;
        let adopted = adopted.map_err(|source| RunError::Commit {
            batch: batch.clone(),
            source,
        })?;
        match adopted {
            Some(published) => Ok(Some(self.commit(published).await?)),
            None => Ok(None),
        }
    }

    /// Gives a batch up for good: its positions may be planned again.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn drop_batch(&mut self, batch: &BatchId) -> Result<(), RunError> {
        let epoch = self.ledger.epoch();
        let batch = batch.clone();
        self.ledger.append(vec![Entry::Dropped { epoch, batch }]).await?;
        Ok(())
    }

    /// Opens another attempt of an open batch.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn start(&mut self, batch: &BatchId) -> Result<Attempt, RunError> {
        let epoch = self.ledger.epoch();
        let number = |batch: &Batch| batch.next_attempt(epoch);
        let first = Attempt { epoch, number: 1 };
        let attempt = self.ledger.state().batches.get(batch).map_or(first, number);
        let batch = batch.clone();
        self.ledger
            .append(vec![Entry::Started {
                epoch,
                batch,
                attempt,
            }])
            .await?;
        (self.hook)(Moment::Again);
        Ok(attempt)
    }

    /// Joins the reports of an attempt and commits them.
    ///
    /// # Errors
    /// When the counts do not add up, a breach keeps the batch out, or the lake or the ledger fail.
    pub async fn publish(
        &mut self,
        job: &JobId,
        batch: &BatchId,
        attempt: Attempt,
        splits: &[Split],
        reports: Vec<TaskReport>,
    ) -> Result<CommittedBatch, RunError> {
        (self.hook)(Moment::Written);
        let environment = self.environment.as_deref();
        let manifest = commit::join(&self.pipeline, environment, job, batch, attempt, splits, reports);
        let manifest = Manifest {
            enrich: self.snapshots_of(batch),
            ..manifest
        };
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
        self.publish_manifest(manifest).await
    }

    /// Puts a manifest, and commits it or the one that was there.
    pub(crate) async fn publish_manifest(&mut self, manifest: Manifest) -> Result<CommittedBatch, RunError> {
        let batch = manifest.batch.clone();
        let published = commit::publish(&self.lake, manifest)
            .await
            .map_err(|source| RunError::Commit { batch, source })?;
        (self.hook)(Moment::Published);
        self.commit(published).await
    }

    /// The ledger names the manifest; then what earlier attempts left behind is swept.
    async fn commit(&mut self, published: Published) -> Result<CommittedBatch, RunError> {
        let Published { manifest, digest } = published;
        let breached = self.breach(&manifest).is_some();
        let hold = |on: OnBreach| matches!(on, OnBreach::Hold | OnBreach::Fail);
        let held = breached
            && self
                .pipeline
                .quality
                .as_ref()
                .is_some_and(|quality| hold(quality.on_breach));
        let is_redrive = self.is_redrive(&manifest.batch);
        let lateness = self.pipeline.partition.lateness_seconds;
        let mut told = hours::told(&manifest, lateness, now_us(), is_redrive);
        told.reached = std::mem::take(&mut self.reached);
        let committed = Entry::Committed {
            epoch: self.ledger.epoch(),
            batch: manifest.batch.clone(),
            attempt: manifest.attempt,
            manifest: digest,
            counts: manifest.total(),
            newest_us: manifest.files.iter().map(|file| file.time_max).max(),
            held,
            told: Some(Box::new(told)),
        };
        self.ledger.append(vec![committed]).await?;
        (self.hook)(Moment::Committed);
        // The batch is committed whatever becomes of this: what stays is named by nothing, and `verify` tells it.
        if let Err(error) = self.sweep(&manifest).await {
            tracing::warn!(batch = %manifest.batch, %error, "leftovers of earlier attempts were not swept");
        }
        Ok(CommittedBatch { manifest, breached })
    }

    /// Notes that input partitions are read out up to these times, where that changes anything: an hour becomes
    /// complete, or it was not noted for a while.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn reach(&mut self, partitions: Vec<PartitionTime>) -> Result<(), RunError> {
        let known = &self.ledger.state().event_time;
        let is_news = |one: &PartitionTime| {
            let known = known.watermarks.of(&one.partition);
            one.time_us
                .is_some_and(|now| known.is_none_or(|known| now.saturating_sub(known) >= NOTED_EVERY_US))
        };
        if !known.would_complete(&partitions) && !partitions.iter().any(is_news) {
            return Ok(());
        }
        let epoch = self.ledger.epoch();
        self.ledger
            .append(vec![Entry::Reached { epoch, partitions }])
            .await?;
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
        if self.is_redrive(&manifest.batch) {
            return None;
        }
        let minimum = self.pipeline.quality.as_ref()?.minimum_clean;
        let clean = clean_ratio(&manifest.total());
        (clean < minimum).then_some(clean)
    }

    fn is_redrive(&self, batch: &BatchId) -> bool {
        let batch = self.ledger.state().batches.get(batch);
        batch.is_some_and(|batch| !batch.redrives.is_empty())
    }
}

/// This machine's clock, microseconds since 1970 UTC.
pub(crate) fn now_us() -> i64 {
    Utc::now().timestamp_micros()
}
