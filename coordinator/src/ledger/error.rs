//! Why a ledger could not be read or written, wherever it is kept.

use std::fmt;

use millrace_proto::ids::PipelineName;

use crate::etcd::EtcdError;
use crate::lake::LakeError;

/// Why the ledger could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// We are not the writer any more. Nothing was appended.
    #[error(
        "{by} at ledger entry {place}; this one stops, nothing of it is lost: run again when the other is done"
    )]
    Fenced {
        /// The place that we wanted.
        place: u64,
        /// What stands in the way.
        by: FencedBy,
    },
    /// The lake is another pipeline's.
    #[error(
        "the lake `{url}` belongs to pipeline `{owner}`, not to `{ours}`; give each pipeline a lake of its own"
    )]
    Foreign {
        /// The lake.
        url: String,
        /// Whose it is.
        owner: PipelineName,
        /// Who asked.
        ours: PipelineName,
    },
    /// A hole or a stray object in the sequence.
    #[error("the ledger's object `{key}` is out of sequence; expected `{expected}`")]
    Sequence {
        /// Found.
        key: String,
        /// Expected at this place.
        expected: String,
    },
    /// An object that is not a ledger entry.
    #[error("the ledger's object `{key}` is damaged")]
    Damaged {
        /// Its key.
        key: String,
        /// What the parser says.
        #[source]
        source: serde_json::Error,
    },
    /// An object that does not follow the one before it.
    #[error("the ledger's object `{key}` does not follow `{before}`: one of them was changed or put there")]
    Chain {
        /// The object.
        key: String,
        /// The one before it.
        before: String,
    },
    /// An object that is not the one that the head names.
    #[error("the ledger's object `{key}` was changed: it is not the one that `ledger/head.json` names")]
    Changed {
        /// Its key.
        key: String,
    },
    /// The head names an object that is gone.
    #[error("the ledger's end was cut off: `ledger/head.json` names `{expected}`, which is missing")]
    Cut {
        /// What the head names.
        expected: String,
    },
    /// The head is gone.
    #[error("the ledger's head `{key}` is missing")]
    Headless {
        /// Its key.
        key: String,
    },
    /// The store failed.
    #[error("the ledger could not be reached")]
    Lake(#[from] LakeError),
    /// Etcd failed, or refuses.
    #[error("the ledger could not be reached in etcd")]
    Etcd(#[from] EtcdError),
    /// No answer came: the append may stand or not. The handle takes no more; opening the ledger again tells.
    #[error("whether the append at ledger entry {place} stands is not known; open the ledger again")]
    Unknown {
        /// The place.
        place: u64,
        /// The last failure; none when it came before.
        #[source]
        source: Option<EtcdError>,
    },
    /// Etcd is not in the state in which we left it.
    #[error("etcd's key `{key}` is not as this leader left it; was etcd restored from an older backup?")]
    Rewound {
        /// The key.
        key: String,
    },
    /// An object of a cluster's ledger that is not the one that etcd names.
    #[error("the ledger's object `{key}` was changed: it is not the one that etcd names")]
    Digest {
        /// Its key.
        key: String,
    },
    /// The lake's ledger is not in this etcd.
    #[error(
        "the lake `{url}` holds committed batches, but this etcd does not have its ledger; restore etcd from a backup, or use the etcd and the prefix that wrote it"
    )]
    Orphan {
        /// The lake.
        url: String,
    },
    /// An embedded run's lake.
    #[error(
        "the lake `{url}` keeps its own ledger, from `millrace run`; give the pipeline on the cluster a lake of its own"
    )]
    Embedded {
        /// The lake.
        url: String,
    },
    /// A cluster's lake.
    #[error("the ledger of the lake `{url}` is kept by a cluster; name the pipeline, not its file")]
    Cluster {
        /// The lake.
        url: String,
    },
}

/// Why an append was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FencedBy {
    /// Another writer's entry stands at our place.
    Place,
    /// Our epoch is over: the leader's key is gone or another's.
    Epoch {
        /// The epoch under which we wrote.
        ours: u64,
    },
}

impl fmt::Display for FencedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Place => f.write_str("another run took this lake over"),
            Self::Epoch { ours } => write!(f, "the leadership of epoch {ours} has ended"),
        }
    }
}

impl LedgerError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Lake(_) => true,
            Self::Etcd(error) => error.is_retryable(),
            Self::Fenced { .. }
            | Self::Foreign { .. }
            | Self::Sequence { .. }
            | Self::Damaged { .. }
            | Self::Chain { .. }
            | Self::Changed { .. }
            | Self::Cut { .. }
            | Self::Headless { .. }
            | Self::Unknown { .. }
            | Self::Rewound { .. }
            | Self::Digest { .. }
            | Self::Orphan { .. }
            | Self::Embedded { .. }
            | Self::Cluster { .. } => false,
        }
    }

    /// Whether the ledger itself is not what we wrote.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Sequence { .. }
            | Self::Damaged { .. }
            | Self::Chain { .. }
            | Self::Changed { .. }
            | Self::Cut { .. }
            | Self::Headless { .. }
            | Self::Rewound { .. }
            | Self::Digest { .. } => true,
            Self::Fenced { .. }
            | Self::Foreign { .. }
            | Self::Lake(_)
            | Self::Etcd(_)
            | Self::Unknown { .. }
            | Self::Orphan { .. }
            | Self::Embedded { .. }
            | Self::Cluster { .. } => false,
        }
    }
}
