//! Which row goes to which partition.
//!
//! A partition is a pair: its time bucket (hours or days since 1970 UTC, by the declared levels) and the
//! number of its source. Rows are grouped by a counting sort of their row numbers, so that each column is
//! then copied partition by partition. A null source is a partition of its own.

use arrow::array::{Array, StringViewArray};
use hashbrown::HashMap;

use super::intern::Interner;
use super::keys::day_name;
use crate::spec::model::{Partition, PartitionLevel};

/// Microseconds of an hour.
pub(super) const HOUR_US: i64 = 3_600_000_000;
/// Stands for a null source.
const NO_SOURCE: u32 = u32::MAX;
const UNSEEN: (i64, u32) = (i64::MIN, NO_SOURCE);

/// How the time is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bucket {
    Whole,
    Day,
    Hour,
    HourOfDay,
}

/// Finds and groups partitions.
#[derive(Debug)]
pub(super) struct Fanout {
    bucket: Bucket,
    levels: Vec<PartitionLevel>,
    sources: Interner,
    slots: HashMap<(i64, u32), u32>,
    partitions: Vec<(i64, u32)>,
    slot_of_row: Vec<u32>,
    counts: Vec<u32>,
    touched: Vec<u32>,
    order: Vec<u32>,
}

/// The rows of a batch that belong to one partition, as a range of [`Fanout::rows`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    /// The partition.
    pub(super) slot: usize,
    /// Its rows.
    pub(super) range: std::ops::Range<usize>,
}

impl Fanout {
    /// No partition seen yet.
    pub(super) fn new(partition: &Partition) -> Self {
        let has = |level| partition.by.contains(&level);
        let bucket = match (has(PartitionLevel::Date), has(PartitionLevel::Hour)) {
            (true, true) => Bucket::Hour,
            (true, false) => Bucket::Day,
            (false, true) => Bucket::HourOfDay,
            (false, false) => Bucket::Whole,
        };
        Self {
            bucket,
            levels: partition.by.clone(),
            sources: Interner::default(),
            slots: HashMap::new(),
            partitions: Vec::new(),
            slot_of_row: Vec::new(),
            counts: Vec::new(),
            touched: Vec::new(),
            order: Vec::new(),
        }
    }

    /// Groups the rows of a batch by partition; new partitions get the next numbers.
    pub(super) fn group(&mut self, times: &[i64], sources: Option<&StringViewArray>) -> Vec<Group> {
        self.number_rows(times, sources);
        self.order.clear();
        self.order.resize(times.len(), 0);
        let mut groups = Vec::with_capacity(self.touched.len());
        let mut start = 0;
        for &slot in &self.touched {
            let count = &mut self.counts[slot as usize];
            let end = start + *count as usize;
            *count = start as u32; // from here on: where the partition's next row number goes
            groups.push(Group {
                slot: slot as usize,
                range: start..end,
            });
            start = end;
        }
        for (row, &slot) in self.slot_of_row.iter().enumerate() {
            let next = &mut self.counts[slot as usize];
            self.order[*next as usize] = row as u32;
            *next += 1;
        }
        for slot in self.touched.drain(..) {
            self.counts[slot as usize] = 0;
        }
        groups
    }

    fn number_rows(&mut self, times: &[i64], sources: Option<&StringViewArray>) {
        self.slot_of_row.clear();
        let (mut last, mut last_slot) = (UNSEEN, 0);
        let (mut bucket, mut from, mut until) = (0, 1, 0);
        for (row, &time) in times.iter().enumerate() {
            if time < from || time >= until {
                (bucket, from, until) = self.bucket_of(time);
            }
            let source = match sources {
                Some(sources) if sources.is_valid(row) => self
                    .sources
                    .id(sources.views()[row], sources.value(row).as_bytes()),
                _ => NO_SOURCE,
            };
            if (bucket, source) != last || row == 0 {
                last = (bucket, source);
                last_slot = self.slot_of(last);
            }
            let count = &mut self.counts[last_slot as usize];
            if *count == 0 {
                self.touched.push(last_slot);
            }
            *count += 1;
            self.slot_of_row.push(last_slot);
        }
    }

    fn slot_of(&mut self, partition: (i64, u32)) -> u32 {
        let next = self.partitions.len() as u32;
        let slot = *self.slots.entry(partition).or_insert(next);
        if slot == next {
            self.partitions.push(partition);
            self.counts.push(0);
        }
        slot
    }

    /// The bucket of a time and the range of times that share it.
    fn bucket_of(&self, time: i64) -> (i64, i64, i64) {
        let size = match self.bucket {
            Bucket::Whole => return (0, i64::MIN, i64::MAX),
            Bucket::Day => 24 * HOUR_US,
            Bucket::Hour | Bucket::HourOfDay => HOUR_US,
        };
        let number = time.div_euclid(size);
        let from = number.saturating_mul(size);
        let bucket = if self.bucket == Bucket::HourOfDay {
            number.rem_euclid(24)
        } else {
            number
        };
        (bucket, from, from.saturating_add(size))
    }

    /// Row numbers of the last batch, group by group.
    pub(super) fn rows(&self) -> &[u32] {
        &self.order
    }

    /// How many partitions there are.
    pub(super) fn len(&self) -> usize {
        self.partitions.len()
    }

    /// Memory held.
    pub(super) fn bytes(&self) -> usize {
        self.sources.bytes() + self.partitions.capacity() * 64
    }

    /// Forgets all partitions: numbers given before mean nothing any more.
    pub(super) fn clear(&mut self) {
        self.sources.clear();
        self.slots.clear();
        self.partitions.clear();
        self.counts.clear();
    }

    /// Days since 1970 and hour of the day of a partition, where its levels say.
    pub(super) fn day_and_hour(&self, slot: usize) -> (Option<i64>, Option<i64>) {
        let bucket = self.partitions[slot].0;
        match self.bucket {
            Bucket::Whole => (None, None),
            Bucket::Day => (Some(bucket), None),
            Bucket::Hour => (Some(bucket.div_euclid(24)), Some(bucket.rem_euclid(24))),
            Bucket::HourOfDay => (None, Some(bucket)),
        }
    }

    /// Source of a partition; null is none.
    pub(super) fn source(&self, slot: usize) -> Option<&str> {
        match self.partitions[slot].1 {
            NO_SOURCE => None,
            id => std::str::from_utf8(self.sources.text(id)).ok(),
        }
    }

    /// Partition columns and values in path order; a null source is the empty text.
    pub(super) fn values(&self, slot: usize) -> Vec<(String, String)> {
        let (day, hour) = self.day_and_hour(slot);
        let value = |level: &PartitionLevel| match level {
            PartitionLevel::Date => ("date".to_owned(), day_name(day.unwrap_or_default())),
            PartitionLevel::Hour => ("hour".to_owned(), format!("{:02}", hour.unwrap_or_default())),
            PartitionLevel::Source => {
                let source = self.source(slot).unwrap_or_default();
                ("source".to_owned(), source.to_owned())
            }
        };
        self.levels.iter().map(value).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn by(levels: &[PartitionLevel]) -> Partition {
        Partition {
            time: "t".into(),
            by: levels.to_vec(),
            source: Some("s".into()),
            lateness_seconds: 0,
        }
    }

    const ALL: [PartitionLevel; 3] = [PartitionLevel::Date, PartitionLevel::Hour, PartitionLevel::Source];

    proptest! {
        #[test]
        fn every_row_is_in_exactly_the_group_of_its_hour_and_source(
            rows in prop::collection::vec((-3 * HOUR_US..3 * HOUR_US, prop::option::of("[ab]{0,1}|a long name of a source")), 0..200)
        ) {
            let times: Vec<i64> = rows.iter().map(|row| row.0).collect();
            let sources = StringViewArray::from(rows.iter().map(|row| row.1.as_deref()).collect::<Vec<_>>());
            let mut fanout = Fanout::new(&by(&ALL));
            for _ in 0..2 {
                let groups = fanout.group(&times, Some(&sources));
                let mut seen = vec![false; rows.len()];
                for group in groups {
                    let in_order = &fanout.rows()[group.range.clone()];
                    prop_assert!(in_order.is_sorted(), "the order of rows is kept");
                    for &row in in_order {
                        let (time, source) = &rows[row as usize];
                        prop_assert!(!std::mem::replace(&mut seen[row as usize], true));
                        prop_assert_eq!(fanout.source(group.slot), source.as_deref());
                        let (day, hour) = fanout.day_and_hour(group.slot);
                        let start = (day.unwrap() * 24 + hour.unwrap()) * HOUR_US;
                        prop_assert!((start..start + HOUR_US).contains(time));
                    }
                }
                prop_assert!(seen.iter().all(|seen| *seen));
            }
        }
    }

    #[test]
    fn the_path_names_the_declared_levels_in_their_order() {
        let sources = StringViewArray::from(vec!["web"]);
        let time = 490_901 * HOUR_US + 5;
        let values = |levels: &[PartitionLevel]| {
            let mut fanout = Fanout::new(&by(levels));
            fanout.group(&[time], Some(&sources));
            fanout.values(0)
        };
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            values(&ALL),
            [
                pair("date", "2026-01-01"),
                pair("hour", "05"),
                pair("source", "web")
            ]
        );
        assert_eq!(values(&ALL[2..]), [pair("source", "web")]);
        assert_eq!(values(&ALL[1..2]), [pair("hour", "05")]);
        assert!(values(&[]).is_empty());
    }
}
