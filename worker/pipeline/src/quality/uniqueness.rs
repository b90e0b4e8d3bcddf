//! The operator that looks for repeated values after deduplication.
//!
//! In and out: events and notes, untouched; at the end a note with what was seen. It sits before masking, so
//! that it sees what is really the same. A repeated value fails the suite and takes no row out: the rows are
//! past the verdict.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::{filter_record_batch, is_null};
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

use super::pass::Stage;
use super::plan::QualityPlan;
use super::state::QualityState;
use crate::rows::{self, Note};

/// Tallies repeated values of what passes through.
#[derive(Debug)]
pub struct UniquenessExec {
    input: Arc<dyn ExecutionPlan>,
    plan: Arc<QualityPlan>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl UniquenessExec {
    /// Looks at what `input` gives.
    #[must_use]
    pub fn new(input: Arc<dyn ExecutionPlan>, plan: Arc<QualityPlan>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(input.schema()),
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

    /// What it judges by.
    #[must_use]
    pub fn plan(&self) -> &Arc<QualityPlan> {
        &self.plan
    }
}

/// Adds the events of a batch to the state; its notes are none of our business.
fn look(plan: &QualityPlan, batch: &RecordBatch, state: &mut QualityState) -> Result<()> {
    if !rows::is_note(batch) {
        return plan.pass(Stage::AfterDedup, batch, state).map(|_| ());
    }
    let notes = batch.column_by_name(rows::NOTE);
    let Some(events) = notes.map(|notes| is_null(notes.as_ref())).transpose()? else {
        return Ok(());
    };
    if events.true_count() == 0 {
        return Ok(());
    }
    plan.pass(Stage::AfterDedup, &filter_record_batch(batch, &events)?, state)
        .map(|_| ())
}

impl DisplayAs for UniquenessExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UniquenessExec")
    }
}

impl ExecutionPlan for UniquenessExec {
    fn name(&self) -> &'static str {
        "UniquenessExec"
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
                "UniquenessExec has one input, got {}",
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
        let schema = self.schema();
        let plan = Arc::clone(&self.plan);
        let state = Some(plan.empty_state());
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let start = (input, state, plan, Arc::clone(&schema), metrics);
        let seen = unfold(
            start,
            |(mut input, mut state, plan, schema, metrics)| async move {
                let seen = state.as_mut()?;
                let next = input.next().await;
                let timer = metrics.elapsed_compute().timer();
                let out = match next {
                    Some(Ok(batch)) => look(&plan, &batch, seen).map(|()| batch),
                    Some(Err(error)) => Err(error),
                    None => Note::Quality(plan.seal(seen))
                        .to_batch(&schema)
                        .map_err(|error| DataFusionError::External(Box::new(error)))
                        .inspect(|_| state = None),
                };
                drop(timer);
                if out.is_err() {
                    state = None;
                }
                Some((out, (input, state, plan, schema, metrics)))
            },
        );
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, seen)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}
