//! 128-bit hashes of key columns, the same in every release: key files outlive programs.
//!
//! A key of one text column is the XXH3-128 of its bytes. Every other key is first written down so that
//! no two keys share their bytes: for each column a tag for its kind, then the value in a fixed width or
//! after its length; null has a tag of its own, unlike the empty text. Integers of both widths are
//! written alike, so that widening a column keeps its keys.

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, ListArray, PrimitiveArray, StringViewArray,
    UInt64Array,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float64Type, Int32Type, Int64Type, TimeUnit,
    TimestampMicrosecondType,
};
use xxhash_rust::xxh3::xxh3_128;

use super::DedupError;
use super::files::halves;

/// The upper and the lower halves of each row's key; null where all key columns are null.
pub(super) fn hash_keys(columns: &[(&str, &ArrayRef)]) -> Result<(UInt64Array, UInt64Array), DedupError> {
    if let [(_, column)] = columns
        && let Some(texts) = column.as_string_view_opt()
    {
        return Ok(hash_texts(texts));
    }
    let rows = columns.first().map_or(0, |(_, column)| column.len());
    let cells: Result<Vec<Cells<'_>>, DedupError> = columns
        .iter()
        .map(|(name, column)| Cells::of(name, column))
        .collect();
    Ok(hash_rows(&cells?, rows))
}

fn hash_texts(texts: &StringViewArray) -> (UInt64Array, UInt64Array) {
    let mut high = Vec::with_capacity(texts.len());
    let mut low = Vec::with_capacity(texts.len());
    for row in 0..texts.len() {
        let (upper, lower) = halves(xxh3_128(texts.value(row).as_bytes()));
        high.push(upper);
        low.push(lower);
    }
    with_nulls(high, low, texts.nulls().cloned())
}

fn hash_rows(cells: &[Cells<'_>], rows: usize) -> (UInt64Array, UInt64Array) {
    let mut high = Vec::with_capacity(rows);
    let mut low = Vec::with_capacity(rows);
    let mut valid = Vec::with_capacity(rows);
    let mut key = Vec::new();
    for row in 0..rows {
        key.clear();
        let mut any = false;
        for cells in cells {
            any |= cells.write(row, &mut key);
        }
        let (upper, lower) = halves(xxh3_128(&key));
        high.push(upper);
        low.push(lower);
        valid.push(any);
    }
    with_nulls(high, low, Some(NullBuffer::from(valid)))
}

fn with_nulls(high: Vec<u64>, low: Vec<u64>, nulls: Option<NullBuffer>) -> (UInt64Array, UInt64Array) {
    let nulls = nulls.filter(|nulls| nulls.null_count() > 0);
    (
        UInt64Array::new(high.into(), nulls.clone()),
        UInt64Array::new(low.into(), nulls),
    )
}

/// Tags of kinds. Written into every stored key's hash: they never change.
mod tag {
    pub(super) const NULL: u8 = 0;
    pub(super) const TEXT: u8 = 1;
    pub(super) const BOOL: u8 = 2;
    pub(super) const INT: u8 = 3;
    pub(super) const FLOAT: u8 = 4;
    pub(super) const DECIMAL: u8 = 5;
    pub(super) const DATE: u8 = 6;
    pub(super) const TIMESTAMP: u8 = 7;
    pub(super) const LIST: u8 = 8;
}

/// A key column, ready to write its values down.
enum Cells<'a> {
    Text(&'a StringViewArray),
    Bool(&'a BooleanArray),
    Int32(&'a PrimitiveArray<Int32Type>),
    Int64(&'a PrimitiveArray<Int64Type>),
    Float(&'a PrimitiveArray<Float64Type>),
    Decimal(&'a Decimal128Array, i8),
    Date(&'a PrimitiveArray<Date32Type>),
    Timestamp(&'a PrimitiveArray<TimestampMicrosecondType>),
    List(&'a ListArray, Box<Cells<'a>>),
}

impl<'a> Cells<'a> {
    fn of(name: &str, column: &'a ArrayRef) -> Result<Self, DedupError> {
        let unfit = || DedupError::KeyType {
            column: name.to_owned(),
            found: column.data_type().to_string(),
        };
        // Arrow has dozens of types; a table's columns have these.
        #[allow(clippy::wildcard_enum_match_arm)]
        Ok(match column.data_type() {
            DataType::Utf8View => Self::Text(column.as_string_view()),
            DataType::Boolean => Self::Bool(column.as_boolean()),
            DataType::Int32 => Self::Int32(column.as_primitive()),
            DataType::Int64 => Self::Int64(column.as_primitive()),
            DataType::Float64 => Self::Float(column.as_primitive()),
            DataType::Decimal128(_, scale) => Self::Decimal(column.as_primitive::<Decimal128Type>(), *scale),
            DataType::Date32 => Self::Date(column.as_primitive()),
            DataType::Timestamp(TimeUnit::Microsecond, _) => Self::Timestamp(column.as_primitive()),
            DataType::List(_) => {
                let lists = column.as_list::<i32>();
                Self::List(lists, Box::new(Self::of(name, lists.values())?))
            }
            _ => return Err(unfit()),
        })
    }

    fn array(&self) -> &dyn Array {
        match self {
            Self::Text(array) => *array,
            Self::Bool(array) => *array,
            Self::Int32(array) => *array,
            Self::Int64(array) => *array,
            Self::Float(array) => *array,
            Self::Decimal(array, _) => *array,
            Self::Date(array) => *array,
            Self::Timestamp(array) => *array,
            Self::List(array, _) => *array,
        }
    }

    /// Appends the value of a row; says whether it is one, not null.
    fn write(&self, row: usize, key: &mut Vec<u8>) -> bool {
        if self.array().is_null(row) {
            key.push(tag::NULL);
            return false;
        }
        match self {
            Self::Text(texts) => {
                let text = texts.value(row).as_bytes();
                put(key, tag::TEXT, &(text.len() as u64).to_le_bytes());
                key.extend_from_slice(text);
            }
            Self::Bool(values) => put(key, tag::BOOL, &[u8::from(values.value(row))]),
            Self::Int32(values) => put(key, tag::INT, &i64::from(values.value(row)).to_le_bytes()),
            Self::Int64(values) => put(key, tag::INT, &values.value(row).to_le_bytes()),
            Self::Float(values) => put(key, tag::FLOAT, &float_bits(values.value(row)).to_le_bytes()),
            Self::Decimal(values, scale) => {
                put(key, tag::DECIMAL, &scale.to_le_bytes());
                key.extend_from_slice(&values.value(row).to_le_bytes());
            }
            Self::Date(values) => put(key, tag::DATE, &values.value(row).to_le_bytes()),
            Self::Timestamp(values) => put(key, tag::TIMESTAMP, &values.value(row).to_le_bytes()),
            Self::List(lists, items) => {
                let (start, end) = (lists.value_offsets()[row], lists.value_offsets()[row + 1]);
                put(key, tag::LIST, &i64::from(end - start).to_le_bytes());
                for item in start..end {
                    items.write(item as usize, key);
                }
            }
        }
        true
    }
}

#[inline]
fn put(key: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    key.push(tag);
    key.extend_from_slice(bytes);
}

/// Equal numbers have equal bits: one zero, one NaN.
fn float_bits(value: f64) -> u64 {
    if value == 0.0 {
        0
    } else if value.is_nan() {
        f64::NAN.to_bits()
    } else {
        value.to_bits()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use arrow::array::{
        Date32Array, Float64Array, Int32Array, Int64Array, StringViewArray, TimestampMicrosecondArray,
    };
    use arrow::datatypes::Int32Type;
    use proptest::prelude::*;

    use super::*;

    fn keys(columns: &[ArrayRef]) -> Vec<Option<u128>> {
        let named: Vec<(&str, &ArrayRef)> = columns.iter().map(|column| ("k", column)).collect();
        let (high, low) = hash_keys(&named).unwrap();
        high.iter()
            .zip(&low)
            .map(|(high, low)| Some(super::super::files::join(high?, low?)))
            .collect()
    }

    fn array<T: Array + 'static>(array: T) -> ArrayRef {
        Arc::new(array)
    }

    /// Stored keys must not change with a release of ours or of a dependency.
    #[test]
    fn keys_are_the_same_in_every_release() {
        let golden = |columns: &[ArrayRef]| keys(columns)[0].map(|key| format!("{key:032x}")).unwrap();
        let text = array(StringViewArray::from(vec!["event-1"]));
        let long = array(StringViewArray::from(vec![
            "an identifier beyond the twelve bytes of a view",
        ]));
        let int = array(Int64Array::from(vec![42]));
        let every: Vec<ArrayRef> = vec![
            text.clone(),
            array(BooleanArray::from(vec![true])),
            int.clone(),
            array(Float64Array::from(vec![1.5])),
            array(
                Decimal128Array::from(vec![12_345])
                    .with_precision_and_scale(10, 2)
                    .unwrap(),
            ),
            array(Date32Array::from(vec![20_000])),
            array(TimestampMicrosecondArray::from(vec![1_700_000_000_000_000])),
            array(ListArray::from_iter_primitive::<Int32Type, _, _>([Some([
                Some(1),
                None,
            ])])),
            array(Int32Array::from(vec![None])),
        ];
        assert_eq!(golden(&[text]), "8d1b58c27df83bf1d7bff3191c74e56b");
        assert_eq!(golden(&[long]), "061a5801f86775ed3083e359450951b3");
        assert_eq!(golden(&[int]), "e7ff64311d5eb0283264e6af548861cd");
        assert_eq!(golden(&every), "ddc5b4441a73ab0143ad864694c3f400");
    }

    #[test]
    fn null_is_not_empty_and_all_null_is_no_key() {
        let a = array(StringViewArray::from(vec![Some(""), None, Some(""), None]));
        let b = array(StringViewArray::from(vec![Some(""), Some(""), None, None]));
        let keys = keys(&[a.clone(), b]);
        assert!(keys[0].is_some() && keys[1].is_some() && keys[2].is_some());
        assert_eq!(keys[3], None);
        assert_ne!(keys[0], keys[1]);
        assert_ne!(keys[1], keys[2]);
        assert_eq!(super::tests::keys(&[a])[1], None);
    }

    #[test]
    fn widening_an_integer_keeps_its_keys_and_equal_numbers_are_equal() {
        let narrow = array(Int32Array::from(vec![-7, 7]));
        let wide = array(Int64Array::from(vec![-7, 7]));
        assert_eq!(keys(&[narrow]), keys(&[wide]));
        let floats = keys(&[array(Float64Array::from(vec![0.0, -0.0, f64::NAN, -f64::NAN]))]);
        assert_eq!(floats[0], floats[1]);
        assert_eq!(floats[2], floats[3]);
    }

    proptest! {
        #[test]
        fn two_rows_share_a_key_only_if_they_are_equal(
            rows in proptest::collection::vec((proptest::option::of("[ab\u{0}\u{1}]{0,4}"), proptest::option::of("[ab\u{0}\u{1}]{0,4}"), proptest::option::of(-1..2_i64)), 0..200),
        ) {
            let a = array(rows.iter().map(|row| row.0.as_deref()).collect::<StringViewArray>());
            let b = array(rows.iter().map(|row| row.1.as_deref()).collect::<StringViewArray>());
            let c = array(rows.iter().map(|row| row.2).collect::<Int64Array>());
            let mut known = HashMap::new();
            for (row, key) in rows.iter().zip(keys(&[a, b, c])) {
                prop_assert_eq!(key.is_none(), *row == (None, None, None));
                prop_assert_eq!(*known.entry(key).or_insert(row), row);
            }
            let distinct: std::collections::HashSet<_> = rows.iter().collect();
            prop_assert_eq!(known.len(), distinct.len());
        }
    }
}
