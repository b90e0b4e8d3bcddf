//! The offsets of a topic's batch in few long runs: a reader pays for each start, not for the offsets.
//!
//! In: a batch's splits, in any order. Out: the same positions, neighbours joined, dealt out to tasks.

use millrace_proto::split::Split;

use super::deal;

/// Deals the positions of a topic's batch out to at most `tasks` tasks, about the same weight to each, in as few splits as
/// that takes; their numbers are new. With `together` a partition's positions stay in one task.
#[must_use]
pub fn deal_runs(
    splits: &[Split],
    tasks: usize,
    together: bool,
    weigh: &dyn Fn(&Split) -> u64,
) -> Vec<Vec<Split>> {
    let runs = joined(splits);
    let mut dealt = if together {
        deal(&runs, tasks, true, weigh)
    } else {
        shared(runs, tasks, weigh)
    };
    for (split, index) in dealt.iter_mut().flatten().zip(0..) {
        split.index = index;
    }
    dealt
}

/// Neighbours joined, partition by partition.
fn joined(splits: &[Split]) -> Vec<Split> {
    let mut sorted: Vec<&Split> = splits.iter().collect();
    sorted.sort_by_key(|split| (&split.object.url, split.start));
    let mut runs: Vec<Split> = Vec::new();
    for split in sorted {
        match runs.last_mut() {
            Some(run) if run.object == split.object && run.end == split.start => run.end = split.end,
            Some(_) | None => runs.push(split.clone()),
        }
    }
    runs
}

/// The runs one after the other, cut where a task has its share.
fn shared(runs: Vec<Split>, tasks: usize, weigh: &dyn Fn(&Split) -> u64) -> Vec<Vec<Split>> {
    let weight = |split: &Split| weigh(split).max(1);
    let total: u64 = runs.iter().map(weight).sum();
    let share = total.div_ceil(tasks.max(1) as u64).max(1);
    let mut dealt = vec![Vec::new()];
    let mut room = share;
    for mut run in runs {
        loop {
            let weighs = weight(&run);
            let is_last = dealt.len() >= tasks;
            let fitting = u128::from(run.end - run.start) * u128::from(room) / u128::from(weighs);
            let cut = run.start + u64::try_from(fitting).unwrap_or(u64::MAX);
            if is_last || weighs <= room || cut >= run.end {
                room = room.saturating_sub(weighs);
                dealt
                    .last_mut()
                    .into_iter()
                    .for_each(|task| task.push(run.clone()));
                break;
            }
            if cut > run.start {
                let head = Split {
                    end: cut,
                    ..run.clone()
                };
                dealt
                    .last_mut()
                    .into_iter()
                    .for_each(|task| task.push(head.clone()));
                run.start = cut;
            }
            dealt.push(Vec::new());
            room = share;
        }
    }
    dealt.retain(|task| !task.is_empty());
    dealt
}

#[cfg(test)]
mod tests {
    use millrace_proto::split::InputObject;
    use proptest::prelude::*;

    use super::*;

    fn split(partition: usize, start: u64, end: u64) -> Split {
        let object = InputObject {
            url: format!("kafka://t/{partition}"),
            size: 0,
            version: "1".to_owned(),
        };
        Split {
            index: 0,
            object,
            start,
            end,
        }
    }

    fn positions(splits: &[Split]) -> Vec<(String, u64)> {
        let all = splits
            .iter()
            .flat_map(|split| (split.start..split.end).map(|at| (split.object.url.clone(), at)));
        let mut all: Vec<_> = all.collect();
        all.sort();
        all
    }

    proptest! {
        /// Every position is dealt out once, no task has more than its share and a little, and no more splits are made
        /// than there are runs and cuts between tasks.
        #[test]
        fn positions_are_dealt_out_once_evenly_and_in_few_splits(
            pieces in prop::collection::vec((0usize..4, 1u64..60, 0u64..3), 1..20), tasks in 1usize..6, together: bool, bytes in 1u64..500,
        ) {
            let mut ends = [0u64; 4];
            let mut splits = Vec::new();
            for (partition, length, gap) in pieces {
                let start = ends[partition] + gap;
                ends[partition] = start + length;
                splits.push(split(partition, start, start + length));
            }
            splits.reverse();
            let weigh = move |split: &Split| (split.end - split.start) * bytes;
            let dealt = deal_runs(&splits, tasks, together, &weigh);
            let flat = dealt.concat();
            prop_assert_eq!(positions(&flat), positions(&splits));
            prop_assert!(dealt.len() <= tasks && dealt.iter().all(|task| !task.is_empty()));
            prop_assert!(flat.iter().enumerate().all(|(i, split)| split.index as usize == i));
            prop_assert!(flat.len() < joined(&splits).len() + tasks);
            let total: u64 = splits.iter().map(weigh).sum();
            if together {
                for partition in &flat {
                    let holders = dealt.iter().filter(|task| task.iter().any(|split| split.object == partition.object));
                    prop_assert_eq!(holders.count(), 1);
                }
            } else {
                let most = dealt.iter().map(|task| task.iter().map(weigh).sum::<u64>()).max().unwrap();
                prop_assert!(most <= total.div_ceil(tasks as u64) + bytes * tasks as u64, "{} of {}", most, total);
            }
        }
    }
}
