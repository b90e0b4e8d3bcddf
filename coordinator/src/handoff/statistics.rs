//! What the largest of the lake's newest files say of each column's values: for the encodings of a warehouse's table.
//!
//! In: the ledger, footers and dictionary pages. Out: rows, nulls, bytes, and how many values of text there are at most: those
//! of the dictionaries, and each one that stands in none. No data page is read. Advice is worth no outage: a file that cannot be
//! read says nothing.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures::FutureExt;
use futures::future::BoxFuture;
use millrace_pipeline::catalog::encodings::{Distinct, Figures, Statistics};
use millrace_proto::manifest::DataFile;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::basic::Type;
use parquet::column::page::{Page, PageReader};
use parquet::errors::ParquetError;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::serialized_reader::SerializedPageReader;

use super::read::DataObject;
use crate::commit;
use crate::lake::Lake;
use crate::ledger::State;

/// Rows that are enough.
const ROWS: u64 = 1_000_000;
/// Batches whose files are candidates.
const BATCHES_MAX: usize = 64;
/// Files that are looked at.
const FILES_MAX: usize = 32;
/// More values than this are not counted.
const VALUES_MAX: u64 = 1_024;

/// Looks at the largest files of the newest batches.
pub fn look<'a>(lake: &'a Lake, state: &'a State) -> BoxFuture<'a, Statistics> {
    async move {
        let mut seen = Seen::default();
        for file in largest(lake, state).await {
            if seen.rows >= ROWS {
                break;
            }
            match look_at(lake, &file).await {
                Ok(columns) => seen.add(&file, columns),
                // A compaction or a retention may have taken it.
                Err(error) => tracing::debug!(file = file.object.key, %error, "a file is not looked at"),
            }
        }
        seen.statistics()
    }
    .boxed()
}

async fn largest(lake: &Lake, state: &State) -> Vec<DataFile> {
    let committed: Vec<_> = state.committed().collect();
    let mut files = Vec::new();
    for (id, batch) in committed.into_iter().rev().take(BATCHES_MAX) {
        let digest = batch.manifest.as_deref().unwrap_or_default();
        if let Ok(manifest) = commit::committed(lake, id, digest).await {
            files.extend(manifest.files);
        }
    }
    files.sort_by_key(|file| std::cmp::Reverse(file.object.rows));
    files.truncate(FILES_MAX);
    files
}

#[derive(Default)]
struct Seen {
    files: u64,
    rows: u64,
    columns: BTreeMap<String, Column>,
}

/// A column of the files seen.
#[derive(Default)]
struct Column {
    rows: u64,
    nulls: u64,
    bytes: u64,
    values: Values,
}

/// Values of text.
enum Values {
    Few {
        /// Those of dictionaries.
        known: HashSet<Bytes>,
        /// How many stand in none, and their bytes.
        others: (u64, u64),
    },
    Many,
}

impl Default for Values {
    fn default() -> Self {
        Self::Few {
            known: HashSet::new(),
            others: (0, 0),
        }
    }
}

impl Values {
    fn add(&mut self, more: Self) {
        if let (
            Self::Few { known, others },
            Self::Few {
                known: new,
                others: more,
            },
        ) = (&mut *self, more)
        {
            known.extend(new);
            *others = (others.0 + more.0, others.1 + more.1);
            if known.len() as u64 + others.0 <= VALUES_MAX {
                return;
            }
        }
        *self = Self::Many;
    }

    fn distinct(&self) -> Option<Distinct> {
        match self {
            Self::Few { known, others } => Some(Distinct {
                values: known.len() as u64 + others.0,
                bytes: known.iter().map(|value| value.len() as u64).sum::<u64>() + others.1,
            }),
            Self::Many => None,
        }
    }
}

impl Seen {
    fn add(&mut self, file: &DataFile, columns: Vec<(String, Column)>) {
        self.files += 1;
        self.rows += file.object.rows;
        for (name, found) in columns {
            let column = self.columns.entry(name).or_default();
            column.rows += found.rows;
            column.nulls += found.nulls;
            column.bytes += found.bytes;
            column.values.add(found.values);
        }
    }

    fn statistics(self) -> Statistics {
        let figures = |column: &Column| Figures {
            rows: column.rows,
            nulls: column.nulls,
            bytes: column.bytes,
            distinct: column.values.distinct(),
        };
        let columns = self.columns.iter();
        Statistics {
            files: self.files,
            columns: columns
                .map(|(name, column)| (name.clone(), figures(column)))
                .collect(),
        }
    }
}

/// The columns of a file, those of each row group; lists aside.
async fn look_at(lake: &Lake, file: &DataFile) -> Result<Vec<(String, Column)>, ParquetError> {
    let mut object = DataObject::of(lake, file);
    object.fetch_if_small().await?;
    let metadata = object.get_metadata(None).await?;
    let mut columns = Vec::new();
    for group in metadata.row_groups() {
        for chunk in group.columns() {
            let [name] = chunk.column_path().parts() else {
                continue;
            };
            let (rows, nulls) = (
                chunk.num_values(),
                chunk.statistics().and_then(|known| known.null_count_opt()),
            );
            let rows = u64::try_from(rows).unwrap_or_default();
            let nulls = nulls.unwrap_or_default().min(rows);
            let bytes = u64::try_from(chunk.uncompressed_size()).unwrap_or_default();
            let values = match dictionary(&mut object, chunk).await? {
                Some(known) => Values::Few {
                    known,
                    others: (0, 0),
                },
                None => Values::Few {
                    known: HashSet::new(),
                    others: (rows - nulls, bytes),
                },
            };
            let column = Column {
                rows,
                nulls,
                bytes,
                values,
            };
            columns.push((name.clone(), column));
        }
    }
    Ok(columns)
}

/// The values of a chunk of text, if it has a dictionary: the lake's writer has all of a chunk's in it, or none.
async fn dictionary(
    object: &mut DataObject,
    chunk: &ColumnChunkMetaData,
) -> Result<Option<HashSet<Bytes>>, ParquetError> {
    let place = |offset: i64| u64::try_from(offset).ok();
    let range = chunk
        .dictionary_page_offset()
        .and_then(place)
        .zip(place(chunk.data_page_offset()));
    let Some((from, to)) = range.filter(|(from, to)| chunk.column_type() == Type::BYTE_ARRAY && from < to)
    else {
        return Ok(None);
    };
    let bytes = object.get_bytes(from..to).await?;
    let part = Arc::new(Part { from, bytes });
    let rows = usize::try_from(chunk.num_values()).unwrap_or_default();
    match SerializedPageReader::new(part, chunk, rows, None)?.get_next_page()? {
        Some(Page::DictionaryPage { buf, .. }) => Ok(texts(buf)),
        Some(Page::DataPage { .. } | Page::DataPageV2 { .. }) | None => Ok(None),
    }
}

/// Texts with their lengths before them; none where they end too early.
fn texts(mut buf: Bytes) -> Option<HashSet<Bytes>> {
    let mut values = HashSet::new();
    while !buf.is_empty() {
        let length = usize::try_from(buf.try_get_u32_le().ok()?).ok()?;
        if length > buf.len() {
            return None;
        }
        values.insert(buf.split_to(length));
    }
    Some(values)
}

/// A part of a file.
struct Part {
    from: u64,
    bytes: Bytes,
}

impl Length for Part {
    fn len(&self) -> u64 {
        self.from + self.bytes.len() as u64
    }
}

impl ChunkReader for Part {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        self.get_bytes(
            start,
            usize::try_from(self.len().saturating_sub(start)).unwrap_or_default(),
        )
        .map(Buf::reader)
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let from = start
            .checked_sub(self.from)
            .and_then(|from| usize::try_from(from).ok());
        let range = from.and_then(|from| Some(from..from.checked_add(length)?));
        match range.filter(|range| range.end <= self.bytes.len()) {
            Some(range) => Ok(self.bytes.slice(range)),
            None => Err(ParquetError::EOF(
                "a dictionary page is longer than its place".to_owned(),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_a_damaged_dictionary_are_none() {
        let good = Bytes::from_static(b"\x01\0\0\0a\x02\0\0\0bc\0\0\0\0");
        assert_eq!(texts(good.clone()).unwrap().len(), 3);
        for end in [2, 4, 9] {
            assert!(texts(good.slice(..end)).is_none(), "{end}");
        }
    }

    #[test]
    fn a_part_gives_nothing_beside_itself() {
        let part = Part {
            from: 10,
            bytes: Bytes::from_static(b"abcd"),
        };
        assert_eq!(part.get_bytes(11, 3).unwrap(), "bcd");
        for (start, length) in [(9, 1), (11, 4), (u64::MAX, 1), (10, usize::MAX)] {
            assert!(part.get_bytes(start, length).is_err());
        }
    }
}
