//! Arrow values of a file into values of column types. What does not fit becomes null; nothing is rounded.
//!
//! | type         | takes                                                                                 |
//! |--------------|---------------------------------------------------------------------------------------|
//! | string       | text, binary that is UTF-8, and 16 bytes of fixed size as the UUID they are            |
//! | bool         | booleans                                                                              |
//! | int32, int64 | integers of any width in range, floating point numbers that are whole                 |
//! | float64      | numbers                                                                               |
//! | decimal(p,s) | integers, decimals, floating point numbers as they print, text that is a number; exact |
//! | date         | dates, the UTC day of timestamps, text                                                |
//! | timestamp    | timestamps of any unit and zone, integers since 1970 by their size, text              |
//! | json         | text that is JSON, as it is; anything else as JSON                                    |
//! | list of T    | lists of what T takes; one wrong item makes the whole list null                       |

#![allow(clippy::wildcard_enum_match_arm)] // Arrow's types: what is not named here does not fit.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Decimal128Array, Int64Array, ListArray, StringViewArray, StringViewBuilder,
    TimestampMicrosecondArray, new_null_array,
};
use arrow::buffer::NullBuffer;
use arrow::compute::{self, CastOptions};
use arrow::datatypes::{DataType, Decimal128Type, Field, Float64Type, Int64Type, TimeUnit};
use arrow::error::ArrowError;

use crate::decode::json::scalar;
use crate::decode::text;
use crate::spec::model::ColumnType;

use super::json;

/// The values as the column type; null where they do not fit.
pub(super) fn cast(values: &ArrayRef, kind: &ColumnType) -> Result<ArrayRef, ArrowError> {
    use DataType as From;
    let to = kind.arrow();
    let from = values.data_type();
    match (from, kind) {
        (From::Dictionary(_, item), _) => cast(&safe(values, item)?, kind),
        (From::RunEndEncoded(_, item), _) => cast(&safe(values, item.data_type())?, kind),
        (_, ColumnType::Json) if is_text(from) => parsed(values, kind),
        (_, ColumnType::Json) => as_json(values),
        (_, ColumnType::String) if is_text(from) || is_binary(from) => safe(values, &to),
        (From::FixedSizeBinary(16), ColumnType::String) => Ok(uuids(values)),
        (From::Boolean, ColumnType::Bool) => Ok(Arc::clone(values)),
        (_, ColumnType::Int32 | ColumnType::Int64) if from.is_integer() => safe(values, &to),
        (_, ColumnType::Int32 | ColumnType::Int64) if from.is_floating() => whole(values, &to),
        (_, ColumnType::Float64) if from.is_numeric() => safe(values, &to),
        (_, ColumnType::Decimal(precision, scale)) if from.is_integer() || from.is_decimal() => {
            exact(values, *precision, *scale)
        }
        (_, ColumnType::Decimal(..)) if from.is_floating() => printed(values, kind),
        (From::Date32 | From::Date64, ColumnType::Date) => safe(values, &to),
        (From::Timestamp(..), ColumnType::Date) => safe(&instants(values)?, &to),
        (From::Timestamp(..), ColumnType::Timestamp) => instants(values),
        (_, ColumnType::Timestamp) if from.is_integer() => since_1970(values),
        (_, ColumnType::Decimal(..) | ColumnType::Date | ColumnType::Timestamp) if is_text(from) => {
            parsed(values, kind)
        }
        (From::List(_) | From::LargeList(_) | From::FixedSizeList(..), ColumnType::List(item)) => {
            lists(values, item)
        }
        (_, _) => Ok(new_null_array(&to, values.len())),
    }
}

/// A type's name in a fault's text.
pub(super) fn name(kind: &DataType) -> String {
    match kind {
        DataType::Struct(_) => "a record".to_owned(),
        DataType::Map(..) => "a map".to_owned(),
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => {
            "a list that is none".to_owned()
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "a text that is none".to_owned(),
        DataType::Dictionary(_, item) => name(item),
        other => format!("a value of the file's type {other} that is none"),
    }
}

fn is_text(kind: &DataType) -> bool {
    matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn is_binary(kind: &DataType) -> bool {
    matches!(
        kind,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView
    )
}

/// Arrow's cast; what overflows becomes null.
fn safe(values: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    compute::cast_with_options(
        values,
        to,
        &CastOptions {
            safe: true,
            ..CastOptions::default()
        },
    )
}

fn parsed(values: &ArrayRef, kind: &ColumnType) -> Result<ArrayRef, ArrowError> {
    let texts = safe(values, &DataType::Utf8View)?;
    let texts: Vec<Option<&str>> = texts.as_string_view().iter().collect();
    text::parse(&texts, kind)
}

fn uuids(values: &ArrayRef) -> ArrayRef {
    let uuid = |bytes: &[u8]| {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
    };
    Arc::new(
        values
            .as_fixed_size_binary()
            .iter()
            .map(|bytes| bytes.map(uuid))
            .collect::<StringViewArray>(),
    )
}

/// Floating point numbers by the shortest text that means them, as they would stand in JSON.
fn printed(values: &ArrayRef, kind: &ColumnType) -> Result<ArrayRef, ArrowError> {
    let values = safe(values, &DataType::Float64)?;
    let texts: Vec<Option<String>> = values
        .as_primitive::<Float64Type>()
        .iter()
        .map(|value| value.map(|value| value.to_string()))
        .collect();
    let texts: Vec<Option<&str>> = texts.iter().map(Option::as_deref).collect();
    text::parse(&texts, kind)
}

fn whole(values: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    let values = safe(values, &DataType::Float64)?;
    // 2^63 itself is out of range, and every float below it that is whole is an i64.
    let whole = |value: f64| {
        (value.fract() == 0.0 && value.abs() < 9_223_372_036_854_775_808.0).then_some(value as i64)
    };
    let whole: Int64Array = values
        .as_primitive::<Float64Type>()
        .iter()
        .map(|value| whole(value?))
        .collect();
    safe(&(Arc::new(whole) as ArrayRef), to)
}

fn exact(values: &ArrayRef, precision: u8, scale: i8) -> Result<ArrayRef, ArrowError> {
    let from_scale = match values.data_type() {
        DataType::Decimal32(_, scale)
        | DataType::Decimal64(_, scale)
        | DataType::Decimal128(_, scale)
        | DataType::Decimal256(_, scale) => *scale,
        _ => 0,
    };
    let values = safe(values, &DataType::Decimal128(38, from_scale))?;
    let power = |exponent: i16| 10_i128.checked_pow(u32::try_from(exponent).ok()?);
    let shift = i16::from(scale) - i16::from(from_scale);
    let rescale = |value: i128| {
        let value = if shift >= 0 {
            value.checked_mul(power(shift)?)?
        } else {
            let divisor = power(-shift)?;
            (value % divisor == 0).then_some(value / divisor)?
        };
        (value.unsigned_abs() < power(precision.into())?.unsigned_abs()).then_some(value)
    };
    let values = values.as_primitive::<Decimal128Type>();
    let values: Decimal128Array = values.iter().map(|value| rescale(value?)).collect();
    Ok(Arc::new(values.with_precision_and_scale(precision, scale)?))
}

fn instants(values: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    // Without a zone it is taken as UTC, with one it is an instant already.
    safe(
        values,
        &DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
    )
}

fn since_1970(values: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let values = safe(values, &DataType::Int64)?;
    let instants: TimestampMicrosecondArray = values
        .as_primitive::<Int64Type>()
        .iter()
        .map(|value| scalar::epoch(value?))
        .collect();
    Ok(Arc::new(instants.with_timezone("UTC")))
}

fn as_json(values: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let mut texts = StringViewBuilder::with_capacity(values.len());
    let (mut text, nulls) = (Vec::new(), values.logical_nulls());
    for row in 0..values.len() {
        if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
            texts.append_null();
            continue;
        }
        text.clear();
        json::write(values, row, &mut text)?;
        texts.try_append_value(String::from_utf8_lossy(&text))?;
    }
    Ok(Arc::new(texts.finish()))
}

fn lists(values: &ArrayRef, item: &ColumnType) -> Result<ArrayRef, ArrowError> {
    let child = match values.data_type() {
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => field,
        _ => return Ok(new_null_array(&DataType::Null, values.len())),
    };
    let lists = safe(values, &DataType::List(Arc::clone(child)))?;
    let lists = lists.as_list::<i32>();
    let items = cast(lists.values(), item)?;
    let before = lists.values().logical_nulls();
    let wrong = |at: usize| items.is_null(at) && before.as_ref().is_none_or(|nulls| nulls.is_valid(at));
    let valid: Vec<bool> = (0..lists.len())
        .map(|row| {
            let (start, end) = (
                lists.value_offsets()[row] as usize,
                lists.value_offsets()[row + 1] as usize,
            );
            lists.is_valid(row) && !(start..end).any(wrong)
        })
        .collect();
    let field = Arc::new(Field::new("item", item.arrow(), true));
    Ok(Arc::new(ListArray::try_new(
        field,
        lists.offsets().clone(),
        items,
        Some(NullBuffer::from(valid)),
    )?))
}

#[cfg(test)]
mod tests {
    use arrow::array::{FixedSizeBinaryArray, Float64Array, StringArray, TimestampSecondArray, UInt64Array};
    use arrow::datatypes::TimestampMicrosecondType;

    use super::*;

    fn valid(values: ArrayRef, kind: &ColumnType) -> (ArrayRef, Vec<bool>) {
        let column = cast(&values, kind).unwrap();
        assert_eq!(column.data_type(), &kind.arrow());
        let valid = (0..column.len()).map(|row| column.is_valid(row)).collect();
        (column, valid)
    }

    #[test]
    fn what_does_not_fit_exactly_is_null() {
        let big: ArrayRef = Arc::new(UInt64Array::from(vec![1, u64::MAX]));
        assert_eq!(valid(Arc::clone(&big), &ColumnType::Int64).1, [true, false]);
        assert_eq!(valid(big, &ColumnType::Bool).1, [false, false]);
        let floats: ArrayRef = Arc::new(Float64Array::from(vec![
            2.0,
            2.5,
            f64::NAN,
            1e19,
            -9_223_372_036_854_775_808.0,
        ]));
        assert_eq!(
            valid(Arc::clone(&floats), &ColumnType::Int64).1,
            [true, false, false, false, false]
        );
        let (decimals, fits) = valid(floats, &ColumnType::Decimal(5, 1));
        assert_eq!(fits, [true, true, false, false, false]);
        assert_eq!(decimals.as_primitive::<Decimal128Type>().value(1), 25);
        let exact = Decimal128Array::from(vec![1230, 1234, 99_999_990])
            .with_precision_and_scale(20, 3)
            .unwrap();
        let (decimals, fits) = valid(Arc::new(exact), &ColumnType::Decimal(5, 2));
        assert_eq!(fits, [true, false, false]);
        assert_eq!(decimals.as_primitive::<Decimal128Type>().value(0), 123);
        let late: ArrayRef = Arc::new(TimestampSecondArray::from(vec![1, i64::MAX]));
        let (times, fits) = valid(late, &ColumnType::Timestamp);
        assert_eq!(fits, [true, false]);
        assert_eq!(
            times.as_primitive::<TimestampMicrosecondType>().value(0),
            1_000_000
        );
    }

    #[test]
    fn texts_are_read_by_type_and_uuids_shown() {
        let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("2026-01-31"), Some("{}"), None]));
        assert_eq!(
            valid(Arc::clone(&texts), &ColumnType::Date).1,
            [true, false, false]
        );
        assert_eq!(valid(texts, &ColumnType::Json).1, [false, true, false]);
        let uuid = FixedSizeBinaryArray::try_from_iter([(0_u8..16).collect::<Vec<_>>()].into_iter()).unwrap();
        let (shown, _) = valid(Arc::new(uuid), &ColumnType::String);
        assert_eq!(
            shown.as_string_view().value(0),
            "00010203-0405-0607-0809-0a0b0c0d0e0f"
        );
    }
}
