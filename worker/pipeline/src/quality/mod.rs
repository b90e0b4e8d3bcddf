//! Great Expectations suites as one vectorised pass: row verdicts and mergeable statistics.
//!
//! ```text
//! suite (a file) -> compile (checks, statistics, or why not) -> plan (what they share)
//!   batch -> pass: verdict (kernels) -> failing rows -> rejects;  statistics -> state
//!   states of all tasks, merged -> result (Great Expectations' validation result)
//! ```
//!
//! In: the table's columns with the five hidden ones. Out: clean rows, and notes with rejects, counts and state.
//! This is the one place that takes rows out.
//!
//! | a row that                                             | goes to    | is counted in statistics |
//! |--------------------------------------------------------|------------|--------------------------|
//! | has faults from decoding or mapping                    | quarantine | no                       |
//! | fails a critical row-level expectation                 | quarantine | yes                      |
//! | fails a row-level expectation of severity warning, info| the table  | yes                      |
//! | fails none                                             | the table  | yes                      |
//!
//! `mostly` decides about the suite's success, not about rows: a row that fails a critical expectation is
//! quarantined though the suite succeeds. Uniqueness is judged after deduplication, by [`UniquenessExec`], and
//! takes no rows out. Where Great Expectations is odd, the figures are its own; the differences that remain are:
//!
//! | here                                                             | Great Expectations on pandas          |
//! |------------------------------------------------------------------|---------------------------------------|
//! | decimal bounds are the decimals that are written                 | binary floats: 0.1 is above 1/10      |
//! | a time bound without offset is UTC                               | raises                                |
//! | dates compare with ISO text                                      | raises                                |
//! | arguments are checked whether or not there are rows              | raises when the first value is met    |
//! | look-around in a regular expression raises                       | works                                 |
//! | mean, sum and deviation of a decimal column leave nulls out        | raises when there is a null           |
//! | text bounds compare with text columns                            | refuses the suite                     |
//! | repeated values are shown if they are among a task's first 10,000| shows the first twenty rows           |
//! | LIKE works (case-sensitive, as in PostgreSQL)                    | needs an SQL engine                   |

// Arrow's types and JSON's values are not ours to list: what a check is not made for, it refuses by `_`.
#![allow(clippy::wildcard_enum_match_arm)]

mod check;
mod column_types;
mod compile;
mod condition;
mod condition_text;
mod exec;
mod judge;
mod kernels;
mod measure;
mod measured;
mod pass;
mod plan;
mod rejects;
mod result;
mod state;
mod statistics;
mod suite;
#[cfg(test)]
mod tests;
mod unexpected_rows;
mod uniqueness;
mod verdict;

pub use check::check;
pub use exec::QualityExec;
pub use plan::{QualityError, QualityPlan};
pub use result::QualitySummary;
pub use state::{QualityState, StateError, values_of};
pub use suite::{Expectation, Severity, Suite, SuiteError};
pub use uniqueness::UniquenessExec;
