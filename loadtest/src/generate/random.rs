//! Random numbers that are the same on every machine and in every version of this crate.
//!
//! A line's randomness is a function of (seed, stream, line number), so any thread can make any line,
//! and a duplicate is made by making its original again. That needs a generator with a free start: this
//! is SplitMix64. The `rand` crate promises no stable stream for its fast generators.

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// One stream of numbers.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The stream of one line; `stream` keeps streams of different purpose apart.
    #[inline]
    #[must_use]
    pub fn new(seed: u64, stream: u64, line: u64) -> Self {
        Self(mix(
            mix(seed ^ mix(stream)).wrapping_add(line.wrapping_mul(GOLDEN))
        ))
    }

    /// 64 random bits.
    #[inline]
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0)
    }

    /// Uniform in `0..bound`; 0 for a bound of 0.
    #[inline]
    pub fn below(&mut self, bound: u64) -> u64 {
        scale(self.bits(), bound)
    }

    /// True with probability `share`, which [`threshold`] made.
    #[inline]
    pub fn chance(&mut self, share: u64) -> bool {
        self.bits() < share
    }

    /// A rank in `0..count`, the low ones often: the share of a rank falls as one over the rank (Zipf),
    /// flattened among the first `2^head`, so that no single rank holds several percent.
    #[inline]
    pub fn skewed(&mut self, count: u64, head: u32) -> u64 {
        let highest = 63 - (count.max(1) + (1 << head)).leading_zeros();
        let bits = self.bits();
        let octave = head + scale(bits << 32, u64::from(highest - head + 1)) as u32;
        let rank = (1 << octave) + (bits >> 32) % (1 << octave) - (1 << head);
        if rank < count { rank } else { rank % count.max(1) }
    }
}

/// Spreads every input bit over all output bits; a bijection.
#[inline]
#[must_use]
pub fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// A share of 0..=1 as a bound for 64 random bits.
#[must_use]
pub fn threshold(share: f64) -> u64 {
    (share.clamp(0.0, 1.0) * u64::MAX as f64) as u64
}

#[inline]
fn scale(bits: u64, bound: u64) -> u64 {
    ((u128::from(bits) * u128::from(bound)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_a_function_of_seed_stream_and_line() {
        let draw = |seed, stream, line| Random::new(seed, stream, line).bits();
        assert_eq!(draw(1, 2, 3), draw(1, 2, 3));
        for other in [draw(2, 2, 3), draw(1, 3, 3), draw(1, 2, 4)] {
            assert_ne!(draw(1, 2, 3), other);
        }
    }

    #[test]
    fn low_ranks_are_frequent_and_every_rank_is_in_range() {
        let mut random = Random::new(1, 2, 3);
        let ranks: Vec<u64> = (0..100_000).map(|_| random.skewed(10_000, 6)).collect();
        assert!(ranks.iter().all(|&rank| rank < 10_000));
        let head = ranks.iter().filter(|&&rank| rank < 64).count();
        assert!((8_000..25_000).contains(&head), "{head}");
        assert!(ranks.iter().any(|&rank| rank > 9_000));
    }

    #[test]
    fn a_share_is_met() {
        let mut random = Random::new(7, 0, 0);
        let share = threshold(0.15);
        let hits = (0..100_000).filter(|_| random.chance(share)).count();
        assert!((14_500..15_500).contains(&hits), "{hits}");
    }
}
