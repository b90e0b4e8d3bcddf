//! Data files of a batch as pieces of a COPY stream.
//!
//! In: a manifest. Out: for each file its columns, then its rows, encoded. Reading and encoding run ahead of the warehouse
//! by a few pieces, so that neither waits for the other; memory stays within those pieces and a few small files.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use millrace_pipeline::spec::model::{ColumnType, PartitionLevel, Pipeline};
use millrace_proto::ids::BatchId;
use millrace_proto::manifest::{DataFile, Manifest};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStreamBuilder};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use tokio::sync::mpsc;

use super::{HandoffError, copy};
use crate::lake::Lake;

/// Rows that are decoded at once.
const BATCH_ROWS: usize = 4_096;
/// Bytes that are sent at once, about.
const PIECE_BYTES: usize = 512 << 10;
/// Pieces that wait to be sent.
const AHEAD: usize = 4;
/// Files that are fetched ahead.
const FILES_AHEAD: usize = 8;
/// A file of at most so many bytes is fetched whole: one request instead of one for each column.
const WHOLE_BYTES_MAX: u64 = 4 << 20;

/// Begins to read an object as it is copied, and names its columns in its own order.
pub(super) async fn open<T: AsyncFileReader + Send + 'static>(
    object: T,
) -> Result<(ParquetRecordBatchStreamBuilder<T>, Vec<String>), ParquetError> {
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let builder = ParquetRecordBatchStreamBuilder::new_with_options(object, options).await?;
    let fields = builder.schema().fields();
    let columns = fields.iter().map(|field| field.name().clone()).collect();
    Ok((builder.with_batch_size(BATCH_ROWS), columns))
}

/// What is sent next.
pub(super) enum Piece {
    /// A file begins.
    File {
        /// Its key.
        key: String,
        /// Its rows, as the manifest says.
        rows: u64,
        /// Its columns, in its order.
        columns: Vec<String>,
    },
    /// Rows of it.
    Rows(Bytes),
}

/// Reads all data files of a manifest, in its order.
pub(super) fn pieces(
    pipeline: &Pipeline,
    lake: &Lake,
    manifest: &Manifest,
) -> mpsc::Receiver<Result<Piece, HandoffError>> {
    let (out, pieces) = mpsc::channel(AHEAD);
    let reader = Reader {
        kinds: kinds(pipeline),
        table: millrace_pipeline::catalog::ddl::table(pipeline).to_owned(),
        lake: lake.clone(),
        manifest: manifest.clone(),
        out,
    };
    // Ends when the receiver is gone.
    tokio::spawn(async move {
        if let Err(error) = reader.run().await {
            // Nobody listens any more: then nobody needs the error either.
            let _ = reader.out.send(Err(error)).await;
        }
    });
    pieces
}

/// Types of the table's columns, the partition columns included.
fn kinds(pipeline: &Pipeline) -> Vec<(String, ColumnType)> {
    let declared = pipeline
        .columns
        .iter()
        .map(|column| (column.name.clone(), column.kind.clone()));
    let levels = pipeline.partition.by.iter().map(|level| match level {
        PartitionLevel::Date => ("date".to_owned(), ColumnType::Date),
        PartitionLevel::Hour => ("hour".to_owned(), ColumnType::Int32),
        PartitionLevel::Source => ("source".to_owned(), ColumnType::String),
    });
    declared.chain(levels).collect()
}

/// The columns of one data file, in its order.
pub(super) async fn columns(
    lake: &Lake,
    batch: &BatchId,
    file: &DataFile,
) -> Result<Vec<String>, HandoffError> {
    let object = DataObject::of(lake, file);
    let builder = ParquetRecordBatchStreamBuilder::new(object).await;
    let builder = builder.map_err(|source| HandoffError::File {
        batch: batch.clone(),
        file: file.object.key.clone(),
        source,
    })?;
    let fields = builder.schema().fields().iter();
    Ok(fields.map(|field| field.name().clone()).collect())
}

struct Reader {
    kinds: Vec<(String, ColumnType)>,
    table: String,
    lake: Lake,
    manifest: Manifest,
    out: mpsc::Sender<Result<Piece, HandoffError>>,
}

impl Reader {
    async fn run(&self) -> Result<(), HandoffError> {
        // A batch may be a hundred small files: while one is sent, the next ones are on their way.
        let fetching = self.manifest.files.clone().into_iter().map(|file: DataFile| {
            let mut object = DataObject::of(&self.lake, &file);
            let fetching = tokio::spawn(async move {
                object.fetch_if_small().await?;
                Ok::<_, ParquetError>(object)
            });
            async move { (file, fetching.await) }
        });
        let mut objects = futures::stream::iter(fetching).buffered(FILES_AHEAD);
        while let Some((file, object)) = objects.next().await {
            let object = object.unwrap_or_else(|broken| Err(ParquetError::External(Box::new(broken))));
            let object = object.map_err(|source| self.failed(&file, source))?;
            self.file(&file, object).await?;
        }
        Ok(())
    }

    fn failed(&self, file: &DataFile, source: ParquetError) -> HandoffError {
        HandoffError::File {
            batch: self.manifest.batch.clone(),
            file: file.object.key.clone(),
            source,
        }
    }

    async fn file(&self, file: &DataFile, object: DataObject) -> Result<(), HandoffError> {
        let key = &file.object.key;
        let failed = |source: ParquetError| self.failed(file, source);
        let (builder, columns) = open(object).await.map_err(failed)?;
        let kinds = self.kinds_of(key, &columns)?;
        let rows = file.object.rows;
        self.send(Piece::File {
            key: key.clone(),
            rows,
            columns,
        })
        .await;
        let mut batches = builder.build().map_err(failed)?;
        let (mut found, mut buffer) = (0u64, Vec::with_capacity(PIECE_BYTES + (PIECE_BYTES >> 2)));
        while let Some(batch) = batches.next().await {
            let batch = batch.map_err(failed)?;
            found += batch.num_rows() as u64;
            copy::encode(&batch, &kinds, &mut buffer).map_err(|source| HandoffError::Cell {
                batch: self.manifest.batch.clone(),
                table: self.table.clone(),
                file: key.clone(),
                source: Box::new(source),
            })?;
            if buffer.len() >= PIECE_BYTES {
                let room = buffer.capacity();
                let full = std::mem::replace(&mut buffer, Vec::with_capacity(room));
                if !self.send(Piece::Rows(full.into())).await {
                    return Ok(());
                }
            }
        }
        if found != rows {
            return Err(HandoffError::Rows {
                batch: self.manifest.batch.clone(),
                file: key.clone(),
                found,
                expected: rows,
            });
        }
        if !buffer.is_empty() {
            self.send(Piece::Rows(buffer.into())).await;
        }
        Ok(())
    }

    /// Whether somebody still listens.
    async fn send(&self, piece: Piece) -> bool {
        self.out.send(Ok(piece)).await.is_ok()
    }

    fn kinds_of(&self, key: &str, columns: &[String]) -> Result<Vec<ColumnType>, HandoffError> {
        let kind = |column: &String| {
            let found = self.kinds.iter().find(|(name, _)| name == column);
            found
                .map(|(_, kind)| kind.clone())
                .ok_or_else(|| HandoffError::Stray {
                    batch: self.manifest.batch.clone(),
                    file: key.to_owned(),
                    column: column.clone(),
                })
        };
        columns.iter().map(kind).collect()
    }
}

/// A data file where it lies: what is needed of it is read by ranges, a small one whole at once.
pub(super) struct DataObject {
    lake: Lake,
    path: Path,
    bytes: u64,
    whole: Option<Bytes>,
}

impl DataObject {
    pub(super) fn of(lake: &Lake, file: &DataFile) -> Self {
        Self {
            lake: lake.clone(),
            path: lake.path(&file.object.key),
            bytes: file.object.bytes,
            whole: None,
        }
    }

    pub(super) async fn fetch_if_small(&mut self) -> Result<(), ParquetError> {
        if self.bytes <= WHOLE_BYTES_MAX {
            self.whole = Some(self.get_bytes(0..self.bytes).await?);
        }
        Ok(())
    }
}

impl AsyncFileReader for DataObject {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        let within = |whole: &Bytes| {
            let (start, end) = (
                usize::try_from(range.start).ok()?,
                usize::try_from(range.end).ok()?,
            );
            (start <= end && end <= whole.len()).then(|| whole.slice(start..end))
        };
        if let Some(found) = self.whole.as_ref().and_then(within) {
            return async move { Ok(found) }.boxed();
        }
        async move {
            let bytes = self.lake.store.get_range(&self.path, range).await;
            bytes.map_err(|error| ParquetError::External(Box::new(error)))
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        async move {
            let bytes = self.bytes;
            let metadata = ParquetMetaDataReader::new().load_and_finish(self, bytes).await?;
            Ok(Arc::new(metadata))
        }
        .boxed()
    }
}
