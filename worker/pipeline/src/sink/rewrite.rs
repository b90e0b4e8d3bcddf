//! Committed files written again, as fewer and larger ones: the work of a compaction.
//!
//! In: data files of one or more partitions, key files of one or more event hours. Out: the same rows in files of up to
//! `file_bytes` under the same folders, sorted by event time and encoded as the sink does; the same keys, sorted, in one
//! file an hour, or one for each range of hashes where there are very many.
//!
//! | a data file...                                          | then                                                    |
//! |---------------------------------------------------------|---------------------------------------------------------|
//! | has the table's columns, or fewer                       | is written again; what it lacks is null                 |
//! | has a column that the table has no longer, or otherwise | stays as it is: nothing is lost for being rearranged ([`fits`]) |

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use futures::TryStreamExt;
use millrace_proto::keys::TaskNames;
use millrace_proto::manifest::{DataFile, KeyFile, TaskReport};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::ParquetRecordBatchStreamBuilder;

use super::keys::hour_name;
use super::report::written;
use super::task::TaskSink;
use super::upload::{Uploads, path_of};
use super::{SinkError, SinkSpec};
use crate::dedup::index::{encode_keys, keys_between};
use crate::rows::event_schema;
use crate::spec::model::PartitionLevel;
use crate::stored::StoredObject;

/// Rows that are decoded at once.
const BATCH_ROWS: usize = 8_192;
/// Most keys of one file: they are sorted in memory.
const KEYS_MAX: u64 = 16 << 20;

/// Whether a data file can be written again as the table is now.
///
/// # Errors
/// When it cannot be read.
pub async fn fits(spec: &SinkSpec, file: &DataFile) -> Result<bool, SinkError> {
    let found = open(spec, file).await?;
    Ok(is_readable_as(found.schema(), spec))
}

/// Writes files again. `files` that do not fit ([`fits`]) lose what the table does not have.
///
/// # Errors
/// When something cannot be read or written.
pub async fn rewrite(
    spec: Arc<SinkSpec>,
    files: &[DataFile],
    keys: &[KeyFile],
) -> Result<TaskReport, SinkError> {
    let names = TaskNames {
        batch: spec.batch.clone(),
        attempt: spec.attempt,
        task: spec.first_task,
        run: String::new(),
    };
    let schema = event_schema(&spec.table, false);
    let mut partitions: BTreeMap<&[(String, String)], Vec<&DataFile>> = BTreeMap::new();
    for file in files {
        partitions.entry(&file.partition).or_default().push(file);
    }
    let mut sink = TaskSink::new(Arc::clone(&spec), names.clone(), Arc::clone(&schema))?;
    for files in partitions.values_mut() {
        files.sort_by_key(|file| file.time_min);
        for file in files {
            append(&spec, file, &schema, &mut sink).await?;
        }
        sink.write_all().await?;
    }
    let mut report = sink.finish().await?.task;
    report.keys = rewrite_keys(&spec, &names, keys).await?;
    Ok(report)
}

async fn append(
    spec: &SinkSpec,
    file: &DataFile,
    schema: &SchemaRef,
    sink: &mut TaskSink,
) -> Result<(), SinkError> {
    let builder = open(spec, file).await?;
    let wanted = spec.table.fields().iter().map(|field| field.name().as_str());
    let wanted = ProjectionMask::columns(builder.parquet_schema(), wanted);
    let failed = |source| SinkError::read(file, source);
    let mut batches = builder
        .with_projection(wanted)
        .with_batch_size(BATCH_ROWS)
        .build()
        .map_err(failed)?;
    while let Some(batch) = batches.try_next().await.map_err(failed)? {
        sink.append(&as_events(&batch, schema, spec.table.fields().len())?)
            .await?;
    }
    Ok(())
}

/// The table's columns, then the hidden ones.
fn as_events(batch: &RecordBatch, schema: &SchemaRef, columns: usize) -> Result<RecordBatch, SinkError> {
    let rows = batch.num_rows();
    let mut events: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
    for field in &schema.fields()[..columns] {
        events.push(match batch.column_by_name(field.name()) {
            Some(column) => cast(column, field.data_type())?,
            None => new_null_array(field.data_type(), rows),
        });
    }
    events.push(Arc::new(UInt32Array::from(vec![0; rows])));
    for field in &schema.fields()[columns + 1..] {
        events.push(new_null_array(field.data_type(), rows));
    }
    Ok(RecordBatch::try_new(Arc::clone(schema), events)?)
}

async fn open(
    spec: &SinkSpec,
    file: &DataFile,
) -> Result<ParquetRecordBatchStreamBuilder<StoredObject>, SinkError> {
    let object = StoredObject {
        store: Arc::clone(&spec.lake),
        path: path_of(&spec.root, &file.object.key)?,
        bytes: file.object.bytes,
    };
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    ParquetRecordBatchStreamBuilder::new_with_options(object, options)
        .await
        .map_err(|source| SinkError::read(file, source))
}

fn is_readable_as(file: &Schema, spec: &SinkSpec) -> bool {
    let is_level = |name: &str| {
        spec.partition.by.iter().any(|level| match level {
            PartitionLevel::Date => name == "date",
            PartitionLevel::Hour => name == "hour",
            PartitionLevel::Source => name == "source",
        })
    };
    let has_time = file.field_with_name(&spec.partition.time).is_ok();
    has_time
        && file
            .fields()
            .iter()
            .all(|field| match spec.table.field_with_name(field.name()) {
                Ok(column) => is_same(field.data_type(), column.data_type()),
                Err(_) => is_level(field.name()),
            })
}

/// Whether two types are stored alike.
fn is_same(stored: &DataType, table: &DataType) -> bool {
    match (stored, table) {
        (DataType::Utf8 | DataType::Utf8View, DataType::Utf8 | DataType::Utf8View) => true,
        (DataType::Timestamp(one, _), DataType::Timestamp(other, _)) => one == other,
        (DataType::List(one), DataType::List(other)) => is_same(one.data_type(), other.data_type()),
        (one, other) => one == other,
    }
}

async fn rewrite_keys(
    spec: &SinkSpec,
    names: &TaskNames,
    keys: &[KeyFile],
) -> Result<Vec<KeyFile>, SinkError> {
    let mut hours: BTreeMap<i64, Vec<KeyFile>> = BTreeMap::new();
    for file in keys {
        hours.entry(file.hour).or_default().push(file.clone());
    }
    let most = (spec.memory_bytes as u64 / 32).clamp(1 << 16, KEYS_MAX);
    let mut uploads = Uploads::new(spec);
    let mut written_files = Vec::new();
    for (hour, files) in hours {
        let failed = |source: crate::dedup::DedupError| SinkError::Keys {
            hour: hour_name(hour),
            source: Box::new(source),
        };
        let count: u64 = files.iter().map(|file| file.object.rows).sum();
        for range in ranges(count.div_ceil(most)) {
            let mut found = keys_between(&spec.lake, &spec.root, &files, range)
                .await
                .map_err(failed)?;
            if found.is_empty() {
                continue;
            }
            let content = encode_keys(&mut found).map_err(failed)?;
            let number = u32::try_from(written_files.len()).unwrap_or(u32::MAX);
            let key = names.keys(&hour_name(hour), number);
            let object = written(key.clone(), found.len() as u64, &content);
            written_files.push(KeyFile { object, hour });
            uploads.put(&key, content).await?;
        }
    }
    uploads.finish().await?;
    Ok(written_files)
}

/// All upper halves of hashes, in so many ranges of about the same size.
fn ranges(count: u64) -> impl Iterator<Item = RangeInclusive<u64>> {
    let count = count.max(1);
    let step = u64::MAX / count;
    (0..count).map(move |n| {
        let end = if n + 1 == count {
            u64::MAX
        } else {
            (n + 1) * step - 1
        };
        n * step..=end
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_cover_every_hash_once(count in 0u64..100, hash in any::<u64>()) {
            let holding = ranges(count).filter(|range| range.contains(&hash)).count();
            prop_assert_eq!(holding, 1);
        }
    }
}
