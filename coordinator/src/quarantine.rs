//! Quarantined records: listed, shown, and read again once the pipeline is mended.
//!
//! A redrive is a batch like any other: its splits are the objects that the records came from, its input
//! the quarantine files that no committed redrive has consumed. What passes now is written, once; what
//! does not is quarantined again, with today's reasons. The ledger's commit consumes the old files.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, LargeBinaryArray, RecordBatch, UInt32Array, UInt64Array};
use datafusion::arrow::datatypes::{UInt32Type, UInt64Type};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::DataFusionError;
use datafusion::physical_plan::ExecutionPlan;
use futures::FutureExt;
use futures::future::BoxFuture;
use millrace_pipeline::privacy::{PrivacyError, Sealer};
use millrace_pipeline::rows::{Fault, chunk_schema, messages_by_chunk};
use millrace_pipeline::source::Stores;
use millrace_pipeline::source::kafka::TopicPartition;
use millrace_proto::ids::{Attempt, BatchId};
use millrace_proto::manifest::Manifest;
use millrace_proto::split::{InputObject, Split};
use object_store::ObjectStoreExt;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tracing::Instrument;

use crate::commit::live;
use crate::engine::EngineError;
use crate::job::{Outcome, Progress, RunError, Runner};
use crate::lake::{Lake, LakeError};
use crate::ledger::embedded::EmbeddedLedger;
use crate::ledger::{Ledger, LedgerError, State};
use crate::query::QueryError;

/// Quarantine bytes that one redrive batch reads at once.
const REDRIVE_BYTES: u64 = 128 << 20;

/// Why quarantine could not be read.
#[derive(Debug, thiserror::Error)]
pub enum QuarantineError {
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Manifests.
    #[error(transparent)]
    Manifests(#[from] QueryError),
    /// An object.
    #[error(transparent)]
    Lake(#[from] LakeError),
    /// A file that is not one of ours.
    #[error("quarantine file `{key}` is damaged")]
    Damaged {
        /// Its key.
        key: String,
        /// What the reader says.
        #[source]
        source: DataFusionError,
    },
    /// The seal.
    #[error(
        "quarantine file `{key}`: a record could not be opened; is `privacy.hash_key` the one it was sealed with?"
    )]
    Sealed {
        /// Its key.
        key: String,
        /// Why.
        #[source]
        source: PrivacyError,
    },
    /// A sealed record, and no key.
    #[error(
        "quarantine file `{key}` is sealed; set `privacy.hash_key` in the pipeline to the key it was sealed with"
    )]
    NoKey {
        /// Its key.
        key: String,
    },
    /// The run around a redrive.
    #[error(transparent)]
    Run(#[from] Box<RunError>),
}

/// A quarantined record.
#[derive(Debug, Clone)]
pub struct Record {
    /// Quarantine file that holds it.
    pub file: String,
    /// Row in the file, from 0.
    pub row: usize,
    /// Batch that quarantined it.
    pub batch: BatchId,
    /// URL of the object that it came from.
    pub object: String,
    /// Split in the batch.
    pub split: u32,
    /// Line in the split, from 1.
    pub line: u64,
    /// Offset in the object.
    pub offset: u64,
    /// Every reason.
    pub reasons: Vec<Fault>,
    /// Whether the payload is sealed.
    pub sealed: bool,
    /// The payload as it is stored.
    pub payload: Vec<u8>,
}

/// Every record that is in quarantine now, in order of batches; `stop_after` bounds how many.
///
/// # Errors
/// When the lake cannot be read.
pub async fn records(lake: &Lake, stop_after: usize) -> Result<Vec<Record>, QuarantineError> {
    records_of(lake, EmbeddedLedger::read(lake).await?.state(), stop_after).await
}

/// The same for a ledger that is kept elsewhere.
///
/// # Errors
/// When the lake cannot be read.
pub fn records_of<'a>(
    lake: &'a Lake,
    state: &'a State,
    stop_after: usize,
) -> BoxFuture<'a, Result<Vec<Record>, QuarantineError>> {
    async move {
        let redriven = state.redriven();
        let mut records = Vec::new();
        let manifests = crate::query::manifests_of(lake, state).await?;
        for (manifest, object) in live::quarantine(&manifests) {
            if redriven.contains(&object.key) {
                continue;
            }
            if records.len() >= stop_after {
                return Ok(records);
            }
            records.extend(read_file(lake, &manifest.batch, &object.key).await?);
        }
        records.truncate(stop_after);
        Ok(records)
    }
    .boxed()
}

/// The record of one row of a quarantine file, which `batch` wrote; none where there is no such row.
///
/// # Errors
/// When the lake cannot be read.
pub async fn record_at(
    lake: &Lake,
    batch: &BatchId,
    key: &str,
    row: usize,
) -> Result<Option<Record>, QuarantineError> {
    let records = read_file(lake, batch, key).await?;
    Ok(records.into_iter().nth(row))
}

pub(crate) async fn read_file(
    lake: &Lake,
    batch: &BatchId,
    key: &str,
) -> Result<Vec<Record>, QuarantineError> {
    let bytes = lake.get(key).await?;
    let damaged = |source: DataFusionError| QuarantineError::Damaged {
        key: key.to_owned(),
        source,
    };
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)
        .and_then(ParquetRecordBatchReaderBuilder::build)
        .map_err(|error| damaged(error.into()))?;
    let mut records = Vec::new();
    for rows_read in reader {
        let rows_read = rows_read.map_err(|error| damaged(error.into()))?;
        records.extend(rows(&rows_read, key, batch, records.len()).map_err(damaged)?);
    }
    Ok(records)
}

fn rows(batch: &RecordBatch, key: &str, id: &BatchId, first: usize) -> Result<Vec<Record>, DataFusionError> {
    let column = |name: &str| {
        batch
            .column_by_name(name)
            .ok_or_else(|| DataFusionError::Internal(format!("column `{name}` is missing")))
    };
    let (objects, reasons) = (
        column("object")?.as_string::<i32>(),
        column("reasons")?.as_string::<i32>(),
    );
    let splits = column("split")?.as_primitive::<UInt32Type>();
    let lines = column("line")?.as_primitive::<UInt64Type>();
    let offsets = column("offset")?.as_primitive::<UInt64Type>();
    let sealed = column("sealed")?.as_boolean();
    let payloads = column("payload")?.as_binary::<i32>();
    (0..batch.num_rows())
        .map(|row| {
            Ok(Record {
                file: key.to_owned(),
                row: first + row,
                batch: id.clone(),
                object: objects.value(row).to_owned(),
                split: splits.value(row),
                line: lines.value(row),
                offset: offsets.value(row),
                reasons: serde_json::from_str(reasons.value(row))
                    .map_err(|error| DataFusionError::External(error.into()))?,
                sealed: sealed.value(row),
                payload: payloads.value(row).to_vec(),
            })
        })
        .collect()
}

/// The record's bytes as they came.
///
/// # Errors
/// When it is sealed and `sealer` is none or of another key.
pub fn open(record: &Record, sealer: Option<&Sealer>) -> Result<Vec<u8>, QuarantineError> {
    if !record.sealed {
        return Ok(record.payload.clone());
    }
    let key = record.file.clone();
    let Some(sealer) = sealer else {
        return Err(QuarantineError::NoKey { key });
    };
    sealer
        .open(&record.payload)
        .map_err(|source| QuarantineError::Sealed { key, source })
}

/// Line numbers in the whole object for records of one object: exact where the object is still as long
/// as the record's offset and plain; else none (the line in the split is all that is known). In a topic a message's
/// offset is its line.
pub async fn absolute_lines(stores: &Stores, object: &str, offsets: &[u64]) -> HashMap<u64, u64> {
    if TopicPartition::is_at(object) {
        return offsets.iter().map(|offset| (*offset, *offset)).collect();
    }
    let mut lines = HashMap::new();
    let packed = [".gz", ".zst"].iter().any(|end| object.ends_with(end));
    let Some(&last) = offsets.iter().max() else {
        return lines;
    };
    let Ok((store, path)) = stores.open(object) else {
        return lines;
    };
    if packed || last == 0 {
        return lines;
    }
    let mut sorted: Vec<u64> = offsets.to_vec();
    sorted.sort_unstable();
    let (mut at, mut line) = (0, 1);
    for offset in sorted {
        while at < offset {
            let end = offset.min(at + (8 << 20));
            let Ok(bytes) = store.get_range(&path, at..end).await else {
                return lines;
            };
            line += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
            at = end;
        }
        lines.insert(offset, line);
    }
    lines
}

impl Runner {
    /// Reads everything that is in quarantine again with the pipeline as it is now.
    ///
    /// # Errors
    /// When quarantine cannot be read or opened, or a batch fails; what was committed stays.
    pub fn redrive<'a>(self, progress: &'a Progress) -> BoxFuture<'a, Result<Outcome, QuarantineError>> {
        async move {
            let span = self.span();
            self.redrive_all(progress).instrument(span).await
        }
        .boxed()
    }

    async fn redrive_all(mut self, progress: &Progress) -> Result<Outcome, QuarantineError> {
        self.finish_interrupted(progress).await.map_err(Box::new)?;
        self.redrive_waiting(progress).await?;
        Ok(self.finish().await.map_err(Box::new)?)
    }

    /// The same without what comes before and after: batch after batch. What this job itself put back is not read again:
    /// a leader that goes on where another one stopped judges every event once.
    pub(crate) async fn redrive_waiting(&mut self, progress: &Progress) -> Result<(), QuarantineError> {
        let redriven = self.batches.ledger.state().redriven();
        let manifests = crate::query::manifests_of(&self.batches.lake, self.batches.ledger.state()).await?;
        let mut waiting: Vec<(String, u64)> = live::quarantine(&manifests)
            .into_iter()
            .filter(|(manifest, object)| manifest.job != self.job && !redriven.contains(&object.key))
            .map(|(_, object)| (object.key.clone(), object.bytes))
            .collect();
        while !waiting.is_empty() {
            let keys = take(&mut waiting);
            let chunks = self.chunks(&keys, &manifests).await?;
            let splits = chunks.splits.clone();
            let (batch, attempt) = self.plan(&splits, keys).await.map_err(Box::new)?;
            self.redrive_chunks(&batch, attempt, chunks, progress)
                .await
                .map_err(Box::new)?;
        }
        Ok(())
    }

    /// Does an interrupted redrive again.
    pub(crate) async fn attempt_redrive(
        &mut self,
        batch: &BatchId,
        attempt: Attempt,
        keys: &[String],
        progress: &Progress,
    ) -> Result<(), RunError> {
        let failed = |error: QuarantineError| RunError::Redrive {
            batch: batch.clone(),
            source: Box::new(error),
        };
        let state = self.batches.ledger.state();
        let manifests = crate::query::manifests_of(&self.batches.lake, state).await;
        let manifests = manifests.map_err(|error| failed(error.into()))?;
        let chunks = self.chunks(keys, &manifests).await.map_err(failed)?;
        self.redrive_chunks(batch, attempt, chunks, progress).await
    }

    async fn redrive_chunks(
        &mut self,
        batch: &BatchId,
        attempt: Attempt,
        chunks: Chunks,
        progress: &Progress,
    ) -> Result<(), RunError> {
        let sink = self.sink(batch, attempt);
        let objects = chunks
            .splits
            .iter()
            .map(|split| split.object.url.clone())
            .collect();
        let failed = |source: EngineError| RunError::Engine {
            batch: batch.clone(),
            source,
        };
        let plan: Arc<dyn ExecutionPlan> =
            MemorySourceConfig::try_new_exec(&[vec![chunks.rows]], chunk_schema(), None)
                .map_err(|error| failed(error.into()))?;
        let reports = self
            .engine
            .run_chunks(
                plan,
                objects,
                &self.batches.snapshots_of(batch),
                sink,
                progress,
                &self.stop,
            )
            .instrument(tracing::error_span!("attempt", %batch, %attempt))
            .await
            .map_err(failed)?;
        self.publish(batch, attempt, &chunks.splits, reports).await
    }

    /// The records of some quarantine files as raw chunks; one split for each object they came from.
    async fn chunks(&self, keys: &[String], manifests: &[Manifest]) -> Result<Chunks, QuarantineError> {
        // Without a key only clear records can be opened; a sealed one says so then.
        let sealer = Sealer::of(&self.batches.pipeline).ok();
        let mut chunks = ChunkRows::default();
        for key in keys {
            let Some(manifest) = manifests
                .iter()
                .find(|m| m.quarantine.iter().any(|o| o.key == *key))
            else {
                return Err(LakeError::Missing { key: key.clone() }.into());
            };
            for record in read_file(&self.batches.lake, &manifest.batch, key).await? {
                let payload = open(&record, sealer.as_ref())?;
                chunks.push(&record, &payload);
            }
        }
        chunks.finish().map_err(|source| QuarantineError::Damaged {
            key: keys.join(", "),
            source,
        })
    }
}

/// Takes the next files off the front, up to [`REDRIVE_BYTES`], at least one.
fn take(waiting: &mut Vec<(String, u64)>) -> Vec<String> {
    let mut bytes = 0;
    let mut count = 0;
    while count < waiting.len() && (count == 0 || bytes + waiting[count].1 <= REDRIVE_BYTES) {
        bytes += waiting[count].1;
        count += 1;
    }
    waiting.drain(..count).map(|(key, _)| key).collect()
}

struct Chunks {
    splits: Vec<Split>,
    rows: RecordBatch,
}

#[derive(Default)]
struct ChunkRows {
    objects: HashMap<String, u32>,
    splits: Vec<Split>,
    split: Vec<u32>,
    line: Vec<u64>,
    offset: Vec<u64>,
    payload: Vec<Vec<u8>>,
}

impl ChunkRows {
    fn push(&mut self, record: &Record, payload: &[u8]) {
        let next = u32::try_from(self.splits.len()).unwrap_or(u32::MAX);
        let split = *self.objects.entry(record.object.clone()).or_insert(next);
        if split == next {
            let version = "quarantine".to_owned();
            let object = InputObject {
                url: record.object.clone(),
                size: 0,
                version,
            };
            self.splits.push(Split {
                index: next,
                object,
                start: 0,
                end: 0,
            });
        }
        self.split.push(split);
        self.line.push(record.line);
        self.offset.push(record.offset);
        self.payload.push(payload.to_vec());
    }

    /// A message of a topic is one record also where it holds line ends; every payload here is one record.
    fn messages(&self) -> Result<ArrayRef, DataFusionError> {
        let is_message = |split: &u32| TopicPartition::is_at(&self.splits[*split as usize].object.url);
        let (mut single, mut counts) = ((Vec::new(), Vec::new()), Vec::new());
        for (row, split) in self.split.iter().enumerate() {
            if is_message(split) {
                single.0.push(self.offset[row]);
                single.1.push(self.payload[row].len() as u64);
            }
            counts.push(usize::from(is_message(split)));
        }
        Ok(Arc::new(messages_by_chunk(single.0, single.1, &counts)?))
    }

    fn finish(self) -> Result<Chunks, DataFusionError> {
        let payload = LargeBinaryArray::from_iter_values(&self.payload);
        let messages = self.messages()?;
        let rows = RecordBatch::try_new(
            chunk_schema(),
            vec![
                Arc::new(UInt32Array::from(self.split)),
                Arc::new(UInt64Array::from(self.line)),
                Arc::new(UInt64Array::from(self.offset)),
                Arc::new(payload),
                messages,
            ],
        )?;
        Ok(Chunks {
            splits: self.splits,
            rows,
        })
    }
}

/// Reasons of records, counted: what a person wants to see first.
#[must_use]
pub fn by_reason(records: &[Record]) -> Vec<(String, Option<String>, u64)> {
    let mut counts: std::collections::BTreeMap<(String, Option<String>), u64> = Default::default();
    for reason in records.iter().flat_map(|record| &record.reasons) {
        let kind = serde_json::to_value(reason.kind)
            .ok()
            .and_then(|kind| kind.as_str().map(str::to_owned));
        *counts
            .entry((kind.unwrap_or_default(), reason.column.clone()))
            .or_default() += 1;
    }
    let mut sorted: Vec<_> = counts
        .into_iter()
        .map(|((kind, column), n)| (kind, column, n))
        .collect();
    sorted.sort_by_key(|(_, _, n)| std::cmp::Reverse(*n));
    sorted
}
