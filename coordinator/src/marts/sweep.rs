//! Results that count no longer are deleted, later.
//!
//! In: the ledger's results, the objects below `models/`. Out: objects gone that nothing names and that were written longer ago
//! than `retention.replaced`: a query that began before may still read them. What writers left that died is among them.

use futures::TryStreamExt;
use object_store::ObjectStore;
use std::collections::HashSet;

use crate::job::RunError;
use crate::lake::LakeError;
use crate::lifecycle::{Batches, now_us};

/// Deletes what counts no longer; how many objects.
///
/// # Errors
/// When the lake fails.
pub async fn sweep(batches: &Batches) -> Result<u64, RunError> {
    let lake = &batches.lake;
    let keep = i64::try_from(batches.pipeline.retention.replaced_seconds).unwrap_or(i64::MAX);
    let since = now_us().saturating_sub(keep.saturating_mul(1_000_000));
    let named: HashSet<&str> = batches
        .ledger
        .state()
        .marts
        .all()
        .map(|run| run.object.key.as_str())
        .collect();
    if named.is_empty() && batches.pipeline.marts.is_empty() {
        return Ok(0);
    }
    let found: Vec<_> = lake
        .store
        .list(Some(&lake.path("models")))
        .try_collect()
        .await
        .map_err(|source| LakeError::Store {
            key: "models".to_owned(),
            what: "listed",
            source,
        })?;
    let mut deleted = 0;
    for object in found {
        let Some(key) = lake.key(&object.location) else {
            continue;
        };
        let is_old = object.last_modified.timestamp_micros() <= since;
        if is_old && !named.contains(key.as_str()) {
            lake.delete(&key).await?;
            deleted += 1;
        }
    }
    Ok(deleted)
}
