//! Data files of a batch as pieces of a COPY stream.
//!
//! In: a manifest. Out: for each file its columns, then its rows, encoded. Reading and encoding run ahead of the warehouse
//! by a few pieces, so that neither waits for the other; memory stays within those pieces.

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
        for file in &self.manifest.files {
            self.file(file).await?;
        }
        Ok(())
    }

    async fn file(&self, file: &DataFile) -> Result<(), HandoffError> {
        let key = &file.object.key;
        let failed = |source: ParquetError| HandoffError::File {
            batch: self.manifest.batch.clone(),
            file: key.clone(),
            source,
        };
        let object = DataObject::of(&self.lake, file);
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let builder = ParquetRecordBatchStreamBuilder::new_with_options(object, options)
            .await
            .map_err(failed)?
            .with_batch_size(BATCH_ROWS);
        let columns: Vec<String> = builder
            .schema()
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .collect();
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

/// A data file where it lies: what is needed of it is read by ranges.
struct DataObject {
    lake: Lake,
    path: Path,
    bytes: u64,
}

impl DataObject {
    fn of(lake: &Lake, file: &DataFile) -> Self {
        Self {
            lake: lake.clone(),
            path: lake.path(&file.object.key),
            bytes: file.object.bytes,
        }
    }
}

impl AsyncFileReader for DataObject {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
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
