//! The ledger: what was planned, tried and committed, in order.
//!
//! A ledger is a sequence of [`Entry`]s; [`State`] is their fold, pure and total, so that replaying the
//! sequence after a crash gives the state before it. It is kept in one of two places:
//!
//! | kept                                       | an append is              | a writer that was taken over (invariant 2)       |
//! |--------------------------------------------|---------------------------|--------------------------------------------------|
//! | [`embedded`]: as objects beside the lake   | one conditional put       | finds its next place in the sequence occupied    |
//! | [`etcd`]: as keys, by the cluster's leader | one guarded transaction   | finds its epoch over                             |

mod chain;
pub mod embedded;
mod error;
pub mod etcd;
mod removal;
#[cfg(test)]
mod simulation;
mod state;
pub mod timed;

use futures::future::BoxFuture;
use millrace_proto::ids::{Attempt, BatchId, JobId, PipelineName};
use millrace_proto::manifest::{Snapshot, SplitCounts};
use millrace_proto::split::{InputObject, Split};
use serde::{Deserialize, Serialize};

use crate::hours::{PartitionTime, Told};
use crate::marts::MartRun;

pub use error::{FencedBy, LedgerError};
pub use removal::{LegalHold, Released, Removal, Why};
pub use state::{Batch, BatchState, State};

/// A ledger that is open for writing under an epoch of its own.
pub trait Ledger: Send + Sync {
    /// What all entries add up to.
    fn state(&self) -> &State;

    /// The epoch under which this ledger writes.
    fn epoch(&self) -> u64;

    /// Appends entries, all or none, durably.
    ///
    /// # Errors
    /// [`LedgerError::Fenced`] when another writer was here or our epoch is over, or the store's error.
    fn append(&mut self, entries: Vec<Entry>) -> BoxFuture<'_, Result<(), LedgerError>>;
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case", deny_unknown_fields)]
pub enum Entry {
    /// A writer took the ledger over.
    Opened {
        /// The pipeline that the lake belongs to.
        pipeline: PipelineName,
        /// The writer's epoch, where an election gives it; else it is this entry's place in the sequence.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        epoch: Option<u64>,
    },
    /// The positions of a batch were fixed (invariant 1).
    Planned {
        /// Writer.
        epoch: u64,
        /// Job that asked for it.
        job: JobId,
        /// The batch.
        batch: BatchId,
        /// What it reads.
        splits: Vec<Split>,
        /// Quarantine objects that a redrive consumes; none for a batch of input.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        redrives: Vec<String>,
        /// Event hours whose files a compaction rewrites: those that count among the batches before it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        compacts: Vec<i64>,
        /// The snapshots that it looks up in (invariant 10).
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        snapshots: Vec<Snapshot>,
        /// Of an expiry or an erasure: why it takes away what earlier batches wrote.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        removes: Option<Box<Removal>>,
    },
    /// Positions that were there and cannot be read: nothing is skipped in silence (invariant 9).
    Lost {
        /// Writer.
        epoch: u64,
        /// Job that met them.
        job: JobId,
        /// What is lost.
        ranges: Vec<LostRange>,
    },
    /// A job has listed the objects that it reads: however their folder changes, it reads these, as they were.
    Listed {
        /// Writer.
        epoch: u64,
        /// The job; a listing that it had before no longer counts.
        job: JobId,
        /// What it found.
        listing: Listing,
    },
    /// An attempt began; its objects may exist from now on.
    Started {
        /// Writer.
        epoch: u64,
        /// The batch.
        batch: BatchId,
        /// The attempt.
        attempt: Attempt,
    },
    /// The batch is given up for good: its job was cancelled or failed. Its positions may be planned again.
    Dropped {
        /// Writer.
        epoch: u64,
        /// The batch.
        batch: BatchId,
    },
    /// The batch is visible: this entry is the commit (invariant 4).
    Committed {
        /// Writer.
        epoch: u64,
        /// The batch.
        batch: BatchId,
        /// The attempt whose manifest it is.
        attempt: Attempt,
        /// BLAKE3 of the manifest's bytes, in hex.
        manifest: String,
        /// Sums over the batch.
        counts: SplitCounts,
        /// Newest event time written, microseconds since 1970 UTC.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        newest_us: Option<i64>,
        /// Whether a quality breach keeps it from the warehouse.
        held: bool,
        /// What it tells of event time.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        told: Option<Box<Told>>,
    },
    /// Input partitions were looked at, and everything of them up to these times is committed.
    Reached {
        /// Writer.
        epoch: u64,
        /// Up to which time, by partition.
        partitions: Vec<PartitionTime>,
    },
    /// A period of a model was computed: this entry is its commit.
    Modelled {
        /// Writer.
        epoch: u64,
        /// The result.
        run: Box<MartRun>,
    },
    /// The files that a compaction, an expiry or an erasure replaced are deleted.
    Swept {
        /// Writer.
        epoch: u64,
        /// Which of them.
        batch: BatchId,
    },
    /// Snapshots and quality states are erased: from now on nobody uses them, and nothing is written under their keys again.
    Forgotten {
        /// Writer.
        epoch: u64,
        /// Their keys.
        objects: Vec<String>,
    },
    /// Events of a time range may not be removed from now on.
    Retained {
        /// Writer.
        epoch: u64,
        /// The legal hold.
        hold: Box<LegalHold>,
    },
    /// They may be again: a legal hold is over.
    Released {
        /// Writer.
        epoch: u64,
        /// The hold's id.
        hold: String,
        /// By whom, when and why.
        released: Box<Released>,
    },
}

/// The objects that a job reads, by key, size and version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "at", rename_all = "snake_case", deny_unknown_fields)]
pub enum Listing {
    /// In the ledger: they are few.
    Here {
        /// The objects.
        objects: Vec<InputObject>,
    },
    /// In an object of the lake: there may be many.
    There {
        /// Its key.
        key: String,
        /// BLAKE3 of its bytes, in hex.
        digest: String,
        /// How many objects it lists.
        count: u64,
    },
}

/// Positions of an object that will never be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LostRange {
    /// The object, as it was.
    pub object: InputObject,
    /// First position.
    pub start: u64,
    /// One past the last; equal to `start` where nobody knows how many there were.
    pub end: u64,
    /// Why: `retention`, `recreated`, `truncated`.
    pub reason: String,
}

impl Entry {
    /// The epoch of the writer; none for the entry that makes one.
    #[must_use]
    pub fn epoch(&self) -> Option<u64> {
        match self {
            Self::Opened { .. } => None,
            Self::Planned { epoch, .. }
            | Self::Lost { epoch, .. }
            | Self::Listed { epoch, .. }
            | Self::Dropped { epoch, .. }
            | Self::Started { epoch, .. }
            | Self::Reached { epoch, .. }
            | Self::Modelled { epoch, .. }
            | Self::Swept { epoch, .. }
            | Self::Forgotten { epoch, .. }
            | Self::Retained { epoch, .. }
            | Self::Released { epoch, .. }
            | Self::Committed { epoch, .. } => Some(*epoch),
        }
    }
}
