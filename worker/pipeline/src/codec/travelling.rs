//! An operator that knows how to be made again elsewhere.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, InputDistributionRequirements,
    PlanProperties, ReplaceChildrenOptions,
};
use futures::StreamExt;
use millrace_proto::manifest::KeyFile;

use super::failure::leaving;
use super::workplace::Stops;
use super::{AttemptSpec, Extra, Prepared, StepCounters, Workplace};
use crate::dedup::KeyIndex;
use crate::dedup::claims::Keeper;
use crate::plan::{PlanError, Step, Tools};

/// An operator of the walk, its step's name and its attempt.
#[derive(Debug)]
pub struct Travelling {
    operator: Arc<dyn ExecutionPlan>,
    step: Step,
    attempt: Arc<AttemptSpec>,
    extra: Extra,
    stops: Stops,
    counters: Arc<StepCounters>,
}

impl Travelling {
    /// Its step.
    #[must_use]
    pub fn step(&self) -> Step {
        self.step
    }

    /// Its attempt.
    #[must_use]
    pub fn attempt(&self) -> &AttemptSpec {
        &self.attempt
    }

    /// What it needs beside.
    #[must_use]
    pub fn extra(&self) -> &Extra {
        &self.extra
    }
}

/// Makes the operator of a step.
pub(super) fn make(
    step: Step,
    attempt: &Arc<AttemptSpec>,
    extra: Extra,
    input: Arc<dyn ExecutionPlan>,
    prepared: &Prepared,
    workplace: &Workplace,
) -> Result<Travelling, PlanError> {
    let (committed, batch) = (Arc::clone(&prepared.keys), attempt.batch.clone());
    let keys = match &attempt.keys {
        Some(list) => KeyIndex::layer_listed(committed, batch, list.clone()),
        None => KeyIndex::layer(committed, batch, extra.keys.clone()),
    };
    let tools = Tools {
        stores: Arc::clone(&prepared.stores),
        keys: Arc::new(keys),
        sink: Arc::new(workplace.sink(prepared, attempt)),
        objects: extra.objects.clone(),
        apart: workplace.apart(prepared, attempt, &extra.keepers),
        lookups: prepared.steps.lookups(
            (Arc::clone(&prepared.lake), prepared.root.clone()),
            &attempt.snapshots,
            &workplace.snapshots(),
        ),
    };
    Ok(Travelling {
        operator: prepared.steps.step(step, input, &tools)?,
        step,
        attempt: Arc::clone(attempt),
        extra,
        stops: workplace.stops(prepared, attempt),
        counters: workplace.counters(),
    })
}

/// The plan of one attempt across processes: `splits` has one partition for each task, `keepers` keep its claims.
///
/// ```text
/// Collect <- Coalesce <- Sink <- Privacy <- Dedup <- Key <- Quality <- Map <- Decode <- Scan <- splits
/// ```
///
/// # Errors
/// When the pipeline cannot be planned so.
pub fn assemble(
    splits: Arc<dyn ExecutionPlan>,
    keepers: &[Keeper],
    attempt: AttemptSpec,
    objects: &[String],
    keys: &[KeyFile],
    prepared: &Prepared,
    workplace: &Workplace,
) -> Result<Arc<dyn ExecutionPlan>, PlanError> {
    let attempt = Arc::new(attempt);
    let add = |step: Step, input: Arc<dyn ExecutionPlan>| -> Result<Arc<dyn ExecutionPlan>, PlanError> {
        let extra = match step {
            Step::Quality => Extra {
                objects: objects.to_vec(),
                ..Extra::default()
            },
            Step::Dedup => Extra {
                keys: keys.to_vec(),
                keepers: keepers.to_vec(),
                ..Extra::default()
            },
            Step::Scan
            | Step::Decode
            | Step::Map
            | Step::Key
            | Step::Uniqueness
            | Step::Privacy
            | Step::Sink
            | Step::Collect => Extra::default(),
        };
        Ok(Arc::new(make(step, &attempt, extra, input, prepared, workplace)?))
    };
    let mut plan = splits;
    for step in prepared.steps.steps() {
        plan = add(step, plan)?;
    }
    plan = Arc::new(CoalescePartitionsExec::new(plan));
    add(Step::Collect, plan)
}

impl DisplayAs for Travelling {
    fn fmt_as(&self, t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.operator.fmt_as(t, f)
    }
}

impl ExecutionPlan for Travelling {
    fn name(&self) -> &str {
        self.operator.name()
    }

    fn schema(&self) -> SchemaRef {
        self.operator.schema()
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.operator.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.operator.children()
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        self.operator.input_distribution_requirements()
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn apply_expressions(
        &self,
        visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.operator.apply_expressions(visit)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self {
            operator: Arc::clone(&self.operator).replace_children(children, options)?,
            step: self.step,
            attempt: Arc::clone(&self.attempt),
            extra: self.extra.clone(),
            stops: self.stops.clone(),
            counters: Arc::clone(&self.counters),
        }))
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
        let (step, counters) = (self.step, Arc::clone(&self.counters));
        let operator = Arc::clone(&self.operator);
        let failed = move |error| leaving(step, &operator, error);
        let rows = self.operator.execute(partition, context).map_err(&failed)?;
        let schema = rows.schema();
        // Where input enters a task, and where it may wait: an engine's own cancelling leaves tasks running.
        let rows = if matches!(step, Step::Scan | Step::Dedup) {
            self.stops.cut(rows).boxed()
        } else {
            rows.boxed()
        };
        let passed = rows.map(move |batch| {
            if let Ok(batch) = &batch {
                // Later batches share buffers: their size would be counted again and again.
                let bytes = if step == Step::Scan {
                    batch.get_array_memory_size()
                } else {
                    0
                };
                counters.add(step, batch.num_rows(), bytes);
            }
            batch.map_err(&failed)
        });
        let (operator, counters) = (Arc::clone(&self.operator), Arc::clone(&self.counters));
        let ended = futures::stream::poll_fn(move |_| {
            let nanos = operator.metrics().and_then(|metrics| metrics.elapsed_compute());
            counters.add_cpu(step, nanos.unwrap_or(0));
            std::task::Poll::Ready(None)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            schema,
            passed.chain(ended),
        )))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        self.operator.metrics()
    }
}
