//! Key files: the sorted 128-bit hashes of one event hour's committed keys, as Parquet.
//!
//! Two unsigned 64-bit columns, `high` and `low`, sorted by both. Row groups carry the smallest and the
//! largest `high`, so that a reader that looks for few keys skips the groups that cannot hold them.
//! Hashes do not compress, but sorted ones lie close together: `high` is stored as differences.

use std::ops::RangeInclusive;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, UInt64Type};
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use millrace_proto::manifest::KeyFile;
use object_store::ObjectStore;
use object_store::path::Path;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::async_reader::ParquetRecordBatchStreamBuilder;
use parquet::basic::{Compression, Encoding};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::statistics::Statistics;
use parquet::schema::types::ColumnPath;

use super::DedupError;
use crate::stored::StoredObject;

const ROW_GROUP_KEYS: usize = 1 << 17;
const READ_BATCH_KEYS: usize = 1 << 14;

/// Joins the halves of a key's hash.
#[inline]
pub(super) fn join(high: u64, low: u64) -> u128 {
    u128::from(high) << 64 | u128::from(low)
}

/// The two halves of a key's hash.
#[inline]
pub(super) fn halves(key: u128) -> (u64, u64) {
    ((key >> 64) as u64, key as u64)
}

/// The bytes of a key file; sorts the keys on the way.
///
/// # Errors
/// When Parquet refuses to write.
pub fn encode_keys(keys: &mut [u128]) -> Result<Vec<u8>, DedupError> {
    keys.sort_unstable();
    let schema = Arc::new(Schema::new(vec![
        Field::new("high", DataType::UInt64, false),
        Field::new("low", DataType::UInt64, false),
    ]));
    let bytes = Vec::with_capacity(keys.len() * 15 + 4096);
    let mut writer = ArrowWriter::try_new(bytes, Arc::clone(&schema), Some(writer_properties()))?;
    for group in keys.chunks(ROW_GROUP_KEYS) {
        let high = UInt64Array::from_iter_values(group.iter().map(|key| halves(*key).0));
        let low = UInt64Array::from_iter_values(group.iter().map(|key| halves(*key).1));
        let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(high), Arc::new(low)])?;
        writer.write(&batch)?;
    }
    Ok(writer.into_inner()?)
}

fn writer_properties() -> WriterProperties {
    let high = ColumnPath::from("high");
    WriterProperties::builder()
        .set_compression(Compression::UNCOMPRESSED)
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_column_statistics_enabled(high.clone(), EnabledStatistics::Chunk)
        .set_column_encoding(high, Encoding::DELTA_BINARY_PACKED)
        .set_offset_index_disabled(true)
        .set_max_row_group_row_count(Some(ROW_GROUP_KEYS))
        .build()
}

/// The keys of a key file, in order.
///
/// # Errors
/// When the bytes are no key file.
pub fn read_keys(bytes: impl Into<Bytes>) -> Result<Vec<u128>, DedupError> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes.into())?
        .with_batch_size(READ_BATCH_KEYS)
        .build()?;
    let mut keys = Vec::new();
    for batch in reader {
        append_keys(&batch?, &mut keys)?;
    }
    Ok(keys)
}

fn append_keys(batch: &RecordBatch, keys: &mut Vec<u128>) -> ParquetResult<()> {
    let column = |name: &str| {
        batch
            .column_by_name(name)
            .and_then(|column| column.as_primitive_opt::<UInt64Type>())
            .filter(|column| column.null_count() == 0)
            .ok_or_else(|| ParquetError::General(format!("no column `{name}` of uint64 without nulls")))
    };
    let (high, low) = (column("high")?, column("low")?);
    keys.extend(
        high.values()
            .iter()
            .zip(low.values())
            .map(|(high, low)| join(*high, *low)),
    );
    Ok(())
}

/// The keys of a committed file, in order and in pieces. With `wanted`, sorted, row groups that can hold
/// none of them are not read.
pub(super) async fn stream_keys(
    store: Arc<dyn ObjectStore>,
    root: &Path,
    file: &KeyFile,
    wanted: Option<&[u128]>,
) -> Result<impl Stream<Item = Result<Vec<u128>, DedupError>> + use<>, DedupError> {
    let is_wanted = |group: &RowGroupMetaData| wanted.is_none_or(|wanted| may_hold(group, wanted));
    stream_groups(store, root, file, &is_wanted).await
}

/// The keys of committed files whose upper half lies in a range, sorted. Row groups outside of it are not read.
///
/// # Errors
/// When a file cannot be read, or holds another number of keys than its manifest says.
pub async fn keys_between(
    store: &Arc<dyn ObjectStore>,
    root: &Path,
    files: &[KeyFile],
    high: RangeInclusive<u64>,
) -> Result<Vec<u128>, DedupError> {
    let overlaps = |group: &RowGroupMetaData| {
        bounds(group).is_none_or(|(least, greatest)| least <= *high.end() && greatest >= *high.start())
    };
    let mut keys = Vec::new();
    for file in files {
        let pieces = stream_groups(Arc::clone(store), root, file, &overlaps).await?;
        let mut pieces = std::pin::pin!(pieces);
        while let Some(piece) = pieces.try_next().await? {
            keys.extend(piece.into_iter().filter(|key| high.contains(&halves(*key).0)));
        }
    }
    keys.sort_unstable();
    Ok(keys)
}

async fn stream_groups(
    store: Arc<dyn ObjectStore>,
    root: &Path,
    file: &KeyFile,
    is_wanted: &(dyn Fn(&RowGroupMetaData) -> bool + Sync),
) -> Result<impl Stream<Item = Result<Vec<u128>, DedupError>> + use<>, DedupError> {
    let object = StoredObject {
        store,
        path: path_of(root, file)?,
        bytes: file.object.bytes,
    };
    let failed = |source| DedupError::read(file, source);
    let builder = ParquetRecordBatchStreamBuilder::new(object)
        .await
        .map_err(failed)?;
    let metadata = Arc::clone(builder.metadata());
    let found = u64::try_from(metadata.file_metadata().num_rows()).unwrap_or(0);
    if found != file.object.rows {
        return Err(DedupError::Rows {
            key: file.object.key.clone(),
            found,
            expected: file.object.rows,
        });
    }
    let groups = (0..metadata.num_row_groups())
        .filter(|group| is_wanted(metadata.row_group(*group)))
        .collect();
    let batches = builder
        .with_row_groups(groups)
        .with_batch_size(READ_BATCH_KEYS)
        .build()
        .map_err(failed)?;
    let file = file.clone();
    Ok(batches
        .and_then(|batch| async move {
            let mut keys = Vec::with_capacity(batch.num_rows());
            append_keys(&batch, &mut keys)?;
            Ok(keys)
        })
        .map(move |keys| keys.map_err(|source| DedupError::read(&file, source))))
}

/// Whether one of the sorted keys lies in the row group's range; without statistics any may.
fn may_hold(group: &RowGroupMetaData, wanted: &[u128]) -> bool {
    let Some((least, greatest)) = bounds(group) else {
        return true;
    };
    let first = wanted.partition_point(|key| halves(*key).0 < least);
    wanted.get(first).is_some_and(|key| halves(*key).0 <= greatest)
}

/// The least and the greatest upper half in a row group, where it has statistics.
fn bounds(group: &RowGroupMetaData) -> Option<(u64, u64)> {
    let statistics = group.columns().first().and_then(|column| column.statistics());
    let Some(Statistics::Int64(range)) = statistics else {
        return None;
    };
    // Parquet stores unsigned numbers in signed ones of the same bits.
    Some((*range.min_opt()? as u64, *range.max_opt()? as u64))
}

fn path_of(root: &Path, file: &KeyFile) -> Result<Path, DedupError> {
    let key = &file.object.key;
    let full = if root.as_ref().is_empty() {
        key.clone()
    } else {
        format!("{root}/{key}")
    };
    Path::parse(full).map_err(|source| DedupError::Path {
        key: key.clone(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{Rng, SeedableRng};

    use super::*;

    #[tokio::test]
    async fn ranges_of_several_files_together_hold_every_key_once() {
        let store: Arc<dyn ObjectStore> = Arc::new(object_store::memory::InMemory::new());
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(12);
        let (mut all, mut files) = (Vec::new(), Vec::new());
        for n in 0..3 {
            let mut keys: Vec<u128> = (0..5_000).map(|_| random.random()).collect();
            let bytes = encode_keys(&mut keys).unwrap();
            let key = format!("keys/{n}.parquet");
            let object = millrace_proto::manifest::WrittenObject {
                key: key.clone(),
                bytes: bytes.len() as u64,
                rows: keys.len() as u64,
                digest: String::new(),
            };
            files.push(KeyFile { object, hour: 1 });
            let path = Path::from(format!("root/{key}"));
            object_store::ObjectStoreExt::put(&store, &path, bytes.into())
                .await
                .unwrap();
            all.extend(keys);
        }
        all.sort_unstable();
        let root = Path::from("root");
        let middle = u64::MAX / 3;
        let low = keys_between(&store, &root, &files, 0..=middle).await.unwrap();
        let high = keys_between(&store, &root, &files, middle + 1..=u64::MAX)
            .await
            .unwrap();
        assert!(!low.is_empty() && low.len() < high.len());
        assert_eq!([low, high].concat(), all);
    }

    proptest! {
        #[test]
        fn a_key_file_gives_back_its_keys_in_order(keys in proptest::collection::vec(any::<u128>(), 0..500)) {
            let mut expected = keys.clone();
            expected.sort();
            let mut keys = keys;
            prop_assert_eq!(read_keys(encode_keys(&mut keys).unwrap()).unwrap(), expected);
        }

        #[test]
        fn bytes_that_are_no_key_file_are_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(read_keys(bytes).is_err());
        }
    }

    #[test]
    fn a_large_file_takes_less_than_fifteen_bytes_a_key_and_has_prunable_groups() {
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(11);
        let mut keys: Vec<u128> = (0..300_000).map(|_| random.random()).collect();
        let bytes = encode_keys(&mut keys).unwrap();
        assert!(bytes.len() < keys.len() * 29 / 2, "{}", bytes.len());
        let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(bytes.clone())).unwrap();
        let groups = reader.metadata().row_groups();
        assert_eq!(groups.len(), 3);
        for (group, held) in groups.iter().zip(keys.chunks(ROW_GROUP_KEYS)) {
            assert!(may_hold(group, &[held[0]]) && may_hold(group, &[held[held.len() - 1]]));
        }
        assert!(!may_hold(&groups[0], &keys[ROW_GROUP_KEYS + 1..]));
        assert!(!may_hold(&groups[1], &[keys[0], keys[299_999]]));
        assert_eq!(read_keys(bytes).unwrap(), keys);
    }
}
