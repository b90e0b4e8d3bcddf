//! Quarantined records on their way to the quarantine file.
//!
//! In: rows of a batch and why each is out. Out: batches in the quarantine file's schema, payloads sealed where
//! the policy says so. Reasons name columns and expectations, never values.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BinaryBuilder, BinaryViewArray, BooleanArray, RecordBatch, StringBuilder,
    UInt32Builder, UInt64Builder,
};
use arrow::datatypes::{UInt32Type, UInt64Type};
use arrow::error::ArrowError;
use datafusion::error::DataFusionError;

use super::compile::Kind;
use super::pass::Failing;
use super::plan::QualityPlan;
use crate::decode::container::stored::Block;
use crate::rows::{self, Fault, FaultKind};
use crate::spec::model::Format;

/// Bytes of payload at which a batch of rejects is full.
const BYTES_MAX: usize = 1 << 20;
/// Records at which a batch of rejects is full.
const RECORDS_MAX: usize = 1024;

/// Rejects that wait to be sent.
#[derive(Debug, Default)]
pub(super) struct Rejects {
    object: StringBuilder,
    split: UInt32Builder,
    line: UInt64Builder,
    offset: UInt64Builder,
    reasons: StringBuilder,
    payload: BinaryBuilder,
    records: usize,
    bytes: usize,
    last: Option<LastBlock>,
}

/// The block that a reject was last taken from: those of a batch share it.
#[derive(Debug)]
struct LastBlock {
    /// Keeps the block where it is, so that its address is its identity.
    raw: BinaryViewArray,
    row: usize,
    block: Block,
}

/// The hidden columns of a batch.
pub(super) struct Origins<'a> {
    pub(super) splits: &'a [u32],
    lines: &'a [u64],
    offsets: &'a [u64],
    raw: &'a BinaryViewArray,
    pub(super) faults: &'a arrow::array::StringViewArray,
}

impl<'a> Origins<'a> {
    /// Finds the hidden columns; an error is a plan that was joined wrongly.
    pub(super) fn of(batch: &'a RecordBatch) -> Result<Self, DataFusionError> {
        let column = |name: &'static str| {
            batch.column_by_name(name).ok_or_else(|| {
                DataFusionError::Internal(format!("the input of quality has no column `{name}`"))
            })
        };
        let wrong = |name: &'static str| {
            move || DataFusionError::Internal(format!("the input of quality has another type for `{name}`"))
        };
        Ok(Self {
            splits: column(rows::SPLIT)?
                .as_primitive_opt::<UInt32Type>()
                .ok_or_else(wrong(rows::SPLIT))?
                .values(),
            lines: column(rows::LINE)?
                .as_primitive_opt::<UInt64Type>()
                .ok_or_else(wrong(rows::LINE))?
                .values(),
            offsets: column(rows::OFFSET)?
                .as_primitive_opt::<UInt64Type>()
                .ok_or_else(wrong(rows::OFFSET))?
                .values(),
            raw: column(rows::RAW)?
                .as_binary_view_opt()
                .ok_or_else(wrong(rows::RAW))?,
            faults: column(rows::FAULTS)?
                .as_string_view_opt()
                .ok_or_else(wrong(rows::FAULTS))?,
        })
    }
}

impl Rejects {
    /// Takes a row out, with its reasons as JSON.
    pub(super) fn add(
        &mut self,
        plan: &QualityPlan,
        origins: &Origins<'_>,
        row: usize,
        reasons: &str,
    ) -> Result<(), ArrowError> {
        let clear = self.record(plan.format, origins, row)?;
        let split = origins.splits[row];
        let url = usize::try_from(split)
            .ok()
            .and_then(|split| plan.objects.get(split));
        self.object.append_value(url.map_or("", String::as_str));
        self.split.append_value(split);
        self.line.append_value(origins.lines[row]);
        self.offset.append_value(origins.offsets[row]);
        self.reasons.append_value(reasons);
        match plan.policy.sealer() {
            None => self.payload.append_value(&clear),
            Some(sealer) => self.payload.append_value(sealer.seal(&clear)),
        }
        self.records += 1;
        self.bytes += clear.len() + reasons.len();
        Ok(())
    }

    /// What quarantine keeps of a row: enough to decode it again by itself.
    fn record<'a>(
        &mut self,
        format: Format,
        origins: &Origins<'a>,
        row: usize,
    ) -> Result<Cow<'a, [u8]>, ArrowError> {
        let raw = origins.raw.value(row);
        match format {
            Format::Json | Format::Csv => Ok(Cow::Borrowed(raw)),
            Format::Avro | Format::Parquet => {
                let is_last = |last: &LastBlock| std::ptr::eq(last.raw.value(last.row), raw);
                if !self.last.as_ref().is_some_and(is_last) {
                    let Ok(block) = Block::read(raw) else {
                        return Ok(Cow::Borrowed(raw)); // a record that could not be read again
                    };
                    let raw = origins.raw.clone();
                    self.last = Some(LastBlock { raw, row, block });
                }
                match &self.last {
                    Some(last) => last.block.record(origins.lines[row]).map(Cow::Owned),
                    None => Ok(Cow::Borrowed(raw)),
                }
            }
        }
    }

    /// Whether it is time to send.
    pub(super) fn is_full(&self) -> bool {
        self.records >= RECORDS_MAX || self.bytes >= BYTES_MAX
    }

    /// Everything that waits; none when nothing does.
    pub(super) fn take(&mut self, plan: &QualityPlan) -> Result<Option<RecordBatch>, DataFusionError> {
        if self.records == 0 {
            return Ok(None);
        }
        let mut full = std::mem::take(self);
        let sealed = BooleanArray::from(vec![plan.policy.sealer().is_some(); full.records]);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(full.object.finish()),
            Arc::new(full.split.finish()),
            Arc::new(full.line.finish()),
            Arc::new(full.offset.finish()),
            Arc::new(full.reasons.finish()),
            Arc::new(sealed),
            Arc::new(full.payload.finish()),
        ];
        Ok(Some(RecordBatch::try_new(rows::reject_schema(), columns)?))
    }
}

impl QualityPlan {
    /// Every reason why a row fails, as JSON.
    pub(super) fn reasons(&self, failing: &[Failing], row: usize) -> Result<String, DataFusionError> {
        let faults: Vec<Fault> = failing
            .iter()
            .filter(|(_, bits)| bits.value(row))
            .filter_map(|(index, _)| {
                let Kind::Rows(judge, detail) = &self.checks[*index].kind else {
                    return None;
                };
                let column = match judge.columns().as_slice() {
                    [only] => Some(self.table.field(*only).name().clone()),
                    _ => None,
                };
                Some(Fault {
                    kind: FaultKind::Expectation,
                    column,
                    detail: detail.clone(),
                })
            })
            .collect();
        serde_json::to_string(&faults).map_err(|error| DataFusionError::External(Box::new(error)))
    }
}
