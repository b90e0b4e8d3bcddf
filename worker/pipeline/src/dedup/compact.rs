//! Rows that are held on: each batch owns exactly the bytes that it shows.
//!
//! In and out: the same rows. Views borrow the reader's buffers; held as they are, a few rows would keep the whole input.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::error::ArrowError;

/// The same batch in buffers of its own.
///
/// # Errors
/// When Arrow refuses the columns; it points at a bug.
pub(crate) fn compacted(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let own = |column: &ArrayRef| {
        if let Some(texts) = column.as_string_view_opt() {
            Arc::new(texts.gc()) as ArrayRef
        } else if let Some(bytes) = column.as_binary_view_opt() {
            Arc::new(bytes.gc()) as ArrayRef
        } else {
            Arc::clone(column)
        }
    };
    RecordBatch::try_new(batch.schema(), batch.columns().iter().map(own).collect())
}
