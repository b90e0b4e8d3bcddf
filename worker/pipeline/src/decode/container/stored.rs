//! Records as their file stores them, for quarantine: an Avro or Parquet file has no bytes of one record.
//!
//! | form   | what it is                                              | who makes it                                              |
//! |--------|---------------------------------------------------------|-----------------------------------------------------------|
//! | block  | the number of the first record, then all rows of a batch | decode, once a batch: `__raw` of every row shows it whole |
//! | record | one row                                                 | quality, of the rows that it takes out                    |
//!
//! Rows are written as Arrow's IPC stream, with the types of the file, so that a record decodes again just as it did
//! in its file. A row that passes costs its share of one copy of the batch, not an encoding of its own.
//!
//! Of a Parquet file only the columns that the pipeline wants are read, so a record has no others.

use arrow::array::{RecordBatch, StructArray};
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;

use crate::dedup::compact::compacted;
use crate::spec::model::Format;

use super::json;

const BLOCK: &[u8; 4] = b"MLB1";
const RECORD: &[u8; 4] = b"MLR1";

/// The rows of a batch whose first record has this number in its object.
pub(in crate::decode) fn block(batch: &RecordBatch, first: u64) -> Result<Vec<u8>, ArrowError> {
    let mut out = BLOCK.to_vec();
    out.extend_from_slice(&first.to_le_bytes());
    write(batch, out)
}

fn write(batch: &RecordBatch, mut out: Vec<u8>) -> Result<Vec<u8>, ArrowError> {
    let mut writer = StreamWriter::try_new(&mut out, &batch.schema())?;
    writer.write(batch)?;
    writer.finish()?;
    drop(writer);
    Ok(out)
}

fn read(stream: &[u8]) -> Result<RecordBatch, ArrowError> {
    let mut batches = StreamReader::try_new(stream, None)?;
    batches
        .next()
        .unwrap_or_else(|| Err(unknown("a stream without rows")))
}

fn unknown(found: &str) -> ArrowError {
    ArrowError::IpcError(format!(
        "expected records as quarantine keeps them, found {found}"
    ))
}

/// A block, read.
#[derive(Debug)]
pub(crate) struct Block {
    first: u64,
    rows: RecordBatch,
}

impl Block {
    /// Reads what [`block`] wrote.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, ArrowError> {
        let body = bytes.strip_prefix(BLOCK).and_then(<[u8]>::split_first_chunk);
        let Some((first, stream)) = body else {
            return Err(unknown("other bytes"));
        };
        Ok(Self {
            first: u64::from_le_bytes(*first),
            rows: read(stream)?,
        })
    }

    /// The record with this number in its object, by itself.
    pub(crate) fn record(&self, number: u64) -> Result<Vec<u8>, ArrowError> {
        let row = number
            .checked_sub(self.first)
            .and_then(|row| usize::try_from(row).ok())
            .filter(|row| *row < self.rows.num_rows())
            .ok_or_else(|| unknown("a record that is not in its block"))?;
        write(&compacted(&self.rows.slice(row, 1))?, RECORD.to_vec())
    }
}

/// The one row of a record.
pub(in crate::decode) fn row(record: &[u8]) -> Result<RecordBatch, ArrowError> {
    let stream = record
        .strip_prefix(RECORD)
        .ok_or_else(|| unknown("other bytes"))?;
    let row = read(stream)?;
    if row.num_rows() == 1 {
        Ok(row)
    } else {
        Err(unknown("several rows"))
    }
}

/// A quarantined record as people read it: JSON for Avro and Parquet, else as it is.
#[must_use]
pub fn readable(format: Format, record: Vec<u8>) -> Vec<u8> {
    match format {
        Format::Json | Format::Csv => record,
        Format::Avro | Format::Parquet => {
            let mut text = Vec::new();
            match row(&record).and_then(|row| json::write(&StructArray::from(row), 0, &mut text)) {
                Ok(()) => text,
                Err(_) => record, // not ours: shown as it is
            }
        }
    }
}
