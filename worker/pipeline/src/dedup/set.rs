//! A set of 128-bit hashes that many threads fill at once: the keys of one event hour.
//!
//! The set is cut into shards by the hash's highest bits; a caller that has its keys grouped by shard
//! locks each shard once for the whole group. A shard has the keys that were loaded
//! from files [sorted](super::sorted); those that were claimed, and a few loaded ones that came to many, in an open-addressing
//! table of 64-byte buckets of four keys, one cache line each. A key's bucket follows from its next highest bits
//! *by proportion*, so buckets stand in key order: growing a shard walks memory forwards.
//!
//! Memory: 17 bytes for a loaded key; for claimed ones 16 bytes a slot at a load between one half and three quarters. Shards
//! grow one at a time, tables by half their size, so there is no moment at which the whole set exists twice.

use parking_lot::Mutex;

use super::sorted::SortedKeys;

/// Bits of the hash that choose the shard.
const SHARD_BITS: u32 = 5;
/// Shards of a set: enough that eight threads seldom wait for each other.
pub(super) const SHARDS: usize = 1 << SHARD_BITS;
const SLOTS: usize = 4;
/// Loaded keys for each claimed one below which more loaded keys are put beside the claims: to merge a few of them into many
/// would move them all.
const MANY: usize = 8;
/// Keys looked up together: their cache lines are fetched side by side.
const CHUNK: usize = 32;
/// Stands for "no key": a hash of 0 counts as [`ZERO`].
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
    /// What was loaded.
    loaded: SortedKeys,
    /// What was claimed, or loaded a few at a time.
    buckets: Vec<Bucket>,
    keys: usize,
}

/// The shard of a key.
#[inline]
pub(super) fn shard_of(high: u64) -> usize {
    (high >> (64 - SHARD_BITS)) as usize
}

/// Where in its shard a key belongs, by proportion: the bits below those of the shard.
#[inline]
pub(super) fn place_of(key: u128) -> u64 {
    ((key >> 64) as u64) << SHARD_BITS
}

/// Keys that the fullest of the shards is likely to get: the mean and four standard deviations.
fn shard_share(keys: usize) -> usize {
    let mean = keys.div_ceil(SHARDS);
    mean + 4 * mean.isqrt()
}

impl KeySet {
    /// An empty set.
    pub(super) fn new() -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default());
        Self {
            shards: shards.collect(),
        }
    }

    /// Memory that a set takes into which `keys` keys are loaded.
    pub(super) fn bytes_for(keys: usize) -> usize {
        SHARDS * SortedKeys::bytes_for(shard_share(keys))
    }

    /// Memory held.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        let shards = self.shards.iter().map(|shard| shard.lock().bytes());
        shards.sum()
    }

    /// Claims keys that all belong to one shard: for each, says whether it was new. Returns by how many
    /// bytes the set grew.
    pub(super) fn claim(&self, shard: usize, keys: &[u128], mut was_new: impl FnMut(usize, bool)) -> usize {
        let mut shard = self.shards[shard].lock();
        let grown = shard.make_room(keys.len());
        for (at, chunk) in keys.chunks(CHUNK).enumerate() {
            shard.touch(chunk);
            for (i, key) in chunk.iter().enumerate() {
                was_new(at * CHUNK + i, shard.add(*key));
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
        if shard.is_empty() {
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

    /// Makes room for about `more` keys that are going to be loaded. Returns by how many bytes the set grew, as do all that follow.
    pub(super) fn expect(&self, more: usize) -> usize {
        if more == 0 {
            return 0;
        }
        let share = shard_share(more);
        self.grow(|shard| shard.loaded.expect(share))
    }

    /// Adds sorted keys, as a key file holds them; they are known after the next [`Self::settle`].
    pub(super) fn load(&self, keys: &[u128]) -> usize {
        keys.chunk_by(|a, b| shard_of((a >> 64) as u64) == shard_of((b >> 64) as u64))
            .map(|run| {
                let shard = &self.shards[shard_of((run[0] >> 64) as u64)];
                shard.lock().grow(|shard| shard.load(run))
            })
            .sum()
    }

    /// From here on all keys are known that were loaded.
    pub(super) fn settle(&self) -> usize {
        self.grow(Shard::settle)
    }

    fn grow(&self, by: impl Fn(&mut Shard)) -> usize {
        let shards = self.shards.iter().map(|shard| shard.lock().grow(&by));
        shards.sum()
    }
}

impl Shard {
    fn is_empty(&self) -> bool {
        self.keys == 0 && self.loaded.is_empty()
    }

    fn bytes(&self) -> usize {
        self.loaded.bytes() + self.buckets.len() * size_of::<Bucket>()
    }

    fn load(&mut self, sorted: &[u128]) {
        let zeros = sorted.partition_point(|key| *key == EMPTY);
        if zeros > 0 {
            self.loaded.push(&[ZERO]);
        }
        self.loaded.push(&sorted[zeros..]);
    }

    fn settle(&mut self) {
        let most = (self.loaded.len() / MANY).saturating_sub(self.keys);
        let few = self.loaded.take_few(most);
        self.make_room(few.len());
        for key in few {
            self.add(key);
        }
        self.loaded.settle();
    }

    /// Does something that makes it larger, never smaller.
    fn grow(&mut self, by: impl FnOnce(&mut Self)) -> usize {
        let had = self.bytes();
        by(self);
        self.bytes() - had
    }

    /// Buckets that hold `keys` keys at a load of at most three quarters, and one free slot at least.
    fn buckets_for(keys: usize) -> usize {
        if keys == 0 { 0 } else { keys.div_ceil(3) + 1 }
    }

    /// Makes sure that `more` keys fit; returns the bytes grown by.
    fn make_room(&mut self, more: usize) -> usize {
        if more == 0 {
            return 0;
        }
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
        ((u128::from(place_of(key)) * self.buckets.len() as u128) >> 64) as usize
    }

    /// Reads each key's bucket, so that the memory of all of them is on its way when the first is needed.
    #[inline]
    fn touch(&self, keys: &[u128]) {
        self.loaded.touch::<CHUNK>(keys);
        if self.keys == 0 {
            return;
        }
        let mut seen = 0;
        for key in keys {
            seen ^= self.buckets[self.home(*key)].0[0] as u64;
        }
        std::hint::black_box(seen);
    }

    #[inline]
    fn holds(&self, key: u128) -> bool {
        let key = if key == EMPTY { ZERO } else { key };
        if self.loaded.holds(key) {
            return true;
        }
        if self.keys == 0 {
            return false;
        }
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

    /// Adds a key that there is room for; says whether it was new.
    #[inline]
    fn add(&mut self, key: u128) -> bool {
        let key = if key == EMPTY { ZERO } else { key };
        !self.loaded.holds(key) && self.insert(key)
    }

    /// Adds a key to the table. There is always a free slot: see [`Self::buckets_for`].
    #[inline]
    fn insert(&mut self, key: u128) -> bool {
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

    fn unknown_of(set: &KeySet, keys: &[u128]) -> Vec<u128> {
        let unknown = |key: &u128| set.unknown(shard_of((key >> 64) as u64), &[*key], &[0], |_| {}).0;
        keys.iter().flat_map(unknown).collect()
    }

    /// Hashes that crowd one end of the key space are the worst case: probing wraps around, buckets are long.
    fn any_keys() -> impl Strategy<Value = Vec<u128>> {
        let key = prop_oneof![
            any::<u128>(),
            (0..300_u128),
            (0..300_u128).prop_map(|n| u128::MAX - n),
            (0..300_u128).prop_map(|n| n << 64),
        ];
        // Few that come to many, too.
        prop_oneof![
            proptest::collection::vec(key.clone(), 0..600),
            proptest::collection::vec(key, 0..10)
        ]
    }

    proptest! {
        #[test]
        fn a_key_is_new_once(files in proptest::collection::vec(any_keys(), 0..4), keys in any_keys(), expected in 0..2_000_usize) {
            // 0 and 1 are one key to the set: a chance of 2^-127 for real hashes.
            let one = |key: &u128| (*key).max(1);
            let set = KeySet::new();
            let mut grown = set.expect(expected);
            let mut known = HashSet::new();
            for (n, file) in files.iter().enumerate() {
                let mut sorted = file.clone();
                sorted.sort_unstable();
                grown += set.load(&sorted);
                let unknown: Vec<u128> = file.iter().copied().filter(|key| !known.contains(&one(key))).collect();
                prop_assert_eq!(unknown_of(&set, file), unknown, "known too early, or no longer");
                // The second and the third together.
                if n != 1 {
                    grown += set.settle();
                    known.extend(files[..=n].iter().flatten().map(one));
                }
            }
            grown += set.settle();
            known.extend(files.iter().flatten().map(one));
            let strangers: Vec<u128> = keys.iter().copied().filter(|key| !known.contains(&one(key))).collect();
            prop_assert_eq!(unknown_of(&set, &keys), strangers);
            prop_assert_eq!(grown, set.bytes());
            let new: Vec<bool> = keys.iter().map(|key| known.insert(one(key))).collect();
            prop_assert_eq!(claim_all(&set, &keys), new);
            prop_assert!(claim_all(&set, &keys).iter().all(|new| !new));
            prop_assert!(unknown_of(&set, &keys).is_empty());
        }
    }

    /// Random keys in the order of a key file.
    fn random_keys(random: &mut rand_chacha::ChaCha8Rng, count: usize) -> Vec<u128> {
        let mut keys: Vec<u128> = (0..count).map(|_| random.random()).collect();
        keys.sort_unstable();
        keys
    }

    #[test]
    fn a_claim_takes_thirty_two_bytes_at_most_and_a_loaded_key_twenty() {
        let seed = 7;
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let (claims, loaded) = (KeySet::new(), KeySet::new());
        let (mut claimed, mut grown, mut keys) = (0, 0, 0);
        for _ in 0..100 {
            let more = random_keys(&mut random, 2_000);
            claimed += more
                .chunk_by(|a, b| shard_of((a >> 64) as u64) == shard_of((b >> 64) as u64))
                .map(|run| claims.claim(shard_of((run[0] >> 64) as u64), run, |_, _| {}))
                .sum::<usize>();
            grown += loaded.expect(more.len()) + loaded.load(&more) + loaded.settle();
            keys += more.len();
            if keys > 20_000 {
                let bytes = (claims.bytes(), loaded.bytes());
                assert!(bytes.0 <= keys * 33, "seed {seed}: {bytes:?} for {keys} keys");
                assert!(bytes.1 <= keys * 20, "seed {seed}: {bytes:?} for {keys} keys");
            }
        }
        assert_eq!((claimed, grown), (claims.bytes(), loaded.bytes()));
        assert!(
            KeySet::bytes_for(keys) <= keys * 18,
            "{}",
            KeySet::bytes_for(keys)
        );
        // What is set aside for the keys of files is what they take.
        let set = KeySet::new();
        let keys = random_keys(&mut random, 200_000);
        let taken = set.expect(keys.len()) + set.load(&keys) + set.settle();
        assert_eq!(taken, KeySet::bytes_for(keys.len()), "seed {seed}");
    }
}
