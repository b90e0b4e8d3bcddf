//! The operator: maps each batch of its input.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::ExecutionPlan;
use futures::StreamExt;
use futures::stream::BoxStream;

use super::MapPlan;
use crate::rows;
use crate::unary::{Unary, UnaryExec, UnaryTask};

/// Maps decoded batches to the table's columns.
pub type MapExec = UnaryExec<Mapping>;

/// What [`MapExec`] does.
#[derive(Debug)]
pub struct Mapping {
    /// What it maps by.
    pub plan: Arc<MapPlan>,
}

impl MapExec {
    /// Over decoded batches of `plan`'s decode plan.
    #[must_use]
    pub fn new(input: Arc<dyn ExecutionPlan>, plan: Arc<MapPlan>) -> Self {
        Self::over(input, Arc::new(Mapping { plan }))
    }
}

impl Unary for Mapping {
    const NAME: &'static str = "MapExec";
    const KEEPS_ORDER: bool = true;

    fn schema(&self, _: &SchemaRef) -> SchemaRef {
        self.plan.schema()
    }

    fn settings(&self, _: &SchemaRef) -> String {
        let columns = format!("columns={}", self.plan.columns.len());
        let versions: Vec<&str> = self.plan.versions().collect();
        if versions.is_empty() {
            return columns;
        }
        format!("{columns}, versions=[{}]", versions.join(", "))
    }

    fn run(
        &self,
        input: SendableRecordBatchStream,
        task: &UnaryTask<'_>,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let plan = Arc::clone(&self.plan);
        let metrics = task.metrics();
        let mapped = input.map(move |batch| {
            let batch = batch?;
            let _timer = metrics.elapsed_compute().timer();
            let mapped = plan
                .map_batch(&batch)
                .map_err(|error| DataFusionError::External(Box::new(error)))?;
            let mapped = rows::keep_blanks(&batch, mapped);
            metrics.output_rows().add(mapped.num_rows());
            Ok(mapped)
        });
        Ok(mapped.boxed())
    }
}
