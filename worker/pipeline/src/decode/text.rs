//! Text to values of column types, for formats whose values are text.
//!
//! | type          | takes                                                                                     |
//! |---------------|-------------------------------------------------------------------------------------------|
//! | string        | anything                                                                                  |
//! | bool          | `true`, `false` in any case, `1`, `0`                                                     |
//! | int32, int64  | a whole number in range, also written `1.0`                                               |
//! | float64       | a finite number                                                                           |
//! | decimal(p,s)  | a number as JSON writes it, exact: never rounded                                          |
//! | date          | `2026-01-31`, or the UTC day of a timestamp                                               |
//! | timestamp     | RFC 3339, without an offset UTC, a space for the `T`; or a whole number since 1970 UTC    |
//! | json          | valid JSON                                                                                |
//! | list of T     | a JSON array; one wrong item makes the whole list wrong                                   |
//!
//! Numbers and times follow the rules of [`super::json`]; of a number since 1970 its size tells the unit.
//! What is wrong becomes null: the caller sees it by comparing with what was there.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int32Array, Int64Array,
    ListArray, StringViewArray, TimestampMicrosecondArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::Field;
use arrow::error::ArrowError;
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::spec::model::ColumnType;

use super::json::scalar;

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
                .map(|text| scalar::decimal(text?, *precision, *scale))
                .collect::<Decimal128Array>()
                .with_precision_and_scale(*precision, *scale)?,
        ),
        ColumnType::Date => Arc::new(values.map(|text| scalar::day(text?)).collect::<Date32Array>()),
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

/// Leading zeros and a plus are more than JSON allows, and usual in CSV.
fn integer(text: &str) -> Option<i64> {
    text.parse().ok().or_else(|| scalar::integer(text))
}

fn float(text: &str) -> Option<f64> {
    // Rust reads `inf` and `NaN` too: those are words, not numbers.
    text.parse::<f64>().ok().filter(|value| value.is_finite())
}

fn timestamp(text: &str) -> Option<i64> {
    text.parse()
        .map_or_else(|_| scalar::timestamp(text), scalar::epoch)
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
