//! The operators on both sides of an exchange: thin, what they do is in `pack` and `unpack`.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, LargeBinaryArray, RecordBatch, UInt64Array};
use arrow::buffer::{Buffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::Time;
use datafusion::physical_plan::repartition::BatchPartitioner;
use futures::stream::{BoxStream, StreamExt, iter};

use super::ExchangeError;
use super::pack::{Packer, note_block};
use super::unpack::Unpacker;
use crate::rows::is_note;
use crate::unary::{Unary, UnaryExec, UnaryTask};

/// `UInt64`: the bucket's name, which the engine hashes to tell its task.
pub const BUCKET: &str = "__bucket";
/// `LargeBinary`: rows of that bucket.
pub const BLOCK: &str = "__block";

/// Packs events into blocks by bucket.
pub type PackExec = UnaryExec<Pack>;

/// What [`PackExec`] does.
#[derive(Debug)]
pub struct Pack {
    /// The buckets' names.
    pub buckets: Vec<u64>,
}

impl PackExec {
    /// Packs `input`, which has keys, for the buckets of these names.
    #[must_use]
    pub fn new(input: Arc<dyn ExecutionPlan>, buckets: Vec<u64>) -> Self {
        Self::over(input, Arc::new(Pack { buckets }))
    }
}

/// Makes events of blocks.
pub type UnpackExec = UnaryExec<Unpack>;

/// What [`UnpackExec`] does.
#[derive(Debug)]
pub struct Unpack {
    /// The schema of the events that were packed.
    pub events: SchemaRef,
}

impl UnpackExec {
    /// Makes batches of the schema `events` of what `input` brings.
    #[must_use]
    pub fn new(input: Arc<dyn ExecutionPlan>, events: SchemaRef) -> Self {
        Self::over(input, Arc::new(Unpack { events }))
    }
}

/// Names for so many buckets, such that the engine gives each a task of its own.
///
/// # Errors
/// When the engine cannot hash.
pub fn bucket_names(buckets: usize) -> Result<Vec<u64>> {
    const TRIED_AT_ONCE: u64 = 1024;
    let buckets = buckets.max(1);
    let schema = exchange_schema();
    let bucket: Arc<dyn PhysicalExpr> = Arc::new(Column::new(BUCKET, 0));
    let mut partitioner = BatchPartitioner::new_hash_partitioner(vec![bucket], buckets, Time::default())?;
    let mut names: Vec<Option<u64>> = vec![None; buckets];
    let mut first = 0;
    while names.iter().any(Option::is_none) {
        let candidates = UInt64Array::from_iter_values(first..first + TRIED_AT_ONCE);
        first += TRIED_AT_ONCE;
        let blocks = LargeBinaryArray::from_iter_values(candidates.iter().map(|_| b""));
        let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(candidates), Arc::new(blocks)])?;
        partitioner.partition(batch, |task, hit| {
            let found = hit.column(0).as_primitive::<arrow::datatypes::UInt64Type>();
            if let Some(name) = names.get_mut(task) {
                *name = name.or_else(|| found.values().first().copied());
            }
            Ok(())
        })?;
    }
    Ok(names.into_iter().flatten().collect())
}

fn exchange_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new(BUCKET, DataType::UInt64, false),
        Field::new(BLOCK, DataType::LargeBinary, false),
    ]))
}

/// A block as the row that the engine moves.
fn row(schema: &SchemaRef, bucket: u64, block: Vec<u8>) -> Result<RecordBatch> {
    let offsets = OffsetBuffer::from_lengths([block.len()]);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt64Array::from(vec![bucket])),
        Arc::new(LargeBinaryArray::try_new(offsets, Buffer::from_vec(block), None)?),
    ];
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}

fn external(error: ExchangeError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

impl Pack {
    fn name(&self, bucket: usize) -> u64 {
        self.buckets.get(bucket).copied().unwrap_or_default()
    }
}

impl Unary for Pack {
    const NAME: &'static str = "PackExec";

    fn schema(&self, _: &SchemaRef) -> SchemaRef {
        exchange_schema()
    }

    fn settings(&self, _: &SchemaRef) -> String {
        format!("buckets={}", self.buckets.len())
    }

    fn run(
        &self,
        input: SendableRecordBatchStream,
        task: &UnaryTask<'_>,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let mut packer = Packer::new(&input.schema(), self.buckets.len()).map_err(external)?;
        let pack = Self {
            buckets: self.buckets.clone(),
        };
        let (schema, metrics) = (Arc::clone(task.schema), task.metrics());
        // None after the last batch: what waits is given then.
        let packed = input.map(Some).chain(iter([None])).flat_map(move |batch| {
            let _timer = metrics.elapsed_compute().timer();
            let rows = match batch {
                Some(Err(error)) => Err(error),
                Some(Ok(batch)) if is_note(&batch) => note_block(&batch)
                    .map_err(external)
                    .and_then(|block| Ok(vec![row(&schema, pack.name(0), block)?])),
                batch => {
                    let blocks = match &batch {
                        Some(Ok(batch)) => packer.push(batch),
                        _ => packer.rest(),
                    };
                    blocks.map_err(external).and_then(|blocks| {
                        let rows = blocks.into_iter();
                        rows.map(|block| row(&schema, pack.name(block.bucket), block.bytes))
                            .collect()
                    })
                }
            };
            iter(match rows {
                Ok(rows) => rows.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            })
        });
        Ok(packed.boxed())
    }
}

impl Unary for Unpack {
    const NAME: &'static str = "UnpackExec";

    fn schema(&self, _: &SchemaRef) -> SchemaRef {
        Arc::clone(&self.events)
    }

    fn settings(&self, _: &SchemaRef) -> String {
        String::new()
    }

    fn run(
        &self,
        input: SendableRecordBatchStream,
        task: &UnaryTask<'_>,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let unpacker = Unpacker::new(Arc::clone(task.schema));
        let metrics = task.metrics();
        let unpacked = input.flat_map(move |batch| {
            let _timer = metrics.elapsed_compute().timer();
            let batches = batch.and_then(|batch| blocks(&batch)).map(|blocks| {
                let unpack = |block| unpacker.unpack(block).map_err(external);
                blocks.into_iter().map(unpack).collect::<Vec<_>>()
            });
            iter(batches.unwrap_or_else(|error| vec![Err(error)]))
        });
        Ok(unpacked.boxed())
    }
}

/// The blocks of a batch, where they lie.
fn blocks(batch: &RecordBatch) -> Result<Vec<Buffer>> {
    let missing = || {
        external(ExchangeError::Input {
            column: BLOCK,
            expected: "LargeBinary",
        })
    };
    let blocks = batch
        .column_by_name(BLOCK)
        .and_then(|column| column.as_binary_opt::<i64>());
    let blocks = blocks.ok_or_else(missing)?;
    let ends = blocks.value_offsets().windows(2);
    ends.map(|ends| {
        let (start, end) = (usize::try_from(ends[0]), usize::try_from(ends[1]));
        let (Ok(start), Ok(end)) = (start, end) else {
            return Err(missing());
        };
        Ok(blocks.values().slice_with_length(start, end - start))
    })
    .collect()
}
