//! The operator that judges: takes rows out, counts, and says so in notes.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
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
use futures::stream::unfold;

use super::judge::Run;
use super::plan::QualityPlan;
use crate::rows;

/// Judges rows by a suite. In: the table's columns and [`rows::origin_fields`]; out: [`rows::event_schema`].
#[derive(Debug)]
pub struct QualityExec {
    input: Arc<dyn ExecutionPlan>,
    plan: Arc<QualityPlan>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl QualityExec {
    /// Judges what `input` gives.
    #[must_use]
    pub fn new(input: Arc<dyn ExecutionPlan>, plan: Arc<QualityPlan>) -> Self {
        let schema = rows::event_schema(&plan.table, false);
        // Notes stand between the rows, so neither order nor partitioning is promised.
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(input.output_partitioning().partition_count()),
            input.pipeline_behavior(),
            input.boundedness(),
        );
        Self {
            input,
            plan,
            schema,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }

    /// What it judges by.
    #[must_use]
    pub fn plan(&self) -> &Arc<QualityPlan> {
        &self.plan
    }
}

impl DisplayAs for QualityExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QualityExec: expectations={}", self.plan.checks.len())
    }
}

impl ExecutionPlan for QualityExec {
    fn name(&self) -> &'static str {
        "QualityExec"
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
                "QualityExec has one input, got {}",
                children.len()
            )));
        }
        Ok(Arc::new(Self::new(
            children.swap_remove(0),
            Arc::clone(&self.plan),
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
        let input = self.input.execute(partition, context)?;
        let run = Run::new(Arc::clone(&self.plan), Arc::clone(&self.schema));
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let state = (input, Some(run), VecDeque::<RecordBatch>::new(), metrics);
        let judged = unfold(state, |(mut input, mut run, mut ready, metrics)| async move {
            loop {
                if let Some(batch) = ready.pop_front() {
                    metrics.output_rows().add(batch.num_rows());
                    return Some((Ok(batch), (input, run, ready, metrics)));
                }
                let judging = run.as_mut()?;
                let next = input.next().await;
                let timer = metrics.elapsed_compute().timer();
                let judged = match next {
                    Some(Ok(batch)) => judging.judge(&batch),
                    Some(Err(error)) => Err(error),
                    None => judging.finish().inspect(|_| run = None),
                };
                drop(timer);
                match judged {
                    Ok(batches) => ready.extend(batches),
                    // An error ends the stream: a half-judged task has nothing to say.
                    Err(error) => return Some((Err(error), (input, None, VecDeque::new(), metrics))),
                }
            }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), judged)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}
