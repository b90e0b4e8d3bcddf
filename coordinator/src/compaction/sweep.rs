//! Files that a compaction or an expiry replaced are deleted, later.
//!
//! In: committed upkeep. Out: their replaced files gone, and an entry in the ledger that says so. A query that began before
//! the compaction may still read them, so they stay for `retention.replaced`; and a batch that is not in the warehouse yet is
//! loaded from them, so they stay for as long as that takes.

use std::collections::BTreeSet;
use std::time::Duration;

use millrace_pipeline::spec::model::Pipeline;
use millrace_proto::ids::BatchId;
use millrace_proto::manifest::Manifest;

use crate::causes::chain;
use crate::commit;
use crate::handoff::{HandoffError, Known, Standing, standings};
use crate::job::RunError;
use crate::lake::Lake;
use crate::ledger::{Batch, Entry, State};
use crate::lifecycle::{Batches, Moment, now_us};

/// How long the warehouse has to tell what it waits for.
const ASK: Duration = Duration::from_secs(10);

/// Deletes what was replaced long enough ago; how many files.
///
/// # Errors
/// When the lake or the ledger fail; what was not deleted is the next time.
pub async fn sweep(batches: &mut Batches) -> Result<u64, RunError> {
    let keep = i64::try_from(batches.pipeline.retention.replaced_seconds).unwrap_or(i64::MAX);
    let since = now_us().saturating_sub(keep.saturating_mul(1_000_000));
    let is_due =
        |batch: &Batch| batch.is_upkeep() && !batch.swept && batch.committed_us.is_some_and(|at| at <= since);
    let due: Vec<(BatchId, String)> = batches
        .ledger
        .state()
        .committed()
        .filter(|(_, batch)| is_due(batch))
        .map(|(id, batch)| (id.clone(), batch.manifest.clone().unwrap_or_default()))
        .collect();
    if due.is_empty() {
        return Ok(0);
    }
    let (pipeline, lake) = (&batches.pipeline, &batches.lake);
    let waiting = match waiting(pipeline, lake, batches.ledger.state()).await {
        Ok(waiting) => waiting,
        Err(error) => {
            tracing::info!(
                error = chain(&error),
                "replaced files stay: the warehouse does not say what it waits for"
            );
            return Ok(0);
        }
    };
    let mut deleted = 0;
    for (batch, digest) in due {
        let manifest = commit::committed(&batches.lake, &batch, &digest).await;
        let manifest = manifest.map_err(|source| RunError::Commit {
            batch: batch.clone(),
            source,
        })?;
        if is_waited_for(&manifest, &waiting) {
            continue;
        }
        for object in manifest.replaces.objects() {
            batches.lake.delete(&object.key).await?;
            deleted += 1;
        }
        (batches.hook)(Moment::Swept);
        let epoch = batches.ledger.epoch();
        batches.ledger.append(vec![Entry::Swept { epoch, batch }]).await?;
    }
    Ok(deleted)
}

/// Batches that the warehouse is still to be loaded with.
///
/// # Errors
/// Where it cannot be asked.
pub(crate) async fn waiting(
    pipeline: &Pipeline,
    lake: &Lake,
    state: &State,
) -> Result<BTreeSet<BatchId>, HandoffError> {
    if pipeline.warehouse.is_none() {
        return Ok(BTreeSet::new());
    }
    let known = Known {
        state: state.clone(),
        open: BTreeSet::new(),
    };
    let asked = standings(pipeline, lake, &known);
    let Ok(standings) = tokio::time::timeout(ASK, asked).await else {
        return Err(HandoffError::Silent {
            seconds: ASK.as_secs(),
        });
    };
    let waits = |standing| {
        matches!(
            standing,
            Standing::Waiting | Standing::Unfinished | Standing::Held
        )
    };
    let waiting = standings?.into_iter().filter(|one| waits(one.standing));
    Ok(waiting.map(|candidate| candidate.batch).collect())
}

/// Whether a replaced file is of a batch that waits: the file's name begins with its batch's.
fn is_waited_for(manifest: &Manifest, waiting: &BTreeSet<BatchId>) -> bool {
    let mut objects = manifest.replaces.objects();
    objects.any(|object| is_of(&object.key, waiting))
}

/// Whether an object was written by one of these batches: its name begins with its batch's.
pub(crate) fn is_of(key: &str, batches: &BTreeSet<BatchId>) -> bool {
    let name = key.rsplit('/').next().unwrap_or_default();
    batches.iter().any(|batch| name.starts_with(&format!("{batch}-")))
}
