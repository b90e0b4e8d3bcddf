//! Single values: as JSON for results, as 128-bit hashes for counting.
//!
//! Hashes follow Python's equality within a column's type: what Great Expectations calls equal is equal
//! here (`1` and `1.0` in an integer column, `-0.0` and `0.0` in a float column).

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float64Type, Int32Type, Int64Type, TimeUnit,
    TimestampMicrosecondType,
};
use arrow::error::ArrowError;
use chrono::{DateTime, NaiveDate};
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_128;

/// One value as JSON; null for null and for types that no table has.
pub(crate) fn json(array: &dyn Array, row: usize) -> Value {
    if array.is_null(row) {
        return Value::Null;
    }
    match array.data_type() {
        DataType::Utf8View => array.as_string_view().value(row).into(),
        DataType::Boolean => array.as_boolean().value(row).into(),
        DataType::Int32 => array.as_primitive::<Int32Type>().value(row).into(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(row).into(),
        DataType::Float64 => array.as_primitive::<Float64Type>().value(row).into(),
        DataType::Decimal128(_, _) => {
            let text = array.as_primitive::<Decimal128Type>().value_as_string(row);
            text.parse::<f64>().map_or(Value::Null, Value::from)
        }
        DataType::Date32 => day_text(array.as_primitive::<Date32Type>().value(row)).into(),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            time_text(array.as_primitive::<TimestampMicrosecondType>().value(row)).into()
        }
        DataType::List(_) => {
            let items = array.as_list::<i32>().value(row);
            (0..items.len()).map(|i| json(&items, i)).collect()
        }
        _ => Value::Null,
    }
}

/// `2026-01-01T00:00:00+00:00`, with six more digits where there is a fraction: as Python writes it.
pub(crate) fn time_text(micros: i64) -> String {
    DateTime::from_timestamp_micros(micros).map_or_else(String::new, |time| {
        let fraction = if micros % 1_000_000 == 0 { "" } else { "%.6f" };
        time.format(&format!("%Y-%m-%dT%H:%M:%S{fraction}+00:00"))
            .to_string()
    })
}

/// `2026-01-01`.
pub(crate) fn day_text(days: i32) -> String {
    NaiveDate::from_epoch_days(days).map_or_else(String::new, |day| day.to_string())
}

/// Calls `each` with every row's hash; nulls get [`NULL_HASH`].
pub(crate) fn for_each_hash(array: &ArrayRef, mut each: impl FnMut(usize, u128)) -> Result<(), ArrowError> {
    fn go<T>(array: &dyn Array, hash: impl Fn(usize) -> T, each: &mut dyn FnMut(usize, T), null: T)
    where
        T: Copy,
    {
        match array.nulls() {
            None => (0..array.len()).for_each(|row| each(row, hash(row))),
            Some(nulls) => {
                (0..array.len())
                    .for_each(|row| each(row, if nulls.is_valid(row) { hash(row) } else { null }));
            }
        }
    }
    let array = array.as_ref();
    match array.data_type() {
        DataType::Utf8View => {
            let texts = array.as_string_view();
            go(array, |row| text_hash(texts.value(row)), &mut each, NULL_HASH);
        }
        DataType::Boolean => {
            let bits = array.as_boolean().values();
            go(
                array,
                |row| int_hash(i128::from(bits.value(row))),
                &mut each,
                NULL_HASH,
            );
        }
        DataType::Int32 => {
            let values = array.as_primitive::<Int32Type>().values();
            go(
                array,
                |row| int_hash(i128::from(values[row])),
                &mut each,
                NULL_HASH,
            );
        }
        DataType::Int64 => {
            let values = array.as_primitive::<Int64Type>().values();
            go(
                array,
                |row| int_hash(i128::from(values[row])),
                &mut each,
                NULL_HASH,
            );
        }
        DataType::Float64 => {
            let values = array.as_primitive::<Float64Type>().values();
            go(array, |row| float_hash(values[row]), &mut each, NULL_HASH);
        }
        DataType::Decimal128(_, _) => {
            let values = array.as_primitive::<Decimal128Type>().values();
            go(array, |row| int_hash(values[row]), &mut each, NULL_HASH);
        }
        DataType::Date32 => {
            let values = array.as_primitive::<Date32Type>().values();
            go(
                array,
                |row| int_hash(i128::from(values[row])),
                &mut each,
                NULL_HASH,
            );
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            let values = array.as_primitive::<TimestampMicrosecondType>().values();
            go(
                array,
                |row| int_hash(i128::from(values[row])),
                &mut each,
                NULL_HASH,
            );
        }
        _ => go(
            array,
            |row| text_hash(&json(array, row).to_string()),
            &mut each,
            NULL_HASH,
        ),
    }
    Ok(())
}

/// The hash of null.
pub(crate) const NULL_HASH: u128 = 0x6e75_6c6c;

/// The hash of a text.
pub(crate) fn text_hash(text: &str) -> u128 {
    xxh3_128(text.as_bytes())
}

/// The hash of an integer, of a scaled decimal, of days and of microseconds.
pub(crate) fn int_hash(value: i128) -> u128 {
    xxh3_128(&value.to_le_bytes())
}

/// The hash of a float: equal numbers hash equally.
pub(crate) fn float_hash(value: f64) -> u128 {
    xxh3_128(&(value + 0.0).to_bits().to_le_bytes())
}

/// Joins the hashes of a record's columns; the order of the columns matters.
pub(crate) fn join_hash(so_far: u128, next: u128) -> u128 {
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(&so_far.to_le_bytes());
    bytes[16..].copy_from_slice(&next.to_le_bytes());
    xxh3_128(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_days_read_as_python_writes_them() {
        assert_eq!(time_text(0), "1970-01-01T00:00:00+00:00");
        assert_eq!(time_text(1), "1970-01-01T00:00:00.000001+00:00");
        assert_eq!(day_text(-1), "1969-12-31");
    }

    #[test]
    fn equal_floats_hash_equally() {
        assert_eq!(float_hash(0.0), float_hash(-0.0));
        assert_ne!(join_hash(1, 2), join_hash(2, 1));
    }
}
