//! CSV with a header line: text to columns.
//!
//! In: an object's bytes. Out: batches of [`decoded_schema`](super::decoded_schema), texts and raw records borrowing
//! the buffers that were read. A path `actor.login` means the header's field `actor.login`.
//!
//! | a record...                           | becomes                                                             |
//! |---------------------------------------|---------------------------------------------------------------------|
//! | with an empty field without quotes    | null there; `""` is the empty text                                  |
//! | with more or fewer fields than the header | a `syntax` fault with both counts                               |
//! | that is not UTF-8                     | an `encoding` fault                                                 |
//! | with a value that is not of its type  | null there, and a `wrong_type` fault                                |
//! | with text behind a closing quote, or a quote that is never closed | its first line is a fault, reading goes on at the next line |
//! | beyond the size limit                 | a `too_large` fault with its first bytes, reading goes on at the next line |
//! | that is a blank line                  | nothing: it is not an event                                         |
//!
//! So a stray quote costs the lines that it makes unreadable, not the rest of the file. `__line` is the line in
//! the object on which the record starts, from 1; the header is line 1.

mod columns;
mod record;

use std::io::Read;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::error::ArrowError;
use memchr::{memchr, memchr_iter};

use crate::rows::{Fault, FaultKind};
use crate::source::SourceError;
use crate::source::read::{Emit, SplitBytes};

use super::DecodePlan;
use super::container::origin::Place;
use columns::Rows;
use record::{Cell, Parsed, Quoting};

/// Bytes that are read, and so decoded, at once; more when one record is longer.
const BLOCK_BYTES: usize = 1 << 20;
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Decodes a record as quarantine keeps it: its file's header line, then the record. None when it has no header.
pub(super) fn decode_record(
    record: &[u8],
    from: Place,
    plan: &DecodePlan,
) -> Result<Option<RecordBatch>, ArrowError> {
    let mut decoder = Decoder::new(plan, from.split);
    let mut cells = Vec::new();
    let Parsed::Record(end, next) = record::record(record, 0, false, &mut cells) else {
        return Ok(None);
    };
    if end == 0 {
        return Ok(None);
    }
    decoder.record(&mut Rows::new(from.split), record, (0, end), 0, &cells);
    (decoder.line, decoder.offset) = (from.line, from.offset);
    let (rows, _) = decoder.block(&record[next..], true);
    let block = Buffer::from(&record[next..]);
    rows.map(|rows| rows.finish(plan, decoder.header.as_ref(), block))
        .transpose()
}

/// Decodes one object.
pub(super) fn decode(
    input: &mut SplitBytes<'_>,
    plan: &DecodePlan,
    emit: &mut Emit<'_>,
) -> Result<(), SourceError> {
    let mut decoder = Decoder::new(plan, input.split.index);
    let mut unread = Vec::new();
    loop {
        // As much again when one record fills the block.
        let wanted = BLOCK_BYTES.max(unread.len());
        let before = unread.len();
        unread.reserve_exact(wanted);
        let read = (&mut *input.bytes).take(wanted as u64).read_to_end(&mut unread);
        let last = matches!(read, Ok(read) if read < wanted);
        let position = decoder.offset + unread.len() as u64;
        if decoder.offset == 0 && before == 0 && unread.starts_with(BYTE_ORDER_MARK) {
            unread.drain(..BYTE_ORDER_MARK.len());
            decoder.offset = BYTE_ORDER_MARK.len() as u64;
        }
        let (rows, used) = decoder.block(&unread, last);
        let rest = unread.split_off(used);
        decoder.offset += used as u64;
        if let Some(rows) = rows {
            let batch = rows.finish(plan, decoder.header.as_ref(), Buffer::from_vec(unread))?;
            if !emit(batch) {
                return Ok(());
            }
        }
        if let Err(error) = read {
            return Err(input.failure(error, position));
        }
        if last {
            return Ok(());
        }
        unread = rest;
    }
}

/// The first line.
#[derive(Debug, Default)]
struct Header {
    /// What the fields are called.
    names: Vec<String>,
    /// The line as it is, for quarantine.
    text: Vec<u8>,
}

struct Decoder<'a> {
    plan: &'a DecodePlan,
    split: u32,
    /// None before the header line was read.
    header: Option<Header>,
    /// Number of the next line, and its first byte's offset.
    line: u64,
    offset: u64,
    /// Inside a record beyond the size limit, whose beginning was passed on.
    skipping: bool,
}

impl<'a> Decoder<'a> {
    fn new(plan: &'a DecodePlan, split: u32) -> Self {
        Self {
            plan,
            split,
            header: None,
            line: 1,
            offset: 0,
            skipping: false,
        }
    }

    /// The records of a block and how many of its bytes they are; no rows where there is no record.
    fn block(&mut self, bytes: &[u8], last: bool) -> (Option<Rows>, usize) {
        let (mut rows, mut cells, mut at) = (Rows::new(self.split), Vec::new(), 0);
        while at < bytes.len() {
            if self.skipping {
                match memchr(b'\n', &bytes[at..]) {
                    Some(end) => (self.skipping, at, self.line) = (false, at + end + 1, self.line + 1),
                    None => at = bytes.len(),
                }
                continue;
            }
            let offset = self.offset + at as u64;
            match record::record(bytes, at, last, &mut cells) {
                // Much text as one record: more likely a quote that was not closed where it should be.
                Parsed::Record(end, _) if (end - at) as u64 > self.plan.record_bytes_max => {
                    at = self.broken(&mut rows, bytes, at, last, UNCLOSED.to_owned());
                }
                Parsed::Record(end, next) => {
                    self.record(&mut rows, bytes, (at, end), offset, &cells);
                    self.line += memchr_iter(b'\n', &bytes[at..next]).count() as u64;
                    at = next;
                }
                Parsed::Incomplete if !last && (bytes.len() - at) as u64 <= self.plan.record_bytes_max => {
                    break;
                }
                Parsed::Incomplete => at = self.broken(&mut rows, bytes, at, last, UNCLOSED.to_owned()),
                Parsed::Stray(field) => {
                    let detail = format!(
                        "text follows the closing quote of field {field}; expected a comma or the line's end, \
                         and a quote inside quotes doubled"
                    );
                    at = self.broken(&mut rows, bytes, at, last, detail);
                }
            }
        }
        ((!rows.is_empty()).then_some(rows), at)
    }

    fn record(
        &mut self,
        rows: &mut Rows,
        bytes: &[u8],
        (start, end): (usize, usize),
        offset: u64,
        cells: &[Cell],
    ) {
        let text = &bytes[start..end];
        let is_blank = matches!(
            cells,
            [Cell {
                quoting: Quoting::Bare,
                ..
            }]
        ) && text.trim_ascii().is_empty();
        if is_blank {
            return;
        }
        let Some(header) = &self.header else {
            let field = |cell: &Cell| {
                String::from_utf8_lossy(&columns::text(bytes, cell))
                    .trim()
                    .to_owned()
            };
            self.header = Some(Header {
                names: cells.iter().map(field).collect(),
                text: text.to_vec(),
            });
            return;
        };
        let fault = if let Err(error) = simdutf8::compat::from_utf8(text) {
            let detail = format!("not UTF-8 at byte {} of the record", error.valid_up_to());
            Some(Fault {
                kind: FaultKind::Encoding,
                column: None,
                detail,
            })
        } else if cells.len() != header.names.len() {
            let detail = format!(
                "expected {} fields as in the header, found {}",
                header.names.len(),
                cells.len()
            );
            Some(Fault {
                kind: FaultKind::Syntax,
                column: None,
                detail,
            })
        } else {
            None
        };
        match fault {
            Some(fault) => rows.push_broken((start, end), self.line, offset, fault),
            None => rows.push((start, end), self.line, offset, cells),
        }
    }

    /// Makes the first line of what cannot be read a fault; the position behind it.
    fn broken(&mut self, rows: &mut Rows, bytes: &[u8], at: usize, last: bool, detail: String) -> usize {
        let line_end = memchr(b'\n', &bytes[at..]).map(|end| at + end);
        let end = line_end.unwrap_or(bytes.len());
        let max = usize::try_from(self.plan.record_bytes_max).unwrap_or(usize::MAX);
        let offset = self.offset + at as u64;
        if end - at > max {
            let detail = format!("{} bytes or more, at most {max} are allowed", end - at);
            let fault = Fault {
                kind: FaultKind::TooLarge,
                column: None,
                detail,
            };
            rows.push_broken((at, at + max + 1), self.line, offset, fault);
        } else {
            let kind = if detail == UNCLOSED {
                FaultKind::CutOff
            } else {
                FaultKind::Syntax
            };
            rows.push_broken(
                (at, end),
                self.line,
                offset,
                Fault {
                    kind,
                    column: None,
                    detail,
                },
            );
        }
        self.skipping = line_end.is_none() && !last;
        self.line += u64::from(line_end.is_some());
        // A header that cannot be read names nothing: every record will have the wrong count.
        self.header.get_or_insert_default();
        line_end.map_or(bytes.len(), |end| end + 1)
    }
}

const UNCLOSED: &str = "a quote is not closed within the record limit or the file";
