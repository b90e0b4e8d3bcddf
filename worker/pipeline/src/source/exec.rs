//! The scan: rows that are splits become rows that are chunks of whole lines, or of messages.
//!
//! In: [`split_schema`](super::split_schema). Out: [`chunk_schema`], one row a batch, in order of splits and lines.
//! It is a unary operator, not a leaf, so that splits are ordinary rows and each is read by exactly one task.
//!
//! A batch borrows the reader's buffer: nothing is copied after the read.

use std::sync::Arc;

use arrow::array::{AsArray, LargeBinaryArray, RecordBatch, UInt32Array, UInt64Array};
use arrow::buffer::{Buffer, OffsetBuffer};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use datafusion::error::Result;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::execution_plan::EmissionType;
use futures::StreamExt;
use futures::stream::BoxStream;
use millrace_proto::split::Split;

use crate::rows::{chunk_schema, no_messages};
use crate::unary::{Unary, UnaryExec, UnaryTask};

use super::kafka::{KafkaError, TopicPartition};
use super::lines::{Chunk, LineChunks, LineLimits};
use super::read::{Emit, Objects, SplitBytes, each_range};
use super::{SourceError, Stores};

/// What a scan is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanOptions {
    /// Longest record, in bytes: [`crate::spec::model::Limits::record_bytes`].
    pub record_bytes_max: u64,
    /// Size of a chunk, in bytes: what is decoded at once, and goes from operator to operator. Every one of them reads the
    /// texts where they came in, so a chunk with its columns should fit the second level cache.
    pub chunk_bytes: usize,
}

impl Default for ScanOptions {
    fn default() -> Self {
        Self {
            record_bytes_max: 10 << 20,
            chunk_bytes: 1 << 20,
        }
    }
}

/// Reads splits of line formats and of topics.
pub type ScanExec = UnaryExec<Scan>;

/// What [`ScanExec`] does.
#[derive(Debug)]
pub struct Scan {
    stores: Arc<Stores>,
    /// What it was told.
    pub options: ScanOptions,
}

impl ScanExec {
    /// A scan of the splits that `input` gives.
    #[must_use]
    pub fn new(input: Arc<dyn ExecutionPlan>, stores: Arc<Stores>, options: ScanOptions) -> Self {
        Self::over(input, Arc::new(Scan { stores, options }))
    }
}

impl Unary for Scan {
    const NAME: &'static str = "ScanExec";

    fn schema(&self, _: &SchemaRef) -> SchemaRef {
        chunk_schema()
    }

    fn settings(&self, _: &SchemaRef) -> String {
        format!("chunk_bytes={}", self.options.chunk_bytes)
    }

    fn emission(&self, _: EmissionType) -> EmissionType {
        EmissionType::Incremental
    }

    fn run(
        &self,
        input: SendableRecordBatchStream,
        task: &UnaryTask<'_>,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let limits = LineLimits {
            chunk_bytes: self.options.chunk_bytes,
            record_bytes_max: usize::try_from(self.options.record_bytes_max).unwrap_or(usize::MAX),
        };
        let bytes_read = task.counter("bytes_read");
        let offsets_missing = task.counter("offsets_missing");
        let stores = Arc::clone(&self.stores);
        // Gone as soon as nobody listens: a reader that waits for a broker sends nothing that would tell it.
        let listener = Arc::new(());
        let listening = Arc::downgrade(&listener);
        let chunks = each_range(input, chunk_schema(), move |splits| {
            let mut objects = Objects::start(&stores, splits);
            let topic = TopicSplits::of(&stores, limits.chunk_bytes);
            let (bytes_read, offsets_missing) = (bytes_read.clone(), offsets_missing.clone());
            let listening = listening.clone();
            move |split: &Split, emit: &mut Emit<'_>| {
                let mut counted = |batch: RecordBatch| {
                    bytes_read.add(batch.column(3).as_binary::<i64>().value_data().len());
                    emit(batch)
                };
                if TopicPartition::is_at(&split.object.url) {
                    let is_wanted = || listening.strong_count() > 0;
                    offsets_missing.add(topic.read(split, &is_wanted, &mut counted)?);
                    return Ok(());
                }
                objects.read(split, &mut |bytes, emit| scan(bytes, limits, emit), &mut counted)
            }
        });
        let chunks = chunks.inspect(move |_| {
            let _ = &listener;
        });
        Ok(chunks.boxed())
    }
}

/// The topic that a pipeline reads, if it reads one and this build can.
struct TopicSplits {
    #[cfg(feature = "kafka")]
    reader: Option<super::kafka::read::TopicReader>,
}

impl TopicSplits {
    #[cfg(feature = "kafka")]
    fn of(stores: &Stores, chunk_bytes: usize) -> Self {
        let reader = stores.kafka().map(|(options, clients)| {
            super::kafka::read::TopicReader::new(Arc::clone(clients), options.clone(), chunk_bytes)
        });
        Self { reader }
    }

    /// Reads a split; returns how many of its offsets have no message.
    #[cfg(feature = "kafka")]
    fn read(
        &self,
        split: &Split,
        is_wanted: &dyn Fn() -> bool,
        emit: &mut Emit<'_>,
    ) -> Result<usize, SourceError> {
        let url = || split.object.url.clone();
        let reader = self.reader.as_ref();
        let reader = reader.ok_or_else(|| KafkaError::NoBrokers { url: url() })?;
        let delivered = reader.read(split, is_wanted, emit)?;
        Ok(usize::try_from(delivered.missing).unwrap_or(usize::MAX))
    }

    #[cfg(not(feature = "kafka"))]
    fn of(_: &Stores, _: usize) -> Self {
        Self {}
    }

    #[cfg(not(feature = "kafka"))]
    fn read(&self, split: &Split, _: &dyn Fn() -> bool, _: &mut Emit<'_>) -> Result<usize, SourceError> {
        let url = split.object.url.clone();
        Err(KafkaError::Absent { url }.into())
    }
}

fn scan(input: &mut SplitBytes<'_>, limits: LineLimits, emit: &mut Emit<'_>) -> Result<(), SourceError> {
    let (split, end) = (input.split, input.end());
    let mut chunks = LineChunks::new(&mut *input.bytes, split.start, end, limits);
    loop {
        match chunks.next_chunk() {
            Ok(None) => return Ok(()),
            Ok(Some(chunk)) => {
                if !emit(chunk_batch(split.index, chunk)?) {
                    return Ok(());
                }
            }
            Err(error) => {
                let position = chunks.position();
                return Err(input.failure(error, position));
            }
        }
    }
}

/// One row that borrows the chunk's bytes.
fn chunk_batch(split: u32, chunk: Chunk) -> Result<RecordBatch, ArrowError> {
    let offsets = OffsetBuffer::from_lengths([chunk.bytes.len()]);
    let payload = LargeBinaryArray::try_new(offsets, Buffer::from_vec(chunk.bytes), None)?;
    RecordBatch::try_new(
        chunk_schema(),
        vec![
            Arc::new(UInt32Array::from(vec![split])),
            Arc::new(UInt64Array::from(vec![chunk.line])),
            Arc::new(UInt64Array::from(vec![chunk.offset])),
            Arc::new(payload),
            no_messages(1),
        ],
    )
}

#[cfg(test)]
#[path = "exec_tests.rs"]
mod tests;
