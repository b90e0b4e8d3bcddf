//! What is to be generated, and which role each line of it has.
//!
//! | role        | the line is                                                                   |
//! |-------------|-------------------------------------------------------------------------------|
//! | good        | an event of its own                                                           |
//! | copy        | byte for byte a good line before it, up to 10,000 lines back or hours back     |
//! | broken      | an event of its own, damaged: no consumer may take it for a good one          |
//!
//! A line that should be a copy but has no good line before it is good.

use super::broken::Damage;
use super::random::{Random, threshold};

const ROLE: u64 = 4;
const ORIGINAL: u64 = 5;
/// How far back the original of a near copy lies at most, in lines.
const NEAR_LINES: u64 = 10_000;
/// How many lines to try as a copy's original before giving up.
const TRIES: usize = 32;
const HOUR_MS: u64 = 3_600_000;

/// What is asked for. Shares are 0..=1.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Recipe {
    /// Same seed and same recipe, same bytes.
    pub seed: u64,
    /// Lines, copies and broken ones included.
    pub events: u64,
    /// First event time, milliseconds since 1970 UTC.
    pub start_ms: u64,
    /// Hours that the event times spread over.
    pub hours: f64,
    /// Share of lines that are copies of others.
    pub duplicates: f64,
    /// Share of the copies that come hours after their original.
    pub late_duplicates: f64,
    /// Share of lines that are broken.
    pub broken: f64,
    /// Share of events with a time hours behind their neighbours'.
    pub late: f64,
    /// Share of events with a time up to a minute behind their neighbours'.
    pub out_of_order: f64,
    /// Share of events that belong to ten users and ten products.
    pub hot_keys: f64,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            seed: 1,
            events: 100_000,
            start_ms: 1_767_225_600_000, // 2026-01-01T00:00:00Z
            hours: 24.0,
            duplicates: 0.15,
            late_duplicates: 0.02,
            broken: 0.002,
            late: 0.01,
            out_of_order: 0.05,
            hot_keys: 0.0,
        }
    }
}

/// A recipe made ready: shares as thresholds, sizes of the populations.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Seed.
    pub seed: u64,
    /// Lines.
    pub events: u64,
    /// First event time.
    pub start_ms: u64,
    /// Time that the events spread over.
    pub span_ms: u64,
    /// Number of users.
    pub users: u64,
    /// Number of products.
    pub products: u64,
    /// Threshold.
    pub late: u64,
    /// Threshold.
    pub out_of_order: u64,
    /// Threshold.
    pub hot_keys: u64,
    broken: u64,
    duplicates: u64,
    late_duplicates: u64,
    hour_lines: u64,
}

/// What a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// An event of its own.
    Good,
    /// A copy of the good line `of`.
    Copy {
        /// Line number of the original.
        of: u64,
        /// Whether hours lie between.
        hours_later: bool,
    },
    /// A damaged event.
    Broken(Damage),
}

impl Plan {
    /// Makes a recipe ready.
    #[must_use]
    pub fn new(recipe: &Recipe) -> Self {
        let span_ms = ((recipe.hours * HOUR_MS as f64) as u64).max(1);
        Self {
            seed: recipe.seed,
            events: recipe.events,
            start_ms: recipe.start_ms,
            span_ms,
            users: (recipe.events / 16).clamp(1_000, 4_000_000),
            products: (recipe.events / 200).clamp(500, 400_000),
            late: threshold(recipe.late),
            out_of_order: threshold(recipe.out_of_order),
            hot_keys: threshold(recipe.hot_keys),
            broken: threshold(recipe.broken),
            duplicates: threshold(recipe.duplicates),
            late_duplicates: threshold(recipe.late_duplicates),
            hour_lines: (recipe.events as f64 / recipe.hours.max(f64::MIN_POSITIVE)) as u64,
        }
    }

    /// The role of a line.
    #[inline]
    #[must_use]
    pub fn role(&self, line: u64) -> Role {
        let mut random = Random::new(self.seed, ROLE, line);
        let point = random.bits();
        if point < self.broken {
            Role::Broken(Damage::pick(random.bits()))
        } else if point - self.broken < self.duplicates {
            self.original(line)
        } else {
            Role::Good
        }
    }

    /// Whether the line is good for certain, without looking at others.
    #[inline]
    fn is_surely_good(&self, line: u64) -> bool {
        let point = Random::new(self.seed, ROLE, line).bits();
        point >= self.broken && point - self.broken >= self.duplicates
    }

    fn original(&self, line: u64) -> Role {
        let mut random = Random::new(self.seed, ORIGINAL, line);
        let hours_later = random.chance(self.late_duplicates) && line > self.hour_lines;
        for _ in 0..TRIES {
            let back = if hours_later {
                self.hour_lines + random.below((line - self.hour_lines).min(5 * self.hour_lines))
            } else {
                1 + random.below(line.min(NEAR_LINES))
            };
            match line.checked_sub(back) {
                Some(of) if self.is_surely_good(of) && of < line => return Role::Copy { of, hours_later },
                _ => {}
            }
        }
        Role::Good
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_points_back_at_a_good_line() {
        let plan = Plan::new(&Recipe {
            events: 50_000,
            duplicates: 0.6,
            late_duplicates: 0.3,
            ..Recipe::default()
        });
        let mut copies = 0;
        for line in 0..plan.events {
            if let Role::Copy { of, hours_later } = plan.role(line) {
                copies += 1;
                assert!(of < line);
                assert_eq!(plan.role(of), Role::Good);
                assert!(hours_later || line - of <= NEAR_LINES);
            }
        }
        assert!((29_000..31_000).contains(&copies), "{copies}");
    }

    #[test]
    fn extreme_recipes_have_roles_for_every_line() {
        for (events, duplicates) in [(1, 1.0), (100, 1.0), (100, 0.0)] {
            let plan = Plan::new(&Recipe {
                events,
                duplicates,
                late_duplicates: 1.0,
                ..Recipe::default()
            });
            assert!((0..events).all(|line| !matches!(plan.role(line), Role::Copy { of, .. } if of >= line)));
        }
    }
}
