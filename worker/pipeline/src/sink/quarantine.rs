//! Rejected events on their way to quarantine files: buffered, bounded, written in the schema they came in.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{AsArray, RecordBatch};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};

use super::SinkError;
use crate::rows::{Fault, reject_schema};

/// Buffered bytes at which a quarantine file is written.
const FILE_BYTES: usize = 64 << 20;

/// Rejects that no file holds yet.
#[derive(Debug, Default)]
pub(super) struct Rejects {
    batches: Vec<RecordBatch>,
    bytes: usize,
    rows: u64,
}

impl Rejects {
    /// Adds rejects; gives back a finished file (rows, bytes) when enough have come together.
    pub(super) fn push(&mut self, rejects: RecordBatch) -> Result<Option<(u64, Vec<u8>)>, SinkError> {
        if rejects.num_rows() == 0 {
            return Ok(None);
        }
        self.rows += rejects.num_rows() as u64;
        self.bytes += rejects.get_array_memory_size();
        self.batches.push(rejects);
        if self.bytes < FILE_BYTES {
            return Ok(None);
        }
        self.take()
    }

    /// Memory held.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The rest as a file, none when there is nothing.
    pub(super) fn take(&mut self) -> Result<Option<(u64, Vec<u8>)>, SinkError> {
        if self.batches.is_empty() {
            return Ok(None);
        }
        let batches = std::mem::take(&mut self.batches);
        let rows = std::mem::take(&mut self.rows);
        self.bytes = 0;
        Ok(Some((rows, encode(&batches)?)))
    }
}

/// Counts rejects by the kind of their reasons: one with several kinds counts for each.
pub(super) fn count_reasons(
    rejects: &RecordBatch,
    counts: &mut BTreeMap<String, u64>,
) -> Result<(), SinkError> {
    let wrong = |what: String| SinkError::Input { what };
    let reasons = rejects
        .column_by_name("reasons")
        .and_then(|column| column.as_string_opt::<i32>())
        .ok_or_else(|| wrong("rejects come without the text column `reasons`".to_owned()))?;
    for text in reasons.iter().flatten() {
        let faults: Vec<Fault> = serde_json::from_str(text)
            .map_err(|error| wrong(format!("the reasons of a reject are not readable: {error}")))?;
        let kinds: BTreeSet<&str> = faults.iter().map(|fault| fault.kind.name()).collect();
        for kind in kinds {
            *counts.entry(kind.to_owned()).or_default() += 1;
        }
    }
    Ok(())
}

/// A quarantine file. Its statistics hold no bound of any value: payloads may be clear personal data.
pub(super) fn encode(batches: &[RecordBatch]) -> Result<Vec<u8>, SinkError> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_statistics_enabled(EnabledStatistics::None)
        .set_offset_index_disabled(true)
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), reject_schema(), Some(properties))?;
    for batch in batches {
        writer.write(batch)?;
    }
    Ok(writer.into_inner()?)
}
