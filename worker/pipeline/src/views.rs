//! String views: 16 bytes that hold a short text or point to a long one.
//!
//! Texts of up to 12 bytes stand in the view; longer ones stay where they are, in the payload (buffer 0)
//! or, when they had escapes, in the batch's side buffer (buffer 1).
//!
//! Arrow's checked constructors would validate every text by itself, which costs more than reading it
//! did. So this module makes the arrays unchecked, and the views too, so that what must hold stands in
//! one place.
#![allow(
    unsafe_code,
    reason = "arrays of texts known to be valid; the module says why"
)]

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryViewArray, ByteView, StringViewArray};
use arrow::buffer::{Buffer, NullBuffer, ScalarBuffer};

/// Longest text that stands in the view itself.
const INLINE_MAX: usize = 12;

/// Rows that [`prefetch`] is ahead of a loop's own: about as long as memory takes.
pub(crate) const ROWS_AHEAD: usize = 8;

/// Brings a long text of `row`, if there is such a row, nearer to the processor before it is read. Texts of a column stand as
/// far apart as their records, which no hardware foresees.
#[inline]
pub(crate) fn prefetch(texts: &StringViewArray, row: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(view) = texts.views().get(row).copied().map(ByteView::from)
        && view.length as usize > INLINE_MAX
        && let Some(buffer) = texts.data_buffers().get(view.buffer_index as usize)
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let start = buffer.as_ptr().wrapping_add(view.offset as usize).cast::<i8>();
        let last = start.wrapping_add(view.length as usize - 1);
        // SAFETY: a prefetch reads nothing that the program sees, and faults at no address.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(start);
            _mm_prefetch::<_MM_HINT_T0>(last);
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (texts, row);
}

/// Which buffer of the array a text lies in.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Home {
    /// The payload, as it came.
    Payload = 0,
    /// Unescaped texts.
    Side = 1,
}

/// The view of `bytes[start..end]`, whose first byte is at `offset` in the buffer `home`. None when the
/// text or its offset passes what a view can hold, 4 GiB.
#[inline(always)]
pub(crate) fn view(bytes: &[u8], start: usize, end: usize, home: Home, offset: usize) -> Option<u128> {
    let length = u32::try_from(end - start).ok()?;
    if let Some(block) = bytes.get(start..).and_then(|rest| rest.first_chunk::<16>()) {
        let block = u128::from_le_bytes(*block);
        if length as usize <= INLINE_MAX {
            let text = block & ((1u128 << (8 * length)) - 1);
            return Some(text << 32 | u128::from(length));
        }
        let prefix = u128::from(block as u32) << 32;
        return Some(u128::from(length) | prefix | place(home, offset)?);
    }
    let mut inline = [0; 16];
    let head = &bytes[start..end.min(start + INLINE_MAX)];
    inline[..head.len()].copy_from_slice(head);
    let block = u128::from_le_bytes(inline);
    if length as usize <= INLINE_MAX {
        return Some(block << 32 | u128::from(length));
    }
    let prefix = u128::from(block as u32) << 32;
    Some(u128::from(length) | prefix | place(home, offset)?)
}

#[inline(always)]
fn place(home: Home, offset: usize) -> Option<u128> {
    let offset = u32::try_from(offset).ok()?;
    Some(u128::from(home as u32) << 64 | u128::from(offset) << 96)
}

/// The buffers that the views of one batch point into.
#[derive(Debug, Clone)]
pub(crate) struct Homes(pub(super) Arc<[Buffer]>);

/// A text column. `views` are of [`view`], over text that was checked to be UTF-8, or zero.
pub(crate) fn text_array(views: Vec<u128>, homes: &Homes, nulls: Option<NullBuffer>) -> ArrayRef {
    let views = ScalarBuffer::from(views);
    // SAFETY: every view was made by `view` from a range of a buffer in `homes`, or is zero, which is the
    // empty text. The decoder makes text views only between quotes of records whose bytes passed a UTF-8
    // check, or of unescaped text that it built from whole characters.
    Arc::new(unsafe { StringViewArray::new_unchecked(views, Arc::clone(&homes.0), nulls) })
}

/// A column of raw bytes. `views` are of [`view`].
pub(crate) fn binary_array(views: Vec<u128>, homes: &Homes) -> ArrayRef {
    let views = ScalarBuffer::from(views);
    // SAFETY: every view was made by `view` from a range of a buffer in `homes`.
    Arc::new(unsafe { BinaryViewArray::new_unchecked(views, Arc::clone(&homes.0), None) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_are_those_that_arrow_itself_makes() {
        let bytes = b"0123456789abcdefghijklmnopqrstuvwxyz";
        for start in 0..bytes.len() {
            for end in start..=bytes.len() {
                let text = &bytes[start..end];
                let expected = arrow::array::make_view(text, 0, u32::try_from(start).unwrap());
                assert_eq!(view(bytes, start, end, Home::Payload, start), Some(expected));
            }
        }
        assert_eq!(view(bytes, 0, 13, Home::Side, 1 << 33), None);
    }
}
