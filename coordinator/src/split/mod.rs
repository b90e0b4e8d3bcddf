//! Splits into batches: which input is new, and how much of it is committed at once.
//!
//! In: what a listing found and how far the ledger has planned each object. Out: the next batch's
//! splits. Pure: the same listing and ledger give the same batch, so a run that was interrupted plans on
//! as the undisturbed one would have.

pub mod hours;
pub mod kafka;
mod ranges;
mod runs;

use std::collections::HashMap;

use millrace_proto::split::{InputObject, Split};

pub use kafka::PartitionOffsets;
pub use ranges::Ranges;
pub use runs::deal_runs;

/// Size of a split of a plain object: small enough that tasks end together, large enough to be cheap.
pub const SPLIT_BYTES: u64 = 16 << 20;

/// How much larger a compressed object is taken to be once unpacked: event JSON packs about so well.
const UNPACKED_RATIO: u64 = 6;

/// The splits of `all` that no batch has planned yet, up to `batch_bytes` by `weigh`, renumbered from 0. At least
/// one split is taken, however large it is; none when everything is planned.
#[must_use]
pub fn next_batch(
    all: &[Split],
    covered: &HashMap<InputObject, Ranges>,
    batch_bytes: u64,
    weigh: &dyn Fn(&Split) -> u64,
) -> Vec<Split> {
    let mut batch: Vec<Split> = Vec::new();
    let mut weight = 0;
    for split in all.iter().flat_map(|split| uncovered(split, covered)) {
        let bytes = weigh(&split);
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

/// The parts of `start..end` of an object that no batch has planned, in order.
#[must_use]
pub fn unplanned(
    covered: &HashMap<InputObject, Ranges>,
    object: &InputObject,
    start: u64,
    end: u64,
) -> Vec<(u64, u64)> {
    let nothing = Ranges::default();
    covered.get(object).unwrap_or(&nothing).missing(start, end)
}

/// The parts of a split that no batch has planned.
fn uncovered(split: &Split, covered: &HashMap<InputObject, Ranges>) -> Vec<Split> {
    let parts = unplanned(covered, &split.object, split.start, split.end);
    let part = |(start, end)| Split {
        start,
        end,
        ..split.clone()
    };
    parts.into_iter().map(part).collect()
}

/// Deals the splits of a batch out to at most `tasks` tasks, about the same weight to each. With `together` the
/// splits of one object stay in one task: equal keys meet there.
#[must_use]
pub fn deal(
    splits: &[Split],
    tasks: usize,
    together: bool,
    weigh: &dyn Fn(&Split) -> u64,
) -> Vec<Vec<Split>> {
    let mut groups: Vec<(u64, Vec<Split>)> = Vec::new();
    let mut places: HashMap<&InputObject, usize> = HashMap::new();
    for split in splits {
        let weight = weigh(split).max(1);
        let place = *places.entry(&split.object).or_insert(groups.len());
        match groups.get_mut(place) {
            Some((sum, group)) if together => {
                *sum += weight;
                group.push(split.clone());
            }
            _ => groups.push((weight, vec![split.clone()])),
        }
    }
    // The heaviest first, each to whoever has least.
    groups.sort_by_key(|(weight, _)| std::cmp::Reverse(*weight));
    let mut dealt: Vec<(u64, Vec<Split>)> = vec![(0, Vec::new()); tasks.clamp(1, groups.len().max(1))];
    for (weight, group) in groups {
        if let Some((sum, task)) = dealt.iter_mut().min_by_key(|(sum, _)| *sum) {
            *sum += weight;
            task.extend(group);
        }
    }
    for (_, task) in &mut dealt {
        task.sort_by_key(|split| split.index);
    }
    dealt.into_iter().map(|(_, task)| task).collect()
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
            let mut covered: HashMap<InputObject, Ranges> = HashMap::new();
            let mut planned = 0;
            for round in 0.. {
                let all = splits(&sizes, steps[round % steps.len()]);
                let batch = next_batch(&all, &covered, batch_bytes, &unpacked_bytes);
                if batch.is_empty() {
                    break;
                }
                for (i, split) in batch.iter().enumerate() {
                    prop_assert_eq!(split.index as usize, i);
                    let ranges = covered.entry(split.object.clone()).or_default();
                    prop_assert_eq!(ranges.end(), split.start);
                    ranges.add(split.start, split.end);
                    planned += split.end - split.start;
                }
            }
            prop_assert_eq!(planned, sizes.iter().sum::<u64>());
        }

        /// An object without a byte has no position: planning it would never end, and `verify` would object.
        #[test]
        fn an_empty_object_is_nothing_to_plan(sizes in proptest::collection::vec(0u64..3, 1..6)) {
            let all: Vec<Split> = sizes.iter().enumerate().map(|(n, &size)| Split {
                index: 0,
                object: object(n, size),
                start: 0,
                end: size,
            }).collect();
            let batch = next_batch(&all, &HashMap::new(), 1000, &unpacked_bytes);
            prop_assert_eq!(batch.len(), sizes.iter().filter(|size| **size > 0).count());
        }

        /// Every split is dealt exactly once, objects stay together where they must, and no task has more than
        /// the fair share and one group.
        #[test]
        fn splits_are_dealt_once_and_fairly(
            sizes in proptest::collection::vec(1u64..500, 1..8), step in 1u64..100, tasks in 1usize..6, together: bool,
        ) {
            let mut all = splits(&sizes, step);
            for (i, split) in all.iter_mut().enumerate() {
                split.index = i as u32;
            }
            let dealt = deal(&all, tasks, together, &unpacked_bytes);
            prop_assert!(dealt.len() <= tasks);
            let mut back: Vec<Split> = dealt.concat();
            back.sort_by_key(|split| split.index);
            prop_assert_eq!(&back, &all);
            let weight = |task: &Vec<Split>| task.iter().map(unpacked_bytes).sum::<u64>();
            let group = if together { 500 } else { step };
            let fair = sizes.iter().sum::<u64>() / dealt.len() as u64;
            prop_assert!(dealt.iter().all(|task| weight(task) <= fair + group));
            if together {
                for object in all.iter().map(|split| &split.object) {
                    let holders = dealt.iter().filter(|task| task.iter().any(|split| split.object == *object));
                    prop_assert_eq!(holders.count(), 1);
                }
            }
        }
    }
}
