//! `models`: tables that SQL makes of complete hours, for dashboards. In the code such a table is a mart: a model here is
//! what a pipeline file says.
//!
//! In: the section's entries, and the columns of the events. Out: marts in an order in which each stands behind those that
//! it reads, their columns as DataFusion plans them; or faults, each with its line.
//!
//! | a mart's SQL sees...                    | as                                                                    |
//! |-----------------------------------------|-----------------------------------------------------------------------|
//! | the events of its window                | a table of the pipeline's name, and `events`                          |
//! | the rows of another mart in its window  | a table of that mart's name, and `models.<name>`                      |
//! | the period's bounds                     | `$start` and `$end`, timestamps; the window begins `look_back` earlier |
//!
//! A period is an hour or a day, in UTC. The rows that the SQL gives are the period's: the window is cut already, so a mart
//! without `look_back` needs no condition on the time.

mod check;
pub mod plan;

use std::collections::BTreeSet;

use arrow::datatypes::SchemaRef;
use serde::Serialize;

pub(super) use check::check;

use super::model::{Column, ColumnType, PartitionLevel};

/// The column that every mart has besides what its SQL gives, last: the start of the period that a row belongs to.
pub const PERIOD: &str = "period";
/// The schema under which marts are tables too.
pub const SCHEMA: &str = "models";
/// Names that mean something else where a mart's name could stand.
const TAKEN: [&str; 3] = ["events", "quarantine", SCHEMA];

/// How long a period is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Every {
    /// An hour.
    Hour,
    /// A day of UTC.
    Day,
}

impl Every {
    /// Hours of a period.
    #[must_use]
    pub fn hours(self) -> i64 {
        match self {
            Self::Hour => 1,
            Self::Day => 24,
        }
    }
}

/// A table that SQL makes of complete hours.
#[derive(Debug, Clone, PartialEq)]
pub struct Mart {
    /// Its name, a table's.
    pub name: String,
    /// How long a period is.
    pub every: Every,
    /// How many hours before the period its window begins.
    pub look_back_hours: i64,
    /// How long its query may take for one period.
    pub timeout_seconds: u64,
    /// One query.
    pub sql: String,
    /// The file that the query stands in, as it was written.
    pub file: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// What the query gives, in its order; [`PERIOD`] is not among them.
    pub columns: Vec<MartColumn>,
    /// Marts that it reads, by name; they stand before it.
    pub uses: BTreeSet<String>,
    /// Whether it reads the events themselves.
    pub reads_events: bool,
    /// `schema.table` in the pipeline's warehouse.
    pub table: Option<String>,
    /// BLAKE3 of what its rows depend on besides its input, in hex.
    pub digest: String,
}

/// A column of a mart.
#[derive(Debug, Clone, PartialEq)]
pub struct MartColumn {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: ColumnType,
    /// For people.
    pub description: Option<String>,
}

impl Mart {
    /// Its columns as Arrow sees them, [`PERIOD`] last.
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        let columns = self
            .columns
            .iter()
            .map(|column| (column.name.as_str(), &column.kind));
        plan::schema(columns.chain([(PERIOD, &ColumnType::Timestamp)]))
    }
}

/// The events as a mart's SQL sees them: the table's columns and the partition columns, as the files have them.
#[must_use]
pub fn events_schema(columns: &[Column], levels: &[PartitionLevel]) -> SchemaRef {
    let declared = columns.iter().map(|column| (column.name.as_str(), &column.kind));
    let levels = levels.iter().map(|level| match level {
        PartitionLevel::Date => ("date", &ColumnType::Date),
        PartitionLevel::Hour => ("hour", &ColumnType::Int32),
        PartitionLevel::Source => ("source", &ColumnType::String),
    });
    plan::schema(declared.chain(levels))
}
