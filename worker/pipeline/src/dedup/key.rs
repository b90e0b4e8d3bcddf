//! The operator that gives every event its key: two columns with the 128-bit hash of the key columns.
//!
//! It runs before masking, so that a key is the hash of clear values whatever the environment.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::ExecutionPlan;
use futures::StreamExt;
use futures::stream::BoxStream;

use super::DedupError;
use super::hash::hash_keys;
use crate::rows::{KEY_HIGH, KEY_LOW};
use crate::unary::{Unary, UnaryExec, UnaryTask};

/// Adds [`KEY_HIGH`] and [`KEY_LOW`] before the last column, the note; notes get null keys.
pub type KeyExec = UnaryExec<Keying>;

/// What [`KeyExec`] does.
#[derive(Debug)]
pub struct Keying {
    /// Positions of the columns that make the key.
    pub key_columns: Vec<usize>,
}

impl KeyExec {
    /// Hashes the columns at `key_columns` of `input`, whose schema is that of events without a key.
    #[must_use]
    pub fn new(input: Arc<dyn ExecutionPlan>, key_columns: Vec<usize>) -> Self {
        Self::over(input, Arc::new(Keying { key_columns }))
    }
}

fn keyed_schema(input: &Schema) -> SchemaRef {
    let mut fields: Vec<_> = input.fields().iter().cloned().collect();
    let note = fields.len().saturating_sub(1);
    for (i, name) in [KEY_HIGH, KEY_LOW].into_iter().enumerate() {
        fields.insert(note + i, Arc::new(Field::new(name, DataType::UInt64, true)));
    }
    Arc::new(Schema::new(fields))
}

/// The batch with its keys. A row of notes has no values, hence no key.
fn add_keys(
    batch: &RecordBatch,
    key_columns: &[usize],
    keyed: &SchemaRef,
) -> Result<RecordBatch, DedupError> {
    let schema = batch.schema();
    let columns: Vec<(&str, &ArrayRef)> = key_columns
        .iter()
        .map(|column| (schema.field(*column).name().as_str(), batch.column(*column)))
        .collect();
    let (high, low) = hash_keys(&columns)?;
    let mut columns = batch.columns().to_vec();
    let note = columns.len().saturating_sub(1);
    columns.insert(note, Arc::new(high));
    columns.insert(note + 1, Arc::new(low));
    Ok(RecordBatch::try_new(Arc::clone(keyed), columns)?)
}

impl Unary for Keying {
    const NAME: &'static str = "KeyExec";
    const KEEPS_ORDER: bool = true;

    fn schema(&self, input: &SchemaRef) -> SchemaRef {
        keyed_schema(input)
    }

    fn settings(&self, input: &SchemaRef) -> String {
        let names: Vec<_> = self
            .key_columns
            .iter()
            .map(|column| input.field(*column).name().as_str())
            .collect();
        format!("key=[{}]", names.join(", "))
    }

    fn run(
        &self,
        input: SendableRecordBatchStream,
        task: &UnaryTask<'_>,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let schema = Arc::clone(task.schema);
        let key_columns = self.key_columns.clone();
        let metrics = task.metrics();
        let keyed = input.map(move |batch| {
            let batch = batch?;
            let _timer = metrics.elapsed_compute().timer();
            metrics.output_rows().add(batch.num_rows());
            add_keys(&batch, &key_columns, &schema)
                .map_err(|error| DataFusionError::External(Box::new(error)))
        });
        Ok(keyed.boxed())
    }
}
