//! Quantiles: exact up to [`EXACT_MAX`] values, then by a ladder of samples whose error is known.
//!
//! Level `h` of the ladder holds values that stand for `2^h` each. A full level is sorted and every second
//! value climbs: that moves no rank by more than `2^h`, so the sum of these steps bounds the error, for
//! any order of the values and of merging. Nothing is random.

use arrow::array::{ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use arrow::error::ArrowError;

use super::wire::{Reader, StateError, Writer};

/// Up to this many values a quantile is exact.
pub(crate) const EXACT_MAX: usize = 10_000_000;
/// Values of one level of the ladder.
const LEVEL_MAX: usize = 1 << 17;

/// The values of a column, or a ladder of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Quantiles {
    /// Level 0 alone while exact.
    levels: Vec<Vec<f64>>,
    count: u64,
    /// Ranks that a quantile may be off by.
    rank_error: u64,
    /// Whether a level's next survivors are its odd ones: taking turns lets errors cancel.
    odd: bool,
}

/// How a quantile between two values is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interpolation {
    Linear,
    Lower,
    Higher,
    Midpoint,
    Nearest,
}

impl Quantiles {
    /// The values that are kept; whole ones as whole numbers.
    pub(crate) fn values(&self) -> impl Iterator<Item = serde_json::Value> {
        self.levels.iter().flatten().map(|value| {
            #[expect(clippy::cast_possible_truncation, reason = "compared with what it was")]
            let whole = *value as i64;
            #[expect(clippy::cast_precision_loss, reason = "compared with what it was")]
            let is_whole = whole as f64 == *value;
            if is_whole { whole.into() } else { (*value).into() }
        })
    }

    /// Takes the values that are not null.
    pub(crate) fn add(&mut self, array: &ArrayRef) -> Result<(), ArrowError> {
        let floats = cast(array, &DataType::Float64)?;
        let floats = floats.as_primitive::<Float64Type>();
        if self.levels.is_empty() {
            self.levels.push(Vec::new());
        }
        let before = self.levels[0].len();
        self.levels[0].extend(floats.iter().flatten().filter(|value| !value.is_nan()));
        self.count += (self.levels[0].len() - before) as u64;
        self.shrink();
        Ok(())
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (level, values) in other.levels.iter().enumerate() {
            if self.levels.len() <= level {
                self.levels.push(Vec::new());
            }
            self.levels[level].extend(values);
        }
        self.count += other.count;
        self.rank_error += other.rank_error;
        self.shrink();
    }

    fn shrink(&mut self) {
        if self.levels.len() <= 1 && self.count <= EXACT_MAX as u64 {
            return;
        }
        let mut level = 0;
        while level < self.levels.len() {
            while self.levels[level].len() > LEVEL_MAX {
                let mut full = std::mem::take(&mut self.levels[level]);
                full.sort_unstable_by(f64::total_cmp);
                // An even number climbs by halves; the last one of an odd number stays.
                if full.len() % 2 == 1 {
                    self.levels[level].extend(full.pop());
                }
                let survivors = full.into_iter().skip(usize::from(self.odd)).step_by(2);
                if self.levels.len() == level + 1 {
                    self.levels.push(Vec::new());
                }
                self.levels[level + 1].extend(survivors);
                self.rank_error += 1 << level;
                self.odd = !self.odd;
            }
            level += 1;
        }
    }

    /// The error of a quantile as a share of all values; none while exact.
    pub(crate) fn error(&self) -> Option<f64> {
        (self.rank_error > 0).then(|| self.rank_error as f64 / self.count.max(1) as f64)
    }

    /// The quantiles asked for; none without values.
    pub(crate) fn at(&self, quantiles: &[f64], interpolation: Interpolation) -> Option<Vec<f64>> {
        let mut weighted: Vec<(f64, u64)> = self
            .levels
            .iter()
            .enumerate()
            .flat_map(|(level, values)| values.iter().map(move |value| (*value, 1 << level)))
            .collect();
        weighted.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        let last = weighted
            .iter()
            .map(|(_, weight)| weight)
            .sum::<u64>()
            .checked_sub(1)?;
        // Past-the-end ranks, for a search by rank.
        let ends: Vec<u64> = weighted
            .iter()
            .scan(0, |end, (_, weight)| {
                *end += weight;
                Some(*end)
            })
            .collect();
        let by_rank =
            |rank: u64| weighted[ends.partition_point(|end| *end <= rank).min(weighted.len() - 1)].0;
        Some(
            quantiles
                .iter()
                .map(|quantile| {
                    let rank = quantile.clamp(0.0, 1.0) * last as f64;
                    let (low, high) = (by_rank(rank.floor() as u64), by_rank(rank.ceil() as u64));
                    match interpolation {
                        Interpolation::Lower => low,
                        Interpolation::Higher => high,
                        Interpolation::Midpoint => (low + high) / 2.0,
                        Interpolation::Nearest => by_rank(rank.round_ties_even() as u64),
                        Interpolation::Linear => low + (high - low) * rank.fract(),
                    }
                })
                .collect(),
        )
    }

    pub(crate) fn write(&self, writer: &mut Writer) {
        writer.u64(self.count);
        writer.u64(self.rank_error);
        writer.u8(u8::from(self.odd));
        writer.u64(self.levels.len() as u64);
        for level in &self.levels {
            writer.u64(level.len() as u64);
            level.iter().for_each(|value| writer.f64(*value));
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, StateError> {
        let (count, rank_error, odd) = (reader.u64()?, reader.u64()?, reader.u8()? == 1);
        let levels = (0..reader.count(8)?)
            .map(|_| (0..reader.count(8)?).map(|_| reader.f64()).collect())
            .collect::<Result<_, _>>()?;
        Ok(Self {
            levels,
            count,
            rank_error,
            odd,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::Float64Array;
    use std::sync::Arc;

    #[test]
    fn beyond_the_exact_the_error_stays_within_what_is_stated() {
        let mut all = Quantiles::default();
        let total = 11_000_000_u64;
        // A walk through all residues: every value once, in no order.
        for chunk in (0..total).collect::<Vec<_>>().chunks(1_000_000) {
            let values = chunk.iter().map(|n| ((n * 7_919) % total) as f64);
            let mut part = Quantiles::default();
            part.add(&(Arc::new(Float64Array::from_iter_values(values)) as ArrayRef))
                .unwrap();
            all.merge(&part);
        }
        let error = all.error().unwrap();
        assert!(error < 0.001, "{error}");
        for quantile in [0.0, 0.01, 0.25, 0.5, 0.9, 0.999, 1.0] {
            let found = all.at(&[quantile], Interpolation::Nearest).unwrap()[0];
            assert!(
                (found / total as f64 - quantile).abs() <= error + 1e-6,
                "{quantile} {found}"
            );
        }
    }
}
