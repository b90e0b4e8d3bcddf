//! First of each key in its event hour, across all batches.
//!
//! In: batches of accepted events with the clear values of the key columns.
//! Out: the same rows less the repeats; same schema, and in the same order but for deferred hours.
//!
//! A producer that retries, a consumer that rewinds and a file delivered twice all give the same event
//! again, with the same event time. So the keys already seen are kept per event hour, for ever, and a
//! repeat that comes three days late is dropped as surely as one that comes at once.
//!
//! | the key…                                  | the event is…                                             |
//! |-------------------------------------------|-----------------------------------------------------------|
//! | is new in its event hour                  | kept; its key is claimed                                  |
//! | was committed by an earlier batch         | dropped, counted as a duplicate                           |
//! | was claimed by this batch, in any task    | dropped, counted as a duplicate                           |
//! | is null in some columns                   | judged like any other: null is a value, unlike the empty text |
//! | is null in all columns                    | kept, always: two events without a key are not the same   |
//! | is in another event hour                  | another key                                               |
//!
//! [`key::KeyExec`] hashes the key columns into 128 bits; [`exec::DedupExec`] asks the [`KeyIndex`], which
//! all tasks of a process share, and drops the losers; across processes the [`claims`] of a batch are kept by the
//! workers together. Which of equal events wins is not promised, that exactly one does is. A claim holds only once its
//! batch is committed: [`KeyIndex::commit`] makes the claims of a batch last.

pub mod claims;
pub(crate) mod compact;
mod deferred;
pub mod exec;
mod files;
mod grouping;
mod hash;
pub mod index;
pub mod key;
mod listed;
mod resident;
mod set;
mod sorted;
#[cfg(test)]
mod tests;

pub use index::KeyIndex;
pub use listed::KeyList;

use millrace_proto::manifest::KeyFile;

/// Why keys could not be hashed, claimed, read or written. No text of it holds a key's value.
#[derive(Debug, thiserror::Error)]
pub enum DedupError {
    /// A key column of a type that has no stable bytes.
    #[error("key column `{column}` has the type {found}, which cannot be a dedup key")]
    KeyType {
        /// The column.
        column: String,
        /// Its type.
        found: String,
    },
    /// A column that the operator needs is not there, or not of its type.
    #[error("the input of dedup has no column `{column}` of type {expected}")]
    Input {
        /// The column.
        column: String,
        /// The type it should have.
        expected: String,
    },
    /// An object's key in a manifest is no path.
    #[error("key file `{key}` is not a path of an object store")]
    Path {
        /// The key.
        key: String,
        /// Cause.
        #[source]
        source: object_store::path::Error,
    },
    /// A committed key file cannot be read.
    #[error("could not read key file `{key}` of {rows} keys")]
    Read {
        /// The object's key.
        key: String,
        /// Keys it should hold.
        rows: u64,
        /// Cause.
        #[source]
        source: parquet::errors::ParquetError,
    },
    /// A committed key file holds more or fewer keys than its manifest says.
    #[error("key file `{key}` holds {found} keys, its manifest says {expected}")]
    Rows {
        /// The object's key.
        key: String,
        /// Keys found.
        found: u64,
        /// Keys in the manifest.
        expected: u64,
    },
    /// Nobody said whether a key is new.
    #[error("keys could not be claimed")]
    Claim(#[from] claims::ClaimError),
    /// The list of committed key files cannot be read.
    #[error("could not read `{key}`, the list of committed key files")]
    List {
        /// The object's key.
        key: String,
        /// Cause.
        #[source]
        source: object_store::Error,
    },
    /// The list is not the one that the plan names.
    #[error(
        "`{key}`, the list of committed key files, was changed: its bytes do not have the digest in its name"
    )]
    ListChanged {
        /// The object's key.
        key: String,
    },
    /// The list cannot be understood.
    #[error("`{key}`, the list of committed key files, is damaged")]
    ListDamaged {
        /// The object's key.
        key: String,
        /// What the parser says.
        #[source]
        source: serde_json::Error,
    },
    /// Keys could not be written as a file, or bytes are no key file.
    #[error("keys do not form a key file")]
    Format(#[from] parquet::errors::ParquetError),
    /// Arrow refused an array.
    #[error("deduplicated rows do not form a batch")]
    Arrow(#[from] arrow::error::ArrowError),
}

impl DedupError {
    fn read(file: &KeyFile, source: parquet::errors::ParquetError) -> Self {
        Self::Read {
            key: file.object.key.clone(),
            rows: file.object.rows,
            source,
        }
    }

    /// Whether the same call may succeed later: a store may be out of reach for a while.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Read { source, .. } => matches!(source, parquet::errors::ParquetError::External(_)),
            Self::Claim(error) => error.is_retryable(),
            Self::List { .. } => true,
            Self::KeyType { .. }
            | Self::Input { .. }
            | Self::Path { .. }
            | Self::Rows { .. }
            | Self::ListChanged { .. }
            | Self::ListDamaged { .. }
            | Self::Format(_)
            | Self::Arrow(_) => false,
        }
    }
}
