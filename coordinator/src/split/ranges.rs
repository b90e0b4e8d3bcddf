//! Which positions of an object are planned: disjoint ranges, in order.
//!
//! Hours of a topic are asked for in any order, so what is planned of a partition need not begin at its start nor be
//! one piece.

/// Disjoint ranges of positions, in order, none touching the next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// Adds `start..end`.
    pub fn add(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        // Those that touch the new one: from the first that ends at or after its start.
        let first = self.0.partition_point(|range| range.1 < start);
        let last = self.0.partition_point(|range| range.0 <= end);
        let joined = self.0[first..last]
            .iter()
            .fold((start, end), |(s, e), range| (s.min(range.0), e.max(range.1)));
        self.0.splice(first..last, [joined]);
    }

    /// Takes `start..end` out.
    pub fn remove(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        let parts = self
            .0
            .iter()
            .flat_map(|&(s, e)| [(s, e.min(start)), (s.max(end), e)]);
        self.0 = parts.filter(|(s, e)| s < e).collect();
    }

    /// The parts of `start..end` that are not in here, in order.
    #[must_use]
    pub fn missing(&self, start: u64, end: u64) -> Vec<(u64, u64)> {
        let mut parts = Vec::new();
        let mut at = start;
        let first = self.0.partition_point(|range| range.1 <= start);
        for &(s, e) in self.0[first..].iter().take_while(|range| range.0 < end) {
            if at < s {
                parts.push((at, s));
            }
            at = at.max(e);
        }
        if at < end {
            parts.push((at, end));
        }
        parts
    }

    /// One past the last position that is in here; 0 for none.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.0.last().map_or(0, |range| range.1)
    }

    /// The ranges.
    #[must_use]
    pub fn as_slice(&self) -> &[(u64, u64)] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The oracle is a set of positions.
        #[test]
        fn ranges_are_a_set_of_positions(
            changes in proptest::collection::vec((0u64..60, 0u64..12, 0u8..4), 0..20),
            (start, length) in (0u64..60, 0u64..40),
        ) {
            let mut ranges = Ranges::default();
            let mut positions = std::collections::BTreeSet::new();
            for (start, length, kind) in changes {
                if kind == 0 {
                    ranges.remove(start, start + length);
                    positions.retain(|at| !(start..start + length).contains(at));
                } else {
                    ranges.add(start, start + length);
                    positions.extend(start..start + length);
                }
            }
            let held: Vec<u64> = ranges.as_slice().iter().flat_map(|&(s, e)| s..e).collect();
            prop_assert_eq!(&held, &positions.iter().copied().collect::<Vec<_>>());
            prop_assert!(ranges.as_slice().windows(2).all(|pair| pair[0].1 < pair[1].0));
            let missing: Vec<u64> = ranges.missing(start, start + length).iter().flat_map(|&(s, e)| s..e).collect();
            let expected: Vec<u64> = (start..start + length).filter(|at| !positions.contains(at)).collect();
            prop_assert_eq!(missing, expected);
            prop_assert_eq!(ranges.end(), positions.last().map_or(0, |last| last + 1));
        }
    }
}
