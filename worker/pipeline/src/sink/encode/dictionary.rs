//! Dictionaries of one column chunk, made while it is encoded.

use std::hash::BuildHasher;
use std::ops::Range;

use hashbrown::{DefaultHashBuilder, HashTable};

/// More values than this are no dictionary.
pub(super) const VALUES_MAX: usize = 1 << 17;

/// Distinct values and, row by row, which of them.
#[derive(Debug)]
pub(super) struct Dictionary<T> {
    /// In order of first appearance.
    pub(super) values: Vec<T>,
    /// A number for each value that is not null.
    pub(super) ids: Vec<u32>,
}

impl Dictionary<i64> {
    /// The dictionary of some numbers, none when more than `limit` are distinct.
    pub(super) fn of_numbers(numbers: &[i64], limit: usize) -> Option<Self> {
        let limit = limit.min(VALUES_MAX);
        let mut bits = 10u32;
        let mut table = vec![0u32; 1 << bits];
        let mut values: Vec<i64> = Vec::new();
        let mut ids = Vec::with_capacity(numbers.len());
        let slot_of = |number: i64, bits: u32| {
            let mixed = (number as u64 ^ (number as u64 >> 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            (mixed >> (64 - bits)) as usize
        };
        for &number in numbers {
            let mut slot = slot_of(number, bits);
            let id = loop {
                match table[slot] {
                    0 => {
                        values.push(number);
                        table[slot] = values.len() as u32;
                        break values.len() as u32 - 1;
                    }
                    id if values[id as usize - 1] == number => break id - 1,
                    _ => slot = (slot + 1) & ((1 << bits) - 1),
                }
            };
            ids.push(id);
            if values.len() > limit {
                return None;
            }
            if values.len() * 2 > 1 << bits {
                bits += 2;
                table = vec![0u32; 1 << bits];
                for (id, &value) in values.iter().enumerate() {
                    let mut slot = slot_of(value, bits);
                    while table[slot] != 0 {
                        slot = (slot + 1) & ((1 << bits) - 1);
                    }
                    table[slot] = id as u32 + 1;
                }
            }
        }
        Some(Self { values, ids })
    }
}

impl Dictionary<Range<usize>> {
    /// The dictionary of some texts, given as ranges of `bytes`; none when more than `limit` are distinct.
    pub(super) fn of_texts(
        bytes: &[u8],
        texts: impl Iterator<Item = Range<usize>>,
        limit: usize,
    ) -> Option<Self> {
        let limit = limit.min(VALUES_MAX);
        let hasher = DefaultHashBuilder::default();
        // The upper half of the hash stands beside the number: most misses need no look at the text.
        let mut table: HashTable<(u32, u32)> = HashTable::with_capacity(1024);
        let (mut values, mut ids): (Vec<Range<usize>>, Vec<u32>) = Default::default();
        for range in texts {
            let text = &bytes[range.clone()];
            let hash = hasher.hash_one(text);
            let tag = (hash >> 16) as u32;
            let found = table.find(hash, |&(other, id)| {
                other == tag && bytes[values[id as usize].clone()] == *text
            });
            let id = match found {
                Some(&(_, id)) => id,
                None => {
                    let id = values.len() as u32;
                    values.push(range);
                    if values.len() > limit {
                        return None;
                    }
                    table.insert_unique(hash, (tag, id), |&(_, id)| {
                        hasher.hash_one(&bytes[values[id as usize].clone()])
                    });
                    id
                }
            };
            ids.push(id);
        }
        Some(Self { values, ids })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_come_back_from_their_dictionary(
            numbers in prop::collection::vec(prop_oneof![0i64..50, any::<i64>()], 0..3_000)
        ) {
            let dictionary = Dictionary::of_numbers(&numbers, 5_000).unwrap();
            let back: Vec<i64> = dictionary.ids.iter().map(|id| dictionary.values[*id as usize]).collect();
            prop_assert_eq!(&back, &numbers);
            let distinct: std::collections::HashSet<i64> = numbers.iter().copied().collect();
            prop_assert_eq!(dictionary.values.len(), distinct.len());
            if distinct.len() > 1 {
                prop_assert!(Dictionary::of_numbers(&numbers, distinct.len() - 1).is_none());
            }
        }

        #[test]
        fn texts_come_back_from_their_dictionary(texts in prop::collection::vec("[abc]{0,3}", 0..500)) {
            let bytes = texts.concat();
            let mut end = 0;
            let ranges: Vec<Range<usize>> = texts
                .iter()
                .map(|text| {
                    end += text.len();
                    end - text.len()..end
                })
                .collect();
            let dictionary = Dictionary::of_texts(bytes.as_bytes(), ranges.into_iter(), 500).unwrap();
            let back: Vec<&str> = dictionary
                .ids
                .iter()
                .map(|id| &bytes[dictionary.values[*id as usize].clone()])
                .collect();
            prop_assert_eq!(back, texts.iter().map(String::as_str).collect::<Vec<_>>());
        }
    }
}
