//! Splits: slices of input, fixed in the ledger before the first byte is read (invariant 1).

use serde::{Deserialize, Serialize};

/// An input object as it was when the batch was planned. A reader that meets another size or version
/// refuses to go on: the positions would not mean the same bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct InputObject {
    /// `file:///absolute/path` or `s3://bucket/key`.
    pub url: String,
    /// Size in bytes, as stored (compressed objects: the compressed size).
    pub size: u64,
    /// The store's ETag, or for a local file its modification time in nanoseconds: what tells two contents of one name apart.
    pub version: String,
}

/// A slice of input for one task.
///
/// A record belongs to the split in whose range its first byte lies. For compressed objects and Avro
/// the range is the whole object; for Parquet a row group belongs where its first byte lies.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Split {
    /// Position in the batch's list of splits, from 0.
    pub index: u32,
    /// The object that is read.
    pub object: InputObject,
    /// First byte, in stored bytes.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}
