//! Outcomes as the API tells them, and back.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use millrace_proto::v1;
use prost_types::Timestamp;

use super::Outcome;
use super::decide::{Cutoffs, Share};
use crate::erasure;
use crate::hours::HOUR_US;
use crate::ledger::{LegalHold, Released};

const DAY_US: i64 = 24 * HOUR_US;

/// A time as a message.
#[must_use]
pub fn stamp(micros: i64) -> Timestamp {
    let nanos = i32::try_from(micros.rem_euclid(1_000_000) * 1000).unwrap_or_default();
    Timestamp {
        seconds: micros.div_euclid(1_000_000),
        nanos,
    }
}

/// A message as a time, microseconds since 1970 UTC; cut to what a day counts in.
#[must_use]
pub fn micros(stamp: &Timestamp) -> i64 {
    let seconds = stamp.seconds.saturating_mul(1_000_000);
    seconds.saturating_add(i64::from(stamp.nanos) / 1000)
}

/// Now, for whoever compares with [`stamp`]s.
#[must_use]
pub fn age(stamp: Option<&Timestamp>) -> Duration {
    let Some(since) = stamp.and_then(|stamp| u64::try_from(micros(stamp)).ok()) else {
        return Duration::ZERO;
    };
    let since = UNIX_EPOCH + Duration::from_micros(since);
    SystemTime::now().duration_since(since).unwrap_or_default()
}

impl From<&Share> for v1::RetentionShare {
    fn from(share: &Share) -> Self {
        Self {
            spans: share.spans,
            files: share.files,
            bytes: share.bytes,
            rows: share.rows,
        }
    }
}

fn share(told: Option<v1::RetentionShare>) -> Share {
    let told = told.unwrap_or_default();
    Share {
        spans: told.spans,
        files: told.files,
        bytes: told.bytes,
        rows: told.rows,
    }
}

impl From<&Outcome> for v1::RetentionOutcome {
    fn from(outcome: &Outcome) -> Self {
        let cutoffs = &outcome.cutoffs;
        let hour = |(hour, share): &(i64, Share)| v1::RetentionHour {
            hour: *hour,
            share: Some(share.into()),
        };
        Self {
            data_before: cutoffs.data_before.map(|hour| stamp(hour * HOUR_US)),
            quarantine_before: cutoffs.quarantine_before.map(|day| stamp(day * DAY_US)),
            warehouse_before: cutoffs.warehouse_before_us.map(stamp),
            keys_before: cutoffs.keys_before.map(|hour| stamp(hour * HOUR_US)),
            data: Some((&outcome.data).into()),
            quarantine: Some((&outcome.quarantine).into()),
            keys: Some((&outcome.keys).into()),
            held: Some((&outcome.held).into()),
            waiting: Some((&outcome.waiting).into()),
            warehouse_rows: outcome.warehouse,
            batches: outcome.batches,
            deleted_files: outcome.deleted,
            hours: outcome.hours.iter().map(hour).collect(),
            holds: outcome.holds.iter().map(Into::into).collect(),
        }
    }
}

impl From<v1::RetentionOutcome> for Outcome {
    fn from(told: v1::RetentionOutcome) -> Self {
        Self {
            cutoffs: Cutoffs {
                data_before: told.data_before.map(|at| micros(&at).div_euclid(HOUR_US)),
                quarantine_before: told.quarantine_before.map(|at| micros(&at).div_euclid(DAY_US)),
                warehouse_before_us: told.warehouse_before.map(|at| micros(&at)),
                keys_before: told.keys_before.map(|at| micros(&at).div_euclid(HOUR_US)),
            },
            data: share(told.data),
            hours: told
                .hours
                .into_iter()
                .map(|hour| (hour.hour, share(hour.share)))
                .collect(),
            quarantine: share(told.quarantine),
            keys: share(told.keys),
            warehouse: told.warehouse_rows,
            held: share(told.held),
            waiting: share(told.waiting),
            holds: told.holds.into_iter().map(Into::into).collect(),
            batches: told.batches,
            deleted: told.deleted_files,
        }
    }
}

impl From<&LegalHold> for v1::LegalHold {
    fn from(hold: &LegalHold) -> Self {
        let over = hold.released.as_ref();
        let text = |of: fn(&Released) -> &String| over.map(of).cloned().unwrap_or_default();
        Self {
            hold_id: hold.id.clone(),
            from: Some(stamp(hold.from_us)),
            to: Some(stamp(hold.to_us)),
            reason: hold.reason.clone(),
            placer: hold.by.clone(),
            place_time: Some(stamp(hold.at_us)),
            releaser: text(|over| &over.by),
            release_time: over.map(|over| stamp(over.at_us)),
            release_reason: text(|over| &over.reason),
        }
    }
}

impl From<v1::LegalHold> for LegalHold {
    fn from(told: v1::LegalHold) -> Self {
        let at = |stamp: Option<Timestamp>| stamp.as_ref().map(micros).unwrap_or_default();
        let released = told.release_time.is_some().then(|| Released {
            reason: told.release_reason,
            by: told.releaser,
            at_us: at(told.release_time),
        });
        Self {
            id: told.hold_id,
            from_us: at(told.from),
            to_us: at(told.to),
            reason: told.reason,
            by: told.placer,
            at_us: at(told.place_time),
            released,
        }
    }
}

impl From<&erasure::Outcome> for v1::ErasureOutcome {
    fn from(outcome: &erasure::Outcome) -> Self {
        Self {
            subject: outcome.subject.clone(),
            columns: outcome.columns.clone(),
            blind_columns: outcome.blind.clone(),
            files_examined: outcome.examined,
            files_rewritten: outcome.rewritten,
            rows: outcome.rows,
            quarantined: outcome.quarantined,
            warehouse_rows: outcome.warehouse,
            deleted_objects: outcome.deleted,
            applied: outcome.applied,
            remaining: outcome.remaining,
            prove_time: outcome.proved_us.map(stamp),
            copies: outcome.copies,
            model_rows: outcome.model_rows,
        }
    }
}

impl From<v1::ErasureOutcome> for erasure::Outcome {
    fn from(told: v1::ErasureOutcome) -> Self {
        Self {
            subject: told.subject,
            columns: told.columns,
            blind: told.blind_columns,
            examined: told.files_examined,
            rewritten: told.files_rewritten,
            rows: told.rows,
            quarantined: told.quarantined,
            warehouse: told.warehouse_rows,
            deleted: told.deleted_objects,
            applied: told.applied,
            remaining: told.remaining,
            proved_us: told.prove_time.as_ref().map(micros),
            copies: told.copies,
            model_rows: told.model_rows,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_comes_back_as_it_was_told() {
        let share = |n| Share {
            spans: n,
            files: n + 1,
            bytes: n + 2,
            rows: n + 3,
        };
        let hold = LegalHold {
            id: "h1".to_owned(),
            from_us: -5,
            to_us: 1_700_000_000_123_456,
            reason: "a court asks".to_owned(),
            by: "ada".to_owned(),
            at_us: 7,
            released: Some(Released {
                reason: "it has".to_owned(),
                by: "bob".to_owned(),
                at_us: 9,
            }),
        };
        let outcome = Outcome {
            cutoffs: Cutoffs {
                data_before: Some(490_000),
                quarantine_before: Some(20_000),
                warehouse_before_us: None,
                keys_before: Some(480_000),
            },
            data: share(1),
            hours: vec![(489_999, share(5))],
            quarantine: share(2),
            keys: share(6),
            warehouse: Some(3),
            held: share(3),
            waiting: share(4),
            holds: vec![hold],
            batches: 2,
            deleted: 8,
        };
        assert_eq!(Outcome::from(v1::RetentionOutcome::from(&outcome)), outcome);
        let erased = erasure::Outcome {
            subject: "0f".to_owned(),
            columns: vec!["email".to_owned()],
            rows: 4,
            copies: 5,
            model_rows: Some(6),
            warehouse: None,
            applied: true,
            remaining: Some(0),
            proved_us: Some(1_700_000_000_123_456),
            ..erasure::Outcome::default()
        };
        assert_eq!(erasure::Outcome::from(v1::ErasureOutcome::from(&erased)), erased);
    }
}
