//! Event hours of a pipeline, as its committed manifests tell them.
//!
//! | what                | from                                                                       |
//! |---------------------|-----------------------------------------------------------------------------|
//! | hour of a file      | its first event time                                                        |
//! | watermark           | the newest event time that is committed                                     |
//! | complete            | the hour's end plus the lateness lies before the watermark                  |
//! | clean ratio         | of the batches that wrote into the hour: rejected events often have no time |

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use chrono::DateTime;
use millrace_proto::manifest::{Manifest, SplitCounts};
use millrace_proto::v1::{Counts, Hour, HourState};

use crate::job::clean_ratio;
use crate::ledger::State;

const HOUR_US: i64 = 3_600_000_000;

/// Event hours, newest first, and how far the pipeline is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Hours {
    /// Newest first.
    pub hours: Vec<Hour>,
    /// Event time that every partition has passed.
    pub watermark: Option<SystemTime>,
}

impl Hours {
    /// Seconds from the watermark to now; 0 without one.
    #[must_use]
    pub fn lag_seconds(&self, now: SystemTime) -> f64 {
        let behind = self
            .watermark
            .and_then(|watermark| now.duration_since(watermark).ok());
        behind.map_or(0.0, |behind| behind.as_secs_f64())
    }
}

#[derive(Default)]
struct Sum {
    rows: u64,
    files: u32,
    bytes: u64,
    batches: SplitCounts,
}

/// See the table above.
pub(crate) fn of(manifests: &[Manifest], state: &State, lateness_seconds: u64) -> Hours {
    let mut sums: BTreeMap<i64, Sum> = BTreeMap::new();
    for manifest in manifests {
        let mut touched = Vec::new();
        for file in &manifest.files {
            let hour = file.time_min.div_euclid(HOUR_US);
            let sum = sums.entry(hour).or_default();
            sum.rows += file.object.rows;
            sum.files += 1;
            sum.bytes += file.object.bytes;
            touched.push(hour);
        }
        touched.sort_unstable();
        touched.dedup();
        for hour in touched {
            sums.entry(hour).or_default().batches.add(&manifest.total());
        }
    }
    let lateness_us = i64::try_from(lateness_seconds)
        .unwrap_or(i64::MAX)
        .saturating_mul(1_000_000);
    let is_complete = |hour: i64| {
        let closes = ((hour + 1) * HOUR_US).saturating_add(lateness_us);
        state.newest_us.is_some_and(|newest| newest >= closes)
    };
    let hours = sums.into_iter().rev().map(|(hour, sum)| {
        let state = if is_complete(hour) {
            HourState::Complete
        } else {
            HourState::Open
        };
        shown(hour, &sum, state)
    });
    Hours {
        hours: hours.collect(),
        watermark: state.newest_us.and_then(time),
    }
}

fn shown(hour: i64, sum: &Sum, state: HourState) -> Hour {
    let start = DateTime::from_timestamp_micros(hour * HOUR_US);
    Hour {
        hour: start
            .map(|start| start.format("%Y-%m-%dT%H").to_string())
            .unwrap_or_default(),
        state: state.into(),
        counts: Some(Counts {
            read: sum.rows,
            written: sum.rows,
            ..Counts::default()
        }),
        clean_ratio: clean_ratio(&sum.batches),
        files: sum.files,
        bytes: sum.bytes,
    }
}

fn time(us: i64) -> Option<SystemTime> {
    let since = Duration::from_micros(u64::try_from(us).ok()?);
    SystemTime::UNIX_EPOCH.checked_add(since)
}
