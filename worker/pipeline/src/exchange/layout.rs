//! How each column lies in a block: both sides derive it from the schema of the rows.

use arrow::datatypes::{DataType, Schema};

use crate::rows::NOTE;

/// How one column lies in a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// A byte a value: 0 or 1.
    Bool,
    /// Values of so many bytes: 4, 8 or 16.
    Fixed(usize),
    /// Lengths and bytes of texts.
    Text,
    /// Not at all: the notes' column, null for every event.
    Absent,
    /// In the Arrow stream at the block's end.
    Other,
}

/// The shapes of a schema's columns.
pub(super) fn shapes(schema: &Schema) -> Vec<Shape> {
    schema
        .fields()
        .iter()
        .map(|field| shape(field.name(), field.data_type()))
        .collect()
}

fn shape(name: &str, kind: &DataType) -> Shape {
    if name == NOTE {
        return Shape::Absent;
    }
    if matches!(kind, DataType::Boolean) {
        return Shape::Bool;
    }
    if matches!(kind, DataType::Utf8View) {
        return Shape::Text;
    }
    match kind.primitive_width() {
        Some(width @ (4 | 8 | 16)) => Shape::Fixed(width),
        _ => Shape::Other,
    }
}
