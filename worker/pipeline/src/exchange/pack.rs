//! Events into blocks: each row to its bucket, each value to the end of its bucket's column.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayData, ArrayRef, AsArray, NullBufferBuilder, PrimitiveArray, RecordBatch, StringViewArray,
};
use arrow::compute::{concat, take};
use arrow::datatypes::{Schema, SchemaRef, UInt32Type, UInt64Type};
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;

use super::layout::{Shape, shapes};
use super::repeats::{Repeats, SHORT};
use super::{ALIGNMENT, ExchangeError, NOTES, ROWS};
use crate::rows::KEY_LOW;

/// Rows from which on a bucket's block is full.
const BLOCK_ROWS: usize = 8192;
/// Bytes from which on it is.
const BLOCK_BYTES: usize = 4 << 20;

/// Rows that wait for their block, by bucket.
pub(super) struct Packer {
    shapes: Vec<Shape>,
    /// The columns of [`Shape::Other`], as they stand in a block.
    others: SchemaRef,
    key: usize,
    buckets: Vec<Pile>,
    /// The columns whose texts are looked up among those before.
    repetitive: Vec<bool>,
}

/// The rows of one bucket.
struct Pile {
    rows: usize,
    bytes: usize,
    columns: Vec<Column>,
}

struct Column {
    nulls: NullBufferBuilder,
    values: Values,
}

enum Values {
    Bytes1(Vec<[u8; 1]>),
    Bytes4(Vec<[u8; 4]>),
    Bytes8(Vec<[u8; 8]>),
    Bytes16(Vec<[u8; 16]>),
    Text(Texts),
    Other(Vec<ArrayRef>),
    Absent,
}

/// The texts of a column.
struct Texts {
    lengths: Vec<u32>,
    /// Where each begins; empty where none repeats another.
    starts: Vec<u32>,
    bytes: Vec<u8>,
    /// None where it does not pay.
    repeats: Option<Repeats>,
}

/// A full bucket's block.
pub(super) struct Block {
    pub(super) bucket: usize,
    pub(super) bytes: Vec<u8>,
}

impl Packer {
    /// Packs batches of this schema for so many buckets.
    pub(super) fn new(schema: &Schema, buckets: usize) -> Result<Self, ExchangeError> {
        let shapes = shapes(schema);
        let key = schema.index_of(KEY_LOW).map_err(|_| no_key())?;
        let others: Vec<_> = schema
            .fields()
            .iter()
            .zip(&shapes)
            .filter(|(_, shape)| **shape == Shape::Other)
            .map(|(field, _)| Arc::clone(field))
            .collect();
        let repetitive = vec![true; shapes.len()];
        let buckets = (0..buckets.max(1))
            .map(|_| Pile::new(&shapes, &repetitive))
            .collect();
        Ok(Self {
            repetitive,
            shapes,
            others: Arc::new(Schema::new(others)),
            key,
            buckets,
        })
    }

    /// Takes a batch of events, and gives the blocks that are full with it.
    pub(super) fn push(&mut self, batch: &RecordBatch) -> Result<Vec<Block>, ExchangeError> {
        let keys = batch.column(self.key).as_primitive_opt::<UInt64Type>();
        let (rows, ends) = deal(keys.ok_or_else(no_key)?, self.buckets.len());
        for (i, (column, shape)) in batch.columns().iter().zip(&self.shapes).enumerate() {
            let data = column.to_data();
            let source = Source::of(column, &data, *shape)?;
            let mut start = 0;
            for (pile, &end) in self.buckets.iter_mut().zip(&ends) {
                let rows = &rows[start..end];
                start = end;
                pile.bytes += pile.columns[i].extend(column, &source, rows)?;
            }
        }
        let mut start = 0;
        for (pile, &end) in self.buckets.iter_mut().zip(&ends) {
            pile.rows += end - start;
            start = end;
        }
        self.take(|pile| pile.rows >= BLOCK_ROWS || pile.bytes >= BLOCK_BYTES)
    }

    /// Everything that still waits.
    pub(super) fn rest(&mut self) -> Result<Vec<Block>, ExchangeError> {
        self.take(|pile| pile.rows > 0)
    }

    fn take(&mut self, is_due: impl Fn(&Pile) -> bool) -> Result<Vec<Block>, ExchangeError> {
        let (shapes, others, repetitive) = (&self.shapes, &self.others, &mut self.repetitive);
        let due = self
            .buckets
            .iter_mut()
            .enumerate()
            .filter(|(_, pile)| is_due(pile));
        due.map(|(bucket, pile)| {
            for (column, repetitive) in pile.columns.iter().zip(repetitive.iter_mut()) {
                *repetitive &= column.pays();
            }
            let pile = std::mem::replace(pile, Pile::new(shapes, repetitive));
            let bytes = pile.encode(others)?;
            Ok(Block { bucket, bytes })
        })
        .collect()
    }
}

/// A note's block.
pub(super) fn note_block(batch: &RecordBatch) -> Result<Vec<u8>, ExchangeError> {
    let mut out = Vec::new();
    out.extend(NOTES.to_le_bytes());
    out.extend((batch.num_rows() as u64).to_le_bytes());
    section(&mut out, &stream(batch)?);
    Ok(out)
}

/// Row numbers by bucket, and where each bucket's end among them.
fn deal(keys: &PrimitiveArray<UInt64Type>, buckets: usize) -> (Vec<u32>, Vec<usize>) {
    let count = buckets as u128;
    let has_nulls = keys.null_count() > 0;
    let bucket = |row: usize, key: u64| {
        // Rows without a key are equal to none: they go round.
        if has_nulls && keys.is_null(row) {
            return row % buckets;
        }
        usize::try_from((u128::from(key) * count) >> 64).unwrap_or(0)
    };
    let of_rows: Vec<usize> = keys
        .values()
        .iter()
        .enumerate()
        .map(|(row, &key)| bucket(row, key))
        .collect();
    let mut ends = vec![0; buckets];
    for &bucket in &of_rows {
        ends[bucket] += 1;
    }
    let mut next = 0;
    for end in &mut ends {
        next += std::mem::replace(end, next);
    }
    // While rows are dealt out an end is where the bucket's next row stands.
    let mut rows = vec![0; of_rows.len()];
    for (row, &bucket) in (0u32..).zip(&of_rows) {
        rows[ends[bucket]] = row;
        ends[bucket] += 1;
    }
    (rows, ends)
}

/// A batch's column as values are read from it.
enum Source<'a> {
    Bytes1(Vec<[u8; 1]>),
    Bytes4(&'a [[u8; 4]]),
    Bytes8(&'a [[u8; 8]]),
    Bytes16(&'a [[u8; 16]]),
    Text(&'a StringViewArray),
    Other,
    Absent,
}

impl<'a> Source<'a> {
    fn of(column: &'a ArrayRef, data: &'a ArrayData, shape: Shape) -> Result<Self, ExchangeError> {
        let differs = || {
            ArrowError::SchemaError(format!(
                "a column of {} where {shape:?} stood",
                column.data_type()
            ))
        };
        Ok(match shape {
            Shape::Bool => {
                let values = column.as_boolean_opt().ok_or_else(differs)?.values();
                Self::Bytes1(values.iter().map(|value| [u8::from(value)]).collect())
            }
            Shape::Fixed(width) => {
                let bytes = data.buffers().first().ok_or_else(differs)?.as_slice();
                let range = data.offset() * width..(data.offset() + data.len()) * width;
                let bytes = bytes.get(range).ok_or_else(differs)?;
                match width {
                    4 => Self::Bytes4(bytes.as_chunks().0),
                    8 => Self::Bytes8(bytes.as_chunks().0),
                    _ => Self::Bytes16(bytes.as_chunks().0),
                }
            }
            Shape::Text => Self::Text(column.as_string_view_opt().ok_or_else(differs)?),
            Shape::Absent => Self::Absent,
            Shape::Other => Self::Other,
        })
    }
}

impl Pile {
    fn new(shapes: &[Shape], repetitive: &[bool]) -> Self {
        let column = |(shape, repetitive): (&Shape, &bool)| Column {
            nulls: NullBufferBuilder::new(0),
            values: match shape {
                Shape::Bool => Values::Bytes1(Vec::new()),
                Shape::Fixed(4) => Values::Bytes4(Vec::new()),
                Shape::Fixed(8) => Values::Bytes8(Vec::new()),
                Shape::Fixed(_) => Values::Bytes16(Vec::new()),
                Shape::Text => Values::Text(Texts {
                    lengths: Vec::new(),
                    starts: Vec::new(),
                    bytes: Vec::new(),
                    repeats: repetitive.then(Repeats::new),
                }),
                Shape::Absent => Values::Absent,
                Shape::Other => Values::Other(Vec::new()),
            },
        };
        Self {
            rows: 0,
            bytes: 0,
            columns: shapes.iter().zip(repetitive).map(column).collect(),
        }
    }

    fn encode(self, others: &SchemaRef) -> Result<Vec<u8>, ExchangeError> {
        let room = self.bytes + 64 * self.columns.len() + self.rows / 8 * self.columns.len();
        let mut out = Vec::with_capacity(room);
        out.extend(ROWS.to_le_bytes());
        out.extend((self.rows as u64).to_le_bytes());
        let mut rest = Vec::new();
        for mut column in self.columns {
            match column.values {
                Values::Absent => continue,
                Values::Other(parts) => {
                    let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
                    rest.push(concat(&parts)?);
                    continue;
                }
                Values::Bytes1(_)
                | Values::Bytes4(_)
                | Values::Bytes8(_)
                | Values::Bytes16(_)
                | Values::Text(_) => {}
            }
            let nulls = column.nulls.finish().map(|nulls| nulls.inner().sliced());
            section(&mut out, nulls.as_deref().unwrap_or_default());
            match &column.values {
                Values::Bytes1(values) => section(&mut out, values.as_flattened()),
                Values::Bytes4(values) => section(&mut out, values.as_flattened()),
                Values::Bytes8(values) => section(&mut out, values.as_flattened()),
                Values::Bytes16(values) => section(&mut out, values.as_flattened()),
                Values::Text(texts) => {
                    section(&mut out, little_endian(&texts.lengths).as_flattened());
                    section(&mut out, little_endian(&texts.starts).as_flattened());
                    section(&mut out, &texts.bytes);
                }
                Values::Other(_) | Values::Absent => {}
            }
        }
        if !rest.is_empty() {
            section(
                &mut out,
                &stream(&RecordBatch::try_new(Arc::clone(others), rest)?)?,
            );
        }
        Ok(out)
    }
}

impl Column {
    /// Appends some rows of a column; the bytes that they take.
    fn extend(
        &mut self,
        column: &ArrayRef,
        source: &Source<'_>,
        rows: &[u32],
    ) -> Result<usize, ExchangeError> {
        if rows.is_empty() {
            return Ok(0);
        }
        let taken = match (&mut self.values, source) {
            (Values::Bytes1(to), Source::Bytes1(from)) => extend(to, from, rows),
            (Values::Bytes4(to), Source::Bytes4(from)) => extend(to, from, rows),
            (Values::Bytes8(to), Source::Bytes8(from)) => extend(to, from, rows),
            (Values::Bytes16(to), Source::Bytes16(from)) => extend(to, from, rows),
            (Values::Text(texts), Source::Text(from)) => texts.extend(from, rows),
            (Values::Other(parts), _) => {
                let part = take(column, &PrimitiveArray::<UInt32Type>::from(rows.to_vec()), None)?;
                let bytes = part.get_array_memory_size();
                parts.push(part);
                return Ok(bytes);
            }
            _ => return Ok(0),
        };
        if column.null_count() == 0 {
            self.nulls.append_n_non_nulls(rows.len());
        } else {
            for &row in rows {
                self.nulls.append(column.is_valid(row as usize));
            }
        }
        Ok(taken)
    }
}

impl Column {
    /// Whether looking for repeated texts is worth its time, or was not tried.
    fn pays(&self) -> bool {
        match &self.values {
            Values::Text(texts) => texts.repeats.as_ref().is_none_or(Repeats::pays),
            Values::Bytes1(_)
            | Values::Bytes4(_)
            | Values::Bytes8(_)
            | Values::Bytes16(_)
            | Values::Other(_)
            | Values::Absent => true,
        }
    }
}

impl Texts {
    fn extend(&mut self, from: &StringViewArray, rows: &[u32]) -> usize {
        let before = self.bytes.len();
        for &row in rows {
            let row = row as usize;
            let text = if from.is_null(row) { "" } else { from.value(row) };
            let text = text.as_bytes();
            self.lengths.push(u32::try_from(text.len()).unwrap_or(u32::MAX));
            if let Some(repeats) = &mut self.repeats {
                if text.len() > SHORT
                    && let Some(start) = repeats.find(text, &self.bytes)
                {
                    self.starts.push(start);
                    continue;
                }
                self.starts
                    .push(u32::try_from(self.bytes.len()).unwrap_or(u32::MAX));
            }
            self.bytes.extend_from_slice(text);
        }
        self.bytes.len() - before + size_of_val(rows)
    }
}

fn little_endian(numbers: &[u32]) -> Vec<[u8; 4]> {
    numbers.iter().map(|number| number.to_le_bytes()).collect()
}

fn extend<const WIDTH: usize>(to: &mut Vec<[u8; WIDTH]>, from: &[[u8; WIDTH]], rows: &[u32]) -> usize {
    to.extend(rows.iter().map(|&row| from[row as usize]));
    rows.len() * WIDTH
}

fn section(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u64).to_le_bytes());
    out.extend(0u64.to_le_bytes());
    out.extend_from_slice(bytes);
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
}

fn stream(batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
    let mut bytes = Vec::new();
    let mut writer = StreamWriter::try_new(&mut bytes, &batch.schema())?;
    writer.write(batch)?;
    writer.finish()?;
    drop(writer);
    Ok(bytes)
}

fn no_key() -> ExchangeError {
    ExchangeError::Input {
        column: KEY_LOW,
        expected: "UInt64",
    }
}
