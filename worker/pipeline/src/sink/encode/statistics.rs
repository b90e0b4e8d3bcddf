//! Least and greatest value of a column chunk: what readers prune row groups by.
//!
//! Texts are cut to 64 bytes; a cut greatest value is raised, so that it stays a bound.

use parquet::data_type::ByteArray;
use parquet::file::statistics::{Statistics, ValueStatistics};

const BOUND_BYTES: usize = 64;

/// Bounds of texts.
#[derive(Debug, Default)]
pub(super) struct TextBounds<'a> {
    bounds: Option<(&'a [u8], &'a [u8])>,
    prefixes: (u64, u64),
}

impl<'a> TextBounds<'a> {
    /// Widens the bounds. Most texts are told from both bounds by their first eight bytes.
    #[inline]
    pub(super) fn add(&mut self, text: &'a [u8]) {
        let prefix = prefix(text);
        match &mut self.bounds {
            None => {
                self.bounds = Some((text, text));
                self.prefixes = (prefix, prefix);
            }
            Some((min, max)) => {
                if prefix <= self.prefixes.0 && text < *min {
                    (*min, self.prefixes.0) = (text, prefix);
                }
                if prefix >= self.prefixes.1 && text > *max {
                    (*max, self.prefixes.1) = (text, prefix);
                }
            }
        }
    }

    /// As statistics.
    pub(super) fn finish(self, nulls: usize) -> Statistics {
        let (min, max) = self.bounds.unzip();
        let (min_cut, max_cut) = (min.map(lower), max.and_then(upper));
        let min_is_exact = min_cut == min;
        let max_is_exact = max_cut.as_deref() == max;
        Statistics::ByteArray(
            ValueStatistics::new(
                min_cut.map(|bytes| ByteArray::from(bytes.to_vec())),
                max_cut.map(ByteArray::from),
                None,
                Some(nulls as u64),
                false,
            )
            .with_min_is_exact(min_is_exact)
            .with_max_is_exact(max_is_exact),
        )
    }
}

#[inline]
fn prefix(text: &[u8]) -> u64 {
    match text.first_chunk::<8>() {
        Some(first) => u64::from_be_bytes(*first),
        None => {
            let mut first = [0; 8];
            first[..text.len()].copy_from_slice(text);
            u64::from_be_bytes(first)
        }
    }
}

fn cut(text: &[u8]) -> &str {
    let end = text.len().min(BOUND_BYTES);
    let whole = |end| std::str::from_utf8(&text[..end]).ok();
    // A character has at most four bytes.
    (end.saturating_sub(3)..=end)
        .rev()
        .find_map(whole)
        .unwrap_or_default()
}

fn lower(text: &[u8]) -> &[u8] {
    if text.len() <= BOUND_BYTES {
        text
    } else {
        cut(text).as_bytes()
    }
}

fn upper(text: &[u8]) -> Option<Vec<u8>> {
    if text.len() <= BOUND_BYTES {
        return Some(text.to_vec());
    }
    let mut bound = cut(text).to_owned();
    while let Some(last) = bound.pop() {
        let next = (u32::from(last) + 1..).take(0x801).find_map(char::from_u32);
        if let Some(next) = next {
            bound.push(next);
            return Some(bound.into_bytes());
        }
    }
    None
}

/// Bounds of floating point numbers: NaN is left out, zero stands for both zeros.
pub(super) fn float_bounds(values: &[f64], nulls: usize) -> Statistics {
    let mut bounds: Option<(f64, f64)> = None;
    for &value in values {
        if !value.is_nan() {
            let (min, max) = bounds.unwrap_or((value, value));
            bounds = Some((min.min(value), max.max(value)));
        }
    }
    let min = bounds.map(|(min, _)| if min == 0.0 { -0.0 } else { min });
    let max = bounds.map(|(_, max)| if max == 0.0 { 0.0 } else { max });
    Statistics::double(min, max, None, Some(nulls as u64), false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bounds_hold_for_every_text(texts in prop::collection::vec("\\PC{0,40}", 1..20)) {
            let mut bounds = TextBounds::default();
            texts.iter().for_each(|text| bounds.add(text.as_bytes()));
            let statistics = bounds.finish(0);
            let min = statistics.min_bytes_opt().unwrap();
            let max = statistics.max_bytes_opt().unwrap();
            prop_assert!(min.len() <= 64 && std::str::from_utf8(min).is_ok());
            prop_assert!(max.len() <= 68 && std::str::from_utf8(max).is_ok());
            for text in &texts {
                prop_assert!(min <= text.as_bytes() && text.as_bytes() <= max);
            }
            if texts.iter().all(|text| text.len() <= 64) {
                prop_assert_eq!(min, texts.iter().min().unwrap().as_bytes());
                prop_assert_eq!(max, texts.iter().max().unwrap().as_bytes());
            }
        }
    }

    #[test]
    fn zero_and_nan_bound_as_the_format_wants() {
        let bounds = float_bounds(&[0.0, f64::NAN], 0);
        assert_eq!(bounds.min_bytes_opt().unwrap(), (-0.0f64).to_le_bytes());
        assert_eq!(bounds.max_bytes_opt().unwrap(), 0.0f64.to_le_bytes());
        assert!(float_bounds(&[f64::NAN], 0).min_bytes_opt().is_none());
    }
}
