//! How far the warehouse is behind the lake: what metrics and the alarm go by.
//!
//! In: the batches that wait, after every look at the two ledgers. Out: metrics, and a line in the log when the oldest has
//! waited longer than the service level allows. A batch waits from the moment its manifest was put, so the lag is the same
//! whoever leads. Held batches do not count: they wait for a person.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use millrace_proto::ids::BatchId;
use millrace_proto::keys;
use object_store::ObjectStoreExt;
use parking_lot::Mutex;

use super::decide::{Candidate, Standing};
use crate::lake::Lake;
use crate::metrics::handoff::{Behind, HandoffMetrics};

/// How often the lag is looked at.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// How often the alarm is repeated.
const ALARM_EVERY: Duration = Duration::from_secs(60);

/// What waits of one pipeline. Clones share it; metrics forget it with the last of them.
#[derive(Clone)]
pub(super) struct Backlog(Arc<Shared>);

struct Shared {
    pipeline: String,
    metrics: HandoffMetrics,
    /// The oldest batch that waits, and since when.
    oldest: Mutex<Option<(BatchId, SystemTime)>>,
    waiting: Mutex<usize>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.metrics.forget(&self.pipeline);
    }
}

impl Backlog {
    pub(super) fn new(pipeline: &str, metrics: HandoffMetrics) -> Self {
        Self(Arc::new(Shared {
            pipeline: pipeline.to_owned(),
            metrics,
            oldest: Mutex::default(),
            waiting: Mutex::default(),
        }))
    }

    /// Takes in what waits now.
    pub(super) async fn look<'a>(&self, lake: &Lake, all: impl Iterator<Item = &'a Candidate>) {
        let (mut waiting, mut held, mut first) = (0, 0, None);
        for candidate in all {
            match candidate.standing {
                Standing::Waiting => {
                    first = first.or(Some(&candidate.batch));
                    waiting += 1;
                }
                Standing::Held => held += 1,
                Standing::Loaded | Standing::Discarded | Standing::Unfinished => {}
            }
        }
        let oldest = match first {
            None => None,
            Some(batch) => Some((batch.clone(), self.since(lake, batch).await)),
        };
        let behind = Behind {
            waiting,
            held,
            since: oldest.as_ref().map(|(_, since)| *since),
        };
        self.0.metrics.behind(&self.0.pipeline, behind);
        *self.0.oldest.lock() = oldest;
        *self.0.waiting.lock() = waiting;
    }

    /// When a batch was committed.
    async fn since(&self, lake: &Lake, batch: &BatchId) -> SystemTime {
        let known = self.0.oldest.lock().clone();
        if let Some((_, since)) = known.filter(|(known, _)| known == batch) {
            return since;
        }
        let manifest = lake.store.head(&lake.path(&keys::manifest(batch))).await;
        // Where the store does not answer, the batch waits from now on at least.
        manifest.map_or_else(|_| SystemTime::now(), |object| object.last_modified.into())
    }

    /// For how long the oldest batch has waited.
    pub(super) fn lag(&self) -> Duration {
        let since = self.0.oldest.lock().as_ref().map(|(_, since)| *since);
        since.map_or(Duration::ZERO, |since| since.elapsed().unwrap_or_default())
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        *self.0.waiting.lock()
    }

    /// Sounds the alarm whenever the lag passes the service level; never ends.
    pub(super) async fn watch(self, service_level: Duration) {
        let pipeline = &self.0.pipeline;
        let service_level_seconds = service_level.as_secs();
        let mut alarmed: Option<tokio::time::Instant> = None;
        loop {
            tokio::time::sleep(WATCH_EVERY).await;
            let (lag, waiting) = (self.lag(), self.waiting());
            let lag_seconds = lag.as_secs();
            if lag <= service_level {
                if alarmed.take().is_some() {
                    tracing::info!(
                        pipeline,
                        lag_seconds,
                        waiting,
                        "the warehouse is within its service level again"
                    );
                }
            } else if alarmed.is_none_or(|last| last.elapsed() >= ALARM_EVERY) {
                alarmed = Some(tokio::time::Instant::now());
                tracing::error!(
                    pipeline,
                    lag_seconds,
                    waiting,
                    service_level_seconds,
                    "the warehouse is behind its service level"
                );
            }
        }
    }
}
