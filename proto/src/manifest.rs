//! The manifest: the list of the files of a committed batch. What no manifest names does not exist.
//!
//! Tasks report what they wrote ([`TaskReport`]); the commit joins the reports of one attempt into one
//! [`Manifest`]. `check` states invariant 6 for every split, so that a manifest that loses or doubles
//! an event is never put.
//!
//! A compaction is a batch without splits: it writes rows again that are committed already. Its manifest names the
//! files that it replaces ([`Replaced`]), which hold as many rows; from its commit on they no longer count. An expiry and
//! an erasure are such batches too: what they do not write again is gone, and their manifest says how much ([`Removed`]).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{Attempt, BatchId, JobId, PipelineName};
use crate::split::Split;

/// An object that a task wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenObject {
    /// Key below the lake's root.
    pub key: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Rows in it.
    pub rows: u64,
    /// BLAKE3 of the bytes, in hex.
    pub digest: String,
}

/// A Parquet file of clean events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataFile {
    /// The object.
    pub object: WrittenObject,
    /// Partition columns and their values, in path order: `[("date", "2026-01-01"), ("hour", "05")]`.
    pub partition: Vec<(String, String)>,
    /// Earliest event time, microseconds since 1970 UTC.
    pub time_min: i64,
    /// Latest event time, microseconds since 1970 UTC.
    pub time_max: i64,
}

/// A file of sorted 128-bit key hashes of one event hour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyFile {
    /// The object.
    pub object: WrittenObject,
    /// Event hour: hours since 1970 UTC.
    pub hour: i64,
}

/// What became of the events of one split.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitCounts {
    /// The split's index in the batch.
    pub split: u32,
    /// Records found, blank lines aside.
    pub read: u64,
    /// Records in data files.
    pub written: u64,
    /// Records whose key was committed or claimed before.
    pub duplicates: u64,
    /// Records in quarantine files.
    pub quarantined: u64,
    /// Written records that came later than the pipeline's lateness allows (a part of `written`).
    pub late: u64,
    /// Lines in the split, blank ones included: lets a later split's line numbers be made absolute. Of a topic: messages,
    /// tombstones included; what the split's offsets have more are markers, aborted messages and what compaction took.
    pub lines: u64,
    /// Latest event time written, microseconds since 1970 UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_max: Option<i64>,
}

impl SplitCounts {
    /// Adds another task's counts of the same split.
    pub fn add(&mut self, other: &Self) {
        self.read += other.read;
        self.written += other.written;
        self.duplicates += other.duplicates;
        self.quarantined += other.quarantined;
        self.late += other.late;
        self.lines += other.lines;
        self.time_max = self.time_max.max(other.time_max);
    }
}

/// A snapshot of a lookup's table, as a batch uses it. It is fixed in the ledger with the batch's positions, so that a
/// retry looks up in the same one (invariant 10). Its object is named by its content: batches share it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The lookup's name in the pipeline.
    pub lookup: String,
    /// The object.
    pub object: WrittenObject,
    /// Hash of what is in it.
    pub version: String,
    /// Hash of what it was taken for: the table, the columns and their types.
    pub shape: String,
    /// When it was taken, microseconds since 1970 UTC.
    pub taken_us: i64,
}

/// What one task of an attempt wrote and counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskReport {
    /// Data files.
    pub files: Vec<DataFile>,
    /// Quarantine files.
    pub quarantine: Vec<WrittenObject>,
    /// Key index files.
    pub keys: Vec<KeyFile>,
    /// Objects with mergeable quality state.
    pub quality: Vec<WrittenObject>,
    /// Counts by split.
    pub splits: Vec<SplitCounts>,
    /// Quarantined events by the kind of their reasons; one with several kinds counts for each.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reasons: BTreeMap<String, u64>,
    /// By lookup: events read whose key was not in its snapshot.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unmatched: BTreeMap<String, u64>,
}

/// A committed batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Format of this file: 1.
    pub version: u32,
    /// Pipeline.
    pub pipeline: PipelineName,
    /// BLAKE3 of the pipeline as it was run, in hex.
    pub pipeline_digest: String,
    /// Job.
    pub job: JobId,
    /// Batch.
    pub batch: BatchId,
    /// The attempt whose files these are.
    pub attempt: Attempt,
    /// Environment that decided about masking; none means masked.
    pub environment: Option<String>,
    /// The splits that were read.
    pub splits: Vec<Split>,
    /// What became of their events, by split.
    pub counts: Vec<SplitCounts>,
    /// Data files.
    pub files: Vec<DataFile>,
    /// Quarantine files.
    pub quarantine: Vec<WrittenObject>,
    /// Key index files.
    pub keys: Vec<KeyFile>,
    /// Objects with mergeable quality state.
    pub quality: Vec<WrittenObject>,
    /// Quarantined events by the kind of their reasons; one with several kinds counts for each.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reasons: BTreeMap<String, u64>,
    /// Of a compaction: what its files stand for from now on.
    #[serde(default, skip_serializing_if = "Replaced::is_empty")]
    pub replaces: Replaced,
    /// The snapshots that events were looked up in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub enrich: Vec<Snapshot>,
    /// By lookup: events read whose key was not in its snapshot.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unmatched: BTreeMap<String, u64>,
    /// Of an expiry or an erasure: what of that is written nowhere again.
    #[serde(default, skip_serializing_if = "Removed::is_empty")]
    pub removed: Removed,
}

/// What a compaction stands for: objects of earlier batches whose rows it wrote again. They no longer count.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replaced {
    /// Data files.
    pub files: Vec<DataFile>,
    /// Key index files.
    pub keys: Vec<KeyFile>,
    /// Event hours (since 1970 UTC) in which nothing is left to be compacted.
    pub hours: Vec<i64>,
    /// Quarantine files, of an expiry or an erasure.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quarantine: Vec<WrittenObject>,
}

impl Replaced {
    /// Whether nothing is replaced.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let files = self.files.is_empty() && self.keys.is_empty() && self.quarantine.is_empty();
        files && self.hours.is_empty()
    }

    /// All objects that no longer count.
    pub fn objects(&self) -> impl Iterator<Item = &WrittenObject> {
        let files = self.files.iter().map(|file| &file.object);
        let keys = self.keys.iter().map(|file| &file.object);
        files.chain(keys).chain(&self.quarantine)
    }
}

/// What left for good with the files that were replaced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Events of data files.
    pub rows: u64,
    /// Keys of the key index.
    pub keys: u64,
    /// Records of quarantine files.
    pub quarantined: u64,
}

impl Removed {
    /// Whether everything is still there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds another batch's.
    pub fn add(&mut self, other: &Self) {
        self.rows += other.rows;
        self.keys += other.keys;
        self.quarantined += other.quarantined;
    }
}

/// Why a manifest must not be put.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ManifestError {
    /// Invariant 6.
    #[error(
        "split {split} of batch {batch}: read {read}, but written + duplicates + quarantined is {accounted}"
    )]
    Unbalanced {
        /// Batch.
        batch: BatchId,
        /// Split.
        split: u32,
        /// Events read.
        read: u64,
        /// Events accounted for.
        accounted: u64,
    },
    /// Rows in files and counts differ.
    #[error("batch {batch}: {what} files hold {rows} rows, but {counted} are accounted for")]
    Rows {
        /// Batch.
        batch: BatchId,
        /// `data`, `quarantine` or `key`.
        what: &'static str,
        /// Rows in files, and those that left for good.
        rows: u64,
        /// Rows counted by split, or in the files that are replaced.
        counted: u64,
    },
    /// A split without counts, or counts without a split.
    #[error("batch {batch}: {splits} splits, but counts for {counts}")]
    Splits {
        /// Batch.
        batch: BatchId,
        /// Splits planned.
        splits: usize,
        /// Splits counted.
        counts: usize,
    },
}

impl Manifest {
    /// States invariant 6 for this batch.
    ///
    /// # Errors
    /// The first imbalance found.
    pub fn check(&self) -> Result<(), ManifestError> {
        let batch = || self.batch.clone();
        if self.splits.len() != self.counts.len() {
            return Err(ManifestError::Splits {
                batch: batch(),
                splits: self.splits.len(),
                counts: self.counts.len(),
            });
        }
        for count in &self.counts {
            let accounted = count.written + count.duplicates + count.quarantined;
            if count.read != accounted {
                return Err(ManifestError::Unbalanced {
                    batch: batch(),
                    split: count.split,
                    read: count.read,
                    accounted,
                });
            }
        }
        let total = self.total();
        let data = |files: &[DataFile]| files.iter().map(|file| file.object.rows).sum::<u64>();
        let keys = |files: &[KeyFile]| files.iter().map(|file| file.object.rows).sum::<u64>();
        let rejected = |files: &[WrittenObject]| files.iter().map(|object| object.rows).sum::<u64>();
        let (old, gone) = (&self.replaces, &self.removed);
        let mut checks = vec![
            (
                "data",
                data(&self.files) + gone.rows,
                total.written + data(&old.files),
            ),
            (
                "quarantine",
                rejected(&self.quarantine) + gone.quarantined,
                total.quarantined + rejected(&old.quarantine),
            ),
        ];
        if !old.is_empty() || !gone.is_empty() {
            checks.push(("key", keys(&self.keys) + gone.keys, keys(&old.keys)));
        }
        // Only what was replaced can be gone: an event that was just read is not.
        let most = [
            ("data", gone.rows, data(&old.files)),
            ("quarantine", gone.quarantined, rejected(&old.quarantine)),
        ];
        checks.extend(most.into_iter().filter(|(_, gone, old)| gone > old));
        for (what, rows, counted) in checks {
            if rows != counted {
                return Err(ManifestError::Rows {
                    batch: batch(),
                    what,
                    rows,
                    counted,
                });
            }
        }
        Ok(())
    }

    /// The counts of all splits together (`split` is meaningless in it).
    #[must_use]
    pub fn total(&self) -> SplitCounts {
        let mut total = SplitCounts::default();
        for count in &self.counts {
            total.add(count);
        }
        total
    }

    /// Every object that the manifest names.
    pub fn objects(&self) -> impl Iterator<Item = &WrittenObject> {
        let data = self.files.iter().map(|file| &file.object);
        let keys = self.keys.iter().map(|file| &file.object);
        data.chain(&self.quarantine).chain(keys).chain(&self.quality)
    }
}
