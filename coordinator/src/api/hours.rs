//! Event hours of a pipeline as its ledger tells them, for people and programs.
//!
//! | what                | from                                                                       |
//! |---------------------|-----------------------------------------------------------------------------|
//! | state, files, bytes | [`crate::hours`]: the ledger's fold                                         |
//! | watermark           | event time that every partition has passed; of objects that are all committed, the newest event |
//! | clean ratio         | of the batches that wrote into the hour: rejected events often have no time |

use std::time::{Duration, SystemTime};

use chrono::DateTime;
use millrace_proto::v1::{self, Counts, Hour, PartitionWatermark};

use crate::hours::{HOUR_US, HourRecord, OBJECTS};
use crate::job::clean_ratio;
use crate::ledger::State;

/// Event hours, newest first, and how far the pipeline is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Hours {
    /// Newest first.
    pub hours: Vec<Hour>,
    /// Event time that every partition has passed.
    pub watermark: Option<SystemTime>,
    /// By partition.
    pub partitions: Vec<PartitionWatermark>,
    /// Everything that there is has been read.
    pub is_closed: bool,
}

impl Hours {
    /// Seconds from the watermark to now; 0 without one, and where nothing is left to be read.
    #[must_use]
    pub fn lag_seconds(&self, now: SystemTime) -> f64 {
        let behind = self
            .watermark
            .filter(|_| !self.is_closed)
            .and_then(|watermark| now.duration_since(watermark).ok());
        behind.map_or(0.0, |behind| behind.as_secs_f64())
    }
}

/// See the table above.
pub(crate) fn of(state: &State) -> Hours {
    let known = &state.event_time;
    let passed = known.watermarks.passed();
    let is_closed = passed == Some(i64::MAX);
    let watermark = if is_closed { state.newest_us } else { passed };
    let hours = known.hours.iter().rev();
    let partitions = known.watermarks.iter().map(|(partition, mark)| {
        let passed = known.watermarks.of(partition);
        let closed = passed == Some(i64::MAX);
        let shown = if partition == OBJECTS {
            mark.newest_us
        } else {
            passed
        };
        PartitionWatermark {
            partition: partition.to_owned(),
            watermark: shown.and_then(time).map(Into::into),
            closed,
        }
    });
    Hours {
        hours: hours.map(|(hour, record)| shown(*hour, record, passed)).collect(),
        watermark: watermark.and_then(time),
        partitions: partitions.collect(),
        is_closed,
    }
}

fn shown(hour: i64, record: &HourRecord, passed: Option<i64>) -> Hour {
    let start = DateTime::from_timestamp_micros(hour.saturating_mul(HOUR_US));
    let is_complete = record.state.is_complete();
    let left_us = passed.map_or(0, |passed| record.due_us.saturating_sub(passed).max(0));
    Hour {
        hour: start
            .map(|start| start.format("%Y-%m-%dT%H").to_string())
            .unwrap_or_default(),
        state: v1::HourState::from(record.state).into(),
        counts: Some(Counts {
            read: record.rows,
            written: record.rows,
            ..Counts::default()
        }),
        clean_ratio: clean_ratio(&record.of_batches),
        files: u32::try_from(record.files).unwrap_or(u32::MAX),
        bytes: record.bytes,
        lag_seconds: if is_complete { 0.0 } else { seconds(left_us) },
    }
}

fn seconds(us: i64) -> f64 {
    Duration::from_micros(u64::try_from(us).unwrap_or(0)).as_secs_f64()
}

fn time(us: i64) -> Option<SystemTime> {
    let since = Duration::from_micros(u64::try_from(us).ok()?);
    SystemTime::UNIX_EPOCH.checked_add(since)
}
