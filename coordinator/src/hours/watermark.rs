//! How far each input partition is read, in event time.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The partition that all objects share: files and S3 objects have no order of time among them.
pub const OBJECTS: &str = "objects";

/// A time of an input partition, microseconds since 1970 UTC; none where nothing is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartitionTime {
    /// `kafka://topic/partition`, or [`OBJECTS`].
    pub partition: String,
    /// The time; [`i64::MAX`] where everything is read and no more is expected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_us: Option<i64>,
}

/// The partition that an input object belongs to.
#[must_use]
pub fn partition_of(url: &str) -> String {
    if url.starts_with("kafka://") {
        url.to_owned()
    } else {
        OBJECTS.to_owned()
    }
}

/// What is known of one partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mark {
    /// Newest event time committed from it.
    pub newest_us: Option<i64>,
    /// Time up to which it was read out.
    pub reached_us: Option<i64>,
}

/// How far each partition is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watermarks {
    marks: BTreeMap<String, Mark>,
}

impl Watermarks {
    /// Events of a partition were committed. Objects that are being read are no longer read out.
    pub fn read(&mut self, newest: &PartitionTime) {
        let mark = self.marks.entry(newest.partition.clone()).or_default();
        mark.newest_us = mark.newest_us.max(newest.time_us);
        if newest.partition == OBJECTS {
            mark.reached_us = None;
        }
    }

    /// Partitions were read out up to these times. Those of another source are forgotten: a pipeline that reads another
    /// topic now would wait for the old one for ever.
    pub fn reach_all(&mut self, reached: &[PartitionTime]) {
        let Some(first) = reached.first() else { return };
        let source = source_of(&first.partition).to_owned();
        self.marks.retain(|partition, _| source_of(partition) == source);
        for one in reached {
            let mark = self.marks.entry(one.partition.clone()).or_default();
            mark.reached_us = mark.reached_us.max(one.time_us);
        }
    }

    /// Event time that every partition has passed; [`i64::MAX`] where nothing is left to be read. None while some
    /// partition has none.
    #[must_use]
    pub fn passed(&self) -> Option<i64> {
        let times = self.iter().map(|(partition, mark)| time_of(partition, mark));
        times.min().flatten()
    }

    /// All partitions, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Mark)> {
        self.marks
            .iter()
            .map(|(partition, mark)| (partition.as_str(), mark))
    }

    /// The time that a partition has passed.
    #[must_use]
    pub fn of(&self, partition: &str) -> Option<i64> {
        self.marks
            .get(partition)
            .and_then(|mark| time_of(partition, mark))
    }
}

fn time_of(partition: &str, mark: &Mark) -> Option<i64> {
    if partition == OBJECTS {
        mark.reached_us
    } else {
        mark.newest_us.max(mark.reached_us)
    }
}

/// `kafka://topic` of `kafka://topic/3`.
fn source_of(partition: &str) -> &str {
    partition.rsplit_once('/').map_or(partition, |(source, _)| source)
}
