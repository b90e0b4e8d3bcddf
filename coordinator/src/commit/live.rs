//! Which files count: what committed manifests name, less what compactions, expiries and erasures among them replaced.
//!
//! In: manifests of a ledger's committed batches. Out: their files. Everything that reads a lake goes through here, so a
//! compaction changes for all readers at once which files they see.

use std::collections::HashSet;

use futures::{StreamExt, stream};
use millrace_proto::ids::BatchId;
use millrace_proto::manifest::{DataFile, KeyFile, Manifest, WrittenObject};

use super::{CommitError, committed};
use crate::lake::Lake;
use crate::ledger::{Batch, State};

/// Manifests fetched side by side.
const READS: usize = 16;

/// The manifests of some committed batches, in their order.
pub async fn each<'a>(
    lake: &Lake,
    batches: impl Iterator<Item = (&'a BatchId, &'a Batch)>,
) -> Vec<(BatchId, Result<Manifest, CommitError>)> {
    let named: Vec<(BatchId, String)> = batches
        .map(|(id, batch)| (id.clone(), batch.manifest.clone().unwrap_or_default()))
        .collect();
    let read = |(id, digest): (BatchId, String)| async move {
        let manifest = committed(lake, &id, &digest).await;
        (id, manifest)
    };
    stream::iter(named).map(read).buffered(READS).collect().await
}

/// All manifests that a ledger's state commits, in order.
///
/// # Errors
/// The first one that cannot be read, with its batch.
pub async fn manifests(lake: &Lake, state: &State) -> Result<Vec<Manifest>, Box<(BatchId, CommitError)>> {
    all(each(lake, state.committed()).await)
}

/// All of them, or the first that could not be read.
///
/// # Errors
/// See [`manifests`].
pub fn all(
    read: Vec<(BatchId, Result<Manifest, CommitError>)>,
) -> Result<Vec<Manifest>, Box<(BatchId, CommitError)>> {
    let each = read.into_iter();
    each.map(|(id, manifest)| manifest.map_err(|error| Box::new((id, error))))
        .collect()
}

/// Keys of all objects that a later batch replaced.
#[must_use]
pub fn replaced(manifests: &[Manifest]) -> HashSet<&str> {
    let objects = manifests.iter().flat_map(|manifest| manifest.replaces.objects());
    objects.map(|object| object.key.as_str()).collect()
}

/// The data files that count, each with its manifest.
#[must_use]
pub fn files(manifests: &[Manifest]) -> Vec<(&Manifest, &DataFile)> {
    let gone = replaced(manifests);
    let all = manifests
        .iter()
        .flat_map(|manifest| manifest.files.iter().map(move |file| (manifest, file)));
    all.filter(|(_, file)| !gone.contains(file.object.key.as_str()))
        .collect()
}

/// The key files that count.
#[must_use]
pub fn key_files(manifests: &[Manifest]) -> Vec<&KeyFile> {
    let gone = replaced(manifests);
    let all = manifests.iter().flat_map(|manifest| &manifest.keys);
    all.filter(|file| !gone.contains(file.object.key.as_str()))
        .collect()
}

/// The quarantine files that count, each with its manifest; a redrive may have taken their records in since.
#[must_use]
pub fn quarantine(manifests: &[Manifest]) -> Vec<(&Manifest, &WrittenObject)> {
    let gone = replaced(manifests);
    let all = manifests
        .iter()
        .flat_map(|manifest| manifest.quarantine.iter().map(move |file| (manifest, file)));
    all.filter(|(_, file)| !gone.contains(file.key.as_str()))
        .collect()
}
