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
