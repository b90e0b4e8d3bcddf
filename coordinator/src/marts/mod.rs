//! Models: tables that SQL makes of complete hours, each period once for what its hours hold. In the code: marts.
//!
//! In: the ledger's hours, the files that count, the pipeline's `models`. Out: one Parquet object a period, and an entry in
//! the ledger that names it: that entry is the commit. Readers see the period as it was or as it is; two writers cannot both
//! commit, and whoever dies between leaves an object that nothing names.
//!
//! | a period...                                                       | is                                          |
//! |-------------------------------------------------------------------|---------------------------------------------|
//! | has an hour in its window that is not complete, or reads a period of another model that is not current | waiting |
//! | was never computed, or over other input: its hours were reopened and are complete again, or a model that it reads was computed again | due |
//! | was computed over just this input                                 | current                                     |
//! | the same, but the query has changed since                         | outdated: a backfill computes it again      |
//! | has an hour whose data has expired                                | kept as it was computed, for ever           |
//!
//! The queries run in this process, with bounded memory and spilled to disk beyond that, one period at a time: on a cluster
//! at the leader, as compactions do. Workers know the operators of the data path and no others; a period's input is pruned to its
//! window and its result is small, so that what a plan across machines would win is less than what it would cost to keep one.
//! A cluster's jobs go on meanwhile.

mod compute;
pub mod due;
mod embedded;
mod run;
mod state;
mod sweep;

use millrace_proto::ids::BatchId;

pub use compute::MartError;
pub use embedded::{Asked, Done, Failed, run};
pub use run::{Computing, Limits, begin, begin_backfill};
pub use state::{MartRun, Marts};
pub use sweep::sweep;

/// Microseconds of the first moment of an hour.
#[must_use]
pub fn start_of(hour: i64) -> i64 {
    hour.saturating_mul(crate::hours::HOUR_US)
}

/// `2026-01-01`, or `2026-01-01T05` for a period of an hour.
#[must_use]
pub fn period_name(from_hour: i64, hours: i64) -> String {
    let time = chrono::DateTime::from_timestamp_micros(start_of(from_hour)).unwrap_or_default();
    let format = if hours == 1 { "%Y-%m-%dT%H" } else { "%Y-%m-%d" };
    time.format(format).to_string()
}

/// The batches that wrote into some hours, compactions included.
fn writers(state: &crate::ledger::State, from: i64, to: i64) -> std::collections::BTreeSet<&BatchId> {
    let records = state.event_time.hours.range(from..to);
    records.flat_map(|(_, record)| record.batches.iter()).collect()
}
