//! Snapshots of the tables that events are looked up in: when one is taken, and which one a batch uses.
//!
//! In: a pipeline's lookups, and what its ledger knows of earlier snapshots. Out: one snapshot for each lookup, fixed in
//! the ledger with the next batch's positions (invariants 1 and 10): every attempt of that batch looks up in it.
//!
//! | the last snapshot...     | the table...                        | then                                                        |
//! |--------------------------|-------------------------------------|-------------------------------------------------------------|
//! | is younger than `refresh` | is not asked                       | the batch uses the last one                                 |
//! | is older, or there is none | can be read                       | a new one is taken; the same content is the same object     |
//! | is older                 | cannot be read, `on_down: last`     | the last one; from `max_age` on that is an error in the log |
//! | is older, or there is none | does not answer, `on_down: wait`  | the batch waits until it does                               |
//! | is older, or there is none | cannot be used, `on_down: wait`   | the job fails: waiting would not help                       |
//! | there is none            | cannot be read, `on_down: last`     | a cluster's job waits if that can help; `run` ends          |
//!
//! A table that cannot be used has keys in several rows, values that are not of the declared type, a column missing, or
//! more bytes than a lookup may have.
//!
//! The last snapshot is the newest one that a planned batch names: so it is told by the ledger alone, every leader agrees
//! on it, and there is nothing beside the ledger that could be stale. Snapshots that batches name stay for as long as their
//! manifests, but for those that an erasure takes: the table is read again then, into an object of another name. One that a
//! leader put and died before it planned a batch is named by nothing and harms nobody.
//!
//! A redrive is a batch as well: it looks up in the newest snapshot, not in the one that its events were rejected with.

mod decide;
mod error;
mod read;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use millrace_pipeline::enrich::{Encoded, Shape, convert, decode, encode};
use millrace_pipeline::privacy::Sealer;
use millrace_pipeline::spec::model::{Enrich, Pipeline};
use millrace_proto::keys;
use millrace_proto::manifest::{Snapshot, WrittenObject};

use crate::causes::chain;
use crate::lake::{Lake, LakeError};
use crate::ledger::State;
use crate::lifecycle::now_us;
use crate::metrics::enrich::EnrichMetrics;
use decide::{Fallback, age_seconds, fall_back, is_enough};

pub use error::SnapshotError;

/// How long a table that could not be read is left alone while there is a snapshot to go on with.
const REST: Duration = Duration::from_secs(15);

/// Takes snapshots for the batches of one pipeline.
#[derive(Default)]
pub struct Snapshots {
    metrics: EnrichMetrics,
    /// Lookups whose table could not be read, and until when it is left alone.
    resting: BTreeMap<String, Instant>,
    /// The pipeline and the lookup that a batch waits for.
    waiting: Option<(String, String)>,
}

/// Nobody waits any more.
impl Drop for Snapshots {
    fn drop(&mut self) {
        if let Some((pipeline, lookup)) = &self.waiting {
            self.metrics.let_go(pipeline, lookup);
        }
    }
}

impl Snapshots {
    /// The same, telling these metrics.
    #[must_use]
    pub fn new(metrics: EnrichMetrics) -> Self {
        Self {
            metrics,
            resting: BTreeMap::new(),
            waiting: None,
        }
    }

    fn is_waiting(&mut self, lookup: Option<(String, String)>) {
        if let Some((pipeline, lookup)) = &self.waiting {
            self.metrics.waits(pipeline, lookup, false);
        }
        if let Some((pipeline, lookup)) = &lookup {
            self.metrics.waits(pipeline, lookup, true);
        }
        self.waiting = lookup;
    }

    /// The snapshots that the next batch uses: one for each lookup.
    ///
    /// # Errors
    /// When a lookup has none that may be used.
    pub(crate) async fn current(
        &mut self,
        pipeline: &Pipeline,
        environment: Option<&str>,
        lake: &Lake,
        state: &State,
    ) -> Result<Vec<Snapshot>, SnapshotError> {
        let mut snapshots = Vec::with_capacity(pipeline.enrich.len());
        // The rule of quarantined records: sealed wherever there is a secret and nothing says that data may be clear.
        let sealer = Sealer::of(pipeline).ok();
        let sealer = sealer.filter(|_| !pipeline.privacy.is_clear(environment));
        for (i, enrich) in pipeline.enrich.iter().enumerate() {
            let Some(shape) = Shape::of(pipeline, i) else {
                continue;
            };
            let digest = shape.digest(sealer.as_ref());
            let (name, lookup) = (pipeline.name.as_str(), enrich.name.as_str());
            let found = self
                .of_lookup(name, enrich, (shape, digest), sealer.clone(), (lake, state))
                .await;
            if let Err(error) = &found {
                let waits = error.is_retryable();
                self.is_waiting(waits.then(|| (name.to_owned(), lookup.to_owned())));
            }
            if let Ok(snapshot) = &found {
                self.metrics.uses(name, lookup, snapshot.taken_us);
            }
            snapshots.push(found?);
        }
        self.is_waiting(None);
        Ok(snapshots)
    }

    async fn of_lookup(
        &mut self,
        pipeline: &str,
        enrich: &Enrich,
        (shape, digest): (Shape, String),
        sealer: Option<Sealer>,
        (lake, state): (&Lake, &State),
    ) -> Result<Snapshot, SnapshotError> {
        let last = state.snapshot(&enrich.name, &digest);
        let age = last.map(|last| age_seconds(last.taken_us, now_us()));
        let until = self.resting.get(&enrich.name);
        let rests = until.is_some_and(|until| Instant::now() < *until);
        if let Some(last) = last
            && is_enough(enrich, age, rests)
        {
            return Ok(last.clone());
        }
        let error = match take(enrich, shape, sealer, (lake, state), last).await {
            Ok(taken) => {
                self.resting.remove(&enrich.name);
                return Ok(taken);
            }
            Err(error) => error,
        };
        self.metrics.failed(pipeline, &enrich.name);
        match (fall_back(enrich, age, error.is_retryable()), last) {
            (Fallback::Last { alarm }, Some(last)) => {
                self.resting.insert(enrich.name.clone(), Instant::now() + REST);
                let (lookup, error) = (&enrich.name, chain(&error));
                let max_age_seconds = enrich.max_age_seconds;
                if alarm {
                    tracing::error!(
                        lookup,
                        age_seconds = age,
                        max_age_seconds,
                        error,
                        "the last snapshot is used, and it is too old"
                    );
                } else {
                    tracing::warn!(lookup, age_seconds = age, error, "the last snapshot is used");
                }
                Ok(last.clone())
            }
            (Fallback::Wait, _) => Err(SnapshotError::Waits {
                lookup: enrich.name.clone(),
                source: Box::new(error),
            }),
            (Fallback::Last { .. } | Fallback::None, _) => Err(SnapshotError::None {
                lookup: enrich.name.clone(),
                source: Box::new(error),
            }),
            (Fallback::Fail, _) => Err(error),
        }
    }
}

/// Reads the table and puts its snapshot, unless it is there already.
async fn take(
    enrich: &Enrich,
    shape: Shape,
    sealer: Option<Sealer>,
    (lake, state): (&Lake, &State),
    last: Option<&Snapshot>,
) -> Result<Snapshot, SnapshotError> {
    let began = Instant::now();
    let taken_us = now_us();
    let texts = read::columns(enrich, &shape).await?;
    let digest = shape.digest(sealer.as_ref());
    let sealing = sealer.clone();
    let made = tokio::task::spawn_blocking(move || encode(&convert(&shape, texts)?, sealing.as_ref()));
    let made = made.await.map_err(|source| SnapshotError::Stopped {
        lookup: enrich.name.clone(),
        source,
    })?;
    let encoded = made.map_err(|fault| SnapshotError::Table {
        lookup: enrich.name.clone(),
        table: enrich.table.clone(),
        fault: Box::new(fault),
    })?;
    let version = encoded.version.clone();
    let object = match last.filter(|last| last.version == version) {
        Some(last) => last.object.clone(),
        None => put(&enrich.name, encoded, sealer.as_ref(), (lake, state)).await?,
    };
    tracing::info!(
        lookup = enrich.name,
        version,
        rows = object.rows,
        bytes = object.bytes,
        is_new = last.is_none_or(|last| last.version != version),
        seconds = began.elapsed().as_secs_f64(),
        "a snapshot is taken"
    );
    Ok(Snapshot {
        lookup: enrich.name.clone(),
        object,
        version,
        shape: digest,
        taken_us,
    })
}

/// A key that no erasure has taken: whoever erased the same content may yet delete what lies under its own.
pub(crate) fn free_key(lookup: &str, version: &str, is_sealed: bool, state: &State) -> String {
    let mut erased = 0;
    loop {
        let key = keys::snapshot(lookup, version, erased, is_sealed);
        if !state.forgotten.contains(&key) {
            return key;
        }
        erased += 1;
    }
}

async fn put(
    lookup: &str,
    encoded: Encoded,
    sealer: Option<&Sealer>,
    (lake, state): (&Lake, &State),
) -> Result<WrittenObject, SnapshotError> {
    let failed = |source: LakeError| SnapshotError::Lake {
        lookup: lookup.to_owned(),
        source,
    };
    let key = free_key(lookup, &encoded.version, sealer.is_some(), state);
    let bytes = Bytes::from(encoded.bytes);
    let bytes = match lake.create(&key, bytes.clone()).await {
        Ok(()) => bytes,
        // The same content was here before. Sealed, it has other bytes each time: those that are there count.
        Err(LakeError::Exists { .. }) => {
            let there = lake.get(&key).await.map_err(failed)?;
            let sealer = sealer.cloned();
            let (name, version, checked) = (key.clone(), encoded.version, there.clone());
            let check = move || decode(&name, checked, &version, sealer.as_ref()).map(drop);
            let sound = tokio::task::spawn_blocking(check).await;
            let sound = sound.map_err(|source| SnapshotError::Stopped {
                lookup: lookup.to_owned(),
                source,
            })?;
            sound.map_err(|source| SnapshotError::Damaged {
                lookup: lookup.to_owned(),
                source: Arc::new(source),
            })?;
            there
        }
        Err(error) => return Err(failed(error)),
    };
    Ok(WrittenObject {
        bytes: bytes.len() as u64,
        rows: encoded.rows,
        digest: blake3::hash(&bytes).to_hex().to_string(),
        key,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_that_was_erased_gets_another_name_each_time() {
        let mut state = State::default();
        let mut keys = std::collections::BTreeSet::new();
        for _ in 0..3 {
            let key = free_key("customers", "v", true, &state);
            assert_eq!(key, free_key("customers", "v", true, &state));
            assert!(keys.insert(key.clone()), "{key} again");
            state.forgotten.insert(key);
        }
        assert!(!keys.contains(&free_key("customers", "v", false, &state)));
    }
}
