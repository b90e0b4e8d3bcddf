//! The operator: maps each batch of its input. Where something is looked up, the snapshots are fetched before the first
//! batch: a process that has them already goes on at once.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::ExecutionPlan;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};

use super::MapPlan;
use crate::enrich::{LookupTable, Lookups};
use crate::rows;
use crate::unary::{Unary, UnaryExec, UnaryTask};

/// Maps decoded batches to the table's columns.
pub type MapExec = UnaryExec<Mapping>;

/// What [`MapExec`] does.
#[derive(Debug)]
pub struct Mapping {
    /// What it maps by.
    pub plan: Arc<MapPlan>,
    /// What it looks up in; none for a pipeline without lookups.
    pub lookups: Option<Arc<Lookups>>,
}

impl MapExec {
    /// Over decoded batches of `plan`'s decode plan.
    #[must_use]
    pub fn new(input: Arc<dyn ExecutionPlan>, plan: Arc<MapPlan>, lookups: &Arc<Lookups>) -> Self {
        let lookups = plan.has_lookups().then(|| Arc::clone(lookups));
        Self::over(input, Arc::new(Mapping { plan, lookups }))
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
        let map = move |batch: RecordBatch, tables: &[Arc<LookupTable>]| {
            let _timer = metrics.elapsed_compute().timer();
            let mapped = plan
                .map_and_look_up(&batch, tables)
                .map_err(|error| DataFusionError::External(Box::new(error)))?;
            let mut rows = rows::keep_blanks(&batch, mapped.rows);
            if !mapped.unmatched.is_empty() {
                rows = rows::with_unmatched(rows, &mapped.unmatched);
            }
            metrics.output_rows().add(rows.num_rows());
            Ok(rows)
        };
        let Some(lookups) = self.lookups.clone() else {
            return Ok(input.map(move |batch| map(batch?, &[])).boxed());
        };
        let fetched = stream::once(async move {
            let tables = lookups.tables().await?;
            Ok::<_, DataFusionError>(input.map(move |batch| map(batch?, &tables)))
        });
        Ok(fetched.try_flatten().boxed())
    }
}
