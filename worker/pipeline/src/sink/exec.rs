//! The operator around `TaskSink`: one task a partition, one row out.

use std::fmt;
use std::sync::Arc;

use arrow::array::{RecordBatch, StringArray};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{
    Boundedness, ChildrenPropertiesMode, EmissionType, ReplaceChildrenOptions,
};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PlanProperties,
};
use futures::StreamExt;
use millrace_proto::keys::TaskNames;

use super::SinkSpec;
use super::report::report_schema;
use super::task::TaskSink;

/// Writes its input to the lake; see the module.
#[derive(Debug)]
pub struct SinkExec {
    input: Arc<dyn ExecutionPlan>,
    spec: Arc<SinkSpec>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl SinkExec {
    /// Writes each partition of `input` as one task.
    #[must_use]
    pub fn new(input: Arc<dyn ExecutionPlan>, spec: Arc<SinkSpec>) -> Self {
        let partitions = input.output_partitioning().partition_count();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(report_schema()),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Self {
            input,
            spec,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }

    /// What it was made from.
    #[must_use]
    pub fn spec(&self) -> &Arc<SinkSpec> {
        &self.spec
    }
}

/// What the task calls its objects. An engine across processes says which run of which task this is
/// (`TID job/stage.attempt/task.attempt`): a run that was taken for dead may still write, so every run has
/// names of its own (invariant 3).
fn task_names(spec: &SinkSpec, partition: u32, engine_task: Option<&str>) -> TaskNames {
    let (task, run) = match (&spec.runner, engine_task) {
        (Some(runner), Some(identity)) => {
            let task = identity
                .rsplit('/')
                .next()
                .and_then(|task| task.split('.').next()?.parse().ok());
            let run = blake3::hash(format!("{runner} {identity} {partition}").as_bytes());
            let run = run.to_hex().chars().take(8).collect();
            (task.unwrap_or(partition), run)
        }
        _ => (partition, String::new()),
    };
    TaskNames {
        batch: spec.batch.clone(),
        attempt: spec.attempt,
        task: spec.first_task + task,
        run,
    }
}

impl DisplayAs for SinkExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "SinkExec: batch={}, attempt={}",
            self.spec.batch, self.spec.attempt
        )
    }
}

impl ExecutionPlan for SinkExec {
    fn name(&self) -> &'static str {
        "SinkExec"
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
        match (children.pop(), children.is_empty()) {
            (Some(input), true) => Ok(Arc::new(Self::new(input, Arc::clone(&self.spec)))),
            _ => internal_err!("SinkExec has exactly one input"),
        }
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
        let Ok(number) = u32::try_from(partition) else {
            return internal_err!("SinkExec: partition {partition} has no task number");
        };
        let names = task_names(&self.spec, number, context.task_id().as_deref());
        let mut input = self.input.execute(partition, context)?;
        let spec = Arc::clone(&self.spec);
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let report = futures::stream::once(async move {
            let mut task = TaskSink::new(spec, names, input.schema())?;
            while let Some(batch) = input.next().await {
                let batch = batch?;
                let compute = metrics.elapsed_compute().clone();
                let _timer = compute.timer();
                task.append(&batch).await?;
            }
            drop(input); // its buffers are not needed while files are written
            let report = task.finish().await?;
            metrics.record_output(1);
            let column = Arc::new(StringArray::from(vec![report.into_json()?]));
            Ok(RecordBatch::try_new(report_schema(), vec![column])?)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(report_schema(), report)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}
