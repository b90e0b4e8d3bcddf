//! Event hours: how far each input partition is read in event time, and what that makes of every hour.
//!
//! In: what each commit tells ([`Told`]), and what was looked at without anything to commit. Out: [`EventTime`], a part
//! of the ledger's fold: pure, and the same after every replay.
//!
//! | of a partition of...       | everything before this time has been read                                              |
//! |----------------------------|------------------------------------------------------------------------------------------|
//! | a topic                    | the newest event time that was committed from it, or, if later, the clock when nothing of it was left (an idle partition holds no hour open), or the end of an hour of the topic that was read out |
//! | objects (files, S3)        | nothing while a listing is being read: objects come in any order; everything once all of it is committed |
//!
//! The watermark is the least of them. An hour is complete when it has passed the hour's end plus the pipeline's
//! `partition.lateness`; see [`HourState`] for what comes after. An event from the future moves no watermark.

mod change;
mod state;
mod watermark;

use std::collections::{BTreeMap, BTreeSet};

use millrace_proto::ids::BatchId;
use millrace_proto::manifest::{Manifest, SplitCounts};
use serde::{Deserialize, Serialize};

pub(crate) use change::{first_hour, last_hour};
pub use state::{HourEvent, HourState};
pub use watermark::{Mark, OBJECTS, PartitionTime, Watermarks, partition_of};

/// Microseconds of an hour.
pub const HOUR_US: i64 = 3_600_000_000;

/// What a commit tells of event time, beside its counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Told {
    /// The committer's clock, microseconds since 1970 UTC.
    pub at_us: i64,
    /// The pipeline's lateness.
    pub lateness_seconds: u64,
    /// Newest event time of the partitions that were read; none where no event of one was written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub newest: Vec<PartitionTime>,
    /// Partitions that were read out up to a time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reached: Vec<PartitionTime>,
    /// What was written or rewritten, by event hour.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hours: Vec<HourChange>,
    /// Hours in which nothing is left to be compacted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub compacted: Vec<i64>,
}

/// What a batch did to one event hour. A file counts for the hour of its first event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HourChange {
    /// Hours since 1970 UTC.
    pub hour: i64,
    /// Rows in new files.
    pub rows: u64,
    /// New data files.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// What a compaction, an expiry or an erasure took away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced: Option<ReplacedFiles>,
}

/// Data files that no longer count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplacedFiles {
    /// Rows in them.
    pub rows: u64,
    /// How many.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// An event hour as the ledger knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HourRecord {
    /// What it has come to.
    pub state: HourState,
    /// The watermark that makes it complete.
    pub due_us: i64,
    /// Batches that wrote events into it, compactions aside.
    pub writes: u64,
    /// Whether some of it expired: what is left is not all that there was.
    pub expired: bool,
    /// Rows written.
    pub rows: u64,
    /// Data files that count.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Sums over the batches that wrote into it: rejected events often have no time.
    pub of_batches: SplitCounts,
    /// Every batch that wrote into it, compactions included.
    pub batches: BTreeSet<BatchId>,
}

/// Watermarks and hours: what the ledger's entries so far add up to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventTime {
    /// How far each partition is.
    pub watermarks: Watermarks,
    /// Hours since 1970 UTC that hold events.
    pub hours: BTreeMap<i64, HourRecord>,
}

impl EventTime {
    /// A batch was committed.
    pub fn commit(&mut self, batch: &BatchId, told: &Told, counts: &SplitCounts, is_upkeep: bool) {
        // First, by the watermark that these events came behind: a backlog that is read out with this very batch
        // would keep what it reopened waiting by the clock.
        for change in &told.hours {
            self.change(batch, change, told.lateness_seconds, counts, is_upkeep);
        }
        for newest in &told.newest {
            self.watermarks.read(newest);
        }
        self.watermarks.reach_all(&told.reached);
        for hour in &told.compacted {
            if let Some(record) = self.hours.get_mut(hour) {
                record.state = record.state.next(HourEvent::Compacted);
            }
        }
        self.settle();
    }

    /// An expiry was committed: data of these hours has left.
    pub fn expire(&mut self, told: &Told) {
        for change in told.hours.iter().filter(|change| change.replaced.is_some()) {
            if let Some(record) = self.hours.get_mut(&change.hour) {
                record.expired = true;
            }
        }
    }

    /// Partitions were looked at, and read out up to these times.
    pub fn reach(&mut self, reached: &[PartitionTime]) {
        self.watermarks.reach_all(reached);
        self.settle();
    }

    fn change(
        &mut self,
        batch: &BatchId,
        change: &HourChange,
        lateness_seconds: u64,
        counts: &SplitCounts,
        is_upkeep: bool,
    ) {
        let record = self.hours.entry(change.hour).or_insert_with(|| HourRecord {
            state: HourState::Open,
            due_us: due(end_of(change.hour), lateness_seconds),
            writes: 0,
            expired: false,
            rows: 0,
            files: 0,
            bytes: 0,
            of_batches: SplitCounts::default(),
            batches: BTreeSet::new(),
        });
        let gone = change.replaced.unwrap_or_default();
        let apply = |was: u64, new: u64, gone: u64| (was + new).saturating_sub(gone);
        record.rows = apply(record.rows, change.rows, gone.rows);
        record.files = apply(record.files, change.files, gone.files);
        record.bytes = apply(record.bytes, change.bytes, gone.bytes);
        record.batches.insert(batch.clone());
        if is_upkeep {
            return;
        }
        record.writes += 1;
        record.of_batches.add(counts);
        let was = record.state;
        record.state = was.next(HourEvent::Written);
        if record.state == HourState::Reopened && was != HourState::Reopened {
            // Objects have no time to wait for but their end.
            let passed = self.watermarks.passed().filter(|passed| *passed != i64::MAX);
            let since = passed.unwrap_or(i64::MIN);
            record.due_us = due(since.max(end_of(change.hour)), lateness_seconds);
        }
    }

    /// Hours that the watermark has passed are complete.
    fn settle(&mut self) {
        let Some(passed) = self.watermarks.passed() else {
            return;
        };
        for record in self.hours.values_mut().filter(|record| record.due_us <= passed) {
            record.state = record.state.next(HourEvent::Passed);
        }
    }

    /// Whether an entry that tells of these times would make an hour complete.
    #[must_use]
    pub fn would_complete(&self, reached: &[PartitionTime]) -> bool {
        let waits = |state: HourState| matches!(state, HourState::Open | HourState::Reopened);
        let Some(earliest) = self
            .hours
            .values()
            .filter(|record| waits(record.state))
            .map(|record| record.due_us)
            .min()
        else {
            return false;
        };
        let mut after = self.watermarks.clone();
        after.reach_all(reached);
        after.passed().is_some_and(|passed| passed >= earliest)
    }
}

/// First microsecond after an hour.
#[must_use]
pub fn end_of(hour: i64) -> i64 {
    hour.saturating_add(1).saturating_mul(HOUR_US)
}

fn due(from_us: i64, lateness_seconds: u64) -> i64 {
    let lateness = i64::try_from(lateness_seconds).unwrap_or(i64::MAX);
    from_us.saturating_add(lateness.saturating_mul(1_000_000))
}

/// What a manifest tells of event time. `at_us` is the committer's clock.
#[must_use]
pub fn told(manifest: &Manifest, lateness_seconds: u64, at_us: i64, is_redrive: bool) -> Told {
    let mut newest: BTreeMap<String, Option<i64>> = BTreeMap::new();
    let counts: BTreeMap<u32, &SplitCounts> = manifest.counts.iter().map(|one| (one.split, one)).collect();
    // What was rejected once says nothing of how far input is read.
    for split in manifest.splits.iter().filter(|_| !is_redrive) {
        let time = counts.get(&split.index).and_then(|counts| counts.time_max);
        let known = newest.entry(partition_of(&split.object.url)).or_default();
        *known = (*known).max(time.filter(|time| *time <= at_us));
    }
    Told {
        at_us,
        lateness_seconds,
        newest: newest
            .into_iter()
            .map(|(partition, time_us)| PartitionTime { partition, time_us })
            .collect(),
        reached: Vec::new(),
        hours: change::changes(manifest),
        compacted: manifest.replaces.hours.clone(),
    }
}

#[cfg(test)]
mod tests;
