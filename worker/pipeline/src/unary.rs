//! The operator around one step of the walk.
//!
//! In: the step, and a plan whose batches it takes. Out: an `ExecutionPlan` with one child that runs the step over
//! each partition. A step says what it is called, what its batches look like and what it does with a stream;
//! everything else that the engine asks of an operator has one answer for all of them, and stands here.
//!
//! | the engine asks...            | the answer                                                              |
//! |-------------------------------|-------------------------------------------------------------------------|
//! | how the output is partitioned | in as many parts as the input, by nothing: values and rows change       |
//! | how it is ordered             | not at all, see [`Unary::KEEPS_ORDER`]                                  |
//! | whether to join the input     | only where a step takes it whole, see [`Unary::WHOLE_INPUT`]            |
//! | whether to repartition input  | no: splits are shared out where the plan begins, rows stay with a task  |

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{
    BaselineMetrics, Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, Distribution, ExecutionPlan,
    ExecutionPlanProperties, InputDistributionRequirements, Partitioning, PlanProperties,
    ReplaceChildrenOptions,
};
use futures::stream::BoxStream;

/// What a step does to the batches of its input.
pub trait Unary: fmt::Debug + Send + Sync + 'static {
    /// The operator's name, in plans and on the wire.
    const NAME: &'static str;
    /// Whether rows come out in the order in which they came in.
    const KEEPS_ORDER: bool = false;

    /// Whether it takes its whole input as one partition.
    const WHOLE_INPUT: bool = false;

    /// The schema of its batches over an input of this schema.
    fn schema(&self, input: &SchemaRef) -> SchemaRef;

    /// Its settings, for people; empty when it has none worth showing.
    fn settings(&self, input: &SchemaRef) -> String;

    /// When batches come, over an input whose batches come so.
    fn emission(&self, input: EmissionType) -> EmissionType {
        input
    }

    /// Whether the output ends, over an input that is so.
    fn boundedness(&self, input: Boundedness) -> Boundedness {
        input
    }

    /// Runs over one partition.
    ///
    /// # Errors
    /// When the input does not fit.
    fn run(
        &self,
        input: SendableRecordBatchStream,
        task: &UnaryTask<'_>,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>>;
}

/// Where a step runs.
#[derive(Debug)]
pub struct UnaryTask<'a> {
    /// The partition.
    pub partition: usize,
    /// The schema of the batches that are to come out.
    pub schema: &'a SchemaRef,
    /// What the engine says about the task.
    pub context: &'a TaskContext,
    metrics: &'a ExecutionPlanMetricsSet,
}

impl UnaryTask<'_> {
    /// Rows out and time spent.
    #[must_use]
    pub fn metrics(&self) -> BaselineMetrics {
        BaselineMetrics::new(self.metrics, self.partition)
    }

    /// Names this execution of the task, among all that the process which is called `runner` makes: a task that is run again
    /// is another one.
    #[must_use]
    pub(crate) fn execution(&self, runner: &str) -> blake3::Hash {
        let identity = self.context.task_id().unwrap_or_default();
        blake3::hash(format!("{runner} {identity} {}", self.partition).as_bytes())
    }

    /// A figure of the step's own.
    #[must_use]
    pub fn counter(&self, name: &'static str) -> Count {
        MetricBuilder::new(self.metrics).counter(name, self.partition)
    }
}

/// A step over its input. Steps add constructors of their own: `KeyExec::new`.
#[derive(Debug)]
pub struct UnaryExec<U> {
    input: Arc<dyn ExecutionPlan>,
    step: Arc<U>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl<U: Unary> UnaryExec<U> {
    /// Runs `step` over what `input` gives.
    #[must_use]
    pub fn over(input: Arc<dyn ExecutionPlan>, step: Arc<U>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(step.schema(&input.schema())),
            Partitioning::UnknownPartitioning(input.output_partitioning().partition_count()),
            step.emission(input.pipeline_behavior()),
            step.boundedness(input.boundedness()),
        );
        Self {
            input,
            step,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }

    /// The step, for the wire.
    #[must_use]
    pub fn step(&self) -> &Arc<U> {
        &self.step
    }
}

impl<U: Unary> DisplayAs for UnaryExec<U> {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = self.step.settings(&self.input.schema());
        if settings.is_empty() {
            return f.write_str(U::NAME);
        }
        write!(f, "{}: {settings}", U::NAME)
    }
}

impl<U: Unary> ExecutionPlan for UnaryExec<U> {
    fn name(&self) -> &'static str {
        U::NAME
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![U::KEEPS_ORDER]
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        InputDistributionRequirements::new(vec![if U::WHOLE_INPUT {
            Distribution::SinglePartition
        } else {
            Distribution::UnspecifiedDistribution
        }])
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
        match <[_; 1]>::try_from(children) {
            Ok([input]) => Ok(Arc::new(Self::over(input, Arc::clone(&self.step)))),
            Err(children) => internal_err!("{} has one input, got {}", U::NAME, children.len()),
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
        let input = self.input.execute(partition, Arc::clone(&context))?;
        let schema = self.schema();
        let task = UnaryTask {
            partition,
            schema: &schema,
            context: &context,
            metrics: &self.metrics,
        };
        let batches = self.step.run(input, &task)?;
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, batches)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}
