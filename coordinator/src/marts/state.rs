//! What the ledger knows of marts: for each period the result that counts.

use std::collections::BTreeMap;

use millrace_proto::ids::JobId;
use millrace_proto::manifest::WrittenObject;
use serde::{Deserialize, Serialize};

/// A period that was computed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MartRun {
    /// The mart.
    pub mart: String,
    /// First hour of the period, hours since 1970 UTC.
    pub from_hour: i64,
    /// Hours of it.
    pub hours: i64,
    /// Grows with every run in this lake: of two results of a period the higher one counts, in the warehouse too.
    pub version: u64,
    /// The result.
    pub object: WrittenObject,
    /// What it was computed over, as [`super::due`] sums it up.
    pub input: String,
    /// The mart's digest then.
    pub definition: String,
    /// The backfill that asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// The writer's clock, microseconds since 1970 UTC.
    pub at_us: i64,
}

/// The results that count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marts {
    runs: BTreeMap<String, BTreeMap<i64, MartRun>>,
    /// The highest version so far.
    pub versions: u64,
}

impl Marts {
    /// Takes a run in. Total: what is older than what is there changes nothing. Results that overlap it are replaced: the
    /// mart had periods of another length.
    pub fn take(&mut self, run: &MartRun) {
        if run.version <= self.versions {
            return;
        }
        self.versions = run.version;
        let runs = self.runs.entry(run.mart.clone()).or_default();
        runs.retain(|from, other| *from + other.hours <= run.from_hour || run.from_hour + run.hours <= *from);
        runs.insert(run.from_hour, run.clone());
    }

    /// The result of a period that begins with this hour.
    #[must_use]
    pub fn get(&self, mart: &str, from_hour: i64) -> Option<&MartRun> {
        self.runs.get(mart)?.get(&from_hour)
    }

    /// Names of marts with results.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.runs.keys().map(String::as_str)
    }

    /// The results of a mart, by period.
    pub fn of(&self, mart: &str) -> impl Iterator<Item = &MartRun> {
        self.runs.get(mart).into_iter().flat_map(BTreeMap::values)
    }

    /// The results of all marts.
    pub fn all(&self) -> impl Iterator<Item = &MartRun> {
        self.runs.values().flat_map(BTreeMap::values)
    }
}
