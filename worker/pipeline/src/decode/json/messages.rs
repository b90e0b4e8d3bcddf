//! Messages of a topic: each is one record, whatever bytes it holds.
//!
//! In: payloads joined by `\n`, with each one's end and offset. Out: batches as of lines, except that line and offset are
//! the message's offset in its partition and that the raw record is the message to the byte.
//!
//! Nearly every message is one line, so they are decoded as lines. Where the lines are more than the messages, some
//! message holds line ends (pretty-printed JSON, a line end behind the record); then the messages are decoded from a
//! copy in which those stand as blanks between tokens, or as `\r` within strings, where it is the same fault as `\n`.
//! A `json` column has the copy's text: the same JSON.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, UInt64Array};
use arrow::buffer::Buffer;
use arrow::datatypes::UInt64Type;
use arrow::error::ArrowError;

use super::{DecodeError, Decoder};
use crate::views::{self, Home, Homes};

/// Which messages a payload holds.
#[derive(Debug, Clone, Copy)]
pub struct Messages<'a> {
    /// Each one's offset in its partition.
    pub offsets: &'a [u64],
    /// Where each ends in the payload.
    pub ends: &'a [u64],
}

impl Messages<'_> {
    /// The message's place in the payload.
    fn place(&self, message: usize) -> (usize, usize) {
        let start = match message {
            0 => 0,
            _ => self.ends[message - 1] as usize + 1,
        };
        (start, self.ends[message] as usize)
    }
}

impl Decoder {
    /// Decodes messages: like [`Self::decode`], with a message's offset for line and offset. Returns how many messages
    /// there were.
    ///
    /// # Errors
    /// Only for what no batch can hold; broken records are rows.
    pub fn decode_messages(
        &mut self,
        payload: &Buffer,
        split: u32,
        messages: Messages<'_>,
        out: &mut Vec<RecordBatch>,
    ) -> Result<u64, DecodeError> {
        let mut batches = Vec::new();
        let mut lines = 0;
        // A topic whose messages hold line ends does so again and again.
        if !self.has_long_messages {
            lines = self.decode(payload, split, 0, 0, &mut batches)?;
        }
        if lines != messages.offsets.len() as u64 {
            batches.clear();
            let flat = flat(payload, messages);
            self.has_long_messages = flat.is_some();
            let flat = flat.unwrap_or_else(|| payload.clone());
            self.decode(&flat, split, 0, 0, &mut batches)?;
        }
        for batch in batches {
            out.push(located(batch, payload, messages)?);
        }
        Ok(messages.offsets.len() as u64)
    }
}

/// The payload with every message in one line, each byte where it was; none when it is so already.
fn flat(payload: &Buffer, messages: Messages<'_>) -> Option<Buffer> {
    let mut bytes: Option<Vec<u8>> = None;
    for message in 0..messages.ends.len() {
        let (start, end) = messages.place(message);
        if memchr::memchr(b'\n', &payload[start..end]).is_some() {
            flatten(&mut bytes.get_or_insert_with(|| payload.to_vec())[start..end]);
        }
    }
    bytes.map(Buffer::from_vec)
}

fn flatten(message: &mut [u8]) {
    let (mut in_string, mut escaped) = (false, false);
    for byte in message {
        match *byte {
            b'\n' if in_string => *byte = b'\r',
            b'\n' => *byte = b' ',
            b'"' if !escaped => in_string = !in_string,
            _ => {}
        }
        escaped = in_string && *byte == b'\\' && !escaped;
    }
}

/// The batch, whose lines count messages from 0, with offsets and whole raw messages.
fn located(batch: RecordBatch, payload: &Buffer, messages: Messages<'_>) -> Result<RecordBatch, DecodeError> {
    let (schema, mut columns, _) = batch.into_parts();
    let raw = columns.len() - 5; // the five of `rows::origin_fields`
    let numbers = columns[raw + 2].as_primitive::<UInt64Type>().values().clone();
    let mut views = Vec::with_capacity(numbers.len());
    let mut offsets = Vec::with_capacity(numbers.len());
    for &number in numbers.iter() {
        let (start, end) = messages.place(number as usize);
        let offset = messages.offsets[number as usize];
        let view = views::view(payload, start, end, Home::Payload, start);
        views.push(view.ok_or(DecodeError::Unaddressable {
            line: offset,
            bytes: end - start,
        })?);
        offsets.push(offset);
    }
    let offsets: ArrayRef = Arc::new(UInt64Array::from(offsets));
    columns[raw] = views::binary_array(views, &Homes(Arc::new([payload.clone()])));
    columns[raw + 2] = Arc::clone(&offsets);
    columns[raw + 3] = offsets;
    RecordBatch::try_new(schema, columns).map_err(|error: ArrowError| error.into())
}

#[cfg(test)]
#[path = "messages_tests.rs"]
mod tests;
