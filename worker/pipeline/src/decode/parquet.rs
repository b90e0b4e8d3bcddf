//! Parquet: the row groups whose first byte lies in the split, the wanted columns only.
//!
//! In: splits. Out: batches of [`decoded_schema`](super::decoded_schema). Of each row group the column chunks of the
//! wanted paths are read whole, then decoded. The footer of a file that several splits in a row cut is read once.

use std::collections::BTreeMap;
use std::error::Error;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures::FutureExt;
use futures::future::BoxFuture;
use millrace_proto::split::{InputObject, Split};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::arrow::async_reader::MetadataFetch;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaDataReader, RowGroupMetaData};
use parquet::file::reader::{ChunkReader, Length};
use parquet::schema::types::SchemaDescriptor;
use tokio::runtime::Handle;

use crate::source::read::{Emit, fetch_ranges};
use crate::source::{SourceError, Stores};

use super::DecodePlan;
use super::container::arrays;

/// Rows of a batch.
const ROWS: usize = 8192;
/// What is read of a file's end to find its footer.
const FOOTER_BYTES: usize = 64 << 10;

/// Reads splits on a thread that may block.
pub(super) struct Reader {
    stores: Arc<Stores>,
    plan: Arc<DecodePlan>,
    runtime: Handle,
    /// The last file's footer.
    footer: Option<(InputObject, ArrowReaderMetadata)>,
}

impl Reader {
    pub(super) fn new(stores: Arc<Stores>, plan: Arc<DecodePlan>, runtime: Handle) -> Self {
        Self {
            stores,
            plan,
            runtime,
            footer: None,
        }
    }

    pub(super) fn decode(&mut self, split: &Split, emit: &mut Emit<'_>) -> Result<(), SourceError> {
        let footer = self.footer(&split.object)?;
        let mut number = 1;
        for (group, meta) in footer.metadata().row_groups().iter().enumerate() {
            if (split.start..split.end).contains(&first_byte(meta))
                && !self.group(split, &footer, group, number, emit)?
            {
                return Ok(());
            }
            number += u64::try_from(meta.num_rows()).unwrap_or(0);
        }
        Ok(())
    }

    fn footer(&mut self, object: &InputObject) -> Result<ArrowReaderMetadata, SourceError> {
        if let Some((of, footer)) = &self.footer
            && of == object
        {
            return Ok(footer.clone());
        }
        let fetch = Fetch {
            stores: &self.stores,
            runtime: &self.runtime,
            object,
        };
        let reader = ParquetMetaDataReader::new().with_prefetch_hint(Some(FOOTER_BYTES));
        // Nothing in it waits: the fetch blocks, and this thread may.
        let metadata = futures::executor::block_on(reader.load_and_finish(fetch, object.size));
        let footer = metadata
            .and_then(|metadata| ArrowReaderMetadata::try_new(Arc::new(metadata), ArrowReaderOptions::new()))
            .map_err(|error| damaged(object, error))?;
        self.footer = Some((object.clone(), footer.clone()));
        Ok(footer)
    }

    /// Decodes one row group; false when nobody wants more.
    fn group(
        &self,
        split: &Split,
        footer: &ArrowReaderMetadata,
        group: usize,
        mut number: u64,
        emit: &mut Emit<'_>,
    ) -> Result<bool, SourceError> {
        let object = &split.object;
        let metadata = footer.metadata();
        let mask = wanted(metadata.file_metadata().schema_descr(), &self.plan);
        let chunks = metadata
            .row_group(group)
            .columns()
            .iter()
            .enumerate()
            .filter(|(leaf, _)| mask.leaf_included(*leaf));
        let ranges: Vec<Range<u64>> = chunks
            .map(|(_, chunk)| {
                let (start, length) = chunk.byte_range();
                start..start + length
            })
            .collect();
        let bytes = fetch_ranges(&self.stores, &self.runtime, object, &ranges)?;
        let chunks = Chunks {
            chunks: ranges.iter().map(|range| range.start).zip(bytes).collect(),
            size: object.size,
        };
        let batches = ParquetRecordBatchReaderBuilder::new_with_metadata(chunks, footer.clone())
            .with_row_groups(vec![group])
            .with_projection(mask)
            .with_batch_size(ROWS)
            .build()
            .map_err(|error| damaged(object, error))?;
        for batch in batches {
            let batch = batch.map_err(|error| damaged(object, error))?;
            let decoded = arrays::decode(&batch, &self.plan, split.index, number)?;
            number += batch.num_rows() as u64;
            if !emit(decoded) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn damaged(object: &InputObject, error: impl Error + Send + Sync + 'static) -> SourceError {
    let error: Box<dyn Error + Send + Sync> = Box::new(error);
    let error = match error.downcast::<ParquetError>().map(|error| *error) {
        Ok(ParquetError::External(inner)) => match inner.downcast::<SourceError>() {
            Ok(source) => return *source,
            Err(inner) => inner,
        },
        Ok(error) => Box::new(error),
        Err(error) => error,
    };
    SourceError::Format {
        url: object.url.clone(),
        format: "Parquet",
        source: error,
    }
}

fn first_byte(group: &RowGroupMetaData) -> u64 {
    group
        .columns()
        .iter()
        .map(|chunk| chunk.byte_range().0)
        .min()
        .unwrap_or(0)
}

/// The leaves below the wanted paths.
fn wanted(schema: &SchemaDescriptor, plan: &DecodePlan) -> ProjectionMask {
    let is_wanted = |leaf: usize| {
        let parts = schema.column(leaf).path().parts().to_vec();
        // A path may go on by key into a map, or end above the leaf: one must begin with the other, or leave it in a map.
        plan.fields.iter().any(|wanted| {
            let same = wanted
                .path
                .iter()
                .zip(&parts)
                .take_while(|(wanted, part)| wanted == part)
                .count();
            same == wanted.path.len() || same == parts.len() || is_map(schema, &parts[..same])
        })
    };
    ProjectionMask::leaves(schema, (0..schema.num_columns()).filter(|leaf| is_wanted(*leaf)))
}

fn is_map(schema: &SchemaDescriptor, path: &[String]) -> bool {
    use parquet::basic::{ConvertedType, LogicalType};
    let mut at = schema.root_schema();
    for name in path {
        let Some(below) = at
            .is_group()
            .then(|| at.get_fields().iter().find(|field| field.name() == name))
            .flatten()
        else {
            return false;
        };
        at = below;
    }
    let info = at.get_basic_info();
    info.converted_type() == ConvertedType::MAP || matches!(info.logical_type_ref(), Some(LogicalType::Map))
}

/// Reads the footer's ranges.
struct Fetch<'a> {
    stores: &'a Stores,
    runtime: &'a Handle,
    object: &'a InputObject,
}

impl MetadataFetch for Fetch<'_> {
    fn fetch(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        let found = fetch_ranges(self.stores, self.runtime, self.object, &[range])
            .map(|ranges| ranges.into_iter().next().unwrap_or_default())
            .map_err(|error| ParquetError::External(Box::new(error)));
        std::future::ready(found).boxed()
    }
}

/// The column chunks that were read, by position.
struct Chunks {
    chunks: BTreeMap<u64, Bytes>,
    size: u64,
}

impl Chunks {
    fn at(&self, position: u64) -> Result<Bytes, ParquetError> {
        let chunk = self.chunks.range(..=position).next_back();
        chunk
            .and_then(|(start, bytes)| {
                let skipped = usize::try_from(position - start).ok()?;
                (skipped <= bytes.len()).then(|| bytes.slice(skipped..))
            })
            .ok_or_else(|| ParquetError::EOF(format!("byte {position} lies in no wanted column")))
    }
}

impl Length for Chunks {
    fn len(&self) -> u64 {
        self.size
    }
}

impl ChunkReader for Chunks {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(self.at(start)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let bytes = self.at(start)?;
        if length > bytes.len() {
            return Err(ParquetError::EOF(format!(
                "{length} bytes at {start} reach beyond their column"
            )));
        }
        Ok(bytes.slice(..length))
    }
}
