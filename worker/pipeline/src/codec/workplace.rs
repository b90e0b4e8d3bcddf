//! Where operators are made: a process with its own stores, keys and secrets.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Instant;

use arrow::record_batch::RecordBatch;
use datafusion::error::DataFusionError;
use futures::{Stream, StreamExt};
use object_store::ObjectStore;
use object_store::path::Path;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::{AttemptSpec, PipelineText, StepCounters};
use crate::dedup::KeyIndex;
use crate::dedup::claims::{ClaimBook, ClaimRoutes, Keeper, Keepers};
use crate::dedup::exec::Apart;
use crate::enrich::SnapshotCache;
use crate::plan::{PlanError, Steps};
use crate::sink::SinkSpec;
use crate::source::kafka::{KafkaClients, KafkaOptions};
use crate::source::{S3Options, StoreError, Stores};
use crate::spec::Report;
use crate::spec::model::{Pipeline, Source, Warehouse};

/// Pipelines that are kept ready: more than this many at once are made anew.
const PREPARED_MAX: usize = 64;

/// Why an operator could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Another version of the wire.
    #[error(
        "the plan has version {version}, this process reads version {ours}: run one version on all machines"
    )]
    Version {
        /// Found.
        version: u8,
        /// Of this process.
        ours: u8,
    },
    /// Not the JSON that it should be.
    #[error("a plan's operator is damaged")]
    Damaged(#[source] serde_json::Error),
    /// Our operators have one input.
    #[error("an operator of ours came with {found} inputs; it has one")]
    Inputs {
        /// Found.
        found: usize,
    },
    /// The pipeline is good elsewhere and not here: usually a missing environment variable.
    #[error("the pipeline cannot be read on this machine")]
    Pipeline(#[source] Box<Report>),
    /// The pipeline cannot be planned.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The lake cannot be opened.
    #[error("the lake cannot be opened")]
    Lake(#[from] StoreError),
}

/// What an environment variable holds, for `${env:NAME}`.
pub type Environment = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// What a process is, as far as operators care.
pub struct WorkplaceOptions {
    /// How S3 is reached; a pipeline's endpoint and region come on top.
    pub s3: S3Options,
    /// Fills in `${env:NAME}`.
    pub env: Environment,
    /// Memory for the committed keys of each pipeline, in bytes.
    pub key_bytes: usize,
    /// Memory that one task may hold in rows that wait to be written, in bytes.
    pub task_bytes: usize,
    /// Goes into the names of what tasks write: another one for each start of a process.
    pub runner: String,
}

/// Makes operators for one process; keeps what is the same from plan to plan.
pub struct Workplace {
    options: WorkplaceOptions,
    prepared: Mutex<HashMap<String, Arc<Prepared>>>,
    cancelled: CancellationToken,
    /// Attempts with operators here: cancelled when they are given up.
    attempts: Mutex<HashMap<String, Weak<CancellationToken>>>,
    counters: Arc<StepCounters>,
    brokers: Arc<KafkaClients>,
    rack: Option<String>,
    snapshots: Arc<SnapshotCache>,
    claims: Arc<ClaimBook>,
    routes: Option<Arc<dyn ClaimRoutes>>,
}

/// A pipeline, ready to run here.
#[derive(Debug)]
pub struct Prepared {
    /// Its steps.
    pub steps: Arc<Steps>,
    /// Where it reads.
    pub stores: Arc<Stores>,
    /// The lake's store.
    pub lake: Arc<dyn ObjectStore>,
    /// The lake's root in it.
    pub root: Path,
    local_root: Option<PathBuf>,
    /// The committed keys, as far as they were needed here.
    pub keys: Arc<KeyIndex>,
}

/// Says when operators are to stop.
#[derive(Debug, Clone)]
pub(super) struct Stops {
    cancelled: CancellationToken,
    /// Cancelled with the one above.
    given_up: Arc<CancellationToken>,
}

/// Why an operator stopped before its input ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum GivenUp {
    #[error("the task was given up: its leader is gone")]
    Leader,
    #[error("the task was given up: its attempt is over")]
    Attempt,
}

impl Stops {
    /// Rows, until operators are to stop: then an error that says why, also where the rows are waited for.
    pub(super) fn cut<R>(
        &self,
        mut rows: R,
    ) -> impl Stream<Item = Result<RecordBatch, DataFusionError>> + use<R>
    where
        R: Stream<Item = Result<RecordBatch, DataFusionError>> + Unpin,
    {
        let mut stopped = Some(Box::pin(self.clone().stopped()));
        futures::stream::poll_fn(move |context| {
            let Some(stop) = &mut stopped else {
                return Poll::Ready(None);
            };
            if let Poll::Ready(reason) = stop.as_mut().poll(context) {
                stopped = None;
                return Poll::Ready(Some(Err(DataFusionError::External(Box::new(reason)))));
            }
            rows.poll_next_unpin(context)
        })
    }

    /// Why they are to stop, once they are.
    async fn stopped(self) -> GivenUp {
        self.given_up.cancelled().await;
        if self.cancelled.is_cancelled() {
            GivenUp::Leader
        } else {
            GivenUp::Attempt
        }
    }
}

impl fmt::Debug for Workplace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workplace")
            .field("runner", &self.options.runner)
            .field("prepared", &self.prepared.lock().len())
            .finish_non_exhaustive()
    }
}

impl Workplace {
    /// A workplace for as long as one leader is followed.
    #[must_use]
    pub fn new(options: WorkplaceOptions) -> Self {
        Self {
            options,
            prepared: Mutex::default(),
            cancelled: CancellationToken::new(),
            attempts: Mutex::default(),
            counters: Arc::default(),
            brokers: Arc::default(),
            rack: None,
            snapshots: Arc::default(),
            claims: Arc::new(ClaimBook::new(0)),
            routes: None,
        }
    }

    /// Keeps claims for others in a book of at most about `bytes`, and claims with them as `routes` says.
    #[must_use]
    pub fn with_claims<R: ClaimRoutes + 'static>(
        mut self,
        bytes: usize,
        routes: impl FnOnce(Arc<ClaimBook>) -> Arc<R>,
    ) -> Self {
        self.claims = Arc::new(ClaimBook::new(bytes));
        self.routes = Some(routes(Arc::clone(&self.claims)));
        self
    }

    /// The claims that are kept here.
    #[must_use]
    pub fn claim_book(&self) -> Arc<ClaimBook> {
        Arc::clone(&self.claims)
    }

    /// Snapshots of lookups that were fetched here.
    #[must_use]
    pub fn snapshots(&self) -> Arc<SnapshotCache> {
        Arc::clone(&self.snapshots)
    }

    /// Reads topics through these clients, which may outlive a leader, and from replicas in this rack, where one is known.
    #[must_use]
    pub fn with_kafka(mut self, brokers: Arc<KafkaClients>, rack: Option<String>) -> Self {
        self.brokers = brokers;
        self.rack = rack;
        self
    }

    /// Counts in these counters, which may outlive a leader.
    #[must_use]
    pub fn with_counters(mut self, counters: Arc<StepCounters>) -> Self {
        self.counters = counters;
        self
    }

    /// What it counts in.
    #[must_use]
    pub fn counters(&self) -> Arc<StepCounters> {
        Arc::clone(&self.counters)
    }

    /// Bytes that committed keys of all pipelines take here.
    #[must_use]
    pub fn key_bytes_held(&self) -> usize {
        let prepared = self.prepared.lock();
        prepared.values().map(|prepared| prepared.keys.bytes()).sum()
    }

    /// Stops the operators that were made here at their next batch, or while they wait for it: their leader is gone, and
    /// what they write counts for nothing.
    pub fn cancel(&self) {
        self.cancelled.cancel();
    }

    /// These attempts, `<pipeline>/<batch>-<attempt>`, are over: their operators stop likewise, their claims are forgotten.
    pub fn end(&self, attempts: &[String]) {
        self.claims.close(attempts);
        self.claims.close_idle(Instant::now());
        let known = self.attempts.lock();
        for given_up in attempts
            .iter()
            .filter_map(|attempt| known.get(attempt)?.upgrade())
        {
            given_up.cancel();
        }
    }

    /// What says that operators of an attempt are to stop.
    pub(super) fn stops(&self, prepared: &Prepared, attempt: &AttemptSpec) -> Stops {
        let name = name_of(prepared, attempt);
        let mut known = self.attempts.lock();
        let given_up = known.get(&name).and_then(Weak::upgrade).unwrap_or_else(|| {
            known.retain(|_, attempt| attempt.strong_count() > 0);
            let given_up = Arc::new(self.cancelled.child_token());
            known.insert(name, Arc::downgrade(&given_up));
            given_up
        });
        Stops {
            cancelled: self.cancelled.clone(),
            given_up,
        }
    }

    /// A pipeline under an environment, ready.
    ///
    /// # Errors
    /// When it cannot be read or planned here, or its lake cannot be opened.
    pub fn prepare(
        &self,
        pipeline: &PipelineText,
        environment: Option<&str>,
    ) -> Result<Arc<Prepared>, CodecError> {
        let digest = digest_of(pipeline, environment)?;
        if let Some(prepared) = self.prepared.lock().get(&digest) {
            return Ok(Arc::clone(prepared));
        }
        let pipeline = pipeline
            .load(&*self.options.env)
            .map_err(|report| CodecError::Pipeline(Box::new(report)))?;
        let prepared = Arc::new(self.prepare_pipeline(pipeline, environment)?);
        let mut kept = self.prepared.lock();
        if kept.len() >= PREPARED_MAX {
            kept.clear();
        }
        // Another task may have been faster: its key index is the one that all share.
        Ok(Arc::clone(kept.entry(digest).or_insert(prepared)))
    }

    /// A pipeline's lake: its store, and its root there.
    ///
    /// # Errors
    /// When its address is none.
    pub fn lake(&self, pipeline: &Pipeline) -> Result<(Arc<dyn ObjectStore>, Path), StoreError> {
        self.options.s3.open_lake(&pipeline.lake)
    }

    /// How S3, and what else AWS has, is reached.
    #[must_use]
    pub fn s3(&self) -> &S3Options {
        &self.options.s3
    }

    fn prepare_pipeline(
        &self,
        pipeline: Pipeline,
        environment: Option<&str>,
    ) -> Result<Prepared, CodecError> {
        let at = |endpoint: &Option<String>, region: &Option<String>| {
            Stores::new(self.options.s3.at(endpoint.as_deref(), region.as_deref()))
        };
        let stores = match &pipeline.source {
            Source::S3 { endpoint, region, .. } => at(endpoint, region),
            Source::Files { .. } | Source::Kafka { .. } => Stores::new(self.options.s3.clone()),
        };
        let stores = match KafkaOptions::of(&pipeline.source) {
            Some(options) => {
                stores.with_kafka(options.in_rack(self.rack.as_deref()), Arc::clone(&self.brokers))
            }
            None => stores,
        };
        let (lake, root) = self.lake(&pipeline)?;
        let local_root = pipeline.lake.url.strip_prefix("file://").map(PathBuf::from);
        let keys = KeyIndex::new(
            Arc::clone(&lake),
            root.clone(),
            Vec::new(),
            self.options.key_bytes,
        );
        Ok(Prepared {
            steps: Arc::new(Steps::new(Arc::new(pipeline), environment)?),
            stores: Arc::new(stores),
            lake,
            root,
            local_root,
            keys: Arc::new(keys),
        })
    }

    /// How this process takes part in an attempt whose claims these keep.
    pub(super) fn apart(
        &self,
        prepared: &Prepared,
        attempt: &AttemptSpec,
        keepers: &[Keeper],
    ) -> Option<Apart> {
        (!keepers.is_empty()).then(|| Apart {
            keepers: Arc::new(Keepers::new(
                name_of(prepared, attempt),
                keepers.to_vec(),
                self.routes.clone(),
            )),
            runner: self.options.runner.clone(),
        })
    }

    /// Where an attempt writes, seen from here.
    pub(super) fn sink(&self, prepared: &Prepared, attempt: &AttemptSpec) -> SinkSpec {
        let pipeline = &prepared.steps.pipeline;
        SinkSpec {
            table: pipeline.table(),
            partition: pipeline.partition.clone(),
            lake: Arc::clone(&prepared.lake),
            root: prepared.root.clone(),
            local_root: prepared.local_root.clone(),
            batch: attempt.batch.clone(),
            attempt: attempt.attempt,
            first_task: 0,
            file_bytes: pipeline.lake.file_bytes,
            compression: pipeline.lake.compression,
            // Redshift's COPY is documented for the classic encodings only.
            delta_encodings: !matches!(pipeline.warehouse, Some(Warehouse::Redshift { .. })),
            watermark_us: attempt.watermark_us,
            quarantine_date: attempt.quarantine_date.clone(),
            memory_bytes: self.options.task_bytes,
            runner: Some(self.options.runner.clone()),
            waiting: self.counters.waiting(),
        }
    }
}

/// What an attempt is called among all pipelines.
fn name_of(prepared: &Prepared, AttemptSpec { batch, attempt, .. }: &AttemptSpec) -> String {
    format!("{}/{batch}-{attempt}", prepared.steps.pipeline.name)
}

/// Names the pipeline and the environment.
fn digest_of(pipeline: &PipelineText, environment: Option<&str>) -> Result<String, CodecError> {
    let named = serde_json::to_vec(&(pipeline, environment));
    Ok(blake3::hash(&named.map_err(CodecError::Damaged)?)
        .to_hex()
        .to_string())
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Schema;
    use futures::stream;

    use super::*;

    fn stops() -> Stops {
        let cancelled = CancellationToken::new();
        Stops {
            given_up: Arc::new(cancelled.child_token()),
            cancelled,
        }
    }

    fn reason(error: DataFusionError) -> Option<GivenUp> {
        let DataFusionError::External(source) = error else {
            return None;
        };
        source.downcast_ref().copied()
    }

    #[tokio::test]
    async fn operators_that_wait_for_input_stop_too() {
        type Stop = fn(&Stops);
        let stop_attempt: Stop = |stops| stops.given_up.cancel();
        let stop_leader: Stop = |stops| stops.cancelled.cancel();
        for (stop, expected) in [(stop_attempt, GivenUp::Attempt), (stop_leader, GivenUp::Leader)] {
            let stops = stops();
            let mut rows = Box::pin(stops.cut(stream::pending()));
            assert!(
                futures::poll!(rows.next()).is_pending(),
                "it had nothing to wait for"
            );
            stop(&stops);
            let error = rows.next().await.expect("an end without a reason").unwrap_err();
            assert_eq!(reason(error), Some(expected));
        }
    }

    #[tokio::test]
    async fn operators_that_have_input_stop_before_the_next_batch() {
        let stops = stops();
        let batch = || Ok(RecordBatch::new_empty(Arc::new(Schema::empty())));
        let mut rows = Box::pin(stops.cut(stream::repeat_with(batch)));
        assert!(rows.next().await.unwrap().is_ok());
        stops.given_up.cancel();
        let error = rows.next().await.unwrap().unwrap_err();
        assert_eq!(reason(error), Some(GivenUp::Attempt));
        assert!(rows.next().await.is_none(), "rows after the end");
    }

    #[tokio::test]
    async fn operators_that_nobody_stops_pass_all_on() {
        let stops = stops();
        let batches = stream::repeat_with(|| Ok(RecordBatch::new_empty(Arc::new(Schema::empty())))).take(3);
        assert_eq!(stops.cut(batches).collect::<Vec<_>>().await.len(), 3);
    }
}
