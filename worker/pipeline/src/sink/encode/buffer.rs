//! Rows of a partition until they become a file: one compact column each.
//!
//! An input's texts borrow whole input buffers, so they are copied out here. Texts of few values are kept
//! as numbers of the task's interner; a column that turns out to have many changes over once, for the
//! whole task ([`Column::settle`]).

#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "Arrow's types: those that are kept as they are need no names"
)]

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, StringViewArray};
use arrow::compute::{cast, take};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float64Type, Int32Type, Int64Type, TimeUnit,
    TimestampMicrosecondType,
};

use super::EncodeError;
use super::column::Habits;
use crate::sink::intern::Interner;
use crate::views::{ROWS_AHEAD, prefetch};

/// Stands for null among the numbers of texts.
pub(super) const NULL_ID: u32 = u32::MAX;
/// Rows before which no text column is judged.
const JUDGE_ROWS: usize = 4_096;
/// Distinct texts, and their bytes, that a task remembers for a column.
const DISTINCT_MAX: usize = 1 << 16;
const DISTINCT_BYTES_MAX: usize = 8 << 20;

/// A column's values as they are kept and stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Int32,
    Int64,
    Float64,
    Bool,
    /// Decimals that no integer holds.
    Wide,
    Text,
    /// Lists: left to the general writer.
    Nested,
}

impl Kind {
    fn of(data_type: &DataType) -> Self {
        match data_type {
            DataType::Int32 | DataType::Date32 => Self::Int32,
            DataType::Int64 | DataType::Timestamp(TimeUnit::Microsecond, _) => Self::Int64,
            DataType::Decimal128(..=9, _) => Self::Int32,
            DataType::Decimal128(..=18, _) => Self::Int64,
            DataType::Decimal128(..) => Self::Wide,
            DataType::Float64 => Self::Float64,
            DataType::Boolean => Self::Bool,
            DataType::Utf8View | DataType::Utf8 => Self::Text,
            _ => Self::Nested,
        }
    }
}

/// A column of the table, task-wide.
#[derive(Debug)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) data_type: DataType,
    pub(super) kind: Kind,
    /// Whether its texts are kept as numbers of `interner`.
    pub(super) is_numbered: bool,
    pub(super) interner: Interner,
    seen: usize,
    pub(super) habits: Habits,
}

impl Column {
    /// A column that nothing is known about yet.
    pub(super) fn new(name: &str, data_type: &DataType) -> Self {
        let kind = Kind::of(data_type);
        Self {
            name: name.to_owned(),
            data_type: data_type.clone(),
            kind,
            is_numbered: kind == Kind::Text,
            interner: Interner::default(),
            seen: 0,
            habits: Habits::default(),
        }
    }

    /// Whether the texts have proved too many to be kept as numbers.
    fn is_unsettled(&self) -> bool {
        let distinct = self.interner.len();
        self.is_numbered
            && (distinct > DISTINCT_MAX
                || self.interner.bytes() > DISTINCT_BYTES_MAX
                || (self.seen > JUDGE_ROWS && distinct * 3 > self.seen))
    }

    /// From here on texts are kept as they are, in all buffers.
    fn settle(&mut self, column: usize, buffers: &mut [PartitionBuffer]) {
        for buffer in buffers {
            let Values::Ids(ids) = &buffer.values[column] else {
                continue;
            };
            let (mut bytes, mut ends) = (Vec::new(), Vec::with_capacity(ids.len()));
            let has_nulls = ids.contains(&NULL_ID);
            let valid = has_nulls.then(|| ids.iter().map(|id| *id != NULL_ID).collect());
            for &id in ids {
                if id != NULL_ID {
                    bytes.extend_from_slice(self.interner.text(id));
                }
                ends.push(bytes.len() as u32);
            }
            buffer.bytes += bytes.len();
            buffer.valid[column] = valid;
            buffer.values[column] = Values::Texts { bytes, ends };
        }
        self.is_numbered = false;
        self.interner.clear();
    }

    fn wrong_type(&self, array: &ArrayRef) -> EncodeError {
        EncodeError::Type {
            column: self.name.clone(),
            found: array.data_type().to_string(),
            expected: self.data_type.to_string(),
        }
    }
}

/// Lets every column whose texts have proved too many change over.
pub(super) fn settle(columns: &mut [Column], buffers: &mut [PartitionBuffer]) {
    for (i, column) in columns.iter_mut().enumerate() {
        if column.is_unsettled() {
            column.settle(i, buffers);
        }
    }
}

/// One column's values in a partition.
#[derive(Debug)]
pub(super) enum Values {
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Float64(Vec<f64>),
    Bool(Vec<bool>),
    Wide(Vec<i128>),
    /// Numbers of the column's interner, [`NULL_ID`] for null.
    Ids(Vec<u32>),
    /// Texts one after the other, and where each ends. A null takes no bytes.
    Texts {
        bytes: Vec<u8>,
        ends: Vec<u32>,
    },
    Nested(Vec<ArrayRef>),
}

impl Values {
    fn new(column: &Column) -> Self {
        match column.kind {
            Kind::Int32 => Self::Int32(Vec::new()),
            Kind::Int64 => Self::Int64(Vec::new()),
            Kind::Float64 => Self::Float64(Vec::new()),
            Kind::Bool => Self::Bool(Vec::new()),
            Kind::Wide => Self::Wide(Vec::new()),
            Kind::Text if column.is_numbered => Self::Ids(Vec::new()),
            Kind::Text => Self::Texts {
                bytes: Vec::new(),
                ends: Vec::new(),
            },
            Kind::Nested => Self::Nested(Vec::new()),
        }
    }
}

/// Rows of one partition.
#[derive(Debug)]
pub(crate) struct PartitionBuffer {
    pub(super) values: Vec<Values>,
    /// By column: whether each row has a value, where a null has come. Not for [`Values::Ids`] and
    /// [`Values::Nested`], which know by themselves.
    pub(super) valid: Vec<Option<Vec<bool>>>,
    pub(super) rows: usize,
    pub(super) bytes: usize,
}

impl PartitionBuffer {
    pub(super) fn new(columns: &[Column]) -> Self {
        Self {
            values: columns.iter().map(Values::new).collect(),
            valid: vec![None; columns.len()],
            rows: 0,
            bytes: 0,
        }
    }

    /// How many rows.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Memory held, nearly.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Copies some rows of a batch.
    pub(super) fn append(
        &mut self,
        columns: &mut [Column],
        arrays: &[ArrayRef],
        rows: &[u32],
    ) -> Result<(), EncodeError> {
        for ((column, array), (values, valid)) in columns
            .iter_mut()
            .zip(arrays)
            .zip(self.values.iter_mut().zip(&mut self.valid))
        {
            self.bytes += append_values(column, values, array, rows)?;
            if array.null_count() > 0 || valid.is_some() {
                if let Values::Ids(_) | Values::Nested(_) = values {
                    continue;
                }
                let valid = valid.get_or_insert_with(|| vec![true; self.rows]);
                valid.extend(rows.iter().map(|row| array.is_valid(*row as usize)));
            }
        }
        self.rows += rows.len();
        Ok(())
    }
}

/// Appends one column's rows; gives back the bytes that this takes.
fn append_values(
    column: &mut Column,
    values: &mut Values,
    array: &ArrayRef,
    rows: &[u32],
) -> Result<usize, EncodeError> {
    let decimals = || array.as_primitive_opt::<Decimal128Type>();
    let wrong = || column.wrong_type(array);
    Ok(match values {
        Values::Int64(out) => match &column.data_type {
            DataType::Int64 => copy(
                array.as_primitive_opt::<Int64Type>().ok_or_else(wrong)?.values(),
                rows,
                out,
            ),
            DataType::Decimal128(..) => {
                let values = decimals().ok_or_else(wrong)?.values();
                out.extend(rows.iter().map(|row| values[*row as usize] as i64));
                rows.len() * 8
            }
            _ => copy(
                array
                    .as_primitive_opt::<TimestampMicrosecondType>()
                    .ok_or_else(wrong)?
                    .values(),
                rows,
                out,
            ),
        },
        Values::Int32(out) => match &column.data_type {
            DataType::Int32 => copy(
                array.as_primitive_opt::<Int32Type>().ok_or_else(wrong)?.values(),
                rows,
                out,
            ),
            DataType::Decimal128(..) => {
                let values = decimals().ok_or_else(wrong)?.values();
                out.extend(rows.iter().map(|row| values[*row as usize] as i32));
                rows.len() * 4
            }
            _ => copy(
                array.as_primitive_opt::<Date32Type>().ok_or_else(wrong)?.values(),
                rows,
                out,
            ),
        },
        Values::Float64(out) => copy(
            array
                .as_primitive_opt::<Float64Type>()
                .ok_or_else(wrong)?
                .values(),
            rows,
            out,
        ),
        Values::Wide(out) => copy(decimals().ok_or_else(wrong)?.values(), rows, out),
        Values::Bool(out) => {
            let bools: &BooleanArray = array.as_boolean_opt().ok_or_else(wrong)?;
            out.extend(rows.iter().map(|row| bools.value(*row as usize)));
            rows.len()
        }
        Values::Ids(_) | Values::Texts { .. } => match array.as_string_view_opt() {
            Some(texts) => append_texts(column, values, texts, rows),
            None if array.data_type() == &DataType::Utf8 => {
                let views = cast(array, &DataType::Utf8View)?;
                append_texts(column, values, views.as_string_view(), rows)
            }
            None => return Err(wrong()),
        },
        Values::Nested(out) => {
            let rows = arrow::array::UInt32Array::from(rows.to_vec());
            // Views would keep whole input buffers alive.
            let taken = cast(&take(array, &rows, None)?, &owned(array.data_type()))?;
            let bytes = taken.get_array_memory_size();
            out.push(taken);
            bytes
        }
    })
}

fn append_texts(column: &mut Column, values: &mut Values, texts: &StringViewArray, rows: &[u32]) -> usize {
    let has_nulls = texts.null_count() > 0;
    let ahead = |at: usize| {
        if let Some(&row) = rows.get(at + ROWS_AHEAD) {
            prefetch(texts, row as usize);
        }
    };
    match values {
        Values::Ids(out) => {
            column.seen += rows.len();
            let (views, interner) = (texts.views(), &mut column.interner);
            out.extend(rows.iter().enumerate().map(|(at, &row)| {
                ahead(at);
                let row = row as usize;
                if has_nulls && texts.is_null(row) {
                    NULL_ID
                } else {
                    interner.id(views[row], texts.value(row).as_bytes())
                }
            }));
            rows.len() * 4
        }
        Values::Texts { bytes, ends } => {
            let before = bytes.len();
            ends.reserve(rows.len());
            for (at, &row) in rows.iter().enumerate() {
                ahead(at);
                let row = row as usize;
                if !has_nulls || texts.is_valid(row) {
                    bytes.extend_from_slice(texts.value(row).as_bytes());
                }
                ends.push(bytes.len() as u32);
            }
            bytes.len() - before + rows.len() * 4
        }
        Values::Int32(_)
        | Values::Int64(_)
        | Values::Float64(_)
        | Values::Bool(_)
        | Values::Wide(_)
        | Values::Nested(_) => 0, // hold no texts
    }
}

/// Copies rows, at once where they are neighbours: row numbers ascend.
fn copy<T: Copy>(values: &[T], rows: &[u32], out: &mut Vec<T>) -> usize {
    match (rows.first(), rows.last()) {
        (Some(&first), Some(&last)) if (last - first) as usize + 1 == rows.len() => {
            out.extend_from_slice(&values[first as usize..=last as usize]);
        }
        _ => out.extend(rows.iter().map(|row| values[*row as usize])),
    }
    size_of_val(rows) / 4 * size_of::<T>()
}

/// The same type with texts that own their bytes.
pub(super) fn owned(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::List(item) => {
            let item = item.as_ref().clone();
            let owned = owned(item.data_type());
            DataType::List(std::sync::Arc::new(item.with_data_type(owned)))
        }
        other => other.clone(),
    }
}
