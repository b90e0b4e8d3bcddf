//! A leaf that hands splits out to whichever task is free.
//!
//! In one process tasks can share a queue, so that no core waits while another has work left. (Across
//! processes splits are dealt out in advance.)

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::Result;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use futures::stream;
use millrace_pipeline::source::{split_schema, splits_batch};
use millrace_proto::split::Split;
use parking_lot::Mutex;

/// Most splits that a task takes at once.
const SPLITS_AHEAD: usize = 4;

/// Splits, each handed out once.
#[derive(Debug)]
pub(super) struct SplitQueue {
    splits: Arc<Mutex<VecDeque<Split>>>,
    properties: Arc<PlanProperties>,
}

impl SplitQueue {
    /// A queue that `tasks` tasks take from.
    pub(super) fn new(splits: Vec<Split>, tasks: usize) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(split_schema()),
            Partitioning::UnknownPartitioning(tasks),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self {
            splits: Arc::new(Mutex::new(splits.into())),
            properties: Arc::new(properties),
        }
    }
}

impl DisplayAs for SplitQueue {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SplitQueue: left={}", self.splits.lock().len())
    }
}

impl ExecutionPlan for SplitQueue {
    fn name(&self) -> &'static str {
        "SplitQueue"
    }

    fn schema(&self) -> SchemaRef {
        split_schema()
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let splits = Arc::clone(&self.splits);
        let tasks = self.properties.partitioning.partition_count();
        let taken = stream::iter(std::iter::from_fn(move || {
            let mut left = splits.lock();
            // Several at once let a reader fetch ahead; towards the end one by one, so that tasks end together.
            let count = (left.len() / (2 * tasks)).clamp(1, SPLITS_AHEAD).min(left.len());
            let taken: Vec<Split> = left.drain(..count).collect();
            drop(left);
            if taken.is_empty() {
                return None;
            }
            Some(splits_batch(&taken).map_err(|error| error.into()))
        }));
        Ok(Box::pin(RecordBatchStreamAdapter::new(split_schema(), taken)))
    }
}
