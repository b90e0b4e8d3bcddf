//! The operator: maps each batch of its input.

use std::fmt;
use std::sync::Arc;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
};
use futures::StreamExt;

use super::MapPlan;

/// Maps decoded batches to the table's columns.
#[derive(Debug)]
pub struct MapExec {
    input: Arc<dyn ExecutionPlan>,
    plan: Arc<MapPlan>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl MapExec {
    /// Over decoded batches of `plan`'s decode plan.
    #[must_use]
    pub fn new(input: Arc<dyn ExecutionPlan>, plan: Arc<MapPlan>) -> Self {
        // Columns get other values and names: neither ordering nor hash partitioning holds on.
        let properties = PlanProperties::new(
            EquivalenceProperties::new(plan.schema()),
            Partitioning::UnknownPartitioning(input.output_partitioning().partition_count()),
            input.pipeline_behavior(),
            input.boundedness(),
        );
        Self {
            input,
            plan,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }

    /// What it maps by.
    #[must_use]
    pub fn plan(&self) -> &Arc<MapPlan> {
        &self.plan
    }
}

impl DisplayAs for MapExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MapExec: columns={}", self.plan.columns.len())?;
        let versions: Vec<&str> = self.plan.versions().collect();
        if versions.is_empty() {
            return Ok(());
        }
        write!(f, ", versions=[{}]", versions.join(", "))
    }
}

impl ExecutionPlan for MapExec {
    fn name(&self) -> &'static str {
        "MapExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
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
        children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let [input] = <[_; 1]>::try_from(children).map_err(|children| {
            DataFusionError::Internal(format!("MapExec has one input, not {}", children.len()))
        })?;
        Ok(Arc::new(Self::new(input, Arc::clone(&self.plan))))
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
        let plan = Arc::clone(&self.plan);
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let mapped = self.input.execute(partition, context)?.map(move |batch| {
            let batch = batch?;
            let _timer = metrics.elapsed_compute().timer();
            let mapped = plan
                .map_batch(&batch)
                .map_err(|error| DataFusionError::External(Box::new(error)))?;
            metrics.record_output(mapped.num_rows());
            Ok(mapped)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), mapped)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}
