//! The kernel: from keys to row numbers of a snapshot, and from row numbers to its values.
//!
//! A table of row numbers, found by the hash of the key. Numbers of every width are compared as 64 bits, decimals as
//! 128, text by its bytes.

use std::borrow::Cow;
use std::hash::BuildHasher;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanBufferBuilder, RecordBatch, StringViewArray, UInt32Array, new_null_array,
};
use arrow::buffer::NullBuffer;
use arrow::compute::take;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
};
use hashbrown::{DefaultHashBuilder, HashTable};

use super::EnrichError;

/// A snapshot, ready to look up in.
#[derive(Debug)]
pub struct LookupTable {
    keys: Keys,
    rows: HashTable<u32>,
    hasher: DefaultHashBuilder,
    /// What is looked up.
    columns: Vec<ArrayRef>,
}

/// Where the keys of a batch stand in a snapshot.
#[derive(Debug)]
pub struct Found {
    /// The row of each key; null where there is none.
    pub rows: UInt32Array,
    /// Keys that are not null and have no row.
    pub unmatched: u64,
}

#[derive(Debug)]
enum Keys {
    Narrow(Vec<i64>),
    Wide(Vec<i128>),
    Text(StringViewArray),
}

impl LookupTable {
    /// Takes a snapshot whose first column holds the keys, each once and none null.
    ///
    /// # Errors
    /// When the key's type is none that a lookup goes by.
    pub fn new(snapshot: &RecordBatch) -> Result<Self, EnrichError> {
        let (key, columns) = snapshot
            .columns()
            .split_first()
            .ok_or_else(|| EnrichError::KeyType {
                kind: "none".to_owned(),
            })?;
        let keys = if let Some(texts) = key.as_string_view_opt() {
            Keys::Text(texts.clone())
        } else if let Some(wide) = key.as_primitive_opt::<Decimal128Type>() {
            Keys::Wide(wide.values().to_vec())
        } else {
            Keys::Narrow(narrow(key)?.into_owned())
        };
        let hasher = DefaultHashBuilder::default();
        let mut rows = HashTable::with_capacity(key.len());
        for row in 0..u32::try_from(key.len()).unwrap_or(u32::MAX) {
            rows.insert_unique(keys.hash(&hasher, row), row, |row| keys.hash(&hasher, *row));
        }
        Ok(Self {
            keys,
            rows,
            hasher,
            columns: columns.to_vec(),
        })
    }

    /// Finds a batch's keys.
    ///
    /// # Errors
    /// When they are of another type than the snapshot's.
    pub fn find(&self, keys: &ArrayRef) -> Result<Found, EnrichError> {
        let other_type = || EnrichError::KeyType {
            kind: keys.data_type().to_string(),
        };
        let nulls = keys.nulls();
        match &self.keys {
            Keys::Text(known) => {
                let texts = keys.as_string_view_opt().ok_or_else(other_type)?;
                Ok(each(texts.len(), nulls, |at| {
                    let text = texts.value(at);
                    let hash = self.hasher.hash_one(text);
                    let is_it = |row: &u32| known.value(*row as usize) == text;
                    self.rows.find(hash, is_it).copied()
                }))
            }
            Keys::Wide(known) => {
                let wide = keys.as_primitive_opt::<Decimal128Type>().ok_or_else(other_type)?;
                Ok(self.find_numbers(known, wide.values(), nulls))
            }
            Keys::Narrow(known) => Ok(self.find_numbers(known, &narrow(keys)?, nulls)),
        }
    }

    fn find_numbers<N: Copy + Eq + std::hash::Hash>(
        &self,
        known: &[N],
        numbers: &[N],
        nulls: Option<&NullBuffer>,
    ) -> Found {
        each(numbers.len(), nulls, |at| {
            let hash = self.hasher.hash_one(numbers[at]);
            let is_it = |row: &u32| known[*row as usize] == numbers[at];
            self.rows.find(hash, is_it).copied()
        })
    }

    /// The values of a column that the lookup adds, by position.
    ///
    /// # Errors
    /// When Arrow refuses.
    pub fn values(&self, column: usize, found: &Found) -> Result<Option<ArrayRef>, EnrichError> {
        let Some(values) = self.columns.get(column) else {
            return Ok(None);
        };
        if values.is_empty() {
            return Ok(Some(new_null_array(values.data_type(), found.rows.len())));
        }
        Ok(Some(take(values, &found.rows, None)?))
    }

    /// Memory held, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let keys = match &self.keys {
            Keys::Narrow(keys) => size_of_val(keys.as_slice()),
            Keys::Wide(keys) => size_of_val(keys.as_slice()),
            Keys::Text(keys) => keys.get_array_memory_size(),
        };
        let columns = self.columns.iter().map(|column| column.get_array_memory_size());
        keys + columns.sum::<usize>() + self.rows.capacity() * (size_of::<u32>() + 1)
    }
}

impl Keys {
    fn hash(&self, hasher: &DefaultHashBuilder, row: u32) -> u64 {
        let row = row as usize;
        match self {
            Self::Narrow(keys) => hasher.hash_one(keys[row]),
            Self::Wide(keys) => hasher.hash_one(keys[row]),
            Self::Text(keys) => hasher.hash_one(keys.value(row)),
        }
    }
}

fn each(len: usize, nulls: Option<&NullBuffer>, find: impl Fn(usize) -> Option<u32>) -> Found {
    let mut rows = Vec::with_capacity(len);
    let mut has_row = BooleanBufferBuilder::new(len);
    let mut unmatched = 0;
    for at in 0..len {
        let is_key = nulls.is_none_or(|nulls| nulls.is_valid(at));
        let row = if is_key { find(at) } else { None };
        unmatched += u64::from(is_key && row.is_none());
        has_row.append(row.is_some());
        rows.push(row.unwrap_or(0));
    }
    let nulls = NullBuffer::new(has_row.finish());
    Found {
        rows: UInt32Array::new(rows.into(), Some(nulls)),
        unmatched,
    }
}

/// Keys of up to 64 bits, as 64 bits.
fn narrow(keys: &ArrayRef) -> Result<Cow<'_, [i64]>, EnrichError> {
    // Arrow has dozens of types; key columns have these.
    #[allow(clippy::wildcard_enum_match_arm)]
    Ok(match keys.data_type() {
        DataType::Int64 => Cow::Borrowed(keys.as_primitive::<Int64Type>().values()),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            Cow::Borrowed(keys.as_primitive::<TimestampMicrosecondType>().values())
        }
        DataType::Int32 => widened(keys.as_primitive::<Int32Type>().values()),
        DataType::Date32 => widened(keys.as_primitive::<Date32Type>().values()),
        DataType::Boolean => keys.as_boolean().values().iter().map(i64::from).collect(),
        other => {
            return Err(EnrichError::KeyType {
                kind: other.to_string(),
            });
        }
    })
}

fn widened(keys: &[i32]) -> Cow<'_, [i64]> {
    keys.iter().map(|key| i64::from(*key)).collect()
}
