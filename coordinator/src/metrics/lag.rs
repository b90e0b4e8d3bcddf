//! How long the oldest message of a partition that is not committed has waited.
//!
//! In: how far the log and the commits of each partition are, whenever somebody looks. Out: seconds, at any moment: a
//! batch that hangs shows, although nobody looks at the log meanwhile.
//!
//! Brokers tell offsets, not ages; so each look is remembered until its offset is committed. What was there before the
//! first look is as old as the looker says, and then grows older.

use std::collections::{BTreeMap, VecDeque};

/// Looks that are remembered of a partition: beyond it every other one goes.
const LOOKS_MAX: usize = 1024;

/// A moment, in seconds since 1970.
pub(super) type Moment = f64;

/// One partition.
#[derive(Debug, Default)]
pub(super) struct Lag {
    /// The log's end, and when it was seen so far; each one further than the one before.
    looks: VecDeque<(u64, Moment)>,
    done: u64,
}

impl Lag {
    /// The log ends at `high` now. What of it is new to us has waited since `since`.
    fn saw(&mut self, high: u64, since: Moment) {
        let known = self.looks.back().map_or(self.done, |(high, _)| *high);
        if high < known {
            // Another topic under the name.
            self.looks.clear();
        }
        if high <= self.done || self.looks.back().is_some_and(|(known, _)| *known == high) {
            return;
        }
        self.looks.push_back((high, since));
        if self.looks.len() > LOOKS_MAX {
            let mut number = 0;
            self.looks.retain(|_| {
                number += 1;
                number % 2 == 1
            });
        }
    }

    /// Everything below `end` is committed.
    fn done(&mut self, end: u64) {
        self.done = end;
        while self.looks.front().is_some_and(|(high, _)| *high <= end) {
            self.looks.pop_front();
        }
    }

    fn seconds(&self, now: Moment) -> f64 {
        self.looks
            .front()
            .map_or(0.0, |(_, since)| (now - since).max(0.0))
    }
}

/// All partitions that jobs follow, by pipeline.
#[derive(Debug, Default)]
pub(super) struct Lags(BTreeMap<(String, i32), Lag>);

impl Lags {
    /// A partition's log ends at `high`, and its commits at `done`. What we did not know of has waited since `since`.
    pub(super) fn saw(&mut self, pipeline: &str, partition: i32, high: u64, done: u64, since: Moment) {
        let lag = self.0.entry((pipeline.to_owned(), partition)).or_default();
        lag.done(done);
        lag.saw(high, since);
    }

    /// A partition's commits end at `done` now.
    pub(super) fn done(&mut self, pipeline: &str, partition: i32, done: u64) {
        if let Some(lag) = self.0.get_mut(&(pipeline.to_owned(), partition)) {
            lag.done(done);
        }
    }

    /// Nobody follows the pipeline's topic any more.
    pub(super) fn forget(&mut self, pipeline: &str) {
        self.0.retain(|(of, _), _| of != pipeline);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// By pipeline and partition.
    pub(super) fn seconds(&self, now: Moment) -> impl Iterator<Item = (&str, i32, f64)> {
        self.0
            .iter()
            .map(move |((pipeline, partition), lag)| (pipeline.as_str(), *partition, lag.seconds(now)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(lags: &Lags, now: Moment) -> Vec<f64> {
        lags.seconds(now).map(|(_, _, seconds)| seconds).collect()
    }

    #[test]
    fn what_waits_grows_older_until_it_is_committed() {
        let mut lags = Lags::default();
        lags.saw("shop", 0, 10, 10, 100.0);
        assert_eq!(of(&lags, 200.0), [0.0]);
        lags.saw("shop", 0, 15, 10, 201.0);
        lags.saw("shop", 0, 15, 10, 202.0);
        lags.saw("shop", 0, 20, 10, 205.0);
        assert_eq!(of(&lags, 211.0), [10.0]);
        lags.done("shop", 0, 15);
        assert_eq!(of(&lags, 211.0), [6.0]);
        lags.done("shop", 0, 20);
        assert_eq!(of(&lags, 999.0), [0.0]);
        lags.forget("shop");
        assert!(of(&lags, 999.0).is_empty());
    }

    #[test]
    fn a_topic_made_anew_begins_anew() {
        let mut lags = Lags::default();
        lags.saw("shop", 0, 1_000, 10, 100.0);
        lags.saw("shop", 0, 5, 0, 160.0);
        assert_eq!(of(&lags, 161.0), [1.0]);
    }

    proptest! {
        /// Against the plain definition: the age of the oldest message that is not committed.
        #[test]
        fn lag_is_the_age_of_the_oldest_that_is_not_committed(
            steps in prop::collection::vec((1u64..50, 0u64..120), 1..200)
        ) {
            let (mut lags, mut log, mut done, mut now) = (Lags::default(), Vec::new(), 0u64, 0.0);
            for (arrived, committed) in steps {
                now += 1.0;
                log.extend(std::iter::repeat_n(now, arrived as usize));
                done = (done + committed).min(log.len() as u64);
                lags.saw("p", 0, log.len() as u64, done, now);
                let oldest = log.get(done as usize);
                prop_assert_eq!(of(&lags, now + 5.0), [oldest.map_or(0.0, |since| now + 5.0 - since)]);
            }
        }

        #[test]
        fn memory_is_bounded_and_the_oldest_stays(looks in 1u64..5_000) {
            let mut lag = Lag::default();
            for look in 1..=looks {
                lag.saw(look, look as f64);
            }
            prop_assert!(lag.looks.len() <= LOOKS_MAX);
            prop_assert_eq!(lag.seconds(looks as f64), looks as f64 - 1.0);
        }
    }
}
