//! The table's columns from decoded fields: paths, SQL expressions, versions.
//!
//! In: decoded batches: one column per field of [`MapPlan::decode_plan`], then the origin columns.
//! Out: one row per row that came in, in the same order: the table's columns, then the same origin columns.
//!
//! Formats change while the table must not. A version says how an old format fills the table's columns;
//! what it does not say is taken from the columns' own declarations.
//!
//! | the record...                               | its row...                                             |
//! |---------------------------------------------|--------------------------------------------------------|
//! | matches no version                          | is filled by the columns' own `from` and `sql`         |
//! | matches versions                            | is filled by the first of them                         |
//! | could not be decoded                        | keeps its faults, all its columns are null             |
//! | has a wrong type where its version looks    | gets null and a fault that names the table's column    |
//! | has a wrong type where only others look     | gets no fault: `actor` is a text in 2013, an object now |
//! | makes an expression fail                    | gets null and a `conversion` fault; its neighbours none |
//! | lacks a required value                      | gets a `missing` fault                                 |
//! | has a key that a lookup does not find       | gets nulls, and is counted                             |
//!
//! No row is removed here: `quality` does that. A batch all of one version, filled from paths alone, is a
//! projection: no value is touched.
//!
//! An SQL expression sees the columns above its own and, wherever they stand, the columns that are read from a
//! path: so an event's id can be made of the columns below it. A looked-up column is seen where its key is. It decides row by row: what fails one row
//! has no effect on another (`batch.rs` bisects).

mod batch;
mod check;
#[cfg(test)]
mod check_tests;
pub mod exec;
mod expression;
mod faults;
mod layout;
#[cfg(test)]
mod look_up_tests;
#[cfg(test)]
pub(crate) mod made_up;
#[cfg(test)]
mod row_by_row;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;

pub use check::{ExpressionFault, ExpressionPlace, expression_faults};

use crate::decode::DecodePlan;
use crate::enrich::{EnrichError, LookupTable};
use crate::rows;
use crate::spec::model::Pipeline;
pub(crate) use layout::type_name;
use layout::{Formats, Layout};

/// Why a pipeline cannot be mapped, or a batch could not be.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// An expression that `pipeline check` would have refused.
    #[error("{place}: {wrong}; {right}")]
    Expression {
        /// The column or version.
        place: String,
        /// What is wrong.
        wrong: String,
        /// What would be right.
        right: String,
    },
    /// A column that no lookup adds; it points at a bug.
    #[error("column `{column}` is looked up, and no lookup adds it")]
    Enriched {
        /// Column.
        column: String,
    },
    /// A lookup without its snapshot; it points at a bug.
    #[error("lookup `{lookup}` has no snapshot here")]
    NoSnapshot {
        /// The lookup.
        lookup: String,
    },
    /// A snapshot that does not fit.
    #[error("nothing can be looked up")]
    Lookup(#[from] EnrichError),
    /// The decoded batch is not of the plan that decoded it.
    #[error("the decoded batch has no column `{column}` of type {expected}")]
    Decoded {
        /// The decoded column's name.
        column: String,
        /// Its type by the plan.
        expected: String,
    },
    /// The faults column holds something else than faults.
    #[error("the faults of a decoded batch do not read")]
    Faults(#[from] serde_json::Error),
    /// Arrow refused.
    #[error("the mapped columns do not make a batch")]
    Arrow(#[from] ArrowError),
}

/// A pipeline's `schema` and `versions`, compiled.
#[derive(Debug)]
pub struct MapPlan {
    decode: Arc<DecodePlan>,
    schema: SchemaRef,
    formats: Formats,
    /// By table column: its name and whether null is a fault.
    columns: Vec<(String, bool)>,
    lookups: Vec<Lookup>,
}

/// A lookup of the pipeline.
#[derive(Debug)]
struct Lookup {
    name: String,
    /// The table's column that it goes by.
    key: usize,
}

/// A mapped batch.
#[derive(Debug)]
pub struct Mapped {
    /// The rows.
    pub rows: RecordBatch,
    /// By lookup: keys that were not found, where there were some.
    pub unmatched: BTreeMap<String, u64>,
}

impl MapPlan {
    /// Compiles the pipeline's columns and versions.
    ///
    /// # Errors
    /// When an expression does not compile, or a column needs a lookup.
    pub fn new(pipeline: &Pipeline) -> Result<Self, MapError> {
        let (formats, decode) = Formats::compile(pipeline)?;
        let mut fields: Vec<_> = pipeline
            .columns
            .iter()
            .map(|column| column.field().with_nullable(true))
            .collect();
        fields.extend(rows::origin_fields());
        let columns = pipeline
            .columns
            .iter()
            .map(|column| {
                // A row without an event time has no place in the lake.
                let required = column.required || column.name == pipeline.partition.time;
                (column.name.clone(), required)
            })
            .collect();
        let lookups = pipeline.enrich.iter().enumerate().map(|(i, enrich)| {
            let key = layout::key_of(pipeline, i).map(|(key, _)| key);
            Ok(Lookup {
                name: enrich.name.clone(),
                key: key.ok_or_else(|| MapError::Enriched {
                    column: enrich.key.0.clone(),
                })?,
            })
        });
        let lookups = lookups.collect::<Result<_, MapError>>()?;
        Ok(Self {
            decode: Arc::new(decode),
            schema: Arc::new(Schema::new(fields)),
            formats,
            columns,
            lookups,
        })
    }

    /// What `decode` must take out of each record.
    #[must_use]
    pub fn decode_plan(&self) -> &Arc<DecodePlan> {
        &self.decode
    }

    /// The table's columns, all nullable, then the origin columns.
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Names of the versions, in the order of matching.
    pub fn versions(&self) -> impl Iterator<Item = &str> {
        self.formats.versions.iter().map(|version| version.name.as_str())
    }

    /// Whether something is looked up.
    #[must_use]
    pub fn has_lookups(&self) -> bool {
        !self.lookups.is_empty()
    }

    /// Maps a decoded batch of a pipeline without lookups; see the module's table.
    ///
    /// # Errors
    /// When the batch is not of this plan. Never because of what a record holds.
    pub fn map_batch(&self, decoded: &RecordBatch) -> Result<RecordBatch, MapError> {
        Ok(self.map_and_look_up(decoded, &[])?.rows)
    }

    /// Maps a decoded batch; `tables` are the snapshots of the pipeline's lookups, in their order.
    ///
    /// # Errors
    /// As [`Self::map_batch`], and when a snapshot is missing or does not fit.
    pub fn map_and_look_up(
        &self,
        decoded: &RecordBatch,
        tables: &[Arc<LookupTable>],
    ) -> Result<Mapped, MapError> {
        batch::map_batch(self, decoded, tables)
    }

    fn layout(&self, version: Option<usize>) -> &Layout {
        version
            .and_then(|version| self.formats.versions.get(version))
            .map_or(&self.formats.base, |version| &version.layout)
    }
}
