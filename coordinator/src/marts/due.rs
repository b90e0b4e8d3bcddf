//! Which periods there are, and which of them are due. Pure.
//!
//! In: the ledger's hours and results, the marts in an order in which each stands behind those that it reads. Out: every
//! period with where it stands.
//!
//! A period exists when its window (the period and what it looks back) holds an hour with events or a period of a mart that it
//! reads: so a session that ends after midnight has a day to stand in. An hour without events is complete when the watermark has
//! passed it, like any other.

use std::collections::{BTreeMap, BTreeSet};

use millrace_pipeline::spec::marts::Mart;

use super::start_of;
use super::state::MartRun;
use crate::hours::end_of;
use crate::ledger::State;

/// Where a period stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Its input is not complete.
    Waiting,
    /// It is to be computed.
    Due,
    /// It was computed by an earlier query.
    Outdated,
    /// It was computed over what is there.
    Current,
}

/// A period of a mart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Period {
    /// The mart's place among those that were given.
    pub mart: usize,
    /// First hour, hours since 1970 UTC.
    pub from_hour: i64,
    /// Hours of it.
    pub hours: i64,
    /// First hour of its window.
    pub window_hour: i64,
    /// Where it stands.
    pub standing: Standing,
    /// A digest of what it would be computed over now.
    pub input: String,
    /// Whether some of its hours' data has expired: what was computed while it was there stays, and it is not computed again.
    pub expired: bool,
    /// The result that counts.
    pub run: Option<MartRun>,
}

impl Period {
    /// One past its last hour.
    #[must_use]
    pub fn end_hour(&self) -> i64 {
        self.from_hour + self.hours
    }

    /// Its first microsecond, and the first one after it.
    #[must_use]
    pub fn bounds_us(&self) -> (i64, i64) {
        (start_of(self.from_hour), start_of(self.end_hour()))
    }
}

/// All periods of all marts: by mart, then by time.
#[must_use]
pub fn periods(state: &State, marts: &[Mart], lateness_seconds: u64) -> Vec<Period> {
    let hours = Hours {
        state,
        passed_us: state.event_time.watermarks.passed(),
        lateness_us: i64::try_from(lateness_seconds)
            .unwrap_or(i64::MAX)
            .saturating_mul(1_000_000),
    };
    let mut all: Vec<Period> = Vec::new();
    let mut of: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (at, mart) in marts.iter().enumerate() {
        let used: Vec<&[Period]> = mart
            .uses
            .iter()
            .filter_map(|name| of.get(name.as_str()))
            .map(|(from, to)| &all[*from..*to])
            .collect();
        let found: Vec<Period> = starts(state, mart, &used)
            .into_iter()
            .map(|from_hour| hours.period(at, mart, from_hour, &used))
            .collect();
        let from = all.len();
        all.extend(found);
        of.insert(&mart.name, (from, all.len()));
    }
    all
}

/// The period that is computed next: the earliest, of a mart before those that read it.
#[must_use]
pub fn next<'a>(periods: &'a [Period], is_free: &dyn Fn(&Period) -> bool) -> Option<&'a Period> {
    let due = periods.iter().filter(|period| period.standing == Standing::Due);
    due.filter(|period| is_free(period))
        .min_by_key(|period| (period.end_hour(), period.mart))
}

/// First hours of the periods that exist.
fn starts(state: &State, mart: &Mart, used: &[&[Period]]) -> BTreeSet<i64> {
    let hours = mart.every.hours();
    let known = state.event_time.hours.keys().map(|hour| (*hour, *hour));
    let read = used
        .iter()
        .flat_map(|periods| periods.iter())
        .map(|period| (period.from_hour, period.end_hour() - 1));
    let mut starts = BTreeSet::new();
    for (first, last) in known.chain(read) {
        let from = first.div_euclid(hours);
        let to = last.saturating_add(mart.look_back_hours).div_euclid(hours);
        starts.extend((from..=to).map(|period| period * hours));
    }
    starts
}

struct Hours<'a> {
    state: &'a State,
    passed_us: Option<i64>,
    lateness_us: i64,
}

impl Hours<'_> {
    fn period(&self, at: usize, mart: &Mart, from_hour: i64, used: &[&[Period]]) -> Period {
        let hours = mart.every.hours();
        let window_hour = from_hour - mart.look_back_hours;
        let end_hour = from_hour + hours;
        let mut is_complete = (window_hour..end_hour).all(|hour| self.is_complete(hour));
        let (mut input, mut expired) = (blake3::Hasher::new(), false);
        for (hour, record) in self.state.event_time.hours.range(window_hour..end_hour) {
            expired |= record.expired;
            input.update(format!("{hour} {} {}\n", record.writes, record.rows).as_bytes());
        }
        for period in used.iter().flat_map(|periods| periods.iter()) {
            if period.end_hour() <= window_hour || end_hour <= period.from_hour {
                continue;
            }
            is_complete &= matches!(period.standing, Standing::Current | Standing::Outdated);
            if let Some(run) = &period.run {
                input.update(format!("{} {} {}\n", run.mart, run.from_hour, run.version).as_bytes());
            }
        }
        let input = input.finalize().to_hex()[..32].to_owned();
        let run = self.state.marts.get(&mart.name, from_hour);
        let run = run.filter(|run| run.hours == hours).cloned();
        let standing = match &run {
            Some(_) if expired => Standing::Current,
            _ if expired || !is_complete => Standing::Waiting,
            Some(run) if run.input != input => Standing::Due,
            Some(run) if run.definition != mart.digest => Standing::Outdated,
            Some(_) => Standing::Current,
            None => Standing::Due,
        };
        Period {
            mart: at,
            from_hour,
            hours,
            window_hour,
            standing,
            input,
            expired,
            run,
        }
    }

    fn is_complete(&self, hour: i64) -> bool {
        match self.state.event_time.hours.get(&hour) {
            Some(record) => record.state.is_complete(),
            None => self
                .passed_us
                .is_some_and(|passed| passed >= end_of(hour).saturating_add(self.lateness_us)),
        }
    }
}

#[cfg(test)]
#[path = "due_tests.rs"]
mod tests;
