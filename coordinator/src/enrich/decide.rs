//! Whether a snapshot is taken anew, and what becomes of a batch when none can be.

use millrace_pipeline::spec::model::{Enrich, OnDown};

/// What a batch does without a new snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fallback {
    /// It uses the last one; `alarm` when that is too old.
    Last {
        /// As old as `max_age`, or older.
        alarm: bool,
    },
    /// It waits.
    Wait,
    /// There is no last one.
    None,
    /// Waiting would not help.
    Fail,
}

/// How old a snapshot is; one of a clock that was ahead is new.
pub(super) fn age_seconds(taken_us: i64, now_us: i64) -> u64 {
    u64::try_from(now_us.saturating_sub(taken_us) / 1_000_000).unwrap_or(0)
}

/// Whether the last snapshot, of this age if there is one, will do without a look at the table. `rests`: the table could
/// not be read a moment ago, and is left alone where that holds nobody up.
pub(super) fn is_enough(enrich: &Enrich, age: Option<u64>, rests: bool) -> bool {
    let Some(age) = age else { return false };
    let is_fresh = enrich.refresh_seconds.is_some_and(|refresh| age < refresh);
    is_fresh || (rests && enrich.on_down == OnDown::Last)
}

/// What to do when no snapshot could be taken; `passes`: for a reason that may go away by itself.
pub(super) fn fall_back(enrich: &Enrich, age: Option<u64>, passes: bool) -> Fallback {
    match (enrich.on_down, age) {
        (OnDown::Last, Some(age)) => Fallback::Last {
            alarm: enrich.max_age_seconds.is_some_and(|most| age >= most),
        },
        (OnDown::Last, None) => Fallback::None,
        (OnDown::Wait, _) if passes => Fallback::Wait,
        (OnDown::Wait, _) => Fallback::Fail,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use millrace_pipeline::spec::model::Secret;

    use super::*;

    fn lookup(on_down: OnDown, refresh: Option<u64>, max_age: Option<u64>) -> Enrich {
        Enrich {
            name: "customers".to_owned(),
            dsn: Secret::new(String::new()),
            table: "customers".to_owned(),
            key: ("customer_id".to_owned(), "id".to_owned()),
            add: BTreeMap::new(),
            refresh_seconds: refresh,
            on_down,
            max_age_seconds: max_age,
        }
    }

    #[test]
    fn a_snapshot_is_taken_anew_when_it_is_as_old_as_refresh_says_and_for_each_batch_without() {
        let hourly = lookup(OnDown::Last, Some(3600), None);
        assert!(is_enough(&hourly, Some(3599), false) && !is_enough(&hourly, Some(3600), false));
        assert!(!is_enough(&hourly, None, true), "there is none");
        assert!(!is_enough(&lookup(OnDown::Last, None, None), Some(0), false));
    }

    #[test]
    fn a_table_that_could_not_be_read_is_left_alone_for_a_while_unless_a_batch_waits_for_it() {
        for (on_down, enough) in [(OnDown::Last, true), (OnDown::Wait, false)] {
            assert_eq!(
                is_enough(&lookup(on_down, Some(60), None), Some(70), true),
                enough
            );
        }
    }

    #[test]
    fn the_last_snapshot_is_used_and_alarmed_past_max_age() {
        let last = lookup(OnDown::Last, Some(60), Some(3600));
        for passes in [true, false] {
            assert_eq!(
                fall_back(&last, Some(3599), passes),
                Fallback::Last { alarm: false }
            );
            assert_eq!(
                fall_back(&last, Some(3600), passes),
                Fallback::Last { alarm: true }
            );
            assert_eq!(fall_back(&last, None, passes), Fallback::None);
        }
        let quiet = lookup(OnDown::Last, Some(60), None);
        assert_eq!(
            fall_back(&quiet, Some(u64::MAX), true),
            Fallback::Last { alarm: false }
        );
    }

    #[test]
    fn a_batch_that_waits_does_so_only_for_what_may_pass() {
        let wait = lookup(OnDown::Wait, Some(60), None);
        for age in [None, Some(70)] {
            assert_eq!(fall_back(&wait, age, true), Fallback::Wait);
            assert_eq!(fall_back(&wait, age, false), Fallback::Fail);
        }
    }

    #[test]
    fn a_clock_that_went_back_makes_nothing_old() {
        assert_eq!(age_seconds(5_000_000, 2_000_000), 0);
        assert_eq!(age_seconds(2_000_000, 5_500_000), 3);
    }
}
