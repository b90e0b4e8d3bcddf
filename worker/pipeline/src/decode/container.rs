//! Formats that are files as a whole: CSV, Avro, Parquet. Splits in, decoded batches out.
//!
//! In: [`split_schema`](crate::source::split_schema). Out: [`decoded_schema`]. Unlike JSON lines these are read
//! and decoded by one operator: where a record begins only the format knows.
//!
//! | column     | CSV                                    | Avro, Parquet                                              |
//! |------------|----------------------------------------|------------------------------------------------------------|
//! | `__raw`    | the record's bytes                     | for rows with faults, the fields read as a JSON object; else empty |
//! | `__line`   | line in the object, from 1             | number of the record in the object, from 1                 |
//! | `__offset` | offset of its first byte, unpacked     | the same number                                            |
//!
//! A single bad value makes a fault in its row. A file that is damaged as a whole (no header, a page that does not
//! unpack) is an error that names it: nothing says how many records it should have had.

pub(in crate::decode) mod arrays;
mod cast;
mod json;
pub(in crate::decode) mod origin;

use std::fmt;
use std::sync::Arc;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{
    ChildrenPropertiesMode, EmissionType, ReplaceChildrenOptions,
};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
};
use tokio::runtime::Handle;

use crate::source::Stores;
use crate::source::read::{Emit, SplitBytes, each_range, each_split};
use crate::spec::model::Format;

use super::{DecodePlan, avro, csv, decoded_schema, parquet};

/// Reads and decodes splits of CSV, Avro or Parquet objects.
#[derive(Debug, Clone)]
pub struct ContainerExec {
    input: Arc<dyn ExecutionPlan>,
    stores: Arc<Stores>,
    plan: Arc<DecodePlan>,
    format: Format,
    properties: Arc<PlanProperties>,
}

impl ContainerExec {
    /// Decodes the splits that `input` gives. JSON lines have operators of their own.
    #[must_use]
    pub fn new(
        input: Arc<dyn ExecutionPlan>,
        stores: Arc<Stores>,
        plan: Arc<DecodePlan>,
        format: Format,
    ) -> Self {
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(decoded_schema(&plan)),
            Partitioning::UnknownPartitioning(input.output_partitioning().partition_count()),
            EmissionType::Incremental,
            input.boundedness(),
        ));
        Self {
            input,
            stores,
            plan,
            format,
            properties,
        }
    }

    /// What is decoded, for the wire.
    #[must_use]
    pub fn plan(&self) -> &Arc<DecodePlan> {
        &self.plan
    }

    /// The objects' format, for the wire.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }
}

impl DisplayAs for ContainerExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ContainerExec: {:?}, {} fields",
            self.format,
            self.plan.fields.len()
        )
    }
}

impl ExecutionPlan for ContainerExec {
    fn name(&self) -> &'static str {
        "ContainerExec"
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
        let input = children.pop().unwrap_or_else(|| Arc::clone(&self.input));
        Ok(Arc::new(Self::new(
            input,
            Arc::clone(&self.stores),
            Arc::clone(&self.plan),
            self.format,
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
        let splits = self.input.execute(partition, context)?;
        let (stores, plan) = (Arc::clone(&self.stores), Arc::clone(&self.plan));
        let schema = decoded_schema(&plan);
        match self.format {
            Format::Csv => Ok(each_split(
                splits,
                stores,
                schema,
                move |bytes: &mut SplitBytes<'_>, emit: &mut Emit<'_>| csv::decode(bytes, &plan, emit),
            )),
            Format::Avro => Ok(each_split(
                splits,
                stores,
                schema,
                move |bytes: &mut SplitBytes<'_>, emit: &mut Emit<'_>| avro::decode(bytes, &plan, emit),
            )),
            Format::Parquet => Ok(each_range(splits, schema, move |_| {
                let mut reader =
                    parquet::Reader::new(Arc::clone(&stores), Arc::clone(&plan), Handle::current());
                move |split, emit: &mut Emit<'_>| reader.decode(split, emit)
            })),
            Format::Json => Err(DataFusionError::Internal(
                "JSON lines are read by ScanExec".to_owned(),
            )),
        }
    }
}

#[cfg(test)]
mod tests;
