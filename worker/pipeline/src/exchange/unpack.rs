//! Blocks into columns again: values stay where they lie, texts become views into the block.

use std::sync::Arc;

use arrow::array::{
    ArrayData, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, make_array, new_null_array,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::ipc::reader::StreamReader;

use super::layout::{Shape, shapes};
use super::{ALIGNMENT, ExchangeError, NOTES, ROWS};
use crate::views::{Home, Homes, text_array, view};

/// Makes batches of one schema of blocks.
#[derive(Debug)]
pub(super) struct Unpacker {
    schema: SchemaRef,
    shapes: Vec<Shape>,
}

impl Unpacker {
    pub(super) fn new(schema: SchemaRef) -> Self {
        let shapes = shapes(&schema);
        Self { schema, shapes }
    }

    /// The events or the note that a block holds.
    pub(super) fn unpack(&self, block: Buffer) -> Result<RecordBatch, ExchangeError> {
        let mut cursor = Cursor { block, at: 0 };
        let (tag, rows) = (cursor.number()?, cursor.number()?);
        let rows = usize::try_from(rows).map_err(|_| cursor.damaged("it has too many rows"))?;
        // A row takes at least a bit of its block.
        if rows / 8 > cursor.block.len() {
            return Err(cursor.damaged("it has more rows than room for them"));
        }
        match tag {
            ROWS => self.rows(cursor, rows),
            NOTES => {
                let note = cursor.stream()?;
                if note.schema().fields() != self.schema.fields() || note.num_rows() != rows {
                    return Err(cursor.damaged("it is a note of another schema"));
                }
                Ok(note.with_schema(Arc::clone(&self.schema))?)
            }
            _ => Err(cursor.damaged("its tag is unknown")),
        }
    }

    fn rows(&self, mut cursor: Cursor, rows: usize) -> Result<RecordBatch, ExchangeError> {
        let mut columns: Vec<Option<ArrayRef>> = Vec::with_capacity(self.shapes.len());
        for (shape, field) in self.shapes.iter().zip(self.schema.fields()) {
            let kind = field.data_type();
            columns.push(match shape {
                Shape::Other => None,
                Shape::Absent => Some(new_null_array(kind, rows)),
                Shape::Bool => Some(cursor.bools(rows)?),
                Shape::Fixed(width) => Some(cursor.fixed(kind, *width, rows)?),
                Shape::Text => Some(cursor.texts(rows)?),
            });
        }
        if columns.iter().any(Option::is_none) {
            let others = cursor.stream()?;
            if others.num_rows() != rows {
                return Err(cursor.damaged("its columns differ in length"));
            }
            let mut others = others.columns().iter();
            for column in columns.iter_mut().filter(|column| column.is_none()) {
                *column = others.next().map(Arc::clone);
            }
        }
        let columns: Option<Vec<ArrayRef>> = columns.into_iter().collect();
        let columns = columns.ok_or_else(|| cursor.damaged("a column is missing"))?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(
            Arc::clone(&self.schema),
            columns,
            &options,
        )?)
    }
}

/// Reads a block from its begin to its end.
struct Cursor {
    block: Buffer,
    at: usize,
}

impl Cursor {
    fn damaged(&self, what: &'static str) -> ExchangeError {
        ExchangeError::Damaged {
            bytes: self.block.len(),
            what,
        }
    }

    fn number(&mut self) -> Result<u64, ExchangeError> {
        let bytes = self.block.get(self.at..).and_then(|rest| rest.first_chunk());
        let number = u64::from_le_bytes(*bytes.ok_or_else(|| self.damaged("it ends early"))?);
        self.at += size_of::<u64>();
        Ok(number)
    }

    fn section(&mut self) -> Result<Buffer, ExchangeError> {
        let length = usize::try_from(self.number()?).unwrap_or(usize::MAX);
        self.number()?;
        let end = self.at.checked_add(length).filter(|end| *end <= self.block.len());
        let end = end.ok_or_else(|| self.damaged("a section passes its end"))?;
        let section = self.block.slice_with_length(self.at, length);
        self.at = end.next_multiple_of(ALIGNMENT);
        Ok(section)
    }

    /// A section of so many bytes.
    fn exactly(&mut self, bytes: usize) -> Result<Buffer, ExchangeError> {
        let section = self.section()?;
        if section.len() == bytes {
            return Ok(section);
        }
        Err(self.damaged("a column is longer or shorter than its rows"))
    }

    fn nulls(&mut self, rows: usize) -> Result<Option<NullBuffer>, ExchangeError> {
        let bits = self.section()?;
        if bits.is_empty() {
            return Ok(None);
        }
        if bits.len() < rows.div_ceil(8) {
            return Err(self.damaged("it lacks null bits"));
        }
        Ok(Some(NullBuffer::new(BooleanBuffer::new(bits, 0, rows))))
    }

    fn bools(&mut self, rows: usize) -> Result<ArrayRef, ExchangeError> {
        let nulls = self.nulls(rows)?;
        let values = self.exactly(rows)?;
        let values = BooleanBuffer::collect_bool(rows, |row| values[row] != 0);
        Ok(Arc::new(BooleanArray::new(values, nulls)))
    }

    fn fixed(&mut self, kind: &DataType, width: usize, rows: usize) -> Result<ArrayRef, ExchangeError> {
        let nulls = self.nulls(rows)?;
        let values = self.exactly(rows * width)?;
        let data = ArrayData::builder(kind.clone())
            .len(rows)
            .add_buffer(values)
            .nulls(nulls)
            // Where the engine moved the block to an odd place.
            .align_buffers(true)
            .build()?;
        Ok(make_array(data))
    }

    fn texts(&mut self, rows: usize) -> Result<ArrayRef, ExchangeError> {
        let nulls = self.nulls(rows)?;
        let lengths = self.exactly(rows * size_of::<u32>())?;
        let starts = self.section()?;
        let bytes = self.section()?;
        if simdutf8::basic::from_utf8(&bytes).is_err() {
            return Err(self.damaged("a text is not UTF-8"));
        }
        let starts = starts.as_chunks().0;
        if !starts.is_empty() && starts.len() != rows {
            return Err(self.damaged("a text has no place"));
        }
        let mut views = Vec::with_capacity(rows);
        let mut next = 0;
        for (row, length) in lengths.as_chunks().0.iter().enumerate() {
            let start = starts
                .get(row)
                .map_or(next, |start| u32::from_le_bytes(*start) as usize);
            let end = start + u32::from_le_bytes(*length) as usize;
            // Whole characters: the bytes before and behind belong to others.
            let begins = |at: usize| {
                bytes
                    .get(at)
                    .map_or(at == bytes.len(), |byte| byte & 0xC0 != 0x80)
            };
            let view = if begins(start) && begins(end) {
                view(&bytes, start, end, Home::Payload, start)
            } else {
                None
            };
            views.push(view.ok_or_else(|| self.damaged("a text passes its column's end"))?);
            next = end;
        }
        Ok(text_array(views, &Homes(Arc::new([bytes])), nulls))
    }

    fn stream(&mut self) -> Result<RecordBatch, ExchangeError> {
        let section = self.section()?;
        let mut batches = StreamReader::try_new(section.as_slice(), None)?;
        let batch = batches.next().transpose()?;
        batch.ok_or_else(|| self.damaged("its stream is empty"))
    }
}
