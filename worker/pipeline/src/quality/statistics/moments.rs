//! Count, sum, mean and spread of a numeric column.
//!
//! A batch is summed twice (mean, then squares about it), and batches are joined by the formula for two
//! groups: no figure loses digits to a large mean, whatever the order of merging.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use arrow::error::ArrowError;

use super::wire::{Reader, StateError, Writer};

/// The first two moments.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Moments {
    pub(crate) count: u64,
    /// Sum and what rounding took from it.
    sum: f64,
    lost: f64,
    mean: f64,
    /// Sum of the squared distances from the mean.
    squares: f64,
}

impl Moments {
    /// Whether columns of this type have moments.
    pub(crate) fn fit(kind: &DataType) -> bool {
        kind.is_numeric() || kind == &DataType::Boolean
    }

    /// Takes the values that are not null.
    pub(crate) fn add(&mut self, array: &ArrayRef) -> Result<(), ArrowError> {
        let floats = if array.data_type() == &DataType::Boolean {
            cast(&cast(array, &DataType::Int32)?, &DataType::Float64)?
        } else {
            cast(array, &DataType::Float64)?
        };
        let floats = floats.as_primitive::<Float64Type>();
        let mut batch = Self::default();
        let mut take = |value: f64| {
            batch.add_sum(value);
            batch.count += 1;
        };
        if floats.null_count() == 0 {
            floats
                .values()
                .iter()
                .copied()
                .filter(|value| !value.is_nan())
                .for_each(&mut take);
        } else {
            floats
                .iter()
                .flatten()
                .filter(|value| !value.is_nan())
                .for_each(&mut take);
        }
        if batch.count == 0 {
            return Ok(());
        }
        batch.mean = batch.sum() / batch.count as f64;
        let mean = batch.mean;
        batch.squares = if floats.null_count() == 0 {
            floats
                .values()
                .iter()
                .filter(|value| !value.is_nan())
                .map(|value| (value - mean).powi(2))
                .sum()
        } else {
            floats
                .iter()
                .flatten()
                .filter(|value| !value.is_nan())
                .map(|value| (value - mean).powi(2))
                .sum()
        };
        self.merge(&batch);
        Ok(())
    }

    pub(crate) fn sum(&self) -> f64 {
        self.sum + self.lost
    }

    /// None for no value.
    pub(crate) fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum() / self.count as f64)
    }

    /// The sample's standard deviation; none for fewer than two values.
    pub(crate) fn deviation(&self) -> Option<f64> {
        (self.count > 1).then(|| (self.squares / (self.count - 1) as f64).sqrt())
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        if self.count == 0 {
            *self = *other;
            return;
        }
        let (ours, theirs) = (self.count as f64, other.count as f64);
        let apart = other.mean - self.mean;
        let all = ours + theirs;
        self.mean += apart * theirs / all;
        self.squares += other.squares + apart * apart * ours * theirs / all;
        self.count += other.count;
        self.add_sum(other.sum);
        self.lost += other.lost;
    }

    /// Neumaier's summation.
    fn add_sum(&mut self, value: f64) {
        let sum = self.sum + value;
        if sum.is_finite() {
            self.lost += if self.sum.abs() >= value.abs() {
                (self.sum - sum) + value
            } else {
                (value - sum) + self.sum
            };
        }
        self.sum = sum;
    }

    pub(crate) fn write(&self, writer: &mut Writer) {
        writer.u64(self.count);
        [self.sum, self.lost, self.mean, self.squares]
            .into_iter()
            .for_each(|value| writer.f64(value));
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, StateError> {
        Ok(Self {
            count: reader.u64()?,
            sum: reader.f64()?,
            lost: reader.f64()?,
            mean: reader.f64()?,
            squares: reader.f64()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::Float64Array;
    use std::sync::Arc;

    #[test]
    fn a_large_mean_costs_no_digits() {
        let mut all = Moments::default();
        for chunk in [[1e9, 1e9 + 1.0], [1e9 + 2.0, 1e9 + 3.0]] {
            let mut part = Moments::default();
            part.add(&(Arc::new(Float64Array::from(chunk.to_vec())) as ArrayRef))
                .unwrap();
            all.merge(&part);
        }
        assert_eq!(all.mean(), Some(1e9 + 1.5));
        assert!((all.deviation().unwrap() - (5.0_f64 / 3.0).sqrt()).abs() < 1e-12);
    }
}
