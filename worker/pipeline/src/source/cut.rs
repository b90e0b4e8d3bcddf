//! Objects cut into splits, and splits as rows, so that they travel through a plan like any data.
//!
//! | object                   | is cut into                                            |
//! |--------------------------|--------------------------------------------------------|
//! | plain JSON lines, Parquet | equal byte ranges of at most `split_bytes`            |
//! | `.gz`, `.zst`            | itself: decompression starts at its front              |
//! | CSV, Avro                | itself: a quote or a block's start is found only from its front |
//!
//! Ranges may lie anywhere: a record (a Parquet row group) belongs to the range in which its first byte
//! lies, and the reader sees to it.

use std::sync::Arc;

use arrow::array::{RecordBatch, StringArray, cast::AsArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use millrace_proto::split::{InputObject, Split};

use crate::spec::model::Format;

use super::SourceError;
use super::unpack::Packing;

/// The splits of these objects, numbered from 0 in the objects' order.
#[must_use]
pub fn cut(objects: &[InputObject], format: Format, split_bytes: u64) -> Vec<Split> {
    let mut splits = Vec::new();
    for object in objects {
        let pieces = pieces(object, format, split_bytes);
        for piece in 0..pieces {
            // In 128 bits, as size times pieces may be more than 64 hold.
            let bound = |n: u64| (u128::from(object.size) * u128::from(n) / u128::from(pieces)) as u64;
            let index = u32::try_from(splits.len()).unwrap_or(u32::MAX);
            splits.push(Split {
                index,
                object: object.clone(),
                start: bound(piece),
                end: bound(piece + 1),
            });
        }
    }
    splits
}

fn pieces(object: &InputObject, format: Format, split_bytes: u64) -> u64 {
    let divisible = match format {
        Format::Json => Packing::of(&object.url) == Packing::Plain,
        Format::Parquet => true,
        Format::Csv | Format::Avro => false,
    };
    if divisible {
        object.size.div_ceil(split_bytes.max(1)).max(1)
    } else {
        1
    }
}

/// One column of text: each row is a split as JSON.
#[must_use]
pub fn split_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("split", DataType::Utf8, false)]))
}

/// Splits as rows of [`split_schema`].
///
/// # Errors
/// When Arrow or JSON refuses, which no split gives reason to.
pub fn splits_batch(splits: &[Split]) -> Result<RecordBatch, SourceError> {
    let mut rows = Vec::with_capacity(splits.len());
    for split in splits {
        rows.push(serde_json::to_string(split)?);
    }
    Ok(RecordBatch::try_new(
        split_schema(),
        vec![Arc::new(StringArray::from(rows))],
    )?)
}

/// The splits in rows of [`split_schema`].
///
/// # Errors
/// When the batch has another shape or a row is not a split.
pub fn splits_of(batch: &RecordBatch) -> Result<Vec<Split>, SourceError> {
    let column = batch
        .column_by_name("split")
        .and_then(|column| column.as_string_opt::<i32>())
        .ok_or(SourceError::NotSplits)?;
    column
        .iter()
        .flatten()
        .map(|row| Ok(serde_json::from_str(row)?))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str, size: u64) -> InputObject {
        InputObject {
            url: format!("file:///in/{name}"),
            size,
            version: "1-1".into(),
        }
    }

    #[test]
    fn a_plain_file_is_covered_by_its_splits_without_gap_or_overlap() {
        for (size, split_bytes) in [
            (1, 1),
            (10, 3),
            (1000, 7),
            (u64::MAX, u64::MAX / 3),
            (5, 100),
            (5, 0),
        ] {
            let splits = cut(&[object("a.json", size)], Format::Json, split_bytes);
            assert_eq!(splits[0].start, 0);
            assert_eq!(splits[splits.len() - 1].end, size);
            for (n, split) in splits.iter().enumerate() {
                assert_eq!(split.index as usize, n);
                assert!(split.end - split.start <= split_bytes.max(1));
            }
            assert!(splits.windows(2).all(|pair| pair[0].end == pair[1].start));
        }
    }

    #[test]
    fn what_can_only_be_read_from_its_front_stays_whole() {
        for (name, format) in [
            ("a.json.gz", Format::Json),
            ("a.ndjson.ZST", Format::Json),
            ("a.csv", Format::Csv),
            ("a.avro", Format::Avro),
        ] {
            let splits = cut(&[object(name, 1000)], format, 10);
            assert_eq!(
                (splits.len(), splits[0].start, splits[0].end),
                (1, 0, 1000),
                "{name}"
            );
        }
        assert_eq!(cut(&[object("a.parquet", 1000)], Format::Parquet, 10).len(), 100);
    }

    #[test]
    fn splits_come_back_from_rows_as_they_were() {
        let splits = cut(
            &[object("a \"b\".json", 100), object("c.json", 30)],
            Format::Json,
            10,
        );
        assert_eq!(splits_of(&splits_batch(&splits).unwrap()).unwrap(), splits);
        let strange = RecordBatch::new_empty(Arc::new(Schema::empty()));
        assert!(splits_of(&strange).is_err());
    }
}
