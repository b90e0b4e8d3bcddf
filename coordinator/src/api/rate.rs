//! How many calls a caller may make: a token bucket for each, refilled evenly.
//!
//! The clock comes in as a value, so that a test is not a matter of time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Buckets are forgotten when there are more callers than this and they are full again.
const CALLERS_MAX: usize = 10_000;

/// How fast, and how much at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Calls a second, in the long run.
    pub per_second: f64,
    /// Calls at once, after a rest.
    pub burst: f64,
}

/// One bucket a caller.
#[derive(Debug)]
pub(crate) struct Rates {
    rate: Rate,
    buckets: HashMap<String, Bucket>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Rates {
    pub(crate) fn new(rate: Rate) -> Self {
        Self {
            rate,
            buckets: HashMap::new(),
        }
    }

    /// Takes one call of a caller; else says how long to wait for it.
    pub(crate) fn take(&mut self, caller: &str, now: Instant) -> Result<(), Duration> {
        let rate = self.rate;
        if self.buckets.len() > CALLERS_MAX {
            self.buckets
                .retain(|_, bucket| bucket.filled(rate, now) < rate.burst);
        }
        let full = Bucket {
            tokens: rate.burst,
            at: now,
        };
        let bucket = match self.buckets.get_mut(caller) {
            Some(bucket) => bucket,
            None => self.buckets.entry(caller.to_owned()).or_insert(full),
        };
        bucket.tokens = bucket.filled(rate, now);
        bucket.at = bucket.at.max(now);
        if bucket.tokens < 1.0 {
            let seconds = (1.0 - bucket.tokens) / rate.per_second;
            return Err(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::from_secs(60)));
        }
        bucket.tokens -= 1.0;
        Ok(())
    }
}

impl Bucket {
    fn filled(&self, rate: Rate, now: Instant) -> f64 {
        let rest = now.saturating_duration_since(self.at).as_secs_f64();
        (self.tokens + rest * rate.per_second).min(rate.burst)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATE: Rate = Rate {
        per_second: 10.0,
        burst: 5.0,
    };

    #[test]
    fn after_the_burst_a_caller_waits_and_others_do_not() {
        let (mut rates, now) = (Rates::new(RATE), Instant::now());
        for _ in 0..5 {
            rates.take("a", now).unwrap();
        }
        let wait = rates.take("a", now).unwrap_err();
        assert_eq!(wait.as_millis(), 100);
        rates.take("b", now).unwrap();
        rates.take("a", now + wait).unwrap();
    }

    proptest! {
        #[test]
        fn no_pattern_of_calls_gets_more_than_the_burst_and_the_rate(gaps in prop::collection::vec(0u64..300, 1..200)) {
            let (mut rates, start) = (Rates::new(RATE), Instant::now());
            let (mut at, mut taken) = (start, 0.0);
            for gap in gaps {
                at += Duration::from_millis(gap);
                if rates.take("a", at).is_ok() {
                    taken += 1.0;
                }
            }
            prop_assert!(taken <= RATE.burst + at.duration_since(start).as_secs_f64() * RATE.per_second + 1e-6);
        }
    }
}
