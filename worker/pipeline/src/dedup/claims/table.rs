//! The claimed keys of one event hour, each with who claimed it.
//!
//! An open-addressing table over two arrays, hashes and claimants: 20 bytes a slot at a load between three eighths and three
//! quarters. A key's place follows from its low bits, since all keys of a keeper share the high ones.

/// Stands for "no key": a hash of 0 is stored as 1.
const EMPTY: u128 = 0;
/// Keys whose cache lines are fetched side by side.
const CHUNK: usize = 32;
const SLOTS_MIN: usize = 64;

/// Keys and claimants.
#[derive(Debug, Default)]
pub(super) struct ClaimTable {
    keys: Vec<u128>,
    claimants: Vec<u32>,
    held: usize,
}

impl ClaimTable {
    /// Memory that it takes.
    pub(super) fn bytes(&self) -> usize {
        self.keys.len() * (size_of::<u128>() + size_of::<u32>())
    }

    /// Claims keys for `me`. Where another has the key, `yields(other)` decides whether it is taken over. `won` gets one
    /// answer a key.
    pub(super) fn claim(
        &mut self,
        keys: &[u128],
        me: u32,
        yields: impl Fn(u32) -> bool,
        won: &mut Vec<bool>,
    ) {
        self.make_room(keys.len());
        for chunk in keys.chunks(CHUNK) {
            self.touch(chunk);
            won.extend(chunk.iter().map(|key| self.claim_one((*key).max(1), me, &yields)));
        }
    }

    #[inline]
    fn claim_one(&mut self, key: u128, me: u32, yields: &impl Fn(u32) -> bool) -> bool {
        let mask = self.keys.len() - 1;
        let mut at = key as usize & mask;
        loop {
            match self.keys[at] {
                EMPTY => {
                    (self.keys[at], self.claimants[at]) = (key, me);
                    self.held += 1;
                    return true;
                }
                known if known == key => {
                    let wins = yields(self.claimants[at]);
                    if wins {
                        self.claimants[at] = me;
                    }
                    return wins;
                }
                _ => at = (at + 1) & mask,
            }
        }
    }

    /// Reads each key's place, so that the memory of all of them is on its way when the first is needed.
    #[inline]
    fn touch(&self, keys: &[u128]) {
        let mask = self.keys.len() - 1;
        let mut seen = 0;
        for key in keys {
            seen ^= self.keys[*key as usize & mask] as u64;
        }
        std::hint::black_box(seen);
    }

    /// Makes sure that `more` keys fit at a load of three quarters.
    fn make_room(&mut self, more: usize) {
        let needed = ((self.held + more) * 4)
            .div_ceil(3)
            .max(SLOTS_MIN)
            .next_power_of_two();
        if needed <= self.keys.len() {
            return;
        }
        let keys = std::mem::replace(&mut self.keys, vec![EMPTY; needed]);
        let claimants = std::mem::replace(&mut self.claimants, vec![0; needed]);
        let mask = needed - 1;
        for (key, claimant) in keys.into_iter().zip(claimants).filter(|(key, _)| *key != EMPTY) {
            let mut at = key as usize & mask;
            while self.keys[at] != EMPTY {
                at = (at + 1) & mask;
            }
            (self.keys[at], self.claimants[at]) = (key, claimant);
        }
    }
}
