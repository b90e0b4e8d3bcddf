//! Lookups by key: a snapshot of a table elsewhere, and the rows of it that belong to a batch's keys.
//!
//! In: the text of a table's columns, once; then a key column of each batch. Out: an immutable object in the lake, named
//! by its content; then the looked-up columns, row for row.
//!
//! A snapshot is small beside the events: every task holds it whole (a broadcast join), so no row moves. Which one a
//! batch uses stands in the ledger before the first byte is read (invariant 10). Who takes snapshots, and when, is for
//! the coordinator: nothing here knows a database.
//!
//! | the event's key...            | the looked-up columns are           |
//! |-------------------------------|-------------------------------------|
//! | stands in the snapshot        | that row's                          |
//! | does not                      | null, and the event is counted      |
//! | is null, or the event is broken | null                              |
//!
//! Where personal data may not lie clear, the whole object is sealed as quarantined records are, and its name is a keyed
//! hash: the looked-up columns are masked later, with all others.

mod index;
mod load;
mod snapshot;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use parquet::errors::ParquetError;

pub use index::{Found, LookupTable};
pub use load::{Lookups, SnapshotCache, find_snapshot};
pub use snapshot::{Encoded, TableFault, convert, decode, encode, open_rows};

use crate::map::type_name;
use crate::privacy::{PrivacyError, Sealer};
use crate::spec::model::{ColumnType, Pipeline};

/// Why a snapshot could not be used.
#[derive(Debug, thiserror::Error)]
pub enum EnrichError {
    /// The batch was planned by a pipeline without this lookup, or with another one.
    #[error("the batch names no snapshot that fits lookup `{lookup}` as the pipeline declares it")]
    Missing {
        /// The lookup.
        lookup: String,
    },
    /// The object cannot be read.
    #[error("snapshot `{key}` cannot be read")]
    Read {
        /// Its key.
        key: String,
        /// The store's error.
        #[source]
        source: object_store::Error,
    },
    /// The seal.
    #[error("snapshot `{key}` cannot be opened")]
    Sealed {
        /// Its key.
        key: String,
        /// Why.
        #[source]
        source: PrivacyError,
    },
    /// Not the content that its name promises.
    #[error("snapshot `{key}` was changed: its content is {found}")]
    Changed {
        /// Its key.
        key: String,
        /// What its content is called.
        found: String,
    },
    /// No Parquet, or not these columns.
    #[error("snapshot `{key}` is damaged")]
    Damaged {
        /// Its key.
        key: String,
        /// What the reader says.
        #[source]
        source: ParquetError,
    },
    /// A key column of a type that no lookup goes by.
    #[error("no lookup goes by a key of type {kind}")]
    KeyType {
        /// Its type.
        kind: String,
    },
    /// Arrow refused.
    #[error("looked-up columns do not make a batch")]
    Arrow(#[from] ArrowError),
}

impl EnrichError {
    /// Whether the same task may succeed when it runs again.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Read { source, .. } => !matches!(source, object_store::Error::NotFound { .. }),
            Self::Missing { .. }
            | Self::Sealed { .. }
            | Self::Changed { .. }
            | Self::Damaged { .. }
            | Self::KeyType { .. }
            | Self::Arrow(_) => false,
        }
    }
}

/// Engines retry tasks whose root error is an I/O error, and no others.
impl From<EnrichError> for DataFusionError {
    fn from(error: EnrichError) -> Self {
        if error.is_retryable() {
            Self::IoError(std::io::Error::other(error))
        } else {
            Self::External(Box::new(error))
        }
    }
}

/// A column of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShapeColumn {
    /// Our column.
    pub ours: String,
    /// Theirs, which it is taken from.
    pub theirs: String,
    /// The type that ours declares.
    pub kind: ColumnType,
}

/// What a lookup's snapshot holds: the key first, then the columns that it adds, in the order of our names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// The table there.
    pub table: String,
    /// The columns.
    pub columns: Vec<ShapeColumn>,
}

impl Shape {
    /// The shape of a pipeline's lookup, by position.
    #[must_use]
    pub fn of(pipeline: &Pipeline, lookup: usize) -> Option<Self> {
        let enrich = pipeline.enrich.get(lookup)?;
        let pairs = std::iter::once((&enrich.key.0, &enrich.key.1)).chain(&enrich.add);
        let column = |(ours, theirs): (&String, &String)| {
            let (_, column) = pipeline.column(ours)?;
            Some(ShapeColumn {
                ours: ours.clone(),
                theirs: theirs.clone(),
                kind: column.kind.clone(),
            })
        };
        Some(Self {
            table: enrich.table.clone(),
            columns: pairs.map(column).collect::<Option<_>>()?,
        })
    }

    /// The snapshot's columns as Arrow sees them.
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        let fields = self.columns.iter();
        let fields = fields.map(|column| Field::new(&column.ours, column.kind.arrow(), true));
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    /// Names the shape: a snapshot of another table, of other columns, or sealed with another secret has another one.
    #[must_use]
    pub fn digest(&self, sealer: Option<&Sealer>) -> String {
        let columns = self.columns.iter();
        let columns: Vec<_> = columns
            .map(|column| (&column.ours, &column.theirs, type_name(&column.kind)))
            .collect();
        let text = format!("{:?} {columns:?}", self.table);
        short(match sealer {
            Some(sealer) => sealer.name(text.as_bytes()),
            None => blake3::hash(text.as_bytes()),
        })
    }
}

/// Half of a hash names well enough.
fn short(hash: blake3::Hash) -> String {
    hash.to_hex().chars().take(32).collect()
}
