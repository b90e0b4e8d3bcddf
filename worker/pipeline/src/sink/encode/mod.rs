//! Rows of a partition to a Parquet file.
//!
//! In: batches' columns and row numbers. Out: a whole file. Rows wait in compact columns ([`buffer`]); texts
//! of few values wait as numbers. A file is encoded column by column: the order by event time is found
//! once ([`order`]), each column is gathered along it, gets the encoding that is smallest for its values
//! ([`column`]), and its pages are compressed as far as that pays ([`compress`]). What a column has learned
//! from its first pages serves the task's later files.
//!
//! The Parquet crate writes the file's frame (footer, row groups); pages are made here, since here it is
//! known what the general writer must find out value by value. Lists go through its Arrow writer.

mod bits;
mod buffer;
mod column;
mod compress;
mod dictionary;
mod file;
mod order;
mod page;
mod statistics;

pub(super) use buffer::PartitionBuffer;
pub(super) use file::{FileShape, FileWriter, PartitionValues};

use std::io;

use arrow::error::ArrowError;
use parquet::errors::ParquetError;

/// Why rows could not be encoded.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// A column of another type than the table's.
    #[error("column `{column}` comes as {found}, not as {expected}")]
    Type {
        /// Column.
        column: String,
        /// Its type.
        found: String,
        /// The table's type.
        expected: String,
    },
    /// A column name that stands twice in the file.
    #[error("`{column}` is both a column of the table and a partition column; rename the table's column")]
    Twice {
        /// Column.
        column: String,
    },
    /// Arrow refused.
    #[error("could not read a column")]
    Arrow(#[from] ArrowError),
    /// The Parquet crate refused.
    #[error("could not write the file")]
    Parquet(#[from] ParquetError),
    /// The compressor refused.
    #[error("could not compress a page")]
    Compress(#[from] io::Error),
}
