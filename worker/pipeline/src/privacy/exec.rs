//! The operator that masks: thin, all it knows is in the [`Policy`].

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::ExecutionPlan;
use futures::StreamExt;
use futures::stream::BoxStream;

use super::{Policy, PrivacyError};
use crate::rows;
use crate::unary::{Unary, UnaryExec, UnaryTask};

/// Masks the table's columns of every batch of events; notes pass untouched.
pub type PrivacyExec = UnaryExec<Privacy>;

/// What [`PrivacyExec`] does.
#[derive(Debug)]
pub struct Privacy {
    /// What is masked, and how.
    pub policy: Arc<Policy>,
}

impl PrivacyExec {
    /// Masks what `input` gives; its first columns are the table's.
    #[must_use]
    pub fn new(input: Arc<dyn ExecutionPlan>, policy: Arc<Policy>) -> Self {
        Self::over(input, Arc::new(Privacy { policy }))
    }
}

/// The batch as it may leave the worker.
fn mask_batch(batch: &RecordBatch, policy: &Policy) -> Result<RecordBatch, PrivacyError> {
    if rows::is_note(batch) && batch.num_rows() == 1 {
        return Ok(batch.clone());
    }
    let masked: Result<Vec<ArrayRef>, PrivacyError> = batch
        .columns()
        .iter()
        .enumerate()
        .map(|(column, values)| {
            if policy.masks(column) {
                policy.mask_values(column, values)
            } else {
                Ok(Arc::clone(values))
            }
        })
        .collect();
    Ok(RecordBatch::try_new(batch.schema(), masked?)?)
}

impl Unary for Privacy {
    const NAME: &'static str = "PrivacyExec";

    fn schema(&self, input: &SchemaRef) -> SchemaRef {
        Arc::clone(input)
    }

    fn settings(&self, _: &SchemaRef) -> String {
        format!("clear={}", self.policy.is_clear())
    }

    fn run(
        &self,
        input: SendableRecordBatchStream,
        task: &UnaryTask<'_>,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let policy = Arc::clone(&self.policy);
        let metrics = task.metrics();
        let masked = input.map(move |batch| {
            let batch = batch?;
            let _timer = metrics.elapsed_compute().timer();
            let masked =
                mask_batch(&batch, &policy).map_err(|error| DataFusionError::External(Box::new(error)))?;
            metrics.output_rows().add(masked.num_rows());
            Ok(masked)
        });
        Ok(masked.boxed())
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, StringViewArray, new_null_array};
    use arrow::datatypes::{DataType, Field, Schema};
    use datafusion::datasource::memory::MemorySourceConfig;
    use datafusion::execution::TaskContext;
    use futures::TryStreamExt;

    use super::super::tests::pipeline;
    use super::*;
    use crate::rows::Note;
    use crate::spec::model::{ColumnType, PiiClass, Privacy, Secret};

    #[tokio::test]
    async fn events_are_masked_and_notes_pass_in_the_same_schema() {
        let privacy = Privacy {
            hash_key: Some(Secret::new("k".into())),
            ..Privacy::default()
        };
        let text = ColumnType::String;
        let pipeline = pipeline(&[(text.clone(), Some(PiiClass::FreeText)), (text, None)], privacy);
        let policy = Arc::new(Policy::new(&pipeline, None).unwrap());
        let table = Schema::new(vec![
            Field::new("c0", DataType::Utf8View, true),
            Field::new("c1", DataType::Utf8View, true),
        ]);
        let schema = rows::event_schema(&table, true);
        let mut columns: Vec<ArrayRef> = schema
            .fields()
            .iter()
            .map(|field| new_null_array(field.data_type(), 2))
            .collect();
        columns[0] = Arc::new(StringViewArray::from(vec![Some("ada"), None]));
        columns[1] = Arc::new(StringViewArray::from(vec![Some("ada"), None]));
        let events = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
        let note = Note::Quality(vec![7]).to_batch(&schema).unwrap();
        let source =
            MemorySourceConfig::try_new_exec(&[vec![note.clone(), events]], Arc::clone(&schema), None)
                .unwrap();
        let plan = PrivacyExec::new(source, policy);
        let stream = plan.execute(0, Arc::new(TaskContext::default())).unwrap();
        let out: Vec<_> = stream.try_collect().await.unwrap();
        assert_eq!(out[0], note);
        assert_eq!(out[1].schema(), schema);
        let texts = |column: usize| out[1].column(column).as_string_view().iter().collect::<Vec<_>>();
        assert_eq!(texts(0), [Some("[redacted]"), None]);
        assert_eq!(texts(1), [Some("ada"), None]);
    }
}
