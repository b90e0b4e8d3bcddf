//! Comparisons of two columns, or of a column and a constant, whatever their types.
//!
//! Nulls compare as pandas' do: `!=` is true, all else false.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Datum, Scalar};
use arrow::buffer::BooleanBuffer;
use arrow::compute::cast;
use arrow::compute::kernels::cmp;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;

/// A comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    /// `==`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

/// Compares two columns row by row.
pub(crate) fn columns(
    comparison: Comparison,
    left: &ArrayRef,
    right: &ArrayRef,
) -> Result<BooleanBuffer, ArrowError> {
    let (left, right) = match meeting_type(left.data_type(), right.data_type()) {
        None => return Ok(never(comparison, left.len())),
        Some(kind) => (as_type(left, &kind)?, as_type(right, &kind)?),
    };
    compare(comparison, &left, &right)
}

/// Compares a column with a constant of its own type (an array of one).
pub(crate) fn constant(
    comparison: Comparison,
    left: &ArrayRef,
    right: &ArrayRef,
) -> Result<BooleanBuffer, ArrowError> {
    match meeting_type(left.data_type(), right.data_type()) {
        None => Ok(never(comparison, left.len())),
        Some(kind) => compare(
            comparison,
            &as_type(left, &kind)?,
            &Scalar::new(as_type(right, &kind)?),
        ),
    }
}

/// Whether two columns hold the same, where null is the same as null.
pub(crate) fn same(left: &ArrayRef, right: &ArrayRef) -> Result<BooleanBuffer, ArrowError> {
    match meeting_type(left.data_type(), right.data_type()) {
        None => Ok(BooleanBuffer::collect_bool(left.len(), |row| {
            left.is_null(row) && right.is_null(row)
        })),
        Some(kind) => {
            let (left, right) = (as_type(left, &kind)?, as_type(right, &kind)?);
            Ok(cmp::not_distinct(&left, &right)?.values().clone())
        }
    }
}

/// The type in which two types can be compared.
pub(crate) fn meeting_type(left: &DataType, right: &DataType) -> Option<DataType> {
    if left == right {
        return Some(left.clone());
    }
    let is_number = |kind: &DataType| kind.is_numeric() || kind == &DataType::Boolean;
    let is_time = |kind: &DataType| matches!(kind, DataType::Timestamp(_, _) | DataType::Date32);
    if is_number(left) && is_number(right) {
        let is_int = |kind: &DataType| kind.is_integer() || kind == &DataType::Boolean;
        return Some(if is_int(left) && is_int(right) {
            DataType::Int64
        } else {
            DataType::Float64
        });
    }
    if is_time(left) && is_time(right) {
        return [left, right]
            .into_iter()
            .find(|kind| matches!(kind, DataType::Timestamp(_, _)))
            .cloned();
    }
    None
}

fn compare(comparison: Comparison, left: &dyn Datum, right: &dyn Datum) -> Result<BooleanBuffer, ArrowError> {
    let bits = match comparison {
        Comparison::Equal => cmp::eq(left, right),
        Comparison::NotEqual => cmp::neq(left, right),
        Comparison::Less => cmp::lt(left, right),
        Comparison::LessOrEqual => cmp::lt_eq(left, right),
        Comparison::Greater => cmp::gt(left, right),
        Comparison::GreaterOrEqual => cmp::gt_eq(left, right),
    }?;
    let (values, nulls) = bits.into_parts();
    Ok(match (nulls, comparison) {
        (None, _) => values,
        (Some(nulls), Comparison::NotEqual) => &values | &!nulls.inner(),
        (Some(nulls), _) => &values & nulls.inner(),
    })
}

fn never(comparison: Comparison, rows: usize) -> BooleanBuffer {
    match comparison {
        Comparison::NotEqual => BooleanBuffer::new_set(rows),
        _ => BooleanBuffer::new_unset(rows),
    }
}

fn as_type(array: &ArrayRef, kind: &DataType) -> Result<ArrayRef, ArrowError> {
    if array.data_type() == kind {
        Ok(Arc::clone(array))
    } else {
        cast(array, kind)
    }
}
