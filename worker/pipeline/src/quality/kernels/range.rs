//! Ranges: `min <= value <= max`, either end open or absent.
//!
//! The bounds are brought to the column's own type once, so that a row costs two comparisons: an integer
//! column with the bound 0.5 is compared with 1, a strict bound with its neighbour.
//!
//! | column                      | bounds                                                            |
//! |-----------------------------|-------------------------------------------------------------------|
//! | int32, int64, bool          | numbers                                                           |
//! | float64                     | numbers; NaN is in no range                                       |
//! | decimal                     | numbers, taken as the decimal that is written: 0.1 is 1/10        |
//! | date, timestamp             | ISO 8601 text; a time without offset is UTC                       |
//! | string                      | text, compared by code point                                      |

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float64Type, Int32Type, Int64Type, TimeUnit,
    TimestampMicrosecondType,
};
use chrono::{DateTime, NaiveDate, NaiveDateTime};
use serde_json::{Map, Value};

/// Both ends as declared.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Bounds {
    /// Absent when null.
    pub(crate) min: Option<Value>,
    /// Absent when null.
    pub(crate) max: Option<Value>,
    /// Whether `min` itself is outside.
    pub(crate) strict_min: bool,
    /// Whether `max` itself is outside.
    pub(crate) strict_max: bool,
}

impl Bounds {
    /// Takes `min_value`, `max_value`, `strict_min` and `strict_max`.
    pub(crate) fn of(kwargs: &Map<String, Value>) -> Self {
        let value = |key: &str| kwargs.get(key).filter(|value| !value.is_null()).cloned();
        let flag = |key: &str| kwargs.get(key).and_then(Value::as_bool).unwrap_or(false);
        Self {
            min: value("min_value"),
            max: value("max_value"),
            strict_min: flag("strict_min"),
            strict_max: flag("strict_max"),
        }
    }

    /// `at least 0 and below 10`, for people.
    pub(crate) fn describe(&self) -> String {
        let min = self.min.as_ref().map(|min| {
            format!(
                "{} min_value {min}",
                if self.strict_min { "above" } else { "at least" }
            )
        });
        let max = self.max.as_ref().map(|max| {
            format!(
                "{} max_value {max}",
                if self.strict_max { "below" } else { "at most" }
            )
        });
        match (min, max) {
            (Some(min), Some(max)) => format!("{min} and {max}"),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => "anything".to_owned(),
        }
    }

    /// Whether a number lies within.
    pub(crate) fn contain(&self, value: f64) -> Result<bool, String> {
        let number = |bound: &Option<Value>| match bound {
            None => Ok(None),
            Some(value) => value
                .as_f64()
                .map(Some)
                .ok_or_else(|| format!("the bound {value} is not a number")),
        };
        let above = number(&self.min)?.is_none_or(|min| {
            if self.strict_min {
                value > min
            } else {
                value >= min
            }
        });
        let below = number(&self.max)?.is_none_or(|max| {
            if self.strict_max {
                value < max
            } else {
                value <= max
            }
        });
        Ok(above && below)
    }
}

/// A range in the column's own type, both ends inside.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Range {
    /// Integers, days, microseconds, scaled decimals that fit.
    Int(i64, i64),
    /// Floats.
    Float(f64, f64),
    /// Scaled decimals.
    Decimal(i128, i128),
    /// Text: bound and whether it is strict.
    Text(Option<(String, bool)>, Option<(String, bool)>),
}

impl Range {
    /// Brings the bounds to the column's type; the error says what would be right.
    pub(crate) fn compile(kind: &DataType, bounds: &Bounds) -> Result<Self, String> {
        if bounds.min.is_none() && bounds.max.is_none() {
            return Err("min_value and max_value cannot both be None".to_owned());
        }
        let wrong =
            |value: &Value| format!("the bound {value} does not compare with a column of type {kind}");
        match kind {
            DataType::Boolean | DataType::Int32 | DataType::Int64 => {
                let number = |value: &Value| value.as_f64().map(|number| (number, value.as_i64()));
                let min = match &bounds.min {
                    None => i64::MIN,
                    Some(value) => match number(value).ok_or_else(|| wrong(value))? {
                        (_, Some(exact)) => raise(exact, bounds.strict_min),
                        (number, None) if number.fract() == 0.0 => raise(number as i64, bounds.strict_min),
                        (number, None) => number.ceil() as i64,
                    },
                };
                let max = match &bounds.max {
                    None => i64::MAX,
                    Some(value) => match number(value).ok_or_else(|| wrong(value))? {
                        (_, Some(exact)) => lower(exact, bounds.strict_max),
                        (number, None) if number.fract() == 0.0 => lower(number as i64, bounds.strict_max),
                        (number, None) => number.floor() as i64,
                    },
                };
                ordered(Self::Int(min, max), bounds)
            }
            DataType::Float64 => {
                let number = |bound: &Option<Value>| match bound {
                    None => Ok(None),
                    Some(value) => value.as_f64().map(Some).ok_or_else(|| wrong(value)),
                };
                let min = number(&bounds.min)?.map_or(f64::NEG_INFINITY, |min| {
                    if bounds.strict_min { min.next_up() } else { min }
                });
                let max = number(&bounds.max)?.map_or(f64::INFINITY, |max| {
                    if bounds.strict_max { max.next_down() } else { max }
                });
                ordered(Self::Float(min, max), bounds)
            }
            DataType::Decimal128(_, scale) => {
                let min = match &bounds.min {
                    None => i128::MIN,
                    Some(value) => {
                        let (floor, exact) = scaled(value, *scale).ok_or_else(|| wrong(value))?;
                        if exact && !bounds.strict_min {
                            floor
                        } else {
                            floor.saturating_add(1)
                        }
                    }
                };
                let max = match &bounds.max {
                    None => i128::MAX,
                    Some(value) => {
                        let (floor, exact) = scaled(value, *scale).ok_or_else(|| wrong(value))?;
                        if exact && bounds.strict_max {
                            floor.saturating_sub(1)
                        } else {
                            floor
                        }
                    }
                };
                ordered(Self::Decimal(min, max), bounds)
            }
            DataType::Date32 | DataType::Timestamp(TimeUnit::Microsecond, _) => {
                let at = |value: &Value| instant(kind, value).ok_or_else(|| wrong(value));
                let min = bounds.min.as_ref().map(at).transpose()?;
                let max = bounds.max.as_ref().map(at).transpose()?;
                let range = Self::Int(
                    min.map_or(i64::MIN, |min| raise(min, bounds.strict_min)),
                    max.map_or(i64::MAX, |max| lower(max, bounds.strict_max)),
                );
                ordered(range, bounds)
            }
            DataType::Utf8View => {
                let text = |bound: &Option<Value>, strict| match bound {
                    None => Ok(None),
                    Some(Value::String(text)) => Ok(Some((text.clone(), strict))),
                    Some(value) => Err(wrong(value)),
                };
                Ok(Self::Text(
                    text(&bounds.min, bounds.strict_min)?,
                    text(&bounds.max, bounds.strict_max)?,
                ))
            }
            _ => Err(format!("a column of type {kind} has no order")),
        }
    }

    /// The rows within the range.
    pub(crate) fn judge(&self, array: &ArrayRef) -> BooleanBuffer {
        match (self, array.data_type()) {
            (Self::Int(min, max), DataType::Int64) => {
                within(array.as_primitive::<Int64Type>().values(), *min, *max)
            }
            (Self::Int(min, max), DataType::Timestamp(TimeUnit::Microsecond, _)) => within(
                array.as_primitive::<TimestampMicrosecondType>().values(),
                *min,
                *max,
            ),
            (Self::Int(min, max), DataType::Int32) => match narrowed(*min, *max) {
                Some((min, max)) => within(array.as_primitive::<Int32Type>().values(), min, max),
                None => BooleanBuffer::new_unset(array.len()),
            },
            (Self::Int(min, max), DataType::Date32) => match narrowed(*min, *max) {
                Some((min, max)) => within(array.as_primitive::<Date32Type>().values(), min, max),
                None => BooleanBuffer::new_unset(array.len()),
            },
            (Self::Int(min, max), DataType::Boolean) => {
                let bits = array.as_boolean().values();
                let inside = |value: i64| (*min..=*max).contains(&value);
                BooleanBuffer::collect_bool(bits.len(), |row| inside(i64::from(bits.value(row))))
            }
            (Self::Float(min, max), DataType::Float64) => {
                within(array.as_primitive::<Float64Type>().values(), *min, *max)
            }
            (Self::Decimal(min, max), DataType::Decimal128(_, _)) => {
                within(array.as_primitive::<Decimal128Type>().values(), *min, *max)
            }
            (Self::Text(min, max), DataType::Utf8View) => {
                let texts = array.as_string_view();
                let inside = |text: &str| {
                    min.as_ref().is_none_or(|(min, strict)| {
                        if *strict {
                            text > min.as_str()
                        } else {
                            text >= min.as_str()
                        }
                    }) && max.as_ref().is_none_or(|(max, strict)| {
                        if *strict {
                            text < max.as_str()
                        } else {
                            text <= max.as_str()
                        }
                    })
                };
                BooleanBuffer::collect_bool(texts.len(), |row| inside(texts.value(row)))
            }
            // The plan compiles a range for the column's own type: no row is inside another one.
            _ => BooleanBuffer::new_unset(array.len()),
        }
    }
}

/// `min <= value <= max` for a slice: first a sweep that only asks whether all are inside (it vectorises
/// well and is nearly always the answer), then bits.
pub(crate) fn within<T: Copy + PartialOrd>(values: &[T], min: T, max: T) -> BooleanBuffer {
    let all = values
        .iter()
        .fold(true, |all, value| all & (*value >= min) & (*value <= max));
    if all {
        return BooleanBuffer::new_set(values.len());
    }
    BooleanBuffer::collect_bool(values.len(), |row| {
        let value = values[row];
        (value >= min) & (value <= max)
    })
}

fn ordered(range: Range, bounds: &Bounds) -> Result<Range, String> {
    let crossed = match (&bounds.min, &bounds.max) {
        (Some(min), Some(max)) => match (min.as_f64(), max.as_f64()) {
            (Some(min), Some(max)) => min > max,
            _ => false,
        },
        _ => false,
    };
    if crossed {
        Err("min_value cannot be greater than max_value".to_owned())
    } else {
        Ok(range)
    }
}

fn raise(bound: i64, strict: bool) -> i64 {
    if strict { bound.saturating_add(1) } else { bound }
}

fn lower(bound: i64, strict: bool) -> i64 {
    if strict { bound.saturating_sub(1) } else { bound }
}

/// The range in 32 bits; none when it lies outside of them.
fn narrowed(min: i64, max: i64) -> Option<(i32, i32)> {
    let low = i32::try_from(min.max(i64::from(i32::MIN))).ok()?;
    let high = i32::try_from(max.min(i64::from(i32::MAX))).ok()?;
    Some((low, high))
}

/// A number as written, times 10^scale: rounded down, and whether nothing was lost.
pub(crate) fn scaled(value: &Value, scale: i8) -> Option<(i128, bool)> {
    let text = match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        _ => return None,
    };
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text.as_str(), 0),
    };
    let negative = mantissa.starts_with('-');
    let digits = mantissa.trim_start_matches(['-', '+']);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let number: i128 = format!("{whole}{fraction}").parse().ok()?;
    let shift = exponent
        .checked_add(i32::from(scale))?
        .checked_sub(i32::try_from(fraction.len()).ok()?)?;
    let factor = 10_i128.checked_pow(shift.unsigned_abs());
    let (magnitude, exact) = match (shift >= 0, factor) {
        (true, factor) => (number.saturating_mul(factor.unwrap_or(i128::MAX)), true),
        (false, Some(factor)) => (number / factor, number % factor == 0),
        (false, None) => (0, number == 0),
    };
    Some(match (negative, exact) {
        (false, exact) => (magnitude, exact),
        (true, true) => (-magnitude, true),
        (true, false) => (-magnitude - 1, false),
    })
}

/// A text as days or microseconds, by the column's type.
pub(crate) fn instant(kind: &DataType, value: &Value) -> Option<i64> {
    let text = value.as_str()?.trim();
    let time = DateTime::parse_from_rfc3339(text)
        .or_else(|_| DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f%:z"))
        .map(|time| time.naive_utc())
        .or_else(|_| NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f"))
        .or_else(|_| NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f"))
        .or_else(|_| NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M"))
        .or_else(|_| NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M"))
        .or_else(|_| NaiveDate::parse_from_str(text, "%Y-%m-%d").map(|day| day.and_time(Default::default())))
        .ok()?;
    Some(match kind {
        DataType::Date32 => i64::from(time.date().to_epoch_days()),
        _ => time.and_utc().timestamp_micros(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float64Array, Int32Array, Int64Array, StringViewArray};
    use serde_json::json;
    use std::sync::Arc;

    fn bounds(min: Value, max: Value, strict: bool) -> Bounds {
        let kwargs = json!({"min_value": min, "max_value": max, "strict_min": strict, "strict_max": strict});
        Bounds::of(kwargs.as_object().unwrap())
    }

    fn bits(range: &Range, array: ArrayRef) -> Vec<bool> {
        range.judge(&array).iter().collect()
    }

    #[test]
    fn integer_columns_meet_fractional_and_strict_bounds() {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![0, 1, 2, 3]));
        let range = Range::compile(column.data_type(), &bounds(json!(0.5), json!(2.5), false)).unwrap();
        assert_eq!(bits(&range, Arc::clone(&column)), [false, true, true, false]);
        let range = Range::compile(column.data_type(), &bounds(json!(0), json!(2.0), true)).unwrap();
        assert_eq!(bits(&range, column), [false, true, false, false]);
    }

    #[test]
    fn bounds_beyond_32_bits_leave_no_or_every_row() {
        let column: ArrayRef = Arc::new(Int32Array::from(vec![i32::MIN, 0, i32::MAX]));
        let above = Range::compile(
            column.data_type(),
            &bounds(json!(1_i64 << 40), Value::Null, false),
        )
        .unwrap();
        assert_eq!(bits(&above, Arc::clone(&column)), [false; 3]);
        let all = Range::compile(
            column.data_type(),
            &bounds(Value::Null, json!(1_i64 << 40), false),
        )
        .unwrap();
        assert_eq!(bits(&all, column), [true; 3]);
    }

    #[test]
    fn nan_is_in_no_range_and_strict_float_bounds_move_by_one_step() {
        let column: ArrayRef = Arc::new(Float64Array::from(vec![f64::NAN, 0.0, 1.0, 0.5]));
        let range = Range::compile(column.data_type(), &bounds(json!(0), json!(1), true)).unwrap();
        assert_eq!(bits(&range, column), [false, false, false, true]);
    }

    #[test]
    fn decimals_are_compared_as_written() {
        assert_eq!(scaled(&json!(0.1), 2), Some((10, true)));
        assert_eq!(scaled(&json!(-0.125), 2), Some((-13, false)));
        assert_eq!(scaled(&json!(1e3), 0), Some((1000, true)));
        assert_eq!(scaled(&json!("12.50"), 1), Some((125, true)));
    }

    #[test]
    fn text_bounds_compare_text_and_numbers_do_not() {
        let column: ArrayRef = Arc::new(StringViewArray::from(vec!["a", "b", "ö"]));
        let range = Range::compile(column.data_type(), &bounds(json!("a"), json!("z"), true)).unwrap();
        assert_eq!(bits(&range, Arc::clone(&column)), [false, true, false]);
        assert!(Range::compile(column.data_type(), &bounds(json!(1), Value::Null, false)).is_err());
    }

    #[test]
    fn instants_read_with_and_without_an_offset() {
        let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        assert_eq!(instant(&time, &json!("1970-01-01T01:00:00+01:00")), Some(0));
        assert_eq!(instant(&time, &json!("1970-01-01 00:00:01.5")), Some(1_500_000));
        assert_eq!(instant(&DataType::Date32, &json!("1970-01-02")), Some(1));
    }
}
