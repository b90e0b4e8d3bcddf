//! Messages to chunks: the kernel.
//!
//! In: offsets and payloads, in order. Out: one row of [`chunk_schema`]: the payloads, each followed by `\n`, and beside
//! them where each ends and which offset it has. So a message that holds line ends itself is still one record, and a
//! gap of offsets needs no cut.

use std::sync::Arc;

use arrow::array::{LargeBinaryArray, RecordBatch, UInt32Array, UInt64Array};
use arrow::buffer::{Buffer, OffsetBuffer};
use arrow::error::ArrowError;

use crate::rows::{chunk_schema, messages_array};

/// Messages that become one chunk.
#[derive(Debug)]
pub(super) struct Chunk {
    payload: Vec<u8>,
    offsets: Vec<u64>,
    ends: Vec<u64>,
    chunk_bytes: usize,
}

impl Chunk {
    /// An empty chunk that is full at `chunk_bytes`.
    pub(super) fn new(chunk_bytes: usize) -> Self {
        Self {
            payload: Vec::new(),
            offsets: Vec::new(),
            ends: Vec::new(),
            chunk_bytes,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.payload.len() >= self.chunk_bytes
    }

    /// Adds a message; one without a payload is an empty line.
    pub(super) fn push(&mut self, offset: u64, payload: &[u8]) {
        if self.payload.capacity() == 0 {
            // Room for the message that fills it up; a larger one makes its own.
            self.payload
                .reserve_exact(self.chunk_bytes + self.chunk_bytes / 64);
        }
        self.payload.extend_from_slice(payload);
        self.offsets.push(offset);
        self.ends.push(self.payload.len() as u64);
        self.payload.push(b'\n');
    }

    /// The chunk, and an empty one in its place.
    pub(super) fn renew(&mut self) -> Self {
        std::mem::replace(self, Self::new(self.chunk_bytes))
    }

    /// The chunk as a row, which takes the bytes along.
    pub(super) fn into_row(self, split: u32) -> Result<RecordBatch, ArrowError> {
        let first = self.offsets.first().copied().unwrap_or(0);
        let mut payload = self.payload;
        // A chunk cut short by the end of its split should not hold the room of a full one.
        if payload.len() < payload.capacity() / 2 {
            payload.shrink_to_fit();
        }
        let lengths = OffsetBuffer::from_lengths([payload.len()]);
        let payload = LargeBinaryArray::try_new(lengths, Buffer::from_vec(payload), None)?;
        RecordBatch::try_new(
            chunk_schema(),
            vec![
                Arc::new(UInt32Array::from(vec![split])),
                Arc::new(UInt64Array::from(vec![first])),
                Arc::new(UInt64Array::from(vec![first])),
                Arc::new(payload),
                Arc::new(messages_array(self.offsets, self.ends)?),
            ],
        )
    }
}
