//! A file's own columns into the wanted ones.
//!
//! In: a batch as the file's format gives it. Out: a decoded batch of the same rows.
//!
//! A path goes down through structs and, by key, through maps. A path that the file does not have is null in every
//! row; so is one that goes into a value of another kind.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, MapArray, RecordBatch, StructArray, UInt32Array, make_array,
};
use arrow::buffer::{Buffer, NullBuffer};
use arrow::compute::{is_not_null, take};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;

use crate::decode::{DecodePlan, WantedKind, decoded_schema};

use super::origin::Origin;
use super::{cast, stored};

/// Decodes a batch whose first record has this number in its object, from 1.
pub(in crate::decode) fn decode(
    batch: &RecordBatch,
    plan: &DecodePlan,
    split: u32,
    first: u64,
) -> Result<RecordBatch, ArrowError> {
    let mut origin = Origin::new(split);
    let block = stored::block(batch, first)?;
    for number in first..first + batch.num_rows() as u64 {
        origin.push((0, block.len()), number, number);
    }
    let root = StructArray::from(batch.clone());
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(plan.fields.len() + 5);
    for wanted in &plan.fields {
        let found = resolve(&root, &wanted.path)?;
        match (&wanted.kind, found) {
            (WantedKind::Present, Some(found)) => columns.push(Arc::new(is_not_null(&found)?)),
            (WantedKind::Present, None) => {
                columns.push(Arc::new(BooleanArray::from(vec![false; batch.num_rows()])))
            }
            (WantedKind::Value(kind), None) => {
                columns.push(arrow::array::new_null_array(&kind.arrow(), batch.num_rows()));
            }
            (WantedKind::Value(kind), Some(found)) => {
                let column = cast::cast(&found, kind)?;
                if column.null_count() > found.logical_null_count() {
                    let name = cast::name(found.data_type());
                    let nulls = found.logical_nulls();
                    for row in 0..column.len() {
                        if column.is_null(row) && nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row)) {
                            origin.wrong_type(row, wanted, &name);
                        }
                    }
                }
                columns.push(column);
            }
        }
    }
    columns.extend(origin.finish(Buffer::from_vec(block))?);
    RecordBatch::try_new(decoded_schema(plan), columns)
}

/// The values at a path; null where a value above is null.
fn resolve(root: &StructArray, path: &[String]) -> Result<Option<ArrayRef>, ArrowError> {
    let mut found: Cow<'_, ArrayRef> = match path.first().and_then(|name| root.column_by_name(name)) {
        Some(column) => Cow::Borrowed(column),
        None => return Ok(None),
    };
    for name in &path[1..] {
        let below = if let Some(above) = found.as_struct_opt() {
            above
                .column_by_name(name)
                .map(|below| under(below, above.nulls()))
                .transpose()?
        } else if let Some(map) = found.as_map_opt() {
            value_of(map, name)?
        } else {
            None
        };
        match below {
            Some(below) => found = Cow::Owned(below),
            None => return Ok(None),
        }
    }
    Ok(Some(found.into_owned()))
}

/// The values, null where `above` is.
fn under(values: &ArrayRef, above: Option<&NullBuffer>) -> Result<ArrayRef, ArrowError> {
    let nulls = NullBuffer::union(values.nulls(), above);
    if above.is_none() || *values.data_type() == DataType::Null {
        return Ok(Arc::clone(values));
    }
    Ok(make_array(values.to_data().into_builder().nulls(nulls).build()?))
}

/// The values of one key, the last where a map has it twice; none where keys are no text.
fn value_of(map: &MapArray, key: &str) -> Result<Option<ArrayRef>, ArrowError> {
    let Ok(keys) = arrow::compute::cast(map.keys(), &DataType::Utf8View) else {
        return Ok(None);
    };
    let keys = keys.as_string_view();
    let rows: UInt32Array = (0..map.len())
        .map(|row| {
            let range = map.value_offsets()[row] as u32..map.value_offsets()[row + 1] as u32;
            range
                .rev()
                .find(|at| map.is_valid(row) && keys.value(*at as usize) == key)
        })
        .collect();
    Ok(Some(take(map.values(), &rows, None)?))
}
