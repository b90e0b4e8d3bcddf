//! The commit: an attempt's reports become one manifest, put if absent and then named by the ledger.
//!
//! | the manifest...                        | then                                                        |
//! |----------------------------------------|-------------------------------------------------------------|
//! | was not there                          | ours is put; the ledger names it                            |
//! | is there, put by an attempt that died  | it is as good as ours: the ledger names it, ours is swept   |
//!
//! The ledger's entry is the commit (invariant 4); a manifest that the ledger does not name is nothing.

pub mod live;

use std::collections::BTreeMap;

use bytes::Bytes;
use millrace_pipeline::spec::model::Pipeline;
use millrace_proto::ids::{Attempt, BatchId, JobId};
use millrace_proto::keys;
use millrace_proto::manifest::{Manifest, ManifestError, Removed, Replaced, SplitCounts, TaskReport};
use millrace_proto::split::Split;

use crate::lake::{Lake, LakeError};

/// Why a batch was not committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The counts do not add up: nothing is published.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The manifest could not be read or put.
    #[error("the batch could not be published")]
    Lake(#[from] LakeError),
    /// A manifest that is there is not ours to adopt.
    #[error("manifest `{key}` is there already, but it is not of batch {batch} over the planned splits")]
    Stranger {
        /// Its key.
        key: String,
        /// The batch.
        batch: BatchId,
    },
    /// A manifest that cannot be read.
    #[error("manifest `{key}` is damaged")]
    Damaged {
        /// Its key.
        key: String,
        /// What the parser says.
        #[source]
        source: serde_json::Error,
    },
    /// A manifest that is not the one the ledger names.
    #[error("manifest `{key}` has digest {found}, the ledger names {expected}")]
    Digest {
        /// Its key.
        key: String,
        /// Of the bytes there.
        found: String,
        /// Of the bytes committed.
        expected: String,
    },
}

/// A manifest and the digest of its bytes.
#[derive(Debug, Clone)]
pub struct Published {
    /// The manifest.
    pub manifest: Manifest,
    /// BLAKE3 of its bytes, in hex.
    pub digest: String,
}

/// Joins the reports of one attempt.
#[must_use]
pub fn join(
    pipeline: &Pipeline,
    environment: Option<&str>,
    job: &JobId,
    batch: &BatchId,
    attempt: Attempt,
    splits: &[Split],
    reports: Vec<TaskReport>,
) -> Manifest {
    let mut counts: BTreeMap<u32, SplitCounts> = splits
        .iter()
        .map(|s| {
            (
                s.index,
                SplitCounts {
                    split: s.index,
                    ..SplitCounts::default()
                },
            )
        })
        .collect();
    let mut joined = TaskReport::default();
    for report in reports {
        for count in &report.splits {
            counts
                .entry(count.split)
                .or_insert(SplitCounts {
                    split: count.split,
                    ..SplitCounts::default()
                })
                .add(count);
        }
        joined.files.extend(report.files);
        joined.quarantine.extend(report.quarantine);
        joined.keys.extend(report.keys);
        joined.quality.extend(report.quality);
        for (reason, events) in report.reasons {
            *joined.reasons.entry(reason).or_default() += events;
        }
        for (lookup, events) in report.unmatched {
            *joined.unmatched.entry(lookup).or_default() += events;
        }
    }
    joined.files.sort_by(|a, b| a.object.key.cmp(&b.object.key));
    Manifest {
        version: 1,
        pipeline: pipeline.name.clone(),
        pipeline_digest: pipeline.digest.clone(),
        job: job.clone(),
        batch: batch.clone(),
        attempt,
        environment: environment.map(str::to_owned),
        splits: splits.to_vec(),
        counts: counts.into_values().collect(),
        files: joined.files,
        quarantine: joined.quarantine,
        keys: joined.keys,
        quality: joined.quality,
        reasons: joined.reasons,
        replaces: Replaced::default(),
        enrich: Vec::new(),
        unmatched: joined.unmatched,
        removed: Removed::default(),
    }
}

/// Puts a batch's manifest, or adopts the one that an attempt before us had put.
///
/// # Errors
/// When the counts do not add up, the store fails, or what is there is not this batch's.
pub async fn publish(lake: &Lake, manifest: Manifest) -> Result<Published, CommitError> {
    manifest.check()?;
    let key = keys::manifest(&manifest.batch);
    let bytes = serde_json::to_vec_pretty(&manifest).map_err(|source| CommitError::Damaged {
        key: key.clone(),
        source,
    })?;
    let digest = blake3::hash(&bytes).to_hex().to_string();
    match lake.create(&key, Bytes::from(bytes)).await {
        Ok(()) => Ok(Published { manifest, digest }),
        Err(LakeError::Exists { .. }) => adopt(lake, &manifest.batch, &manifest.splits)
            .await?
            .ok_or(CommitError::Lake(LakeError::Missing { key })),
        Err(error) => Err(error.into()),
    }
}

/// The manifest of a batch whose commit was interrupted between the manifest and the ledger, if there is one.
///
/// # Errors
/// When it is damaged, or of other splits than were planned.
pub async fn adopt(lake: &Lake, batch: &BatchId, splits: &[Split]) -> Result<Option<Published>, CommitError> {
    let key = keys::manifest(batch);
    let bytes = match lake.get(&key).await {
        Ok(bytes) => bytes,
        Err(LakeError::Missing { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let manifest = parse(&key, &bytes)?;
    manifest.check()?;
    if manifest.batch != *batch || manifest.splits != splits {
        return Err(CommitError::Stranger {
            key,
            batch: batch.clone(),
        });
    }
    Ok(Some(Published {
        manifest,
        digest: blake3::hash(&bytes).to_hex().to_string(),
    }))
}

/// A committed manifest, checked against the digest in the ledger.
///
/// # Errors
/// When it is missing, damaged or another than the ledger names.
pub async fn committed(lake: &Lake, batch: &BatchId, digest: &str) -> Result<Manifest, CommitError> {
    let key = keys::manifest(batch);
    let bytes = lake.get(&key).await?;
    let found = blake3::hash(&bytes).to_hex().to_string();
    if found != digest {
        return Err(CommitError::Digest {
            key,
            found,
            expected: digest.to_owned(),
        });
    }
    parse(&key, &bytes)
}

fn parse(key: &str, bytes: &[u8]) -> Result<Manifest, CommitError> {
    serde_json::from_slice(bytes).map_err(|source| CommitError::Damaged {
        key: key.to_owned(),
        source,
    })
}
