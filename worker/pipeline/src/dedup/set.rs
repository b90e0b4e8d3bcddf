//! A set of 128-bit hashes that many threads fill at once: the keys of one event hour.
//!
//! The set is cut into shards by the hash's highest bits; a caller that has its keys grouped by shard
//! locks each shard once for the whole group. A shard is an open-addressing table of 64-byte buckets of
//! four keys, one cache line each. A key's bucket follows from its next highest bits *by proportion*,
//! so buckets stand in key order: growing a shard and loading a sorted file walk memory forwards.
//!
//! Memory: 16 bytes a slot at a load between one half and three quarters; shards grow by half their
//! size, one at a time, so there is no moment at which the whole set exists twice.

use parking_lot::Mutex;

/// Bits of the hash that choose the shard.
const SHARD_BITS: u32 = 5;
/// Shards of a set: enough that eight threads seldom wait for each other.
pub(super) const SHARDS: usize = 1 << SHARD_BITS;
const SLOTS: usize = 4;
/// Keys looked up together: their cache lines are fetched side by side.
const CHUNK: usize = 32;
/// Stands for "no key": a hash of 0 is stored as [`ZERO`].
const EMPTY: u128 = 0;
const ZERO: u128 = 1;

/// One cache line of keys.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Bucket([u128; SLOTS]);

/// The keys of one event hour.
pub(super) struct KeySet {
    shards: Vec<Mutex<Shard>>,
}

#[derive(Default)]
struct Shard {
    buckets: Vec<Bucket>,
    keys: usize,
}

/// The shard of a key.
#[inline]
pub(super) fn shard_of(high: u64) -> usize {
    (high >> (64 - SHARD_BITS)) as usize
}

/// Keys that the fullest of the shards is likely to get: the mean and four standard deviations.
fn shard_share(keys: usize) -> usize {
    let mean = keys.div_ceil(SHARDS);
    mean + 4 * mean.isqrt()
}

impl KeySet {
    /// A set with room for about `keys` keys before it grows.
    pub(super) fn with_capacity(keys: usize) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::new(Shard::with_capacity(shard_share(keys))));
        Self {
            shards: shards.collect(),
        }
    }

    /// Memory that a set of `keys` keys takes when it is made with room for them.
    pub(super) fn bytes_for(keys: usize) -> usize {
        SHARDS * Shard::buckets_for(shard_share(keys)) * size_of::<Bucket>()
    }

    /// Memory held.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        let buckets = self.shards.iter().map(|shard| shard.lock().buckets.len());
        buckets.sum::<usize>() * size_of::<Bucket>()
    }

    /// Claims keys that all belong to one shard: for each, says whether it was new. Returns by how many
    /// bytes the set grew.
    pub(super) fn claim(&self, shard: usize, keys: &[u128], mut was_new: impl FnMut(usize, bool)) -> usize {
        let mut shard = self.shards[shard].lock();
        let grown = shard.make_room(keys.len());
        for (at, chunk) in keys.chunks(CHUNK).enumerate() {
            shard.touch(chunk);
            for (i, key) in chunk.iter().enumerate() {
                was_new(at * CHUNK + i, shard.insert(*key));
            }
        }
        grown
    }

    /// Which of some keys, all of one shard, the set does not hold, with the row of each; `known` is told
    /// the rows of the others.
    pub(super) fn unknown(
        &self,
        shard: usize,
        keys: &[u128],
        rows: &[u32],
        mut known: impl FnMut(u32),
    ) -> (Vec<u128>, Vec<u32>) {
        let shard = self.shards[shard].lock();
        if shard.keys == 0 {
            return (keys.to_vec(), rows.to_vec());
        }
        let mut unknown = (Vec::with_capacity(keys.len()), Vec::with_capacity(keys.len()));
        for (keys, rows) in keys.chunks(CHUNK).zip(rows.chunks(CHUNK)) {
            shard.touch(keys);
            for (key, row) in keys.iter().zip(rows) {
                if shard.holds(*key) {
                    known(*row);
                } else {
                    unknown.0.push(*key);
                    unknown.1.push(*row);
                }
            }
        }
        unknown
    }

    /// Adds sorted keys, as a key file holds them.
    pub(super) fn load(&self, keys: &[u128]) -> usize {
        keys.chunk_by(|a, b| shard_of((a >> 64) as u64) == shard_of((b >> 64) as u64))
            .map(|run| self.claim(shard_of((run[0] >> 64) as u64), run, |_, _| {}))
            .sum()
    }
}

impl Shard {
    fn with_capacity(keys: usize) -> Self {
        Self {
            buckets: vec![Bucket([EMPTY; SLOTS]); Self::buckets_for(keys)],
            keys: 0,
        }
    }

    /// Buckets that hold `keys` keys at a load of at most three quarters, and one free slot at least.
    fn buckets_for(keys: usize) -> usize {
        if keys == 0 { 0 } else { keys.div_ceil(3) + 1 }
    }

    /// Makes sure that `more` keys fit; returns the bytes grown by.
    fn make_room(&mut self, more: usize) -> usize {
        let needed = Self::buckets_for(self.keys + more);
        let had = self.buckets.len();
        if needed <= had {
            return 0;
        }
        let old = std::mem::take(&mut self.buckets);
        self.buckets = vec![Bucket([EMPTY; SLOTS]); needed.max(had + had / 2)];
        self.keys = 0;
        for key in old.iter().flat_map(|bucket| bucket.0).filter(|key| *key != EMPTY) {
            self.insert(key);
        }
        (self.buckets.len() - had) * size_of::<Bucket>()
    }

    #[inline]
    fn home(&self, key: u128) -> usize {
        let place = ((key >> 64) as u64) << SHARD_BITS;
        ((u128::from(place) * self.buckets.len() as u128) >> 64) as usize
    }

    /// Reads each key's bucket, so that the memory of all of them is on its way when the first is needed.
    #[inline]
    fn touch(&self, keys: &[u128]) {
        let mut seen = 0;
        for key in keys {
            seen ^= self.buckets[self.home(*key)].0[0] as u64;
        }
        std::hint::black_box(seen);
    }

    #[inline]
    fn holds(&self, key: u128) -> bool {
        let key = if key == EMPTY { ZERO } else { key };
        let mut at = self.home(key);
        loop {
            for slot in &self.buckets[at].0 {
                if *slot == key {
                    return true;
                }
                if *slot == EMPTY {
                    return false;
                }
            }
            at = if at + 1 == self.buckets.len() { 0 } else { at + 1 };
        }
    }

    /// Adds a key; says whether it was new. There is always a free slot: see [`Self::buckets_for`].
    #[inline]
    fn insert(&mut self, key: u128) -> bool {
        let key = if key == EMPTY { ZERO } else { key };
        let mut at = self.home(key);
        loop {
            for slot in &mut self.buckets[at].0 {
                if *slot == key {
                    return false;
                }
                if *slot == EMPTY {
                    *slot = key;
                    self.keys += 1;
                    return true;
                }
            }
            at += 1;
            if at == self.buckets.len() {
                at = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn claim_all(set: &KeySet, keys: &[u128]) -> Vec<bool> {
        keys.iter()
            .map(|key| {
                let mut was_new = false;
                set.claim(shard_of((key >> 64) as u64), &[*key], |_, new| was_new = new);
                was_new
            })
            .collect()
    }

    proptest! {
        /// Hashes that crowd one end of the key space are the worst case: probing wraps around.
        #[test]
        fn a_key_is_new_once(keys in proptest::collection::vec(prop_oneof![
            any::<u128>(), (0..300_u128), (0..300_u128).prop_map(|n| u128::MAX - n), (0..300_u128).prop_map(|n| n << 64),
        ], 0..600), capacity in 0..1_000_usize) {
            let set = KeySet::with_capacity(capacity);
            // 0 and 1 are one key to the set: a chance of 2^-127 for real hashes.
            let mut seen = HashSet::new();
            let expected: Vec<bool> = keys.iter().map(|key| seen.insert((*key).max(1))).collect();
            prop_assert_eq!(claim_all(&set, &keys), expected);
            prop_assert!(claim_all(&set, &keys).iter().all(|new| !new));
        }
    }

    #[test]
    fn a_set_takes_thirty_two_bytes_a_key_at_most() {
        let seed = 7;
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let set = KeySet::with_capacity(0);
        let (mut grown, mut keys) = (0, 0);
        for _ in 0..100 {
            let mut more: Vec<u128> = (0..2_000).map(|_| random.random()).collect();
            more.sort_unstable();
            grown += set.load(&more);
            keys += more.len();
            if keys > 20_000 {
                assert!(
                    set.bytes() <= keys * 33,
                    "seed {seed}: {} bytes for {keys} keys",
                    set.bytes()
                );
            }
        }
        assert_eq!(grown, set.bytes());
        assert!(
            KeySet::bytes_for(keys) <= keys * 23,
            "{}",
            KeySet::bytes_for(keys)
        );
        assert_eq!(KeySet::with_capacity(keys).bytes(), KeySet::bytes_for(keys));
    }
}
