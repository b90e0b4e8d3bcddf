//! How often each value stands in a column, with the values themselves.
//!
//! Exact up to [`DISTINCT_MAX`] different values. Then no new one is taken in, and the rows that brought one
//! are counted as `unseen`: no count is off by more than that, and a result says so.

use hashbrown::HashMap;
use serde_json::Value;

use super::wire::{Reader, StateError, Writer};

/// Up to this many different values counts are exact.
pub(crate) const DISTINCT_MAX: usize = 10_000_000;

/// Counts by value.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Counts {
    by_hash: HashMap<u128, (u64, Value)>,
    unseen: u64,
}

impl Counts {
    /// Counts one more of a known value; false when the value is new and must be [`Counts::insert`]ed.
    pub(crate) fn add(&mut self, hash: u128) -> bool {
        let is_full = self.by_hash.len() >= DISTINCT_MAX;
        match self.by_hash.get_mut(&hash) {
            Some((count, _)) => {
                *count += 1;
                true
            }
            None if is_full => {
                self.unseen += 1;
                true
            }
            None => false,
        }
    }

    /// Reserves a new value's place, with the count of 1; [`Counts::name`] gives it its text.
    pub(crate) fn insert(&mut self, hash: u128) {
        self.by_hash.insert(hash, (1, Value::Null));
    }

    /// Says what the value behind a hash is.
    pub(crate) fn name(&mut self, hash: u128, value: Value) {
        if let Some((_, place)) = self.by_hash.get_mut(&hash) {
            *place = value;
        }
    }

    pub(crate) fn contains(&self, hash: u128) -> bool {
        self.by_hash.contains_key(&hash)
    }

    /// Each value's hash, count and text.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u128, u64, &Value)> {
        self.by_hash
            .iter()
            .map(|(hash, (count, value))| (*hash, *count, value))
    }

    /// The values that are most frequent, all of them when several are.
    pub(crate) fn most_common(&self) -> Vec<(u128, &Value)> {
        let most = self.iter().map(|(_, count, _)| count).max();
        self.iter()
            .filter(|(_, count, _)| Some(*count) == most)
            .map(|(hash, _, value)| (hash, value))
            .collect()
    }

    /// Rows whose values were not taken in: by so much may a count be off; none while exact.
    pub(crate) fn error(&self) -> Option<u64> {
        (self.unseen > 0).then_some(self.unseen)
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.unseen += other.unseen;
        for (hash, (count, value)) in &other.by_hash {
            let is_full = self.by_hash.len() >= DISTINCT_MAX;
            match self.by_hash.get_mut(hash) {
                Some((ours, _)) => *ours += count,
                None if is_full => self.unseen += count,
                None => {
                    self.by_hash.insert(*hash, (*count, value.clone()));
                }
            }
        }
    }

    pub(crate) fn write(&self, writer: &mut Writer) {
        writer.u64(self.unseen);
        writer.u64(self.by_hash.len() as u64);
        // Sorted, so that equal states have equal bytes.
        let mut entries: Vec<_> = self.by_hash.iter().collect();
        entries.sort_unstable_by_key(|(hash, _)| **hash);
        for (hash, (count, value)) in entries {
            writer.u128(*hash);
            writer.u64(*count);
            writer.value(value);
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, StateError> {
        let unseen = reader.u64()?;
        let by_hash = (0..reader.count(32)?)
            .map(|_| Ok((reader.u128()?, (reader.u64()?, reader.value()?))))
            .collect::<Result<_, StateError>>()?;
        Ok(Self { by_hash, unseen })
    }
}
