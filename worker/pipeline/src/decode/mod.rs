//! Bytes to columns. A broken record becomes a row that says why, never an error.

use crate::spec::model::{ColumnType, Path};

/// What to take out of a record, and what a record may be. Made by `map` from the pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodePlan {
    /// The wanted fields: the decoded batch's first columns, in this order, named by [`Wanted::name`].
    pub fields: Vec<Wanted>,
    /// Longest record, in bytes.
    pub record_bytes_max: u64,
    /// Deepest nesting.
    pub depth_max: u32,
}

/// One wanted field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Name of the decoded column; unique in the plan.
    pub name: String,
    /// Path into the record.
    pub path: Path,
    /// What it is read as. Two wanted fields may share a path and differ in type.
    pub kind: WantedKind,
}

/// What a field is read as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WantedKind {
    /// A value of a column type. Null or absent gives null. A value of another type gives null and a
    /// `wrong_type` fault whose `column` is the wanted field's name: `map` decides whether it matters.
    Value(ColumnType),
    /// `Boolean`, never null: whether the path is there with another value than null.
    Present,
}
