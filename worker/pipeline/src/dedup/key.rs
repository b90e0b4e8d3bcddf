//! The operator that gives every event its key: two columns with the 128-bit hash of the key columns.
//!
//! It runs before masking, so that a key is the hash of clear values whatever the environment.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
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

use super::DedupError;
use super::hash::hash_keys;
use crate::rows::{KEY_HIGH, KEY_LOW};

/// Adds [`KEY_HIGH`] and [`KEY_LOW`] before the last column, the note; notes get null keys.
#[derive(Debug)]
pub struct KeyExec {
    input: Arc<dyn ExecutionPlan>,
    key_columns: Vec<usize>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl KeyExec {
    /// Hashes the columns at `key_columns` of `input`, whose schema is that of events without a key.
    #[must_use]
    pub fn new(input: Arc<dyn ExecutionPlan>, key_columns: Vec<usize>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(keyed_schema(&input.schema())),
            Partitioning::UnknownPartitioning(input.output_partitioning().partition_count()),
            input.pipeline_behavior(),
            input.boundedness(),
        );
        Self {
            input,
            key_columns,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }
}

fn keyed_schema(input: &Schema) -> SchemaRef {
    let mut fields: Vec<_> = input.fields().iter().cloned().collect();
    let note = fields.len().saturating_sub(1);
    for (i, name) in [KEY_HIGH, KEY_LOW].into_iter().enumerate() {
        fields.insert(note + i, Arc::new(Field::new(name, DataType::UInt64, true)));
    }
    Arc::new(Schema::new(fields))
}

/// The batch with its keys. A row of notes has no values, hence no key.
fn add_keys(
    batch: &RecordBatch,
    key_columns: &[usize],
    keyed: &SchemaRef,
) -> Result<RecordBatch, DedupError> {
    let schema = batch.schema();
    let columns: Vec<(&str, &ArrayRef)> = key_columns
        .iter()
        .map(|column| (schema.field(*column).name().as_str(), batch.column(*column)))
        .collect();
    let (high, low) = hash_keys(&columns)?;
    let mut columns = batch.columns().to_vec();
    let note = columns.len().saturating_sub(1);
    columns.insert(note, Arc::new(high));
    columns.insert(note + 1, Arc::new(low));
    Ok(RecordBatch::try_new(Arc::clone(keyed), columns)?)
}

impl DisplayAs for KeyExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let schema = self.input.schema();
        let names: Vec<_> = self
            .key_columns
            .iter()
            .map(|column| schema.field(*column).name().as_str())
            .collect();
        write!(f, "KeyExec: key=[{}]", names.join(", "))
    }
}

impl ExecutionPlan for KeyExec {
    fn name(&self) -> &'static str {
        "KeyExec"
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

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
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
                "KeyExec has one input, got {}",
                children.len()
            )));
        }
        Ok(Arc::new(Self::new(
            children.swap_remove(0),
            self.key_columns.clone(),
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
        let schema = self.schema();
        let key_columns = self.key_columns.clone();
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let keyed = self.input.execute(partition, context)?.map(move |batch| {
            let batch = batch?;
            let _timer = metrics.elapsed_compute().timer();
            metrics.output_rows().add(batch.num_rows());
            add_keys(&batch, &key_columns, &schema)
                .map_err(|error| DataFusionError::External(Box::new(error)))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), keyed)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}
