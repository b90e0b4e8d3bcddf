//! Text values mapped one by one into a compact string-view array.
//!
//! Values that repeat within a batch (addresses, names: most do) are mapped once: a small direct-mapped
//! cache remembers the row of an earlier equal value, and the new row's view points at the same bytes.

use arrow::array::{Array, StringViewArray};
use arrow::buffer::{Buffer, ScalarBuffer};
use arrow::error::ArrowError;

use crate::views::{ROWS_AHEAD, prefetch};

/// A view holds up to this many bytes itself.
const INLINE_BYTES: usize = 12;
/// A data buffer's size limit: far below the 2 GiB that a view's offset can reach.
const BUFFER_BYTES_MAX: usize = 1 << 30;
/// Slots of the cache; 4 KiB, so that it stays in the first-level cache.
const CACHE_SLOTS: usize = 1 << CACHE_BITS;
const CACHE_BITS: u32 = 10;

/// Maps each value that is not null: `map` appends the new text, which must be UTF-8, to the buffer.
pub(super) fn map_text(
    values: &StringViewArray,
    mut map: impl FnMut(&[u8], &mut Vec<u8>),
) -> Result<StringViewArray, ArrowError> {
    let mut output = Output::with_rows(values.len());
    let mut cache = [0_u32; CACHE_SLOTS];
    for (row, &view) in values.views().iter().enumerate() {
        prefetch(values, row + ROWS_AHEAD);
        if values.is_null(row) {
            output.views.push(0);
            continue;
        }
        let value = values.value(row).as_bytes();
        let slot = &mut cache[slot_of(view, value)];
        let earlier = *slot as usize;
        if earlier > 0 && values.value(earlier - 1).as_bytes() == value {
            output.repeat(earlier - 1);
            continue;
        }
        *slot = u32::try_from(row + 1).unwrap_or(0);
        output.start();
        map(value, &mut output.buffer);
        output.finish();
    }
    output.flush();
    StringViewArray::try_new(
        ScalarBuffer::from(output.views),
        output.buffers,
        values.nulls().cloned(),
    )
}

/// As many rows as `values` has, each `text`, null where `values` is null.
pub(super) fn constant_text(values: &StringViewArray, text: &[u8]) -> Result<StringViewArray, ArrowError> {
    let mut output = Output::with_rows(1);
    output.start();
    output.buffer.extend_from_slice(text);
    output.finish();
    output.flush();
    let view = output.views.first().copied().unwrap_or_default();
    StringViewArray::try_new(
        ScalarBuffer::from(vec![view; values.len()]),
        output.buffers,
        values.nulls().cloned(),
    )
}

/// Mixes the length and twelve to twenty of the value's bytes: a short value's view is all of it; of a
/// long one the ends, since addresses differ in front and paths differ behind.
#[inline]
fn slot_of(view: u128, value: &[u8]) -> usize {
    let front = view as u64;
    let back = if value.len() <= INLINE_BYTES {
        (view >> 64) as u64
    } else {
        let middle = u64_at(value, 4);
        middle.rotate_left(29) ^ u64_at(value, value.len() - 8)
    };
    let mixed = (front ^ back.wrapping_mul(0x9E37_79B9_7F4A_7C15)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    (mixed >> (64 - CACHE_BITS)) as usize
}

#[inline]
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..at + 8)
        .and_then(|eight| eight.try_into().ok())
        .map_or(0, u64::from_le_bytes)
}

/// The views and their bytes while they are made.
struct Output {
    views: Vec<u128>,
    buffer: Vec<u8>,
    start: usize,
    buffers: Vec<Buffer>,
}

impl Output {
    fn with_rows(rows: usize) -> Self {
        Self {
            views: Vec::with_capacity(rows),
            buffer: Vec::with_capacity(rows.min(1 << 16) * 32),
            start: 0,
            buffers: Vec::new(),
        }
    }

    #[inline]
    fn start(&mut self) {
        if self.buffer.len() > BUFFER_BYTES_MAX {
            self.flush();
        }
        self.start = self.buffer.len();
    }

    /// Makes a view of what was appended since `start`; a short text moves into the view itself.
    #[inline]
    fn finish(&mut self) {
        let text = &self.buffer[self.start..];
        let length = text.len();
        let mut view = [0; 16];
        view[..4].copy_from_slice(&(length as u32).to_le_bytes());
        if length <= INLINE_BYTES {
            view[4..4 + length].copy_from_slice(text);
            self.buffer.truncate(self.start);
        } else {
            view[4..8].copy_from_slice(&text[..4]);
            view[8..12].copy_from_slice(&(self.buffers.len() as u32).to_le_bytes());
            view[12..].copy_from_slice(&(self.start as u32).to_le_bytes());
        }
        self.views.push(u128::from_le_bytes(view));
    }

    #[inline]
    fn repeat(&mut self, row: usize) {
        self.views.push(self.views[row]);
    }

    fn flush(&mut self) {
        if !self.buffer.is_empty() {
            let full = std::mem::take(&mut self.buffer);
            self.buffers.push(Buffer::from_vec(full));
        }
    }
}
