//! The last step before rows leave the process: each batch owns exactly the bytes that it shows.
//!
//! In and out: the same rows. Views borrow the reader's buffers; written to another process as they are, every
//! bucket of the exchange would carry the whole input with it.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use datafusion::error::Result;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::ExecutionPlan;
use futures::StreamExt;
use futures::stream::BoxStream;

use crate::unary::{Unary, UnaryExec, UnaryTask};

/// Copies what views borrow.
pub type CompactExec = UnaryExec<Compact>;

/// What [`CompactExec`] does.
#[derive(Debug)]
pub struct Compact;

impl CompactExec {
    /// Compacts what `input` gives.
    #[must_use]
    pub fn new(input: Arc<dyn ExecutionPlan>) -> Self {
        Self::over(input, Arc::new(Compact))
    }
}

/// The same batch in buffers of its own.
///
/// # Errors
/// When Arrow refuses the columns; it points at a bug.
pub fn compacted(batch: &RecordBatch) -> std::result::Result<RecordBatch, ArrowError> {
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

impl Unary for Compact {
    const NAME: &'static str = "CompactExec";
    const KEEPS_ORDER: bool = true;

    fn schema(&self, input: &SchemaRef) -> SchemaRef {
        Arc::clone(input)
    }

    fn settings(&self, _: &SchemaRef) -> String {
        String::new()
    }

    fn run(
        &self,
        input: SendableRecordBatchStream,
        _: &UnaryTask<'_>,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        Ok(input.map(|batch| Ok(compacted(&batch?)?)).boxed())
    }
}
