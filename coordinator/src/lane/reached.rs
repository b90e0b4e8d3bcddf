//! Which partitions of a topic are read out, and up to what time.
//!
//! In: partitions as they were looked at, and what is planned of them. Out: times for the ledger, none for a partition that is
//! behind: it is named all the same, so that hours wait for it from the first batch on. Pure. The clock of a look stands for
//! "everything that was there by then": a message that comes later is of a later time, or late.

use std::collections::HashMap;

use millrace_proto::split::{InputObject, Split};

use crate::hours::PartitionTime;
use crate::split::kafka::TopicRange;
use crate::split::{PartitionOffsets, Ranges, unplanned};

/// A look at a topic.
#[derive(Debug, Clone)]
pub(super) struct Look {
    /// The range that was asked for.
    pub(super) range: TopicRange,
    /// Its end by the messages' timestamps; none for the whole topic.
    pub(super) to_us: Option<i64>,
    /// The partitions then.
    pub(super) partitions: Vec<PartitionOffsets>,
    /// The clock then.
    pub(super) at_us: i64,
}

/// Partitions of which nothing is left once `batch` is committed. `left` is all that nobody has planned.
pub(super) fn with_batch(
    partitions: &[PartitionOffsets],
    left: &[Split],
    batch: &[Split],
    at_us: i64,
) -> Vec<PartitionTime> {
    let offsets = |splits: &[Split], of: &InputObject| -> u64 {
        let ours = splits.iter().filter(|split| split.object == *of);
        ours.map(|split| split.end - split.start).sum()
    };
    let reached = |partition: &PartitionOffsets| {
        let is_read_out = offsets(left, &partition.object) == offsets(batch, &partition.object);
        time_of(partition, is_read_out.then_some(at_us))
    };
    partitions.iter().map(reached).collect()
}

/// Partitions of which everything before the end of a range is planned: they are at its end, or, with nothing behind it, at
/// the clock.
pub(super) fn up_to(look: &Look, covered: &HashMap<InputObject, Ranges>) -> Vec<PartitionTime> {
    let is_planned = |partition: &PartitionOffsets, end: u64| {
        unplanned(
            covered,
            &partition.object,
            partition.low.min(end),
            end.max(partition.low),
        )
        .is_empty()
    };
    let mut reached = Vec::new();
    for (partition, range) in look.partitions.iter().zip(&look.range.ranges) {
        let end_us = look.to_us.map(|to| to.min(look.at_us));
        let time_us = if is_planned(partition, partition.high) {
            Some(look.at_us)
        } else {
            end_us.filter(|_| is_planned(partition, range.end))
        };
        reached.push(time_of(partition, time_us));
    }
    reached
}

fn time_of(partition: &PartitionOffsets, time_us: Option<i64>) -> PartitionTime {
    PartitionTime {
        partition: partition.object.url.clone(),
        time_us,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::split::kafka::OffsetRange;

    fn object(n: i32) -> InputObject {
        InputObject {
            url: format!("kafka://t/{n}"),
            size: 0,
            version: "id".to_owned(),
        }
    }

    fn partition(n: i32, low: u64, high: u64) -> PartitionOffsets {
        PartitionOffsets {
            object: object(n),
            partition: n,
            low,
            high,
        }
    }

    fn split(n: i32, start: u64, end: u64) -> Split {
        Split {
            index: 0,
            object: object(n),
            start,
            end,
        }
    }

    fn times(reached: &[PartitionTime]) -> Vec<(&str, Option<i64>)> {
        reached
            .iter()
            .map(|one| (one.partition.as_str(), one.time_us))
            .collect()
    }

    #[test]
    fn a_partition_with_nothing_new_is_read_out_and_one_that_is_behind_is_not() {
        let partitions = [partition(0, 0, 10), partition(1, 0, 10), partition(2, 0, 10)];
        let left = [split(0, 5, 7), split(0, 7, 10), split(1, 0, 10)];
        let reached = with_batch(&partitions, &left, &[split(0, 5, 7), split(1, 0, 10)], 99);
        assert_eq!(
            times(&reached),
            [
                ("kafka://t/0", None),
                ("kafka://t/1", Some(99)),
                ("kafka://t/2", Some(99))
            ]
        );
    }

    #[test]
    fn an_hour_counts_only_with_everything_before_it() {
        let partitions = vec![partition(0, 2, 10), partition(1, 0, 10), partition(2, 0, 10)];
        let range = |n: i32, end| OffsetRange {
            object: object(n),
            start: 4,
            end,
        };
        let look = Look {
            range: TopicRange {
                ranges: vec![range(0, 8), range(1, 8), range(2, 8)],
                open: false,
            },
            to_us: Some(50),
            partitions,
            at_us: 99,
        };
        let mut covered: HashMap<InputObject, Ranges> = HashMap::new();
        for (n, start, end) in [(0, 2, 8), (1, 4, 8), (2, 0, 10)] {
            covered.entry(object(n)).or_default().add(start, end);
        }
        let reached = up_to(&look, &covered);
        assert_eq!(
            times(&reached),
            [
                ("kafka://t/0", Some(50)),
                ("kafka://t/1", None),
                ("kafka://t/2", Some(99))
            ]
        );
    }
}
