//! Files written again without the rows of one person: the work of an erasure.
//!
//! In: a stored file, and whose rows leave. Out: its content without them, or that nothing of it is left. Columns, their types,
//! the order of rows and every other value stay as they are: the file's own schema decides, not the pipeline's of today.

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::{cast, filter_record_batch, max, min, not};
use arrow::datatypes::{DataType, TimeUnit, TimestampMicrosecondType};
use futures::TryStreamExt;
use millrace_proto::manifest::{DataFile, WrittenObject};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::arrow::arrow_writer::{ArrowWriter, ArrowWriterOptions};
use parquet::arrow::async_reader::ParquetRecordBatchStreamBuilder;
use parquet::basic::Compression;
use parquet::file::properties::{EnabledStatistics, WriterProperties};

use super::report::written;
use super::{SinkError, quarantine};
use crate::privacy::{Marks, Subject};
use crate::stored::StoredObject;

/// Rows that are decoded at once.
const BATCH_ROWS: usize = 8_192;

/// A file without one person's rows.
#[derive(Debug)]
pub struct Without {
    /// Rows that left.
    pub erased: u64,
    /// Rows that are left.
    pub rows: u64,
    /// The new file; none where nothing is left.
    pub content: Option<Vec<u8>>,
    /// Earliest and latest event time in it, where its time column was found.
    pub times: Option<(i64, i64)>,
}

/// How many rows of a data file are a person's. Only the personal columns are read.
///
/// # Errors
/// When it cannot be read.
pub async fn rows_of(subject: &Subject, object: StoredObject, file: &DataFile) -> Result<u64, SinkError> {
    let failed = |source| SinkError::read(file, source);
    let builder = open(object).await.map_err(failed)?;
    let columns = ProjectionMask::columns(builder.parquet_schema(), subject.columns());
    let mut batches = builder.with_projection(columns).build().map_err(failed)?;
    let mut found = 0;
    while let Some(batch) = batches.try_next().await.map_err(failed)? {
        found += theirs(subject, &batch)?.true_count() as u64;
    }
    Ok(found)
}

/// A data file without a person's rows. `time` is the column of the event time.
///
/// # Errors
/// When it cannot be read or encoded.
pub async fn without(
    subject: &Subject,
    object: StoredObject,
    file: &DataFile,
    time: &str,
) -> Result<Without, SinkError> {
    let mut left = sift(object, file, Some(time), |batch| theirs(subject, batch)).await?;
    if left.rows == 0 {
        left.content = None;
    }
    Ok(left)
}

/// How many rows of a copy of data, such as a model's result, hold a person.
///
/// # Errors
/// When it cannot be read.
pub async fn rows_with(marks: &Marks, object: StoredObject, key: &str) -> Result<u64, SinkError> {
    let file = copy(&object, key);
    let failed = |source| SinkError::read(&file, source);
    let mut batches = open(object).await.map_err(failed)?.build().map_err(failed)?;
    let mut found = 0;
    while let Some(batch) = batches.try_next().await.map_err(failed)? {
        found += marked(marks, &batch)?.true_count() as u64;
    }
    Ok(found)
}

/// The copy without these rows; it may have none left.
///
/// # Errors
/// When it cannot be read or encoded.
pub async fn copy_without(marks: &Marks, object: StoredObject, key: &str) -> Result<Without, SinkError> {
    let file = copy(&object, key);
    sift(object, &file, None, |batch| marked(marks, batch)).await
}

/// No manifest names it.
fn copy(object: &StoredObject, key: &str) -> DataFile {
    DataFile {
        object: WrittenObject {
            key: key.to_owned(),
            bytes: object.bytes,
            rows: 0,
            digest: String::new(),
        },
        partition: Vec::new(),
        time_min: 0,
        time_max: 0,
    }
}

fn marked(marks: &Marks, batch: &RecordBatch) -> Result<BooleanArray, SinkError> {
    marks.in_rows(batch).map_err(|error| SinkError::Input {
        what: error.to_string(),
    })
}

/// A Parquet file without some rows.
async fn sift(
    object: StoredObject,
    file: &DataFile,
    time: Option<&str>,
    leave: impl Fn(&RecordBatch) -> Result<BooleanArray, SinkError>,
) -> Result<Without, SinkError> {
    let failed = |source| SinkError::read(file, source);
    let builder = open(object).await.map_err(failed)?;
    let metadata = builder.metadata();
    let first = metadata
        .row_groups()
        .first()
        .and_then(|group| group.columns().first());
    let compression = first.map_or(Compression::UNCOMPRESSED, |column| column.compression());
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .build();
    let options = ArrowWriterOptions::new()
        .with_properties(properties)
        .with_parquet_schema(builder.parquet_schema().clone())
        .with_skip_arrow_metadata(true);
    let schema = builder.schema().clone();
    let mut writer = ArrowWriter::try_new_with_options(Vec::new(), schema, options)?;
    let mut batches = builder.build().map_err(failed)?;
    let mut left = Without {
        erased: 0,
        rows: 0,
        content: None,
        times: None,
    };
    while let Some(batch) = batches.try_next().await.map_err(failed)? {
        let batch = left.sift(&batch, &leave(&batch)?)?;
        if let Some(time) = time {
            left.widen(&batch, time)?;
        }
        writer.write(&batch)?;
    }
    left.content = Some(writer.into_inner()?);
    Ok(left)
}

/// A quarantine file without a person's records; `is_theirs` is given each record's payload, and whether that is sealed.
///
/// # Errors
/// When it cannot be read or encoded, or what `is_theirs` says.
pub fn rejects_without<E: From<SinkError>>(
    bytes: bytes::Bytes,
    mut is_theirs: impl FnMut(&[u8], bool) -> Result<bool, E>,
) -> Result<Without, E> {
    let wrong = |what: String| E::from(SinkError::Input { what });
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)
        .and_then(ParquetRecordBatchReaderBuilder::build)
        .map_err(|error| E::from(error.into()))?;
    let mut left = Without {
        erased: 0,
        rows: 0,
        content: None,
        times: None,
    };
    let mut kept = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|error| E::from(error.into()))?;
        let column = |name: &str| {
            let found = batch.column_by_name(name);
            found.ok_or_else(|| wrong(format!("a quarantine file without the column `{name}`")))
        };
        let (payloads, sealed) = (
            column("payload")?.as_binary::<i32>(),
            column("sealed")?.as_boolean(),
        );
        let mut theirs = Vec::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            theirs.push(is_theirs(payloads.value(row), sealed.value(row))?);
        }
        kept.push(left.sift(&batch, &BooleanArray::from(theirs))?);
    }
    if left.rows > 0 {
        left.content = Some(quarantine::encode(&kept)?);
    }
    Ok(left)
}

impl Without {
    /// What is left of a batch, counted.
    fn sift(&mut self, batch: &RecordBatch, theirs: &BooleanArray) -> Result<RecordBatch, SinkError> {
        self.erased += theirs.true_count() as u64;
        let left = filter_record_batch(batch, &not(theirs)?)?;
        self.rows += left.num_rows() as u64;
        Ok(left)
    }

    fn widen(&mut self, batch: &RecordBatch, time: &str) -> Result<(), SinkError> {
        let Some(times) = batch.column_by_name(time) else {
            return Ok(());
        };
        let micros = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let times = cast(times, &micros)?;
        let times = times.as_primitive::<TimestampMicrosecondType>();
        if let Some((first, last)) = min(times).zip(max(times)) {
            let (known_first, known_last) = self.times.unwrap_or((first, last));
            self.times = Some((first.min(known_first), last.max(known_last)));
        }
        Ok(())
    }

    /// The new file's name in a manifest; none where nothing is left.
    #[must_use]
    pub fn object(&self, key: String) -> Option<WrittenObject> {
        let content = self.content.as_ref()?;
        Some(written(key, self.rows, content))
    }
}

fn theirs(subject: &Subject, batch: &RecordBatch) -> Result<BooleanArray, SinkError> {
    subject.in_rows(batch).map_err(|error| SinkError::Input {
        what: error.to_string(),
    })
}

async fn open(
    object: StoredObject,
) -> Result<ParquetRecordBatchStreamBuilder<StoredObject>, parquet::errors::ParquetError> {
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let builder = ParquetRecordBatchStreamBuilder::new_with_options(object, options).await?;
    Ok(builder.with_batch_size(BATCH_ROWS))
}
