//! The one pass over a batch: every check and every statistic, once.
//!
//! In: a batch of sound rows. Out: the state with the batch added, and the failing rows of critical checks.

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt64Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{filter, take};
use arrow::datatypes::{UInt32Type, UInt64Type};
use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use serde_json::{Map, Value};

use super::compile::Kind;
use super::kernels::cells::{self, for_each_hash, join_hash};
use super::measure::Source;
use super::plan::{Fill, QualityPlan};
use super::state::{QualityState, Rows, SHOWN_MAX, Slot, Tally};
use super::statistics::counts::Counts;
use super::statistics::occurrences::Occurrences;
use super::verdict::{Ignore, Judge};
use crate::rows;

/// Which of the two operators passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    BeforeDedup,
    AfterDedup,
}

/// The rows that fail a critical check.
pub(super) type Failing = (usize, BooleanBuffer);

impl QualityPlan {
    /// Adds a batch to the state and returns the failing rows of critical checks.
    pub(super) fn pass(
        &self,
        stage: Stage,
        batch: &RecordBatch,
        state: &mut QualityState,
    ) -> Result<Vec<Failing>, DataFusionError> {
        let mut failing = Vec::new();
        let mut domains: Vec<Option<BooleanBuffer>> = vec![None; self.conditions.len()];
        for (plan, slot) in self.slots.iter().zip(&mut state.slots) {
            if plan.is_after_dedup() != (stage == Stage::AfterDedup) {
                continue;
            }
            if let Some(index) = plan.condition
                && domains[index].is_none()
            {
                domains[index] = Some(self.conditions[index].judge(batch)?);
            }
            let domain = plan.condition.and_then(|index| domains[index].as_ref());
            match &plan.fill {
                Fill::Source(source) => self.tally(source, batch, domain, slot)?,
                Fill::Check(index) => {
                    let check = &self.checks[*index];
                    let Kind::Rows(judge, _) = &check.kind else {
                        continue;
                    };
                    let judged = judge.judge(batch, domain)?;
                    slot.elements += judged.elements;
                    slot.missing += judged.missing;
                    let Some((bits, unexpected)) = judged.unexpected else {
                        continue;
                    };
                    if let Tally::Rows(rows) = &mut slot.tally {
                        rows.unexpected += unexpected;
                        self.show(judge, batch, &bits, rows)?;
                    }
                    if check.takes_rows_out() {
                        failing.push((*index, bits));
                    }
                }
            }
        }
        Ok(failing)
    }

    /// Keeps the first failing rows, masked.
    fn show(
        &self,
        judge: &Judge,
        batch: &RecordBatch,
        failing: &BooleanBuffer,
        shown: &mut Rows,
    ) -> Result<(), ArrowError> {
        let columns = judge.columns();
        if columns.is_empty() {
            return Ok(());
        }
        let splits = batch
            .column_by_name(rows::SPLIT)
            .and_then(|array| array.as_primitive_opt::<UInt32Type>());
        let lines = batch
            .column_by_name(rows::LINE)
            .and_then(|array| array.as_primitive_opt::<UInt64Type>());
        let position = |row: usize| {
            (
                splits.map_or(0, |splits| splits.value(row)),
                lines.map_or(0, |lines| lines.value(row)),
            )
        };
        let wanted: Vec<usize> = failing
            .set_indices()
            .filter(|row| {
                let (split, line) = position(*row);
                shown.wants(split, line)
            })
            .take(SHOWN_MAX)
            .collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let cells: Vec<Vec<Value>> = columns
            .iter()
            .map(|column| self.cells(*column, batch.column(*column), &wanted))
            .collect::<Result<_, _>>()?;
        let value = |at: usize| match (judge, cells.as_slice()) {
            (Judge::Columns { .. }, [a, b]) if judge_is_pair(judge) => {
                Value::Array(vec![a[at].clone(), b[at].clone()])
            }
            (Judge::Columns { .. }, cells) => Value::Object(
                columns
                    .iter()
                    .zip(cells)
                    .map(|(column, cells)| (self.table.field(*column).name().clone(), cells[at].clone()))
                    .collect::<Map<_, _>>(),
            ),
            (_, cells) => cells.first().map_or(Value::Null, |cells| cells[at].clone()),
        };
        shown.show(wanted.iter().enumerate().map(|(at, row)| {
            let (split, line) = position(*row);
            (split, line, value(at))
        }));
        Ok(())
    }

    /// Values of a column as a result may show them.
    pub(super) fn cells(
        &self,
        column: usize,
        array: &ArrayRef,
        rows: &[usize],
    ) -> Result<Vec<Value>, ArrowError> {
        let indices: UInt64Array = rows.iter().map(|row| *row as u64).collect();
        let mut taken = take(array, &indices, None)?;
        if self.masked.get(column).copied().unwrap_or(false) {
            match self.policy.mask_values(column, &taken) {
                Ok(masked) => taken = masked,
                Err(_) => return Ok(vec![Value::String("[redacted]".to_owned()); rows.len()]),
            }
        }
        Ok((0..taken.len()).map(|row| cells::json(&taken, row)).collect())
    }

    fn tally(
        &self,
        source: &Source,
        batch: &RecordBatch,
        domain: Option<&BooleanBuffer>,
        slot: &mut Slot,
    ) -> Result<(), ArrowError> {
        let within = |index: &usize| match domain {
            None => Ok(batch.column(*index).clone()),
            Some(domain) => filter(batch.column(*index), &BooleanArray::new(domain.clone(), None)),
        };
        slot.elements += domain.map_or(batch.num_rows(), BooleanBuffer::count_set_bits) as u64;
        let mut column = |index: &usize| {
            let array = within(index)?;
            slot.missing += array.null_count() as u64;
            Ok::<_, ArrowError>(array)
        };
        match (source, &mut slot.tally) {
            (Source::Nulls(index), _) => {
                column(index)?;
            }
            (Source::Extremes(index), Tally::Extremes(tally)) => tally.add(&column(index)?)?,
            (Source::Moments(index), Tally::Moments(tally)) => tally.add(&column(index)?)?,
            (Source::Quantiles(index), Tally::Quantiles(tally)) => tally.add(&column(index)?)?,
            (Source::Counts(index), Tally::Counts(tally)) => self.count(*index, &column(index)?, tally)?,
            (Source::Occurrences { columns, ignore, .. }, Tally::Occurrences(tally)) => {
                let arrays = columns.iter().map(within).collect::<Result<Vec<_>, _>>()?;
                slot.missing += self.occur(columns, &arrays, *ignore, tally)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn count(&self, column: usize, array: &ArrayRef, tally: &mut Counts) -> Result<(), ArrowError> {
        let mut fresh: Vec<(usize, u128)> = Vec::new();
        let nulls = array.nulls();
        for_each_hash(array, |row, hash| {
            if nulls.is_none_or(|nulls| nulls.is_valid(row)) && !tally.add(hash) {
                tally.insert(hash);
                fresh.push((row, hash));
            }
        })?;
        if fresh.is_empty() {
            return Ok(());
        }
        let rows: Vec<usize> = fresh.iter().map(|(row, _)| *row).collect();
        for ((_, hash), value) in fresh.iter().zip(self.cells(column, array, &rows)?) {
            tally.name(*hash, value);
        }
        Ok(())
    }

    /// Takes the rows' hashes and returns how many rows were left out.
    fn occur(
        &self,
        columns: &[usize],
        arrays: &[ArrayRef],
        ignore: Ignore,
        tally: &mut Occurrences,
    ) -> Result<u64, ArrowError> {
        let Some(first) = arrays.first() else { return Ok(0) };
        let references: Vec<&ArrayRef> = arrays.iter().collect();
        let considered = ignore.considered(&references);
        let mut hashes: Vec<u128> = vec![0; first.len()];
        for (at, array) in arrays.iter().enumerate() {
            for_each_hash(array, |row, hash| {
                hashes[row] = if at == 0 {
                    hash
                } else {
                    join_hash(hashes[row], hash)
                };
            })?;
        }
        let rows: Vec<usize> = match &considered {
            None => (0..first.len()).collect(),
            Some(considered) => considered.set_indices().collect(),
        };
        if tally.wants_text() {
            let cells: Vec<Vec<Value>> = columns
                .iter()
                .zip(arrays)
                .map(|(column, array)| self.cells(*column, array, &rows))
                .collect::<Result<_, _>>()?;
            for (at, row) in rows.iter().enumerate() {
                tally.name(hashes[*row], self.record(columns, &cells, at));
            }
        }
        rows.iter().for_each(|row| tally.add(hashes[*row]));
        Ok((first.len() - rows.len()) as u64)
    }

    fn record(&self, columns: &[usize], cells: &[Vec<Value>], at: usize) -> Value {
        match cells {
            [only] => only[at].clone(),
            several => Value::Object(
                columns
                    .iter()
                    .zip(several)
                    .map(|(column, cells)| (self.table.field(*column).name().clone(), cells[at].clone()))
                    .collect(),
            ),
        }
    }
}

fn judge_is_pair(judge: &Judge) -> bool {
    use super::verdict::ColumnsTest;
    matches!(
        judge,
        Judge::Columns {
            test: ColumnsTest::Compare(_) | ColumnsTest::PairIn(_),
            ..
        }
    )
}
