//! Splits into batches: which input is new, and how much of it is committed at once.
//!
//! In: what a listing found and how far the ledger has planned each object. Out: the next batch's
//! splits. Pure: the same listing and ledger give the same batch, so a run that was interrupted plans on
//! as the undisturbed one would have.

pub mod kafka;

use std::collections::HashMap;

use millrace_proto::split::{InputObject, Split};

/// How much larger a compressed object is taken to be once unpacked: event JSON packs about so well.
const UNPACKED_RATIO: u64 = 6;

/// The splits of `all` that no batch has planned yet, up to `batch_bytes` of unpacked input, renumbered
/// from 0. At least one split is taken, however large it is; none when everything is planned.
#[must_use]
pub fn next_batch(all: &[Split], covered: &HashMap<InputObject, u64>, batch_bytes: u64) -> Vec<Split> {
    let mut batch: Vec<Split> = Vec::new();
    let mut weight = 0;
    for split in all.iter().filter_map(|split| uncovered(split, covered)) {
        let bytes = unpacked_bytes(&split);
        if !batch.is_empty() && weight + bytes > batch_bytes {
            break;
        }
        weight += bytes;
        batch.push(Split {
            index: u32::try_from(batch.len()).unwrap_or(u32::MAX),
            ..split
        });
    }
    batch
}

/// The part of a split that no batch has planned.
fn uncovered(split: &Split, covered: &HashMap<InputObject, u64>) -> Option<Split> {
    let planned = covered.get(&split.object).copied().unwrap_or(0);
    (planned < split.end).then(|| Split {
        start: split.start.max(planned),
        ..split.clone()
    })
}

/// About how many bytes of records a split holds.
#[must_use]
pub fn unpacked_bytes(split: &Split) -> u64 {
    let stored = split.end - split.start;
    let packed = [".gz", ".zst", ".parquet", ".avro"]
        .iter()
        .any(|end| split.object.url.ends_with(end));
    if packed {
        stored.saturating_mul(UNPACKED_RATIO)
    } else {
        stored
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn object(n: usize, size: u64) -> InputObject {
        InputObject {
            url: format!("file:///in/{n}.json"),
            size,
            version: "1".to_owned(),
        }
    }

    fn splits(sizes: &[u64], step: u64) -> Vec<Split> {
        let cut = |(n, &size): (usize, &u64)| {
            let object = object(n, size);
            (0..size.div_ceil(step)).map(move |i| Split {
                index: 0,
                object: object.clone(),
                start: i * step,
                end: ((i + 1) * step).min(size),
            })
        };
        sizes.iter().enumerate().flat_map(cut).collect()
    }

    proptest! {
        /// Batch after batch, also when the split size changes in between, every byte of every object is
        /// planned exactly once (invariant 1).
        #[test]
        fn every_byte_is_planned_exactly_once(
            sizes in proptest::collection::vec(1u64..500, 1..6),
            steps in proptest::collection::vec(1u64..100, 1..8),
            batch_bytes in 1u64..400,
        ) {
            let mut covered: HashMap<InputObject, u64> = HashMap::new();
            let mut planned = 0;
            for round in 0.. {
                let all = splits(&sizes, steps[round % steps.len()]);
                let batch = next_batch(&all, &covered, batch_bytes);
                if batch.is_empty() {
                    break;
                }
                for (i, split) in batch.iter().enumerate() {
                    prop_assert_eq!(split.index as usize, i);
                    let end = covered.entry(split.object.clone()).or_default();
                    prop_assert_eq!(*end, split.start);
                    *end = split.end;
                    planned += split.end - split.start;
                }
            }
            prop_assert_eq!(planned, sizes.iter().sum::<u64>());
        }
    }
}
