//! Records of one block, gathered record by record, turned into columns at the block's end.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, StringViewArray, StringViewBuilder};
use arrow::buffer::Buffer;
use arrow::error::ArrowError;

use crate::decode::container::origin::Origin;
use crate::decode::{DecodePlan, Wanted, WantedKind, decoded_schema, text};
use crate::rows::Fault;
use crate::spec::model::ColumnType;

use super::Header;
use super::record::{Cell, Quoting};

/// What stands in a cell, doubled quotes undone.
pub(super) fn text<'a>(bytes: &'a [u8], cell: &Cell) -> Cow<'a, [u8]> {
    let range = &bytes[cell.start..cell.end];
    if cell.quoting != Quoting::Doubled {
        return Cow::Borrowed(range);
    }
    let mut text = Vec::with_capacity(range.len());
    let mut quoted = false;
    for byte in range {
        // Of two quotes in a row the second is dropped.
        quoted = *byte == b'"' && !quoted;
        if *byte != b'"' || quoted {
            text.push(*byte);
        }
    }
    Cow::Owned(text)
}

/// Sound and broken records in order.
pub(super) struct Rows {
    origin: Origin,
    /// All cells of all sound records, one after the other.
    cells: Vec<Cell>,
    /// Where a row's cells start; none for a broken record.
    starts: Vec<Option<usize>>,
}

impl Rows {
    pub(super) fn new(split: u32) -> Self {
        Self {
            origin: Origin::new(split),
            cells: Vec::new(),
            starts: Vec::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// A record whose cells are as many as the header's.
    pub(super) fn push(&mut self, raw: (usize, usize), line: u64, offset: u64, cells: &[Cell]) {
        self.starts.push(Some(self.cells.len()));
        self.cells.extend_from_slice(cells);
        self.origin.push(raw, line, offset);
    }

    pub(super) fn push_broken(&mut self, raw: (usize, usize), line: u64, offset: u64, fault: Fault) {
        self.starts.push(None);
        let row = self.origin.push(raw, line, offset);
        self.origin.fault(row, fault);
    }

    /// The batch. `block` is what the ranges point into.
    pub(super) fn finish(
        mut self,
        plan: &DecodePlan,
        header: Option<&Header>,
        block: Buffer,
    ) -> Result<RecordBatch, ArrowError> {
        let mut columns = Vec::with_capacity(plan.fields.len() + 5);
        for wanted in &plan.fields {
            let name = wanted.path.join(".");
            let field = header.and_then(|header| header.names.iter().position(|field| *field == name));
            columns.push(self.column(wanted, field, &block)?);
        }
        let header = header.map_or(&[][..], |header| &header.text);
        let records = self.origin.behind(header, &block);
        columns.extend(self.origin.finish(Buffer::from_vec(records))?);
        RecordBatch::try_new(decoded_schema(plan), columns)
    }

    /// One cell of every row, none where it is null.
    fn cells(&self, field: Option<usize>) -> impl Iterator<Item = Option<&Cell>> {
        self.starts.iter().map(move |start| {
            let cell = &self.cells[(*start)? + field?];
            (cell.quoting != Quoting::Bare || cell.end > cell.start).then_some(cell)
        })
    }

    fn column(
        &mut self,
        wanted: &Wanted,
        field: Option<usize>,
        block: &Buffer,
    ) -> Result<ArrayRef, ArrowError> {
        let kind = match &wanted.kind {
            WantedKind::Present => {
                let present: Vec<bool> = self.cells(field).map(|cell| cell.is_some()).collect();
                return Ok(Arc::new(BooleanArray::from(present)));
            }
            WantedKind::Value(ColumnType::String) => return Ok(Arc::new(self.strings(field, block)?)),
            WantedKind::Value(kind) => kind,
        };
        let texts: Vec<Option<Cow<'_, [u8]>>> = self
            .cells(field)
            .map(|cell| cell.map(|cell| text(block, cell)))
            .collect();
        // The record was checked to be UTF-8, and a cell ends where a character does.
        let texts: Vec<Option<&str>> = texts
            .iter()
            .map(|text| std::str::from_utf8(text.as_deref()?).ok())
            .collect();
        let column = text::parse(&texts, kind)?;
        let wrong: Vec<(usize, usize)> = texts
            .iter()
            .enumerate()
            .filter_map(|(row, text)| Some((row, (*text)?.len())))
            .filter(|(row, _)| column.is_null(*row))
            .collect();
        for (row, length) in wrong {
            self.origin
                .wrong_type(row, wanted, &format!("a text of {length} bytes that is none"));
        }
        Ok(column)
    }

    /// Texts that borrow the block.
    fn strings(&self, field: Option<usize>, block: &Buffer) -> Result<StringViewArray, ArrowError> {
        let mut strings = StringViewBuilder::with_capacity(self.starts.len());
        let id = strings.append_block(block.clone());
        for cell in self.cells(field) {
            match cell {
                None => strings.append_null(),
                Some(cell) if cell.quoting == Quoting::Doubled => {
                    strings.try_append_value(String::from_utf8_lossy(&text(block, cell)))?;
                }
                Some(cell) => {
                    strings.try_append_view(id, narrow(cell.start)?, narrow(cell.end - cell.start)?)?
                }
            }
        }
        Ok(strings.finish())
    }
}

fn narrow(position: usize) -> Result<u32, ArrowError> {
    u32::try_from(position)
        .map_err(|_| ArrowError::InvalidArgumentError(format!("byte {position} is beyond a view's reach")))
}
