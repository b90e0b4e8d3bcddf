//! The ledger of what was sent: one entry for every line, in the order of lines.
//!
//! ```text
//! DIR/events/events-00000.ndjson[.gz|.zst]   the data
//! DIR/sent.json                              recipe, files, counts
//! DIR/sent.ledger                            20 bytes a line: event id (16, little endian), then a u32:
//!                                            length with newline << 8 | copy << 6 | damage code
//! ```
//!
//! Lengths instead of offsets: a line's offset in its file is the sum of those before it. Entries have a
//! fixed size, so threads write their blocks without waiting for each other.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::generate::broken::Damage;
use crate::generate::plan::Recipe;

/// Bytes of one entry.
pub const ENTRY_BYTES: usize = 20;
const COPY: u32 = 0x40;
const HOURS_LATER: u32 = 0x80;

/// What was sent as one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The event's id; a broken line has one too, even where its text does not show it.
    pub id: u128,
    /// Bytes, newline included.
    pub bytes: u32,
    /// How the line is broken, if it is.
    pub damage: Option<Damage>,
    /// Whether it is a copy of an earlier line, and if so whether hours lie between.
    pub copy: Option<bool>,
}

impl Entry {
    /// The entry's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; ENTRY_BYTES] {
        let copy = match self.copy {
            None => 0,
            Some(false) => COPY,
            Some(true) => COPY | HOURS_LATER,
        };
        let tail = self.bytes << 8 | copy | self.damage.map_or(0, |damage| u32::from(damage as u8));
        let mut bytes = [0; ENTRY_BYTES];
        bytes[..16].copy_from_slice(&self.id.to_le_bytes());
        bytes[16..].copy_from_slice(&tail.to_le_bytes());
        bytes
    }

    /// The entry of these bytes.
    #[must_use]
    pub fn decode(bytes: &[u8; ENTRY_BYTES]) -> Self {
        let (mut id, mut tail) = ([0; 16], [0; 4]);
        id.copy_from_slice(&bytes[..16]);
        tail.copy_from_slice(&bytes[16..]);
        let tail = u32::from_le_bytes(tail);
        Self {
            id: u128::from_le_bytes(id),
            bytes: tail >> 8,
            damage: Damage::from_code((tail & 0xf) as u8),
            copy: (tail & COPY != 0).then_some(tail & HOURS_LATER != 0),
        }
    }
}

/// `sent.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sent {
    /// What was asked for.
    pub recipe: Recipe,
    /// The data files, in the order of lines.
    pub files: Vec<SentFile>,
    /// What came out.
    pub counts: Counts,
    /// Where the lines are messages of a topic: `files` are its partitions then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<SentTopic>,
}

/// Lines that were sent to a topic, each a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentTopic {
    /// The offset of the first line in each partition.
    pub first_offsets: Vec<u64>,
}

impl SentTopic {
    /// The partition of an event: copies lie where their originals do.
    #[must_use]
    pub fn partition(id: u128, partitions: usize) -> usize {
        (id % partitions.max(1) as u128) as usize
    }
}

/// A data file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentFile {
    /// Name in the folder `events`; for a topic `kafka://topic/partition`.
    pub name: String,
    /// Lines in it.
    pub lines: u64,
    /// Bytes of its lines.
    pub bytes: u64,
    /// Bytes as stored, compressed.
    pub stored_bytes: u64,
}

/// Counts of lines.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Distinct good events.
    pub good: u64,
    /// Copies of good events.
    pub duplicates: u64,
    /// Copies that came hours after their original (a part of `duplicates`).
    pub late_duplicates: u64,
    /// Broken lines.
    pub broken: u64,
    /// Broken lines by kind.
    pub broken_by_kind: BTreeMap<String, u64>,
    /// Good events whose time is hours behind (a part of `good`).
    pub late: u64,
    /// Good events whose time is seconds behind (a part of `good`).
    pub out_of_order: u64,
    /// Bytes of all lines.
    pub bytes: u64,
}

impl Counts {
    /// Adds another block's counts.
    pub fn add(&mut self, other: &Self) {
        self.good += other.good;
        self.duplicates += other.duplicates;
        self.late_duplicates += other.late_duplicates;
        self.broken += other.broken;
        self.late += other.late;
        self.out_of_order += other.out_of_order;
        self.bytes += other.bytes;
        for (kind, count) in &other.broken_by_kind {
            *self.broken_by_kind.entry(kind.clone()).or_default() += count;
        }
    }
}

/// Why a ledger could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// No such file, or not readable.
    #[error("could not read `{path}`", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// Not the JSON that the generator writes.
    #[error("`{path}` is not a description of sent events", path = path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: serde_json::Error,
    },
    /// Data and ledger of different runs.
    #[error("`{path}` holds {bytes} bytes: {expected} are needed for {lines} lines", path = path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// Its size as it should be.
        expected: u64,
        /// Lines sent.
        lines: u64,
    },
}

/// A ledger on disk.
#[derive(Debug)]
pub struct Ledger {
    /// Its description.
    pub sent: Sent,
    path: PathBuf,
}

impl Ledger {
    /// Where the description lies.
    #[must_use]
    pub fn sent_path(folder: &Path) -> PathBuf {
        folder.join("sent.json")
    }

    /// Where the entries lie.
    #[must_use]
    pub fn entries_path(folder: &Path) -> PathBuf {
        folder.join("sent.ledger")
    }

    /// Opens the ledger in a folder.
    ///
    /// # Errors
    /// When it is not there, damaged, or its parts do not belong together.
    pub fn open(folder: &Path) -> Result<Self, LedgerError> {
        let path = Self::sent_path(folder);
        let text = std::fs::read(&path).map_err(|source| LedgerError::Read {
            path: path.clone(),
            source,
        })?;
        let sent: Sent = serde_json::from_slice(&text).map_err(|source| LedgerError::Json {
            path: path.clone(),
            source,
        })?;
        let path = Self::entries_path(folder);
        let bytes = std::fs::metadata(&path)
            .map_err(|source| LedgerError::Read {
                path: path.clone(),
                source,
            })?
            .len();
        let lines = sent.recipe.events;
        let expected = lines * ENTRY_BYTES as u64;
        if bytes != expected || sent.files.iter().map(|file| file.lines).sum::<u64>() != lines {
            return Err(LedgerError::Length {
                path,
                bytes,
                expected,
                lines,
            });
        }
        Ok(Self { sent, path })
    }

    /// Calls `each` with every line: its number, the index of its file, its offset there, its entry.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn for_each(&self, mut each: impl FnMut(Line)) -> Result<(), LedgerError> {
        let fail = |source| LedgerError::Read {
            path: self.path.clone(),
            source,
        };
        let mut reader = BufReader::with_capacity(1 << 20, File::open(&self.path).map_err(fail)?);
        let mut number = 0;
        let mut bytes = [0; ENTRY_BYTES];
        if let Some(topic) = &self.sent.topic {
            let mut next = topic.first_offsets.clone();
            for number in 0..self.sent.recipe.events {
                reader.read_exact(&mut bytes).map_err(fail)?;
                let entry = Entry::decode(&bytes);
                let file = SentTopic::partition(entry.id, next.len());
                each(Line {
                    number,
                    file,
                    line_in_file: next[file] - topic.first_offsets[file] + 1,
                    offset: next[file],
                    entry,
                });
                next[file] += 1;
            }
            return Ok(());
        }
        for (file, description) in self.sent.files.iter().enumerate() {
            let mut offset = 0;
            for line_in_file in 1..=description.lines {
                reader.read_exact(&mut bytes).map_err(fail)?;
                let entry = Entry::decode(&bytes);
                each(Line {
                    number,
                    file,
                    line_in_file,
                    offset,
                    entry,
                });
                number += 1;
                offset += u64::from(entry.bytes);
            }
        }
        Ok(())
    }
}

/// A line and where it is.
#[derive(Debug, Clone, Copy)]
pub struct Line {
    /// Number over all files, from 0.
    pub number: u64,
    /// Index of the file.
    pub file: usize,
    /// Line in the file, from 1.
    pub line_in_file: u64,
    /// Offset of its first byte in the (decompressed) file; in a topic the message's offset.
    pub offset: u64,
    /// What was sent.
    pub entry: Entry,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_comes_back_as_it_was_written() {
        let damages = Damage::ALL.into_iter().map(Some).chain([None]);
        for damage in damages {
            for copy in [None, Some(false), Some(true)] {
                let entry = Entry {
                    id: u128::MAX - 7,
                    bytes: 0xab_cdef,
                    damage,
                    copy,
                };
                assert_eq!(Entry::decode(&entry.encode()), entry);
            }
        }
    }
}
