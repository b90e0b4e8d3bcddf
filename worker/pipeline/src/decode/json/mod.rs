//! JSON lines to Arrow, driven by what is wanted.
//!
//! In: a payload of lines. Out: batches of at most [`BATCH_ROWS`] rows: the wanted fields, then the five
//! hidden columns of [`crate::rows::origin_fields`]. Every line that is not blank is exactly one row.
//!
//! | the line is...                                   | the row has...                                       |
//! |--------------------------------------------------|------------------------------------------------------|
//! | an object                                        | its values; absent paths are null                    |
//! | an object with a value of another type           | null there and a `wrong_type` fault for the column   |
//! | not JSON, cut off, no object, not UTF-8,         | nulls, and every reason in `__faults`                |
//! | longer or deeper than allowed                    |                                                      |
//! | white space                                      | (no row; its line number is used up)                 |
//!
//! Lines end with `\n` or `\r\n`; the last may lack it. The whole record is checked, also what nobody
//! wants: RFC 8259 to the letter, and no lone surrogates in escapes. The one thing taken that some readers
//! refuse is a number too large for a float (`1e400`) where no number is wanted: JSON sets no bound. Of a
//! repeated key the last counts.
//!
//! How it is fast: UTF-8 is checked once a block of lines; texts are views into the payload; the order of
//! keys is guessed from the last record (`paths`); numbers and times are read in place; strings and
//! skipped subtrees are scanned with vector instructions (`simd`); broken lines are looked into only
//! once they are known to be broken (`diagnose`).

mod columns;
mod diagnose;
pub mod messages;
mod number;
mod paths;
mod record;
pub(super) mod scalar;
mod simd;
mod skip;
mod time;
mod values;

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringViewArray, StringViewBuilder, UInt32Array, UInt64Array};
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;

use self::columns::Column;
use self::record::Walk;
use self::simd::Isa;
use self::skip::space;
use self::values::Reading;
use super::{DecodePlan, decoded_schema};
use crate::rows::{Fault, FaultKind};
use crate::views::{self, Home, Homes};

/// Rows of a batch. Its columns and the piece of payload that they point into should fit the second level cache.
pub const BATCH_ROWS: usize = 8192;

/// Payload bytes after which a batch is closed before it has all its rows.
const BATCH_BYTES: usize = 16 << 20;

/// Bytes whose encoding is checked at once: what is read next is then still in the first level cache.
const BLOCK_BYTES: usize = 16 << 10;

/// No record is shorter: `{}`.
const RECORD_BYTES_MIN: usize = 2;

/// The longest record, whatever the plan allows: offsets into a batch are 32 bits.
const RECORD_BYTES_MAX: u64 = 1 << 30;

/// Why a payload could not be decoded. What is wrong with a record is never one of these.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// A record that no batch can hold.
    #[error("the record in line {line} has {bytes} bytes: more than 4 GiB cannot be held as one record")]
    Unaddressable {
        /// Its line.
        line: u64,
        /// Its length.
        bytes: usize,
    },
    /// Reasons could not be written.
    #[error("the faults of a record could not be encoded")]
    Faults(#[from] serde_json::Error),
    /// Arrow refused the columns.
    #[error("the decoded columns do not make a batch")]
    Batch(#[from] ArrowError),
}

/// Decodes payloads, one after the other; what it learns of the records' shape it keeps.
#[derive(Debug)]
pub struct Decoder {
    plan: Arc<DecodePlan>,
    schema: SchemaRef,
    walk: Walk,
    origin: Origin,
    /// Rows that the batch which is being filled has room for.
    room: usize,
    /// Bytes of a record, by the last batch: room for rows that do not come costs time and memory.
    record_bytes: usize,
    /// Whether messages of the last payload held line ends (`messages`).
    has_long_messages: bool,
}

/// The hidden columns of the batch that is being filled.
#[derive(Debug, Default)]
struct Origin {
    raws: Vec<u128>,
    lines: Vec<u64>,
    offsets: Vec<u64>,
    /// Row and reasons, for the few rows that have some.
    faults: Vec<(usize, String)>,
}

impl Decoder {
    /// A decoder for the plan. A `record_bytes_max` above 1 GiB counts as 1 GiB.
    #[must_use]
    pub fn new(plan: Arc<DecodePlan>) -> Self {
        Self::with_isa(plan, Isa::detect())
    }

    fn with_isa(plan: Arc<DecodePlan>, isa: Isa) -> Self {
        let plan = Arc::new(DecodePlan {
            record_bytes_max: plan.record_bytes_max.min(RECORD_BYTES_MAX),
            ..plan.as_ref().clone()
        });
        let walk = Walk {
            nodes: paths::tree(&plan.fields),
            columns: Vec::new(),
            reading: Reading {
                isa,
                base: 0,
                side: Vec::new(),
                scratch: Vec::new(),
                field: 0,
                mismatches: Vec::new(),
            },
            row: 0,
            record: 0,
            depth_max: plan.depth_max,
        };
        Self {
            schema: decoded_schema(&plan),
            plan,
            walk,
            origin: Origin::default(),
            room: 0,
            record_bytes: RECORD_BYTES_MIN,
            has_long_messages: false,
        }
    }

    /// The schema of the batches.
    #[must_use]
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Decodes whole lines. `first_line` is the number of the payload's first line, `first_offset` the
    /// offset of its first byte in the object. The batches borrow `payload`. Returns how many lines there were, blank
    /// ones included.
    ///
    /// # Errors
    /// Only for what no batch can hold; broken records are rows.
    pub fn decode(
        &mut self,
        payload: &Buffer,
        split: u32,
        first_line: u64,
        first_offset: u64,
        out: &mut Vec<RecordBatch>,
    ) -> Result<u64, DecodeError> {
        let bytes = payload.as_slice();
        let mut line = first_line;
        let mut at = 0;
        self.begin(bytes.len(), 0);
        while at < bytes.len() {
            let block_end = line_end(bytes, at.saturating_add(BLOCK_BYTES).min(bytes.len()));
            let is_utf8 = simdutf8::basic::from_utf8(&bytes[at..block_end]).is_ok();
            while at < block_end {
                let start = at;
                let text = space(bytes, start);
                if text >= bytes.len() || bytes[text] == b'\n' {
                    at = text + 1;
                    line += 1;
                    continue;
                }
                let end = self.record(bytes, start, text, is_utf8)?;
                let raw_end = end - usize::from(end > start && bytes[end - 1] == b'\r');
                let raw = views::view(
                    bytes,
                    start,
                    raw_end,
                    Home::Payload,
                    start - self.walk.reading.base,
                );
                let bytes_long = raw_end - start;
                self.origin.raws.push(raw.ok_or(DecodeError::Unaddressable {
                    line,
                    bytes: bytes_long,
                })?);
                self.origin.lines.push(line);
                self.origin.offsets.push(first_offset + start as u64);
                self.walk.row += 1;
                line += 1;
                at = end + 1;
                if self.walk.row == self.room || at - self.walk.reading.base >= BATCH_BYTES {
                    out.extend(self.finish(payload, at.min(bytes.len()), split)?);
                    self.begin(bytes.len() - at.min(bytes.len()), at);
                }
            }
        }
        out.extend(self.finish(payload, bytes.len(), split)?);
        Ok(line - first_line)
    }

    /// Decodes the record whose line begins at `start` and whose text begins at `text`. Returns the
    /// position of the line's end.
    #[inline(always)]
    fn record(
        &mut self,
        bytes: &[u8],
        start: usize,
        text: usize,
        is_utf8: bool,
    ) -> Result<usize, DecodeError> {
        let is_utf8 = is_utf8 || std::str::from_utf8(&bytes[start..line_break(bytes, start)]).is_ok();
        if is_utf8
            && let Some(end) = self.walk.record(bytes, text)
            && (end >= bytes.len() || bytes[end] == b'\n')
            && (end - start) as u64 <= self.plan.record_bytes_max
        {
            if !self.walk.reading.mismatches.is_empty() {
                self.report_mismatches()?;
            }
            return Ok(end);
        }
        self.report_broken(bytes, start)
    }

    #[cold]
    fn report_mismatches(&mut self) -> Result<(), DecodeError> {
        let fields = &self.plan.fields;
        let faults: Vec<Fault> = self
            .walk
            .reading
            .mismatches
            .drain(..)
            .map(|mismatch| {
                let wanted = &fields[mismatch.field as usize];
                Fault {
                    kind: FaultKind::WrongType,
                    column: Some(wanted.name.clone()),
                    detail: format!("expected {}, found {}", wanted.kind.name(), mismatch.found),
                }
            })
            .collect();
        let faults = serde_json::to_string(&faults)?;
        self.origin.faults.push((self.walk.row, faults));
        Ok(())
    }

    #[cold]
    fn report_broken(&mut self, bytes: &[u8], start: usize) -> Result<usize, DecodeError> {
        self.walk.clear_row();
        let end = line_break(bytes, start);
        let record = &bytes[start..end];
        let record = record.strip_suffix(b"\r").unwrap_or(record);
        let faults = diagnose::faults(record, &self.plan);
        self.origin
            .faults
            .push((self.walk.row, serde_json::to_string(&faults)?));
        Ok(end)
    }

    /// Begins a batch at `base`; `rest` is how many bytes are still to come.
    fn begin(&mut self, rest: usize, base: usize) {
        let expected = rest / self.record_bytes;
        let rows = BATCH_ROWS.min(expected + expected / 8 + 1);
        self.room = rows;
        let kinds = self.plan.fields.iter().map(|field| &field.kind);
        self.walk.columns = kinds.map(|kind| Column::new(kind, rows)).collect();
        self.walk.reading.base = base;
        self.walk.row = 0;
        self.origin = Origin {
            raws: Vec::with_capacity(rows),
            lines: Vec::with_capacity(rows),
            offsets: Vec::with_capacity(rows),
            faults: Vec::new(),
        };
    }

    /// The batch that was filled from `payload[base..end]`; none when it has no row.
    fn finish(
        &mut self,
        payload: &Buffer,
        end: usize,
        split: u32,
    ) -> Result<Option<RecordBatch>, DecodeError> {
        let rows = self.walk.row;
        let columns = std::mem::take(&mut self.walk.columns);
        let origin = std::mem::take(&mut self.origin);
        if rows == 0 {
            return Ok(None);
        }
        let base = self.walk.reading.base;
        self.record_bytes = ((end - base) / rows).max(RECORD_BYTES_MIN);
        let mut buffers = vec![payload.slice_with_length(base, end - base)];
        let side = std::mem::take(&mut self.walk.reading.side);
        if !side.is_empty() {
            buffers.push(Buffer::from_vec(side));
        }
        let homes = Homes(buffers.into());
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(self.schema.fields().len());
        for column in columns {
            arrays.push(column.finish(rows, &homes)?);
        }
        arrays.push(views::binary_array(origin.raws, &homes));
        arrays.push(Arc::new(UInt32Array::from_value(split, rows)));
        arrays.push(Arc::new(UInt64Array::from(origin.lines)));
        arrays.push(Arc::new(UInt64Array::from(origin.offsets)));
        arrays.push(fault_array(&origin.faults, rows));
        Ok(Some(RecordBatch::try_new(Arc::clone(&self.schema), arrays)?))
    }
}

fn fault_array(faults: &[(usize, String)], rows: usize) -> ArrayRef {
    if faults.is_empty() {
        return Arc::new(StringViewArray::new_null(rows));
    }
    let mut faults = faults.iter().peekable();
    let mut builder = StringViewBuilder::with_capacity(rows);
    for row in 0..rows {
        let text = faults.next_if(|(faulty, _)| *faulty == row).map(|(_, text)| text);
        builder.append_option(text);
    }
    Arc::new(builder.finish())
}

/// The first line end at or after `at`, or the payload's end.
fn line_break(bytes: &[u8], at: usize) -> usize {
    memchr::memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |found| at + found)
}

/// One past the first line end at or after `at - 1`, or the payload's end.
fn line_end(bytes: &[u8], at: usize) -> usize {
    (line_break(bytes, at.saturating_sub(1)) + 1).min(bytes.len())
}

#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;
