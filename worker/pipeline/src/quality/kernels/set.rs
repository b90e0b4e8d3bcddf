//! Membership in a set of values.
//!
//! Text of up to 12 bytes lies whole in its 16-byte view, so it is compared as one number, with no look at
//! the buffer behind; longer text is found by its hash and compared. Other types are compared as
//! themselves: a value that the column's type cannot hold is in no row, as in Python.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float64Type, Int32Type, Int64Type, TimeUnit,
    TimestampMicrosecondType,
};
use hashbrown::HashSet;
use serde_json::Value;

use super::range::{instant, scaled};

/// Longest text that lies whole in its view.
const INLINE_BYTES_MAX: usize = 12;
/// Up to here a sweep over the set beats a hash.
const SWEEP_MAX: usize = 16;

/// A set in the column's own type.
#[derive(Debug, Clone)]
pub(crate) enum ValueSet {
    /// Text.
    Text {
        /// Views of short members, while they are few.
        few: Vec<u128>,
        /// Views of short members, when they are many.
        many: HashSet<u128>,
        /// Long members.
        long: HashSet<Box<str>>,
    },
    /// Integers, booleans, days, microseconds, scaled decimals: sorted.
    Int(Vec<i128>),
    /// Floats.
    Float(Vec<f64>),
}

impl ValueSet {
    /// Brings the values to the column's type.
    pub(crate) fn compile(kind: &DataType, values: &[Value]) -> Result<Self, String> {
        match kind {
            DataType::Utf8View => {
                let texts = || values.iter().filter_map(Value::as_str);
                let many: HashSet<u128> = texts().filter_map(inline_view).collect();
                let few = if many.len() <= SWEEP_MAX {
                    many.iter().copied().collect()
                } else {
                    Vec::new()
                };
                let long = texts()
                    .filter(|text| text.len() > INLINE_BYTES_MAX)
                    .map(Into::into)
                    .collect();
                Ok(Self::Text { few, many, long })
            }
            DataType::Float64 => Ok(Self::Float(values.iter().filter_map(as_number).collect())),
            DataType::Boolean
            | DataType::Int32
            | DataType::Int64
            | DataType::Decimal128(_, _)
            | DataType::Date32
            | DataType::Timestamp(TimeUnit::Microsecond, _) => {
                let mut ints: Vec<i128> = values.iter().filter_map(|value| as_int(kind, value)).collect();
                ints.sort_unstable();
                ints.dedup();
                Ok(Self::Int(ints))
            }
            _ => Err(format!("a column of type {kind} cannot be looked up in a set")),
        }
    }

    /// The rows whose value is a member.
    pub(crate) fn judge(&self, array: &ArrayRef) -> BooleanBuffer {
        let rows = array.len();
        match (self, array.data_type()) {
            (Self::Text { few, many, long }, DataType::Utf8View) => text_members(array, few, many, long),
            (Self::Float(set), DataType::Float64) => {
                let values = array.as_primitive::<Float64Type>().values();
                BooleanBuffer::collect_bool(rows, |row| set.contains(&values[row]))
            }
            (Self::Int(set), DataType::Boolean) => {
                let bits = array.as_boolean().values();
                let (no, yes) = (set.contains(&0), set.contains(&1));
                BooleanBuffer::collect_bool(rows, |row| if bits.value(row) { yes } else { no })
            }
            (Self::Int(set), DataType::Int32) => members(array.as_primitive::<Int32Type>().values(), set),
            (Self::Int(set), DataType::Int64) => members(array.as_primitive::<Int64Type>().values(), set),
            (Self::Int(set), DataType::Date32) => members(array.as_primitive::<Date32Type>().values(), set),
            (Self::Int(set), DataType::Timestamp(TimeUnit::Microsecond, _)) => {
                members(array.as_primitive::<TimestampMicrosecondType>().values(), set)
            }
            (Self::Int(set), DataType::Decimal128(_, _)) => {
                members(array.as_primitive::<Decimal128Type>().values(), set)
            }
            // The plan compiles a set for the column's own type.
            _ => BooleanBuffer::new_unset(rows),
        }
    }
}

/// The value in an integer-like column's own unit; none when the column cannot hold it.
pub(crate) fn as_int(kind: &DataType, value: &Value) -> Option<i128> {
    match kind {
        DataType::Decimal128(_, scale) => scaled(value, *scale)
            .filter(|(_, exact)| *exact && value.is_number())
            .map(|(number, _)| number),
        DataType::Date32 | DataType::Timestamp(_, _) => instant(kind, value).map(i128::from),
        _ => match value {
            Value::Bool(bit) => Some(i128::from(*bit)),
            Value::Number(number) => number.as_i64().map(i128::from).or_else(|| {
                number
                    .as_f64()
                    .filter(|float| float.fract() == 0.0)
                    .map(|float| float as i128)
            }),
            _ => None,
        },
    }
}

/// The value as a float; booleans count as 0 and 1, as in Python.
pub(crate) fn as_number(value: &Value) -> Option<f64> {
    match value {
        Value::Bool(bit) => Some(f64::from(u8::from(*bit))),
        other => other.as_f64(),
    }
}

/// The 16 bytes that Arrow has for a short text: its length, then its bytes, then zeros.
fn inline_view(text: &str) -> Option<u128> {
    let bytes = text.as_bytes();
    if bytes.len() > INLINE_BYTES_MAX {
        return None;
    }
    let mut view = [0_u8; 16];
    view[0] = u8::try_from(bytes.len()).ok()?;
    view[4..4 + bytes.len()].copy_from_slice(bytes);
    Some(u128::from_le_bytes(view))
}

fn text_members(
    array: &ArrayRef,
    few: &[u128],
    many: &HashSet<u128>,
    long: &HashSet<Box<str>>,
) -> BooleanBuffer {
    let texts = array.as_string_view();
    let views = texts.views();
    let is_long = |row: usize| !long.is_empty() && long.contains(texts.value(row));
    // The lower 32 bits of a view are the length.
    let is_short = |view: u128| (view as u32) as usize <= INLINE_BYTES_MAX;
    if many.len() <= SWEEP_MAX {
        return BooleanBuffer::collect_bool(views.len(), |row| {
            let view = views[row];
            if is_short(view) {
                few.iter().fold(false, |found, member| found | (*member == view))
            } else {
                is_long(row)
            }
        });
    }
    BooleanBuffer::collect_bool(views.len(), |row| {
        let view = views[row];
        if is_short(view) {
            many.contains(&view)
        } else {
            is_long(row)
        }
    })
}

fn members<T: Copy + Into<i128> + PartialEq + TryFrom<i128>>(values: &[T], set: &[i128]) -> BooleanBuffer {
    if set.len() <= SWEEP_MAX {
        let own: Vec<T> = set
            .iter()
            .filter_map(|member| T::try_from(*member).ok())
            .collect();
        return BooleanBuffer::collect_bool(values.len(), |row| {
            own.iter()
                .fold(false, |found, member| found | (*member == values[row]))
        });
    }
    BooleanBuffer::collect_bool(values.len(), |row| set.binary_search(&values[row].into()).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{BooleanArray, Int32Array, StringViewArray};
    use serde_json::json;
    use std::sync::Arc;

    fn bits(values: &[Value], array: ArrayRef) -> Vec<bool> {
        ValueSet::compile(array.data_type(), values)
            .unwrap()
            .judge(&array)
            .iter()
            .collect()
    }

    #[test]
    fn short_and_long_text_are_found() {
        let texts = vec!["", "web", "twelve bytes", "thirteen byte", "thirteen bytes", "we"];
        let set = [
            json!("web"),
            json!("twelve bytes"),
            json!("thirteen bytes"),
            json!(""),
            json!(7),
        ];
        assert_eq!(
            bits(&set, Arc::new(StringViewArray::from(texts))),
            [true, true, true, false, true, false]
        );
    }

    #[test]
    fn a_large_set_finds_the_same() {
        let set: Vec<Value> = (0..100).map(|n| json!(format!("v{n}"))).collect();
        let texts: Vec<String> = (50..150).map(|n| format!("v{n}")).collect();
        let found = bits(&set, Arc::new(StringViewArray::from_iter_values(&texts)));
        assert_eq!(found.iter().filter(|bit| **bit).count(), 50);
    }

    #[test]
    fn numbers_follow_pythons_equality() {
        let ints: ArrayRef = Arc::new(Int32Array::from(vec![0, 1, 2]));
        assert_eq!(
            bits(&[json!(1.0), json!("2"), json!(0.5)], ints),
            [false, true, false]
        );
        let bools: ArrayRef = Arc::new(BooleanArray::from(vec![true, false]));
        assert_eq!(bits(&[json!(1)], bools), [true, false]);
    }
}
