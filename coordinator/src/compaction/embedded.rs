//! Compaction of a lake that keeps its own ledger, in this process: `millrace compact`.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use millrace_pipeline::spec::model::Pipeline;
use millrace_proto::manifest::Manifest;

use super::{settle, step, sweep};
use crate::job::RunError;
use crate::lake::Lake;
use crate::lifecycle::{Batches, Hook, Moment};

/// What was compacted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Batches that this took.
    pub batches: u64,
    /// Event hours in which nothing is left to be compacted.
    pub hours: u64,
    /// Data files that were replaced, and their bytes.
    pub files_before: (u64, u64),
    /// Data files in their place, and their bytes.
    pub files_after: (u64, u64),
    /// Key files that were replaced.
    pub keys_before: u64,
    /// Key files in their place.
    pub keys_after: u64,
    /// Replaced files that were deleted: those of earlier compactions, as a rule.
    pub deleted: u64,
    /// Hours that are not complete yet.
    pub open_hours: u64,
}

/// Compacts every complete hour, then deletes what was replaced long enough ago.
///
/// # Errors
/// When the lake or its ledger fail, or an interrupted run is to be finished first. What was committed stays.
pub fn compact(
    pipeline: Arc<Pipeline>,
    lake: Lake,
    memory_bytes: usize,
    hook: Hook,
) -> BoxFuture<'static, Result<Compacted, RunError>> {
    async move {
        let mut batches = Batches::of_lake(pipeline, lake, hook).await?;
        let mut done = Compacted::default();
        for (id, batch) in batches.open() {
            if !batch.is_upkeep() {
                return Err(RunError::Interrupted { batch: id });
            }
            if let Some(manifest) = settle(&mut batches, &id, memory_bytes).await?
                && batch.is_compaction()
            {
                done.add(&manifest);
            }
        }
        while let Some(manifest) = step(&mut batches, memory_bytes).await? {
            done.add(&manifest);
        }
        done.deleted = sweep(&mut batches).await?;
        let hours = batches.ledger.state().event_time.hours.values();
        let open = hours.filter(|record| !record.state.is_complete());
        done.open_hours = open.count() as u64;
        (batches.hook)(Moment::Finished);
        Ok(done)
    }
    .boxed()
}

impl Compacted {
    fn add(&mut self, manifest: &Manifest) {
        let old = &manifest.replaces;
        let sum = |files: &[millrace_proto::manifest::DataFile], into: &mut (u64, u64)| {
            into.0 += files.len() as u64;
            into.1 += files.iter().map(|file| file.object.bytes).sum::<u64>();
        };
        sum(&old.files, &mut self.files_before);
        sum(&manifest.files, &mut self.files_after);
        self.batches += 1;
        self.hours += old.hours.len() as u64;
        self.keys_before += old.keys.len() as u64;
        self.keys_after += manifest.keys.len() as u64;
    }
}
