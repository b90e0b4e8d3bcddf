//! Cuts bytes into chunks of whole lines: the kernel of the scan.
//!
//! In: bytes from just before a split's start. Out: [`Chunk`]s of about `chunk_bytes`; each line whose first byte
//! lies in the split is in exactly one, none other is.
//!
//! | a line...                                | becomes                                                       |
//! |------------------------------------------|---------------------------------------------------------------|
//! | that began before the split              | skipped: it belongs to the split in which it began            |
//! | that ends beyond the split               | read to its end                                               |
//! | longer than both limits                  | a chunk of its own: its first `record_bytes_max + 1` bytes, no line feed |
//! | last of the object, without a line feed  | passed on as it is                                            |
//! | after a failed read                      | what was whole before is passed on, then the error            |
//!
//! A byte order mark at the object's front is no part of its first line. Lines end at `\n`; a `\r` before it
//! stays. Each byte is read once, into the buffer that is passed on; only the tail behind a chunk's last line
//! feed is copied, to the front of the next.

use std::io::{Error, Read};

use memchr::{memchr, memchr_iter, memrchr};

/// Bytes that a chunk may have, and a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineLimits {
    /// Size of a chunk; more when one line is longer.
    pub chunk_bytes: usize,
    /// Longest record. A longer line is passed on cut short.
    pub record_bytes_max: usize,
}

/// Whole lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Number of the first line in the split, from 1.
    pub line: u64,
    /// Offset of the first byte in the object, unpacked.
    pub offset: u64,
    /// The lines.
    pub bytes: Vec<u8>,
}

/// Steps past a split's end, where its last line ends.
const STEP_BYTES: usize = 16 << 10;
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

#[derive(Debug)]
enum State {
    /// Inside a line that is not ours, or no more.
    Skipping,
    /// At the start of a line.
    Lines,
    Done,
    Failed(Error),
}

/// Whether a line that was read on came to its end.
enum Ended {
    /// One past its line feed.
    At(usize),
    /// The object ends with it.
    Object,
    TooLong,
}

/// Chunks of the lines that begin in `start..end`.
#[derive(Debug)]
pub struct LineChunks<R> {
    input: R,
    limits: LineLimits,
    /// Offset of the next byte of `input`.
    position: u64,
    end: u64,
    /// Number of the next line.
    line: u64,
    /// Read but not passed on; starts where a line starts, and does not reach beyond the split's end.
    rest: Vec<u8>,
    /// A cut line that waits for the lines before it to be passed on.
    cut: Option<Chunk>,
    state: State,
}

impl<R: Read> LineChunks<R> {
    /// `input` stands at byte `start - 1`, or at 0 when `start` is 0. For an object without a known length
    /// (an unpacked one) `end` is `u64::MAX`.
    pub fn new(input: R, start: u64, end: u64, limits: LineLimits) -> Self {
        let limits = LineLimits {
            chunk_bytes: limits.chunk_bytes.max(1),
            ..limits
        };
        Self {
            input,
            limits,
            position: start.saturating_sub(1),
            end,
            line: 1,
            rest: Vec::new(),
            cut: None,
            // The byte before the split tells whether a line starts with the split.
            state: if start >= end {
                State::Done
            } else if start == 0 {
                State::Lines
            } else {
                State::Skipping
            },
        }
    }

    /// How many bytes were read so far: where an error lies.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next chunk; none at the end.
    ///
    /// # Errors
    /// What the input says, once, after all whole lines before it. Then none.
    pub fn next_chunk(&mut self) -> Result<Option<Chunk>, Error> {
        loop {
            if let Some(cut) = self.cut.take() {
                return Ok(Some(cut));
            }
            match std::mem::replace(&mut self.state, State::Done) {
                State::Done => return Ok(None),
                State::Failed(error) => return Err(error),
                State::Skipping => self.state = self.skip(),
                State::Lines => {
                    let (chunk, state) = self.lines();
                    self.state = state;
                    if chunk.is_some() {
                        return Ok(chunk);
                    }
                }
            }
        }
    }

    /// Appends up to `wanted` bytes: true when there were so many, false at the object's end.
    fn read(&mut self, bytes: &mut Vec<u8>, wanted: usize) -> Result<bool, Error> {
        let before = bytes.len();
        bytes.reserve_exact(wanted);
        let read = self.input.by_ref().take(wanted as u64).read_to_end(bytes);
        self.position += (bytes.len() - before) as u64;
        read.map(|read| read == wanted)
    }

    /// Bytes until the split's end, `limit` at most.
    fn inside(&self, limit: usize) -> usize {
        usize::try_from(self.end.saturating_sub(self.position))
            .unwrap_or(usize::MAX)
            .min(limit)
    }

    fn skip(&mut self) -> State {
        loop {
            let wanted = self.inside(self.limits.chunk_bytes.min(4 * STEP_BYTES));
            if wanted == 0 {
                return State::Done; // What follows begins behind the split.
            }
            let mut block = Vec::new();
            let more = match self.read(&mut block, wanted) {
                Ok(more) => more,
                Err(error) => return State::Failed(error),
            };
            if let Some(at) = memchr(b'\n', &block) {
                self.rest = block.split_off(at + 1);
                return self.next_state();
            }
            if !more {
                return State::Done;
            }
        }
    }

    /// The state at the line that starts with the rest.
    fn next_state(&self) -> State {
        if self.position - (self.rest.len() as u64) < self.end {
            State::Lines
        } else {
            State::Done
        }
    }

    fn lines(&mut self) -> (Option<Chunk>, State) {
        let mut bytes = std::mem::take(&mut self.rest);
        let mut offset = self.position - bytes.len() as u64;
        let wanted = self.inside(self.limits.chunk_bytes.saturating_sub(bytes.len()));
        let read = self.read(&mut bytes, wanted);
        if offset == 0 && bytes.starts_with(BYTE_ORDER_MARK) {
            bytes.drain(..BYTE_ORDER_MARK.len());
            offset = BYTE_ORDER_MARK.len() as u64;
        }
        let whole = memrchr(b'\n', &bytes).map_or(0, |at| at + 1);
        let state = match read {
            Err(error) => {
                bytes.truncate(whole);
                State::Failed(error)
            }
            Ok(false) => State::Done,
            Ok(true) if self.position >= self.end && whole == bytes.len() => State::Done,
            Ok(true) if self.position < self.end && whole > 0 => {
                self.rest = bytes[whole..].to_vec();
                bytes.truncate(whole);
                State::Lines
            }
            // The last line ends beyond the split, or the first one beyond the chunk.
            Ok(true) => self.read_on(&mut bytes, whole, offset),
        };
        if bytes.is_empty() {
            return (None, state);
        }
        let chunk = Chunk {
            line: self.line,
            offset,
            bytes,
        };
        self.line += memchr_iter(b'\n', &chunk.bytes).count() as u64;
        if let Some(cut) = &mut self.cut {
            cut.line = self.line;
            self.line += 1;
        }
        (Some(chunk), state)
    }

    /// Completes the line that starts at `from`.
    fn read_on(&mut self, bytes: &mut Vec<u8>, from: usize, offset: u64) -> State {
        match self.line_end(bytes, from) {
            Ok(Ended::At(end)) => {
                self.rest = bytes.split_off(end);
                self.next_state()
            }
            Ok(Ended::Object) => State::Done,
            Ok(Ended::TooLong) => {
                let mut line = bytes.split_off(from);
                line.truncate(self.limits.record_bytes_max.saturating_add(1));
                self.cut = Some(Chunk {
                    line: self.line,
                    offset: offset + from as u64,
                    bytes: line,
                });
                if from == 0 {
                    self.line += 1;
                }
                State::Skipping
            }
            Err(error) => {
                bytes.truncate(from);
                State::Failed(error)
            }
        }
    }

    fn line_end(&mut self, bytes: &mut Vec<u8>, from: usize) -> Result<Ended, Error> {
        let longest = self.limits.record_bytes_max.max(self.limits.chunk_bytes);
        loop {
            let length = bytes.len() - from;
            if length > longest {
                return Ok(Ended::TooLong);
            }
            // Twice as much each time, never more than shows that the line is too long.
            let wanted = length.max(STEP_BYTES).min(longest + 1 - length);
            // Up to the split's end first: what is read beyond it must not begin another line of ours.
            let wanted = if self.position < self.end {
                self.inside(wanted)
            } else {
                wanted
            };
            let searched = bytes.len();
            let more = self.read(bytes, wanted)?;
            if let Some(at) = memchr(b'\n', &bytes[searched..]) {
                return Ok(Ended::At(searched + at + 1));
            }
            if !more {
                return Ok(Ended::Object);
            }
        }
    }
}

#[cfg(test)]
#[path = "lines_tests.rs"]
mod tests;
