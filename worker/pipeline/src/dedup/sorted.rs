//! Sorted keys that can be found at once: the committed keys of one shard of an event hour.
//!
//! Keys are hashes, so where one stands among the sorted ones follows from its highest bits, nearly. They are cut into
//! buckets of about four by those bits, and `starts` says where each bucket begins: a look-up reads one number of it and the
//! keys that stand there. That takes 17 bytes a key, where a hash table takes 21 to 32, and keys that come sorted, as key files
//! hold them, are merged in long moves and not put into place one by one.

use super::set::place_of;

/// Keys of a bucket, on the average.
const BUCKET_KEYS: usize = 4;
/// A bucket with more keys, which hashes hardly ever fill, is searched by halves.
const SCANNED_KEYS: usize = 32;

#[derive(Default)]
pub(super) struct SortedKeys {
    /// The first `sorted` ones can be found; behind them stand the very first to come, until they are sorted.
    keys: Vec<u128>,
    sorted: usize,
    /// Those that came later, for a short while.
    more: Vec<u128>,
    /// Where each bucket begins, and one more: where the last one ends.
    starts: Vec<u32>,
}

impl SortedKeys {
    /// Memory that `keys` keys take.
    pub(super) fn bytes_for(keys: usize) -> usize {
        if keys == 0 {
            return 0;
        }
        keys * size_of::<u128>() + starts_for(keys) * size_of::<u32>()
    }

    /// Memory held, without what holds added keys for a short while.
    pub(super) fn bytes(&self) -> usize {
        self.keys.capacity() * size_of::<u128>() + self.starts.capacity() * size_of::<u32>()
    }

    /// How many keys can be found.
    pub(super) fn len(&self) -> usize {
        self.sorted
    }

    /// Whether no key can be found.
    pub(super) fn is_empty(&self) -> bool {
        self.sorted == 0
    }

    /// Makes room for `more` keys, if they are the first.
    pub(super) fn expect(&mut self, more: usize) {
        if self.is_empty() {
            self.keys.reserve_exact(more);
            let keys = self.keys.len() + more;
            self.starts.reserve_exact(starts_for(keys));
        }
    }

    /// Adds keys, in whatever order; they are found after the next [`Self::settle`].
    pub(super) fn push(&mut self, keys: &[u128]) {
        let place = if self.is_empty() {
            &mut self.keys
        } else {
            &mut self.more
        };
        place.extend_from_slice(keys);
    }

    /// Takes the keys back that were pushed, if they are at most so many: they never come to be here.
    pub(super) fn take_few(&mut self, most: usize) -> Vec<u128> {
        if self.more.len() > most {
            return Vec::new();
        }
        std::mem::take(&mut self.more)
    }

    /// Lets all keys be found that were pushed.
    pub(super) fn settle(&mut self) {
        let more = std::mem::take(&mut self.more);
        self.keys.reserve_exact(more.len());
        self.keys.extend(more);
        if self.keys.len() == self.sorted {
            return;
        }
        // The stable sort merges what is sorted in itself: the keys from before, and those of each file.
        self.keys.sort();
        self.keys.dedup();
        self.sorted = self.keys.len();
        let starts = starts_for(self.sorted);
        self.starts.clear();
        self.starts.reserve_exact(starts);
        for (at, key) in self.keys.iter().enumerate() {
            let bucket = bucket_of(*key, starts - 1);
            // A shard that does not fit 32 bits has 64 GiB.
            self.starts.resize(self.starts.len().max(bucket + 1), at as u32);
        }
        self.starts.resize(starts, self.sorted as u32);
    }

    /// Reads the beginning of each key's bucket, so that the memory of all of them is on its way when the first is needed.
    #[inline]
    pub(super) fn touch<const N: usize>(&self, keys: &[u128]) {
        if self.is_empty() {
            return;
        }
        let mut places = [0; N];
        for (place, key) in places.iter_mut().zip(keys) {
            *place = self.starts[self.bucket(*key)] as usize;
        }
        let mut seen = 0;
        for place in &places[..keys.len().min(N)] {
            seen ^= self.keys[(*place).min(self.sorted - 1)] as u64;
        }
        std::hint::black_box(seen);
    }

    #[inline]
    pub(super) fn holds(&self, key: u128) -> bool {
        if self.is_empty() {
            return false;
        }
        let bucket = self.bucket(key);
        let keys = &self.keys[self.starts[bucket] as usize..self.starts[bucket + 1] as usize];
        if keys.len() <= SCANNED_KEYS {
            keys.contains(&key)
        } else {
            keys.binary_search(&key).is_ok()
        }
    }

    #[inline]
    fn bucket(&self, key: u128) -> usize {
        bucket_of(key, self.starts.len() - 1)
    }
}

/// Length of `starts` for so many keys.
fn starts_for(keys: usize) -> usize {
    keys / BUCKET_KEYS + 2
}

#[inline]
fn bucket_of(key: u128, buckets: usize) -> usize {
    ((u128::from(place_of(key)) * buckets as u128) >> 64) as usize
}
