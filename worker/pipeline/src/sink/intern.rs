//! Small numbers for texts that repeat.
//!
//! Ids are given in order of first sight and index [`Interner::text`]. Short texts (12 bytes and less,
//! inline in their view) are mostly answered by a small cache keyed by the view itself.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

const CACHE_BITS: u32 = 9;

/// Texts and their ids.
#[derive(Debug)]
pub(super) struct Interner {
    table: HashTable<u32>,
    hasher: DefaultHashBuilder,
    bytes: Vec<u8>,
    ends: Vec<usize>,
    /// Views seen last, by a hash of the view; the id is `u32::MAX` where nothing was seen.
    cache: Vec<(u128, u32)>,
}

impl Default for Interner {
    fn default() -> Self {
        Self {
            table: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            bytes: Vec::new(),
            ends: Vec::new(),
            cache: vec![(0, u32::MAX); 1 << CACHE_BITS],
        }
    }
}

impl Interner {
    /// The id of a text, by its view (see Arrow's view layout) and its bytes.
    #[inline]
    pub(super) fn id(&mut self, view: u128, text: &[u8]) -> u32 {
        if view as u32 > 12 {
            return self.insert(text);
        }
        let mixed = (view as u64 ^ (view >> 64) as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let slot = (mixed >> (64 - CACHE_BITS)) as usize;
        let (seen, id) = self.cache[slot];
        if seen == view && id != u32::MAX {
            return id;
        }
        let id = self.insert(text);
        self.cache[slot] = (view, id);
        id
    }

    fn insert(&mut self, text: &[u8]) -> u32 {
        let hash = self.hasher.hash_one(text);
        let (bytes, ends, hasher) = (&self.bytes, &self.ends, &self.hasher);
        if let Some(&id) = self.table.find(hash, |&id| slice(bytes, ends, id) == text) {
            return id;
        }
        let id = self.ends.len() as u32;
        self.table
            .insert_unique(hash, id, |&id| hasher.hash_one(slice(bytes, ends, id)));
        self.bytes.extend_from_slice(text);
        self.ends.push(self.bytes.len());
        id
    }

    /// The text of an id.
    pub(super) fn text(&self, id: u32) -> &[u8] {
        slice(&self.bytes, &self.ends, id)
    }

    /// How many texts there are.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Memory held.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.capacity() + self.ends.capacity() * 8 + self.table.capacity() * 5 + self.cache.len() * 32
    }

    /// Forgets everything: ids given before mean nothing any more.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[inline]
fn slice<'a>(bytes: &'a [u8], ends: &[usize], id: u32) -> &'a [u8] {
    let id = id as usize;
    let start = if id == 0 { 0 } else { ends[id - 1] };
    &bytes[start..ends[id]]
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::StringViewArray;

    #[test]
    fn equal_texts_have_one_id_whatever_their_length() {
        let texts = ["", "web", "a text of more than twelve bytes", "web", "", "mobile"];
        let array = StringViewArray::from(texts.to_vec());
        let mut interner = Interner::default();
        let ids: Vec<u32> = array
            .views()
            .iter()
            .zip(texts)
            .map(|(&view, text)| interner.id(view, text.as_bytes()))
            .collect();
        assert_eq!(ids, [0, 1, 2, 1, 0, 3]);
        assert_eq!(interner.text(2), texts[2].as_bytes());
        interner.clear();
        assert_eq!(interner.len(), 0);
    }
}
