//! The operator that masks: thin, all it knows is in the [`Policy`].

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties,
    Partitioning, PlanProperties, ReplaceChildrenOptions,
};
use futures::StreamExt;

use super::{Policy, PrivacyError};
use crate::rows;

/// Masks the table's columns of every batch of events; notes pass untouched.
#[derive(Debug)]
pub struct PrivacyExec {
    input: Arc<dyn ExecutionPlan>,
    policy: Arc<Policy>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl PrivacyExec {
    /// Masks what `input` gives; its first columns are the table's.
    #[must_use]
    pub fn new(input: Arc<dyn ExecutionPlan>, policy: Arc<Policy>) -> Self {
        // Masked values keep neither the order nor the hash partitioning of the clear ones.
        let properties = PlanProperties::new(
            EquivalenceProperties::new(input.schema()),
            Partitioning::UnknownPartitioning(input.output_partitioning().partition_count()),
            input.pipeline_behavior(),
            input.boundedness(),
        );
        Self {
            input,
            policy,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
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

impl DisplayAs for PrivacyExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivacyExec: clear={}", self.policy.is_clear())
    }
}

impl ExecutionPlan for PrivacyExec {
    fn name(&self) -> &'static str {
        "PrivacyExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if children.len() != 1 {
            return Err(DataFusionError::Internal(format!(
                "PrivacyExec has one input, got {}",
                children.len()
            )));
        }
        Ok(Arc::new(Self::new(
            children.swap_remove(0),
            Arc::clone(&self.policy),
        )))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(
            children,
            ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute),
        )
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let policy = Arc::clone(&self.policy);
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let masked = self.input.execute(partition, context)?.map(move |batch| {
            let batch = batch?;
            let _timer = metrics.elapsed_compute().timer();
            let masked =
                mask_batch(&batch, &policy).map_err(|error| DataFusionError::External(Box::new(error)))?;
            metrics.output_rows().add(masked.num_rows());
            Ok(masked)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), masked)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, StringViewArray, new_null_array};
    use arrow::datatypes::{DataType, Field, Schema};
    use datafusion::datasource::memory::MemorySourceConfig;
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
