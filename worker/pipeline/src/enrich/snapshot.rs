//! A snapshot as an object: Parquet, sorted by key, named by the hash of its bytes.
//!
//! In: a table's columns as text, which is what every database gives of every type. Out: typed columns, and bytes that
//! are the same whenever the content is: a table that did not change gives the object that is there already.
//!
//! | the table...                        | then                                                       |
//! |-------------------------------------|------------------------------------------------------------|
//! | has rows whose key is null          | they are left out: no event finds them                     |
//! | has a key in several rows           | it is refused: which of them an event gets would be chance |
//! | has a value that is not of our type | it is refused, and the column is named                     |

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::compute::{
    CastOptions, cast_with_options, concat_batches, filter_record_batch, is_not_null, partition,
    sort_to_indices, take_record_batch,
};
use arrow::error::ArrowError;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};

use super::{EnrichError, Shape, ShapeColumn, short};
use crate::map::type_name;
use crate::privacy::Sealer;
use crate::spec::model::ColumnType;

/// What is wrong with a table that a snapshot was to be taken of. No text of it holds a value.
#[derive(Debug, thiserror::Error)]
pub enum TableFault {
    /// Values that are not of our type.
    #[error(
        "{values} values of `{theirs}` are no {kind}, which the schema declares for `{ours}`; declare another type, or mend them"
    )]
    Convert {
        /// Their column.
        theirs: String,
        /// Ours.
        ours: String,
        /// The declared type.
        kind: String,
        /// How many.
        values: usize,
    },
    /// Keys that stand in several rows.
    #[error(
        "{keys} values of `{theirs}` stand in several rows, {rows} in all; a lookup's key must be unique"
    )]
    Duplicates {
        /// Their key column.
        theirs: String,
        /// How many keys.
        keys: usize,
        /// In how many rows.
        rows: usize,
    },
    /// Arrow refused.
    #[error("the rows do not make a snapshot")]
    Arrow(#[from] ArrowError),
    /// Parquet refused.
    #[error("the snapshot cannot be written")]
    Parquet(#[from] ParquetError),
}

/// A snapshot's object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// Names the content.
    pub version: String,
    /// Rows.
    pub rows: u64,
    /// The object's bytes.
    pub bytes: Vec<u8>,
}

/// Typed, sorted rows of a table whose columns came as text, in the order of the shape's.
///
/// # Errors
/// When a value is not of its column's type, or a key stands in several rows.
pub fn convert(shape: &Shape, texts: Vec<StringArray>) -> Result<RecordBatch, TableFault> {
    let typed = shape.columns.iter().zip(texts);
    let columns = typed
        .map(|(column, texts)| typed_column(column, texts))
        .collect::<Result<Vec<_>, _>>()?;
    let all = RecordBatch::try_new(shape.schema(), columns)?;
    let keyed = filter_record_batch(&all, &is_not_null(all.column(0))?)?;
    let sorted = take_record_batch(&keyed, &sort_to_indices(keyed.column(0), None, None)?)?;
    refuse_duplicates(shape, sorted.column(0))?;
    Ok(sorted)
}

fn typed_column(column: &ShapeColumn, texts: StringArray) -> Result<ArrayRef, TableFault> {
    let (nulls, texts) = (texts.null_count(), Arc::new(texts) as ArrayRef);
    // What does not convert becomes null, and is counted: the other way the error would quote a value.
    let typed = cast_with_options(&texts, &column.kind.arrow(), &CastOptions::default())?;
    let wrong = if column.kind == ColumnType::Json {
        no_json(&texts)
    } else {
        typed.null_count() - nulls
    };
    if wrong > 0 {
        return Err(TableFault::Convert {
            theirs: column.theirs.clone(),
            ours: column.ours.clone(),
            kind: type_name(&column.kind),
            values: wrong,
        });
    }
    Ok(typed)
}

fn no_json(texts: &ArrayRef) -> usize {
    let texts = texts.as_string::<i32>().iter().flatten();
    texts
        .filter(|text| serde_json::from_str::<serde::de::IgnoredAny>(text).is_err())
        .count()
}

fn refuse_duplicates(shape: &Shape, sorted: &ArrayRef) -> Result<(), TableFault> {
    let ranges = partition(&[Arc::clone(sorted)])?.ranges();
    let several = ranges.iter().filter(|range| range.len() > 1);
    let (keys, rows) = several.fold((0, 0), |(keys, rows), range| (keys + 1, rows + range.len()));
    if keys == 0 {
        return Ok(());
    }
    let theirs = shape.columns.first().map(|key| key.theirs.clone());
    Err(TableFault::Duplicates {
        theirs: theirs.unwrap_or_default(),
        keys,
        rows,
    })
}

/// The object of converted rows; sealed by `sealer` where there is one.
///
/// # Errors
/// When Parquet refuses.
pub fn encode(rows: &RecordBatch, sealer: Option<&Sealer>) -> Result<Encoded, TableFault> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_statistics_enabled(EnabledStatistics::None)
        .set_offset_index_disabled(true)
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties))?;
    writer.write(rows)?;
    let clear = writer.into_inner()?;
    Ok(Encoded {
        version: version(&clear, sealer),
        rows: rows.num_rows() as u64,
        bytes: match sealer {
            Some(sealer) => sealer.seal(&clear),
            None => clear,
        },
    })
}

fn version(clear: &[u8], sealer: Option<&Sealer>) -> String {
    short(match sealer {
        Some(sealer) => sealer.name(clear),
        None => blake3::hash(clear),
    })
}

/// The rows of an object, which must be the version that it is named by.
///
/// # Errors
/// When it cannot be opened, was changed, or is none of ours.
pub fn decode(
    key: &str,
    bytes: Bytes,
    expected: &str,
    sealer: Option<&Sealer>,
) -> Result<RecordBatch, EnrichError> {
    let clear = opened(key, bytes, sealer)?;
    let found = version(&clear, sealer);
    if found != expected {
        return Err(EnrichError::Changed {
            key: key.to_owned(),
            found,
        });
    }
    parsed(key, clear)
}

/// The rows of an object, whatever version it is: for whoever looks for somebody in it.
///
/// # Errors
/// When it cannot be opened, or is none of ours.
pub fn open_rows(key: &str, bytes: Bytes, sealer: Option<&Sealer>) -> Result<RecordBatch, EnrichError> {
    parsed(key, opened(key, bytes, sealer)?)
}

fn opened(key: &str, bytes: Bytes, sealer: Option<&Sealer>) -> Result<Bytes, EnrichError> {
    let Some(sealer) = sealer else {
        return Ok(bytes);
    };
    let opened = sealer.open(&bytes).map_err(|source| EnrichError::Sealed {
        key: key.to_owned(),
        source,
    })?;
    Ok(Bytes::from(opened))
}

fn parsed(key: &str, clear: Bytes) -> Result<RecordBatch, EnrichError> {
    let damaged = |source: ParquetError| EnrichError::Damaged {
        key: key.to_owned(),
        source,
    };
    let reader = ParquetRecordBatchReaderBuilder::try_new(clear).map_err(damaged)?;
    let schema = Arc::clone(reader.schema());
    let batches = reader.build().map_err(damaged)?.collect::<Result<Vec<_>, _>>()?;
    Ok(concat_batches(&schema, &batches)?)
}
