//! Rows of one partition until they become a file.

use arrow::array::RecordBatch;

/// Rows of one partition.
#[derive(Debug, Default)]
pub(super) struct PartitionBuffer {
    pub(super) batches: Vec<RecordBatch>,
    pub(super) rows: usize,
    pub(super) bytes: usize,
}

impl PartitionBuffer {
    /// How many rows.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Memory held.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
