//! Formats that are files as a whole: CSV, Avro, Parquet. Splits in, decoded batches out.
//!
//! In: [`split_schema`](crate::source::split_schema). Out: [`decoded_schema`]. Unlike JSON lines these are read
//! and decoded by one operator: where a record begins only the format knows.
//!
//! | column     | CSV                                      | Avro, Parquet                              |
//! |------------|------------------------------------------|--------------------------------------------|
//! | `__raw`    | the header line, then the record's bytes | the rows of the batch, see [`stored`]      |
//! | `__line`   | line in the object, from 1               | number of the record in the object, from 1 |
//! | `__offset` | offset of its first byte, unpacked       | the same number                            |
//!
//! A single bad value makes a fault in its row. A file that is damaged as a whole (no header, a page that does not
//! unpack) is an error that names it: nothing says how many records it should have had.

pub(in crate::decode) mod arrays;
mod cast;
mod json;
pub(in crate::decode) mod origin;
pub mod stored;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::execution_plan::EmissionType;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::runtime::Handle;

use crate::source::Stores;
use crate::source::read::{Emit, SplitBytes, each_range, each_split};
use crate::spec::model::Format;
use crate::unary::{Unary, UnaryExec, UnaryTask};

use super::{DecodePlan, avro, csv, decoded_schema, parquet};

/// Reads and decodes splits of CSV, Avro or Parquet objects.
pub type ContainerExec = UnaryExec<Container>;

/// What [`ContainerExec`] does.
#[derive(Debug)]
pub struct Container {
    stores: Arc<Stores>,
    /// What is decoded.
    pub plan: Arc<DecodePlan>,
    /// The objects' format.
    pub format: Format,
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
        Self::over(input, Arc::new(Container { stores, plan, format }))
    }
}

impl Unary for Container {
    const NAME: &'static str = "ContainerExec";

    fn schema(&self, _: &SchemaRef) -> SchemaRef {
        decoded_schema(&self.plan)
    }

    fn settings(&self, _: &SchemaRef) -> String {
        format!("{:?}, {} fields", self.format, self.plan.fields.len())
    }

    fn emission(&self, _: EmissionType) -> EmissionType {
        EmissionType::Incremental
    }

    fn run(
        &self,
        splits: SendableRecordBatchStream,
        task: &UnaryTask<'_>,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let (stores, plan) = (Arc::clone(&self.stores), Arc::clone(&self.plan));
        let schema = Arc::clone(task.schema);
        let batches = match self.format {
            Format::Csv => each_split(
                splits,
                stores,
                schema,
                move |bytes: &mut SplitBytes<'_>, emit: &mut Emit<'_>| csv::decode(bytes, &plan, emit),
            ),
            Format::Avro => each_split(
                splits,
                stores,
                schema,
                move |bytes: &mut SplitBytes<'_>, emit: &mut Emit<'_>| avro::decode(bytes, &plan, emit),
            ),
            Format::Parquet => each_range(splits, schema, move |_| {
                let mut reader =
                    parquet::Reader::new(Arc::clone(&stores), Arc::clone(&plan), Handle::current());
                move |split, emit: &mut Emit<'_>| reader.decode(split, emit)
            }),
            Format::Json => {
                return Err(DataFusionError::Internal(
                    "JSON lines are read by ScanExec".to_owned(),
                ));
            }
        };
        Ok(batches.boxed())
    }
}

#[cfg(test)]
mod tests;
