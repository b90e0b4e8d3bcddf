//! What is too old to be kept. Pure.
//!
//! In: the manifests of a lake, the pipeline's policy at a moment, legal holds, batches that the warehouse still waits for.
//! Out: the files that leave, and those that would but for a hold or the warehouse.
//!
//! | a file...                                                    | leaves                                                |
//! |--------------------------------------------------------------|-------------------------------------------------------|
//! | of data, every event hour of it older than `retention.lake`   | yes                                                   |
//! | of quarantine, written on a day older than `retention.quarantine` | yes                                               |
//! | of data, with an event in a range that is held                | no                                                    |
//! | of quarantine, written on or after the day on which a held range begins | no: a rejected event's time is not known, but it did not come before it happened |
//! | of data, of a batch that the warehouse waits for              | no: once it is loaded                                 |
//! | of the key index, of an event hour older than `retention.keys` | yes: a repeat that comes later is a new event         |
//! | of the key index, of an hour of which data stays, or is held  | no: a repeat would stand beside its first copy        |

use std::collections::{BTreeMap, BTreeSet};

use chrono::NaiveDate;
use millrace_pipeline::spec::model::Retention;
use millrace_proto::ids::BatchId;
use millrace_proto::manifest::{DataFile, KeyFile, Manifest, WrittenObject};

use crate::commit::live;
use crate::compaction::is_of;
use crate::hours::{HOUR_US, first_hour, last_hour};
use crate::ledger::LegalHold;

const DAY_US: i64 = 24 * HOUR_US;

/// Up to where things are too old, at a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cutoffs {
    /// Data of event hours before this one, in hours since 1970 UTC; none: kept for ever.
    pub data_before: Option<i64>,
    /// Quarantine files of days before this one, in days since 1970 UTC.
    pub quarantine_before: Option<i64>,
    /// Warehouse rows of event times before this one, microseconds since 1970 UTC; the begin of an hour.
    pub warehouse_before_us: Option<i64>,
    /// Key files of event hours before this one, in hours since 1970 UTC.
    pub keys_before: Option<i64>,
}

impl Cutoffs {
    /// Those of a policy. An hour, or a day, is too old when its end is.
    #[must_use]
    pub fn of(retention: &Retention, now_us: i64) -> Self {
        let before = |seconds: Option<u64>, unit_us: i64| {
            let kept = i64::try_from(seconds?).ok()?.checked_mul(1_000_000)?;
            Some(now_us.checked_sub(kept)?.div_euclid(unit_us))
        };
        Self {
            data_before: before(retention.lake_seconds, HOUR_US),
            quarantine_before: before(retention.quarantine_seconds, DAY_US),
            warehouse_before_us: before(retention.warehouse_seconds, HOUR_US).map(|hour| hour * HOUR_US),
            keys_before: before(retention.keys_seconds, HOUR_US),
        }
    }
}

/// What stands in the way of an expiry.
#[derive(Debug, Clone, Copy)]
pub struct Kept<'a> {
    /// Legal holds that stand.
    pub holds: &'a [LegalHold],
    /// Batches that the warehouse is still to be loaded with.
    pub waiting: &'a BTreeSet<BatchId>,
}

/// What leaves, and what would.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expiring {
    /// Data files.
    pub files: Vec<DataFile>,
    /// Quarantine files.
    pub quarantine: Vec<WrittenObject>,
    /// Key files.
    pub keys: Vec<KeyFile>,
    /// Data and quarantine files that a legal hold keeps.
    pub held: Share,
    /// Data files that the warehouse waits for.
    pub waiting: Share,
}

/// How much of something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share {
    /// Event hours; of quarantine, days.
    pub spans: u64,
    /// Files.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Rows in them.
    pub rows: u64,
}

impl Share {
    fn add(&mut self, object: &WrittenObject) {
        self.files += 1;
        self.bytes += object.bytes;
        self.rows += object.rows;
    }
}

impl Expiring {
    /// Whether nothing leaves.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.quarantine.is_empty() && self.keys.is_empty()
    }

    /// The data files, counted by the hours of their first events.
    #[must_use]
    pub fn data(&self) -> Share {
        let hours: BTreeSet<i64> = self.files.iter().map(first_hour).collect();
        let mut share = Share {
            spans: hours.len() as u64,
            ..Share::default()
        };
        self.files.iter().for_each(|file| share.add(&file.object));
        share
    }

    /// The quarantine files, counted by their days.
    #[must_use]
    pub fn rejects(&self) -> Share {
        let days: BTreeSet<Option<i64>> = self.quarantine.iter().map(|file| day_of(&file.key)).collect();
        let mut share = Share {
            spans: days.len() as u64,
            ..Share::default()
        };
        self.quarantine.iter().for_each(|file| share.add(file));
        share
    }

    /// The key files, counted by their hours; rows are keys.
    #[must_use]
    pub fn index(&self) -> Share {
        let hours: BTreeSet<i64> = self.keys.iter().map(|file| file.hour).collect();
        let mut share = Share {
            spans: hours.len() as u64,
            ..Share::default()
        };
        self.keys.iter().for_each(|file| share.add(&file.object));
        share
    }

    /// The data files by the hours of their first events.
    #[must_use]
    pub fn by_hour(&self) -> BTreeMap<i64, Share> {
        let mut hours: BTreeMap<i64, Share> = BTreeMap::new();
        for file in &self.files {
            let share = hours.entry(first_hour(file)).or_default();
            share.spans = 1;
            share.add(&file.object);
        }
        hours
    }

    /// The first files of it, as many as one manifest takes. Keys go when all data has gone.
    #[must_use]
    pub(super) fn first(mut self, most: usize) -> Self {
        if self.files.len() > most {
            self.keys.clear();
        }
        self.files.truncate(most);
        self.quarantine.truncate(most);
        self.keys.truncate(most);
        self
    }
}

/// See the table above.
#[must_use]
pub fn expiring(manifests: &[Manifest], cutoffs: &Cutoffs, kept: Kept<'_>) -> Expiring {
    let mut found = Expiring::default();
    if let Some(before) = cutoffs.data_before {
        let old = live::files(manifests).into_iter().map(|(_, file)| file);
        for file in old.filter(|file| last_hour(file) < before) {
            if is_held(file, kept.holds) {
                found.held.add(&file.object);
            } else if is_of(&file.object.key, kept.waiting) {
                found.waiting.add(&file.object);
            } else {
                found.files.push(file.clone());
            }
        }
    }
    if let Some(before) = cutoffs.quarantine_before {
        for (_, file) in live::quarantine(manifests) {
            let Some(day) = day_of(&file.key).filter(|day| *day < before) else {
                continue;
            };
            if is_day_held(day, kept.holds) {
                found.held.add(file);
            } else {
                found.quarantine.push(file.clone());
            }
        }
    }
    found
        .files
        .sort_by(|a, b| (a.time_max, &a.object.key).cmp(&(b.time_max, &b.object.key)));
    found.quarantine.sort_by(|a, b| a.key.cmp(&b.key));
    if let Some(before) = cutoffs.keys_before {
        found.keys = keys(manifests, before, &found.files, kept.holds);
    }
    found
}

/// The key files that are too old, but for those of hours of which anything stays in the lake or is held.
fn keys(manifests: &[Manifest], before: i64, leaving: &[DataFile], holds: &[LegalHold]) -> Vec<KeyFile> {
    let leaving: BTreeSet<&str> = leaving.iter().map(|file| file.object.key.as_str()).collect();
    let stay = live::files(manifests).into_iter().map(|(_, file)| file);
    let stay = stay.filter(|file| !leaving.contains(file.object.key.as_str()));
    let spans: BTreeSet<(i64, i64)> = stay
        .map(|file| (first_hour(file), last_hour(file)))
        .filter(|(first, _)| *first < before)
        .collect();
    let stays = |hour: i64| spans.range(..=(hour, i64::MAX)).any(|(_, last)| *last >= hour);
    let is_held = |hour: i64| {
        let (first, last) = (hour * HOUR_US, (hour + 1) * HOUR_US - 1);
        holds.iter().any(|hold| hold.touches(first, last))
    };
    let old = live::key_files(manifests).into_iter();
    let old = old.filter(|file| file.hour < before && !stays(file.hour) && !is_held(file.hour));
    let mut old: Vec<KeyFile> = old.cloned().collect();
    old.sort_by(|a, b| (a.hour, &a.object.key).cmp(&(b.hour, &b.object.key)));
    old
}

/// Whether a data file may hold an event of a range that is held.
#[must_use]
pub fn is_held(file: &DataFile, holds: &[LegalHold]) -> bool {
    holds
        .iter()
        .any(|hold| hold.touches(file.time_min, file.time_max))
}

/// Whether quarantine of a day may hold an event of a range that is held.
#[must_use]
pub fn is_day_held(day: i64, holds: &[LegalHold]) -> bool {
    holds.iter().any(|hold| day >= hold.from_us.div_euclid(DAY_US))
}

/// The day of a quarantine file, from its folder: `quarantine/date=2026-01-01/...`.
#[must_use]
pub fn day_of(key: &str) -> Option<i64> {
    let date = key.split('/').nth(1)?.strip_prefix("date=")?;
    let date: NaiveDate = date.parse().ok()?;
    Some(i64::from(date.to_epoch_days()))
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
