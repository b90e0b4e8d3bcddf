//! What a task says it did: files, counts by split, quality state.
//!
//! The quality object is a container of states, each a 4-byte little-endian length and that many bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::error::DataFusionError;
use millrace_proto::manifest::{SplitCounts, TaskReport, WrittenObject};

use super::SinkError;

/// Schema of the sink's output: one row, `report`.
#[must_use]
pub fn report_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("report", DataType::Utf8, false)]))
}

/// The report of a batch that a sink gave.
///
/// # Errors
/// When the batch is not one.
pub fn read_report(batch: &RecordBatch) -> Result<TaskReport, SinkError> {
    let wrong = |what: &str| SinkError::Input {
        what: what.to_owned(),
    };
    let column = batch
        .column_by_name("report")
        .and_then(|column| column.as_any().downcast_ref::<StringArray>())
        .filter(|column| column.len() == 1)
        .ok_or_else(|| wrong("a task's report is one row with the text column `report`"))?;
    serde_json::from_str(column.value(0)).map_err(|error| SinkError::Input {
        what: format!("a task's report is not readable: {error}"),
    })
}

/// Names an object that is about to be put.
pub(super) fn written(key: String, rows: u64, bytes: &[u8]) -> WrittenObject {
    WrittenObject {
        key,
        bytes: bytes.len() as u64,
        rows,
        digest: blake3::hash(bytes).to_hex().to_string(),
    }
}

/// The states of a quality object; what is cut off is left out.
#[must_use]
pub fn read_states(mut container: &[u8]) -> Vec<Vec<u8>> {
    let mut states = Vec::new();
    while let Some((length, rest)) = container.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        let Some((state, rest)) = rest.split_at_checked(length) else {
            break;
        };
        states.push(state.to_vec());
        container = rest;
    }
    states
}

/// Adds a state to a quality object.
pub(super) fn push_state(container: &mut Vec<u8>, state: &[u8]) -> Result<(), SinkError> {
    let length = u32::try_from(state.len()).map_err(|_| SinkError::Input {
        what: format!("a quality state of {} bytes; at most 4 GiB", state.len()),
    })?;
    container.extend_from_slice(&length.to_le_bytes());
    container.extend_from_slice(state);
    Ok(())
}

/// Counts and files as they come up.
#[derive(Debug, Default)]
pub(super) struct Report {
    counts: BTreeMap<u32, SplitCounts>,
    pub(super) task: TaskReport,
}

impl Report {
    /// The counts of one split.
    pub(super) fn split(&mut self, split: u32) -> &mut SplitCounts {
        self.counts.entry(split).or_insert_with(|| SplitCounts {
            split,
            ..SplitCounts::default()
        })
    }

    /// Adds another step's counts.
    pub(super) fn add(&mut self, counts: &[SplitCounts]) {
        for count in counts {
            self.split(count.split).add(count);
        }
    }

    /// The whole as JSON.
    pub(super) fn into_json(mut self) -> Result<String, DataFusionError> {
        self.task.splits = self.counts.into_values().collect();
        serde_json::to_string(&self.task).map_err(|error| DataFusionError::External(Box::new(error)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_come_back_as_they_were_pushed() {
        let mut container = Vec::new();
        for state in [&b"one"[..], b"", b"three"] {
            push_state(&mut container, state).unwrap();
        }
        assert_eq!(
            read_states(&container),
            vec![b"one".to_vec(), vec![], b"three".to_vec()]
        );
        container.pop();
        assert_eq!(read_states(&container).len(), 2, "a cut state is left out");
    }

    #[test]
    fn counts_of_one_split_add_up() {
        let mut report = Report::default();
        report.split(4).written += 3;
        report.add(&[SplitCounts {
            split: 4,
            read: 5,
            duplicates: 2,
            ..SplitCounts::default()
        }]);
        let counts = *report.split(4);
        assert_eq!((counts.read, counts.written, counts.duplicates), (5, 3, 2));
    }
}
