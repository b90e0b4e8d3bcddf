//! Rows on their way to another process: dealt out by key, packed into blocks, and columns again where they arrive.
//!
//! In: batches of events that have a key, and notes. Out, at other tasks: the same rows and notes; rows of equal keys
//! arrive at one task.
//!
//! The engine moves rows one by one and column by column, and copies what views point to several times. So it is given few
//! rows to move: [`PackExec`] deals events out to buckets by their key's hash and gathers each bucket's columns into
//! blocks of some MiB; a block is one row for the engine. [`UnpackExec`] makes columns of it, whose texts lie in the block
//! itself. A row of 330 bytes costs a quarter of what it did as columns.
//!
//! | what arrives                              | becomes                                                             |
//! |--------------------------------------------|----------------------------------------------------------------------|
//! | a row with a key                           | a row of a block of the bucket that its key's hash names             |
//! | a row without one                          | a row of any bucket: nothing is equal to it                          |
//! | a note                                     | a block of its own                                                   |
//! | a text that the block has already          | a reference, in columns where that is common: user agents, campaigns |
//! | a column of a type that has no plain bytes | Arrow's own stream, inside the block                                 |
//! | a block that is damaged                    | an error that says where; it is never read past its end              |
//!
//! ```text
//! block   = tag: u64 (0 rows, 1 note) | rows: u64 | sections
//! section = length in bytes: u64, 0: u64 | bytes | zeros up to a multiple of 16
//! rows    = for each column: nulls (empty when there are none), then values,
//!           or for texts: lengths (u32 each), starts (u32 each; empty where each begins at the end of the one before), bytes;
//!           at the end the other columns as an Arrow stream
//! note    = one section: the batch as an Arrow stream
//! ```
//!
//! Numbers are little-endian. Sections begin at multiples of 16, so that values can be used where they lie.

pub mod exec;
mod layout;
mod pack;
mod repeats;
#[cfg(test)]
mod tests;
mod unpack;

pub use exec::{PackExec, UnpackExec, bucket_names};

use arrow::error::ArrowError;

/// Where sections begin.
const ALIGNMENT: usize = 16;
/// Tag of a block of rows.
const ROWS: u64 = 0;
/// Tag of a block that is a note.
const NOTES: u64 = 1;

/// Why rows could not be packed or unpacked. No text of it holds a value.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// A column that the operator needs is not there, or not of its type.
    #[error("the exchange has no column `{column}` of type {expected}")]
    Input {
        /// The column.
        column: &'static str,
        /// The type it should have.
        expected: &'static str,
    },
    /// A block is not one: another version wrote it, or it was changed under way.
    #[error("a block of {bytes} bytes is damaged: {what}")]
    Damaged {
        /// Its size.
        bytes: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// Arrow refused an array.
    #[error("exchanged rows do not form a batch")]
    Arrow(#[from] ArrowError),
}
