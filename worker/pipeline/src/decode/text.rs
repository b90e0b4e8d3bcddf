//! Text to values of column types, for formats whose values are text.
//!
//! | type          | takes                                                                                     |
//! |---------------|-------------------------------------------------------------------------------------------|
//! | string        | anything                                                                                  |
//! | bool          | `true`, `false` in any case, `1`, `0`                                                     |
//! | int32, int64  | a whole number in range, also written `1.0`                                               |
//! | float64       | a finite number                                                                           |
//! | decimal(p,s)  | a number, exact: never rounded                                                            |
//! | date          | `2026-01-31`, or the UTC day of a timestamp                                               |
//! | timestamp     | RFC 3339, without an offset UTC, a space for the `T`; or a whole number since 1970 UTC    |
//! | json          | valid JSON                                                                                |
//! | list of T     | a JSON array; one wrong item makes the whole list wrong                                   |
//!
//! A number since 1970 is seconds below 10^11, milliseconds below 10^14, microseconds below 10^17.
//! What is wrong becomes null: the caller sees it by comparing with what was there.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int32Array, Int64Array,
    ListArray, StringViewArray, TimestampMicrosecondArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::Field;
use arrow::error::ArrowError;
use chrono::{DateTime, NaiveDate, NaiveDateTime};
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::spec::model::ColumnType;

const DAY_MICROS: i64 = 86_400_000_000;

/// The texts as a column; null where there is none or where it is wrong.
///
/// # Errors
/// When Arrow refuses, which no text gives reason to.
pub(super) fn parse(texts: &[Option<&str>], kind: &ColumnType) -> Result<ArrayRef, ArrowError> {
    let values = texts.iter().copied();
    Ok(match kind {
        ColumnType::String => Arc::new(values.collect::<StringViewArray>()),
        ColumnType::Json => Arc::new(
            values
                .map(|text| text.filter(|text| is_json(text)))
                .collect::<StringViewArray>(),
        ),
        ColumnType::Bool => Arc::new(values.map(|text| boolean(text?)).collect::<BooleanArray>()),
        ColumnType::Int32 => Arc::new(
            values
                .map(|text| i32::try_from(integer(text?)?).ok())
                .collect::<Int32Array>(),
        ),
        ColumnType::Int64 => Arc::new(values.map(|text| integer(text?)).collect::<Int64Array>()),
        ColumnType::Float64 => Arc::new(values.map(|text| float(text?)).collect::<Float64Array>()),
        ColumnType::Decimal(precision, scale) => Arc::new(
            values
                .map(|text| decimal(text?, *precision, *scale))
                .collect::<Decimal128Array>()
                .with_precision_and_scale(*precision, *scale)?,
        ),
        ColumnType::Date => Arc::new(values.map(|text| day(text?)).collect::<Date32Array>()),
        ColumnType::Timestamp => Arc::new(
            values
                .map(|text| timestamp(text?))
                .collect::<TimestampMicrosecondArray>()
                .with_timezone("UTC"),
        ),
        ColumnType::List(item) => lists(values, item)?,
    })
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" => Some(true),
        "0" => Some(false),
        _ if text.eq_ignore_ascii_case("true") => Some(true),
        _ if text.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

fn integer(text: &str) -> Option<i64> {
    text.parse()
        .ok()
        .or_else(|| i64::try_from(decimal(text, 38, 0)?).ok())
}

fn float(text: &str) -> Option<f64> {
    // Rust reads `inf` and `NaN` too: those are words, not numbers.
    text.parse::<f64>().ok().filter(|value| value.is_finite())
}

/// The unscaled value.
pub(super) fn decimal(text: &str, precision: u8, scale: i8) -> Option<i128> {
    let (negative, digits) = match text.as_bytes() {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let exponent_at = digits.iter().position(|byte| matches!(byte, b'e' | b'E'));
    let (digits, mut shift) = match exponent_at {
        Some(at) => (
            &digits[..at],
            std::str::from_utf8(&digits[at + 1..])
                .ok()?
                .parse::<i16>()
                .ok()?
                .into(),
        ),
        None => (digits, 0_i32),
    };
    let point = digits.iter().position(|byte| *byte == b'.');
    let (whole, fraction) = point.map_or((digits, &digits[..0]), |at| (&digits[..at], &digits[at + 1..]));
    if whole.len() + fraction.len() == 0 {
        return None;
    }
    shift += i32::from(scale) - i32::try_from(fraction.len()).ok()?;
    let mut value = 0_i128;
    for byte in whole.iter().chain(fraction) {
        let digit = byte.is_ascii_digit().then(|| i128::from(byte - b'0'))?;
        value = value.checked_mul(10)?.checked_add(digit)?;
    }
    while shift < 0 && value != 0 {
        // Digits beyond the scale are fine only when they are zeros.
        (value, shift) = (value % 10 == 0).then_some((value / 10, shift + 1))?;
    }
    if value != 0 {
        value = value.checked_mul(10_i128.checked_pow(u32::try_from(shift).ok()?)?)?;
    }
    let fits = 10_i128
        .checked_pow(precision.into())
        .is_none_or(|bound| value < bound);
    fits.then_some(if negative { -value } else { value })
}

fn day(text: &str) -> Option<i32> {
    if text.len() == 10 {
        let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
        return i32::try_from((date - NaiveDate::default()).num_days()).ok();
    }
    i32::try_from(timestamp(text)?.div_euclid(DAY_MICROS)).ok()
}

fn timestamp(text: &str) -> Option<i64> {
    if let Ok(number) = text.parse::<i64>() {
        return epoch(number);
    }
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.timestamp_micros());
    }
    let local = |format| NaiveDateTime::parse_from_str(text, format).ok();
    let time = local("%Y-%m-%dT%H:%M:%S%.f").or_else(|| local("%Y-%m-%d %H:%M:%S%.f"))?;
    Some(time.and_utc().timestamp_micros())
}

/// Microseconds since 1970 UTC of a number whose unit its size tells.
pub(super) fn epoch(number: i64) -> Option<i64> {
    match number.unsigned_abs() {
        0..100_000_000_000 => Some(number * 1_000_000),
        100_000_000_000..100_000_000_000_000 => Some(number * 1_000),
        100_000_000_000_000..100_000_000_000_000_000 => Some(number),
        _ => None,
    }
}

fn lists<'a>(
    texts: impl Iterator<Item = Option<&'a str>>,
    item: &ColumnType,
) -> Result<ArrayRef, ArrowError> {
    let (mut items, mut lengths, mut valid): (Vec<Option<String>>, _, _) =
        (Vec::new(), Vec::new(), Vec::new());
    for text in texts {
        let list = text.and_then(|text| serde_json::from_str::<Vec<Value>>(text).ok());
        valid.push(list.is_some());
        let list = list.unwrap_or_default();
        lengths.push(list.len());
        items.extend(list.into_iter().map(|value| item_text(value, item)));
    }
    let texts: Vec<Option<&str>> = items.iter().map(Option::as_deref).collect();
    let values = parse(&texts, item)?;
    let offsets = OffsetBuffer::from_lengths(lengths);
    for (row, range) in offsets.windows(2).enumerate() {
        let wrong = |at: usize| texts[at].is_some() && values.is_null(at);
        valid[row] &= !(range[0] as usize..range[1] as usize).any(wrong);
    }
    let field = Arc::new(Field::new("item", item.arrow(), true));
    Ok(Arc::new(ListArray::try_new(
        field,
        offsets,
        values,
        Some(NullBuffer::from(valid)),
    )?))
}

/// An item as the text that its type reads: strings lose their quotes, but not where JSON is wanted.
fn item_text(value: Value, item: &ColumnType) -> Option<String> {
    match (value, item) {
        (Value::Null, _) => None,
        (Value::String(text), kind) if *kind != ColumnType::Json => Some(text),
        (value, _) => Some(value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::{
        Date32Type, Decimal128Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType,
    };

    use super::*;

    fn column(kind: &ColumnType, texts: &[&str]) -> ArrayRef {
        let texts: Vec<Option<&str>> = texts.iter().copied().map(Some).collect();
        let column = parse(&texts, kind).unwrap();
        assert_eq!(column.data_type(), &kind.arrow());
        column
    }

    #[test]
    fn numbers_are_exact_or_wrong() {
        let ints = column(
            &ColumnType::Int64,
            &[
                "1",
                "-9223372036854775808",
                "1.0",
                "1.5",
                "9223372036854775808",
                "",
                "x",
            ],
        );
        let ints: Vec<_> = ints.as_primitive::<Int64Type>().iter().collect();
        assert_eq!(ints, [Some(1), Some(i64::MIN), Some(1), None, None, None, None]);
        let small = column(&ColumnType::Int32, &["2147483647", "2147483648"]);
        assert_eq!(
            small.as_primitive::<Int32Type>().iter().collect::<Vec<_>>(),
            [Some(i32::MAX), None]
        );
        let floats = column(&ColumnType::Float64, &["0.1", "1e400", "NaN"]);
        assert_eq!(
            floats.as_primitive::<Float64Type>().iter().collect::<Vec<_>>(),
            [Some(0.1), None, None]
        );
        let decimals = column(
            &ColumnType::Decimal(5, 2),
            &[
                "12.5", "-1.10", "12.500", "1.001", "1000", "1.2e2", ".", "1e-40000",
            ],
        );
        assert_eq!(
            decimals
                .as_primitive::<Decimal128Type>()
                .iter()
                .collect::<Vec<_>>(),
            [
                Some(1250),
                Some(-110),
                Some(1250),
                None,
                None,
                Some(12000),
                None,
                None
            ]
        );
    }

    #[test]
    fn times_are_microseconds_in_utc() {
        let texts = [
            "2026-01-31T05:06:07.123456789+01:00",
            "2026-01-31 05:06:07",
            "1767225600",
            "1767225600000",
            "soon",
            "2026-02-30T00:00:00Z",
        ];
        let times = column(&ColumnType::Timestamp, &texts);
        assert_eq!(
            times
                .as_primitive::<TimestampMicrosecondType>()
                .iter()
                .collect::<Vec<_>>(),
            [
                Some(1_769_832_367_123_456),
                Some(1_769_835_967_000_000),
                Some(1_767_225_600_000_000),
                Some(1_767_225_600_000_000),
                None,
                None
            ]
        );
        let days = column(
            &ColumnType::Date,
            &["1970-01-02", "1970-01-02T00:30:00+01:00", "1970-1-2"],
        );
        assert_eq!(
            days.as_primitive::<Date32Type>().iter().collect::<Vec<_>>(),
            [Some(1), Some(0), None]
        );
    }

    #[test]
    fn json_and_lists_are_checked_whole() {
        let json = column(&ColumnType::Json, &["{\"a\":1}", "{a:1}", "1"]);
        assert_eq!(
            json.as_string_view().iter().collect::<Vec<_>>(),
            [Some("{\"a\":1}"), None, Some("1")]
        );
        let lists = column(
            &ColumnType::List(Box::new(ColumnType::Int32)),
            &["[1,null,\"3\"]", "[1,\"x\"]", "{}", "[]"],
        );
        let lists = lists.as_list::<i32>();
        assert_eq!(
            (0..4).map(|row| lists.is_valid(row)).collect::<Vec<_>>(),
            [true, false, false, true]
        );
        let first = lists.value(0);
        assert_eq!(
            first.as_primitive::<Int32Type>().iter().collect::<Vec<_>>(),
            [Some(1), None, Some(3)]
        );
    }
}
