//! Step 7: clean events to Parquet by date, hour and source; keys to the index; rejects to quarantine.
//!
//! In: batches of [`crate::rows::event_schema`], events and notes. Out: exactly one row, the JSON of a
//! [`millrace_proto::manifest::TaskReport`], when the input is exhausted and every file is durable. What
//! an attempt leaves behind when it dies is harmless: no manifest names it, and no later attempt shares
//! its names (invariant 3).
//!
//! The walk of a batch: `fanout` gives each row its partition, `encode` copies the rows out of the
//! input's buffers into compact columns, and when the task ends (or memory or a file is full) sorts a
//! partition by event time and makes it a file, which `upload` puts.

mod collect;
mod encode;
pub mod erase;
mod error;
pub mod exec;
mod fanout;
mod intern;
mod keys;
mod quarantine;
mod report;
mod rewrite;
mod task;
mod upload;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use arrow::datatypes::SchemaRef;
use millrace_proto::ids::{Attempt, BatchId};
use object_store::ObjectStore;
use object_store::path::Path;

pub use collect::{CollectExec, read_reports};
pub use encode::EncodeError;
pub use error::SinkError;
pub use exec::SinkExec;
pub use report::{read_report, read_states, report_schema};
pub use rewrite::{fits, rewrite};
pub(crate) use upload::path_of;

use crate::spec::model::{Compression, Partition};

/// What a sink needs to know beside its input.
#[derive(Debug, Clone)]
pub struct SinkSpec {
    /// The table's columns.
    pub table: SchemaRef,
    /// How the lake is cut.
    pub partition: Partition,
    /// The lake's store.
    pub lake: Arc<dyn ObjectStore>,
    /// The lake's root in the store; empty when the store itself is rooted there.
    pub root: Path,
    /// The folder that `root` is, for a lake on this machine: its files are synced to disk before the
    /// report is given, so that no power failure takes a file that a manifest names.
    pub local_root: Option<PathBuf>,
    /// The batch.
    pub batch: BatchId,
    /// The attempt.
    pub attempt: Attempt,
    /// Number of the first task: a partition of the plan is task `first_task + partition`.
    pub first_task: u32,
    /// Size at which a data file is rolled.
    pub file_bytes: u64,
    /// Compression of data files.
    pub compression: Compression,
    /// Whether delta encodings may be used. They save bytes; readers older than 2021 do not know them,
    /// so a lake that such a warehouse loads does without.
    pub delta_encodings: bool,
    /// Newest event time committed before this batch, microseconds since 1970 UTC. Events further
    /// behind it than the partition's lateness count as late.
    pub watermark_us: Option<i64>,
    /// Day of the batch, `YYYY-MM-DD`: where its quarantine files lie.
    pub quarantine_date: String,
    /// Memory that one task may hold in buffered events.
    pub memory_bytes: usize,
    /// Who runs the task, where an engine may repeat it elsewhere: goes into the names of its objects, so
    /// that two runs of one task never share one. None where tasks run once.
    pub runner: Option<String>,
    /// Bytes that all tasks of the process hold in buffered events, for whoever wants to know.
    pub waiting: Arc<AtomicUsize>,
}

#[cfg(test)]
mod tests;
