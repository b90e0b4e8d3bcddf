//! What to take out of a record, and the shape of the batches that it makes: the same for every format.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::rows;
use crate::spec::model::{ColumnType, Path};

/// The schema of decoded batches: the wanted fields, nullable unless they are [`WantedKind::Present`], then
/// [`rows::origin_fields`].
#[must_use]
pub fn decoded_schema(plan: &DecodePlan) -> SchemaRef {
    let wanted = plan.fields.iter().map(|wanted| match &wanted.kind {
        WantedKind::Value(kind) => Field::new(&wanted.name, kind.arrow(), true),
        WantedKind::Present => Field::new(&wanted.name, DataType::Boolean, false),
    });
    Arc::new(Schema::new(
        wanted.chain(rows::origin_fields()).collect::<Vec<_>>(),
    ))
}

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

impl WantedKind {
    /// Its name in a fault's text: `int64`, `list<decimal(10,2)>`.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Value(kind) => type_name(kind),
            Self::Present => "anything".to_owned(),
        }
    }
}

fn type_name(kind: &ColumnType) -> String {
    match kind {
        ColumnType::String => "string".to_owned(),
        ColumnType::Bool => "bool".to_owned(),
        ColumnType::Int32 => "int32".to_owned(),
        ColumnType::Int64 => "int64".to_owned(),
        ColumnType::Float64 => "float64".to_owned(),
        ColumnType::Decimal(precision, scale) => format!("decimal({precision},{scale})"),
        ColumnType::Date => "date".to_owned(),
        ColumnType::Timestamp => "timestamp".to_owned(),
        ColumnType::Json => "json".to_owned(),
        ColumnType::List(item) => format!("list<{}>", type_name(item)),
    }
}
