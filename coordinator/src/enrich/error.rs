//! Why a batch has no snapshot to look up in. No text of it holds a value of the table.

use std::sync::Arc;

use millrace_pipeline::enrich::{EnrichError, TableFault};

use crate::handoff::Refusal;
use crate::lake::LakeError;

/// Why a batch has no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The connection string.
    #[error(
        "lookup `{lookup}` has a connection string that is not understood; right is `postgres://user:password@host:port/database`"
    )]
    Dsn {
        /// The lookup.
        lookup: String,
    },
    /// TLS cannot be set up.
    #[error("TLS towards the database of lookup `{lookup}` cannot be set up")]
    Tls {
        /// The lookup.
        lookup: String,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// Nobody answers, or the connection broke.
    #[error("the database of lookup `{lookup}` does not answer")]
    Down {
        /// The lookup.
        lookup: String,
        /// What the system says.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The database said no.
    #[error("the database of lookup `{lookup}` refused to give table `{table}`")]
    Refused {
        /// The lookup.
        lookup: String,
        /// The table.
        table: String,
        /// Its answer.
        #[source]
        refusal: Box<Refusal>,
    },
    /// The table is not what the pipeline declares.
    #[error("lookup `{lookup}` cannot use table `{table}`")]
    Table {
        /// The lookup.
        lookup: String,
        /// The table.
        table: String,
        /// What is wrong with it.
        #[source]
        fault: Box<TableFault>,
    },
    /// The table is too large.
    #[error(
        "lookup `{lookup}` cannot use table `{table}`: its columns hold more than {most} bytes, and every worker holds them all; \
         name a view with less of it"
    )]
    TooLarge {
        /// The lookup.
        lookup: String,
        /// The table.
        table: String,
        /// Most bytes.
        most: usize,
    },
    /// The lake.
    #[error("the snapshot of lookup `{lookup}` could not be put")]
    Lake {
        /// The lookup.
        lookup: String,
        /// Why.
        #[source]
        source: LakeError,
    },
    /// The object of this content is there, and it is not sound.
    #[error("the snapshot of lookup `{lookup}` cannot be used")]
    Damaged {
        /// The lookup.
        lookup: String,
        /// Why.
        #[source]
        source: Arc<EnrichError>,
    },
    /// This process is ending.
    #[error("the snapshot of lookup `{lookup}` was not finished")]
    Stopped {
        /// The lookup.
        lookup: String,
        /// Why.
        #[source]
        source: tokio::task::JoinError,
    },
    /// There is none to go on with.
    #[error("lookup `{lookup}` has no snapshot yet, and none can be taken")]
    None {
        /// The lookup.
        lookup: String,
        /// Why.
        #[source]
        source: Box<Self>,
    },
    /// The pipeline says that the batch waits.
    #[error("the batch waits for lookup `{lookup}`")]
    Waits {
        /// The lookup.
        lookup: String,
        /// What for.
        #[source]
        source: Box<Self>,
    },
}

impl SnapshotError {
    /// Whether trying again may help without anybody's doing.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Down { .. } | Self::Lake { .. } => true,
            Self::Refused { refusal, .. } => refusal.is_passing(),
            Self::None { source, .. } | Self::Waits { source, .. } => source.is_retryable(),
            Self::Dsn { .. }
            | Self::Tls { .. }
            | Self::Table { .. }
            | Self::TooLarge { .. }
            | Self::Damaged { .. }
            | Self::Stopped { .. } => false,
        }
    }

    /// The lookup.
    #[must_use]
    pub fn lookup(&self) -> &str {
        match self {
            Self::Dsn { lookup }
            | Self::Tls { lookup, .. }
            | Self::Down { lookup, .. }
            | Self::Refused { lookup, .. }
            | Self::Table { lookup, .. }
            | Self::TooLarge { lookup, .. }
            | Self::Lake { lookup, .. }
            | Self::Damaged { lookup, .. }
            | Self::Stopped { lookup, .. }
            | Self::None { lookup, .. }
            | Self::Waits { lookup, .. } => lookup,
        }
    }
}
