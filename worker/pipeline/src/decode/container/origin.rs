//! The five hidden columns of a batch that a container format gives: where each row came from and what is wrong.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryViewBuilder, StringViewBuilder, UInt32Array, UInt64Array};
use arrow::buffer::Buffer;
use arrow::error::ArrowError;

use crate::decode::Wanted;
use crate::rows::{Fault, FaultKind};

/// Where one record came from.
#[derive(Debug, Clone, Copy)]
pub(in crate::decode) struct Place {
    pub(in crate::decode) split: u32,
    pub(in crate::decode) line: u64,
    pub(in crate::decode) offset: u64,
}

/// Origins of rows, in order.
#[derive(Debug)]
pub(in crate::decode) struct Origin {
    split: u32,
    raw: Vec<(usize, usize)>,
    lines: Vec<u64>,
    offsets: Vec<u64>,
    faults: BTreeMap<usize, Vec<Fault>>,
}

impl Origin {
    pub(in crate::decode) fn new(split: u32) -> Self {
        Self {
            split,
            raw: Vec::new(),
            lines: Vec::new(),
            offsets: Vec::new(),
            faults: BTreeMap::new(),
        }
    }

    /// A row whose record stands at `raw` in the buffer that [`Self::finish`] gets; its number in the batch.
    pub(in crate::decode) fn push(&mut self, raw: (usize, usize), line: u64, offset: u64) -> usize {
        self.raw.push(raw);
        self.lines.push(line);
        self.offsets.push(offset);
        self.raw.len() - 1
    }

    /// Lays the records of `block` out anew, each behind the header of its file, so that each can be read by
    /// itself. One that was cut has an empty header: nothing may take it for whole.
    pub(in crate::decode) fn behind(&mut self, header: &[u8], block: &[u8]) -> Vec<u8> {
        let records: usize = self.raw.iter().map(|(start, end)| end - start).sum();
        let mut out = Vec::with_capacity(records + self.raw.len() * (header.len() + 1));
        for (row, (start, end)) in self.raw.iter_mut().enumerate() {
            let from = out.len();
            let faults = self.faults.get(&row).into_iter().flatten();
            if !faults.into_iter().any(|fault| fault.kind == FaultKind::TooLarge) {
                out.extend_from_slice(header);
            }
            out.push(b'\n');
            out.extend_from_slice(&block[*start..*end]);
            (*start, *end) = (from, out.len());
        }
        out
    }

    pub(in crate::decode) fn fault(&mut self, row: usize, fault: Fault) {
        self.faults.entry(row).or_default().push(fault);
    }

    /// A value of another type than the column's; `found` must not tell the value.
    pub(in crate::decode) fn wrong_type(&mut self, row: usize, wanted: &Wanted, found: &str) {
        let detail = format!("expected {}, found {found}", wanted.kind.name());
        self.fault(
            row,
            Fault {
                kind: FaultKind::WrongType,
                column: Some(wanted.name.clone()),
                detail,
            },
        );
    }

    /// The columns of [`crate::rows::origin_fields`].
    pub(in crate::decode) fn finish(self, block: Buffer) -> Result<Vec<ArrayRef>, ArrowError> {
        let mut raw = BinaryViewBuilder::with_capacity(self.raw.len());
        let id = raw.append_block(block);
        for (start, end) in &self.raw {
            let narrow = |position: usize| {
                u32::try_from(position).map_err(|_| {
                    ArrowError::InvalidArgumentError(format!("byte {position} is beyond a view's reach"))
                })
            };
            raw.try_append_view(id, narrow(*start)?, narrow(end - start)?)?;
        }
        let mut faults = StringViewBuilder::with_capacity(self.raw.len());
        for row in 0..self.raw.len() {
            match self.faults.get(&row) {
                None => faults.append_null(),
                Some(found) => {
                    let json = serde_json::to_string(found)
                        .map_err(|error| ArrowError::ExternalError(Box::new(error)))?;
                    faults.try_append_value(json)?;
                }
            }
        }
        Ok(vec![
            Arc::new(raw.finish()),
            Arc::new(UInt32Array::from(vec![self.split; self.raw.len()])),
            Arc::new(UInt64Array::from(self.lines)),
            Arc::new(UInt64Array::from(self.offsets)),
            Arc::new(faults.finish()),
        ])
    }
}
