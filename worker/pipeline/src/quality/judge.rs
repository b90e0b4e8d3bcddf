//! One task's run of the suite: batches in, clean batches and notes out. No DataFusion streams here.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{filter, filter_record_batch};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::error::{DataFusionError, Result};
use millrace_proto::manifest::SplitCounts;

use super::pass::Stage;
use super::plan::QualityPlan;
use super::rejects::{Origins, Rejects};
use super::state::QualityState;
use crate::rows::{Note, NoteError, blanks_of, unmatched_of};

/// What a task knows between batches.
#[derive(Debug)]
pub(super) struct Run {
    plan: Arc<QualityPlan>,
    schema: SchemaRef,
    state: QualityState,
    rejects: Rejects,
    counts: BTreeMap<u32, SplitCounts>,
    unmatched: BTreeMap<String, u64>,
}

impl Run {
    pub(super) fn new(plan: Arc<QualityPlan>, schema: SchemaRef) -> Self {
        let state = plan.empty_state();
        Self {
            plan,
            schema,
            state,
            rejects: Rejects::default(),
            counts: BTreeMap::new(),
            unmatched: BTreeMap::new(),
        }
    }

    /// Judges a batch; what comes out is in order: the clean rows, then rejects when enough wait.
    pub(super) fn judge(&mut self, batch: &RecordBatch) -> Result<Vec<RecordBatch>> {
        let origins = Origins::of(batch)?;
        self.count_read(origins.splits);
        if let Some((split, blanks)) = blanks_of(batch) {
            self.count(split).lines += blanks;
        }
        for (lookup, events) in unmatched_of(batch).into_iter().flatten() {
            *self.unmatched.entry(lookup).or_default() += events;
        }
        let mut out = Vec::with_capacity(2);
        let sound = match faulty(&origins) {
            None => batch.clone(),
            Some(faulty) => {
                for row in faulty.set_indices() {
                    self.reject(&origins, row, origins.faults.value(row))?;
                }
                filter_record_batch(batch, &BooleanArray::new(!&faulty, None))?
            }
        };
        if sound.num_rows() > 0 {
            let failing = self.plan.pass(Stage::BeforeDedup, &sound, &mut self.state)?;
            let rejected = failing
                .iter()
                .map(|(_, bits)| bits.clone())
                .reduce(|any, bits| &any | &bits);
            if let Some(rejected) = &rejected {
                let origins = Origins::of(&sound)?;
                for row in rejected.set_indices() {
                    let reasons = self.plan.reasons(&failing, row)?;
                    self.reject(&origins, row, &reasons)?;
                }
            }
            out.extend(self.clean(&sound, rejected.as_ref())?);
        }
        if self.rejects.is_full() {
            out.extend(self.flush()?);
        }
        Ok(out)
    }

    /// What is left to say at the end: rejects, counts, statistics.
    pub(super) fn finish(&mut self) -> Result<Vec<RecordBatch>> {
        let mut out: Vec<RecordBatch> = self.flush()?.into_iter().collect();
        let counts = std::mem::take(&mut self.counts).into_values().collect();
        out.push(self.note(&Note::Counts(counts))?);
        if !self.unmatched.is_empty() {
            let unmatched = std::mem::take(&mut self.unmatched);
            out.push(self.note(&Note::Unmatched(unmatched))?);
        }
        if self.plan.has_expectations() {
            out.push(self.note(&Note::Quality(self.plan.seal(&self.state)))?);
        }
        Ok(out)
    }

    fn reject(&mut self, origins: &Origins<'_>, row: usize, reasons: &str) -> Result<()> {
        self.rejects.add(&self.plan, origins, row, reasons)?;
        self.counts.entry(origins.splits[row]).or_default().quarantined += 1;
        Ok(())
    }

    fn flush(&mut self) -> Result<Option<RecordBatch>> {
        match self.rejects.take(&self.plan)? {
            None => Ok(None),
            Some(rejects) => self.note(&Note::Rejects(rejects)).map(Some),
        }
    }

    fn note(&self, note: &Note) -> Result<RecordBatch> {
        note.to_batch(&self.schema)
            .map_err(|error: NoteError| DataFusionError::External(Box::new(error)))
    }

    /// Splits come in runs, nearly always one run a batch.
    fn count_read(&mut self, splits: &[u32]) {
        for run in splits.chunk_by(|a, b| a == b) {
            let count = self.count(run[0]);
            count.read += run.len() as u64;
            count.lines += run.len() as u64;
        }
    }

    fn count(&mut self, split: u32) -> &mut SplitCounts {
        self.counts.entry(split).or_insert_with(|| SplitCounts {
            split,
            ..Default::default()
        })
    }

    /// The rows that stay, in the schema of events: the columns as they are when every row stays.
    fn clean(&self, sound: &RecordBatch, rejected: Option<&BooleanBuffer>) -> Result<Option<RecordBatch>> {
        let kept = rejected.map(|rejected| BooleanArray::new(!rejected, None));
        let rows = kept.as_ref().map_or(sound.num_rows(), BooleanArray::true_count);
        if rows == 0 {
            return Ok(None);
        }
        let width = self.plan.table.fields().len();
        let keep = |array: &ArrayRef| match &kept {
            None => Ok(Arc::clone(array)),
            Some(kept) => filter(array, kept),
        };
        let mut columns = sound.columns()[..width]
            .iter()
            .map(keep)
            .collect::<Result<Vec<_>, _>>()?;
        let split = sound.schema().index_of(crate::rows::SPLIT)?;
        columns.push(keep(sound.column(split))?);
        columns.push(new_null_array(&DataType::Binary, rows));
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(Some(RecordBatch::try_new_with_options(
            Arc::clone(&self.schema),
            columns,
            &options,
        )?))
    }
}

/// The rows with faults; none when there are none.
fn faulty(origins: &Origins<'_>) -> Option<BooleanBuffer> {
    let faults = origins.faults;
    match faults.nulls() {
        None if faults.is_empty() => None,
        None => Some(BooleanBuffer::new_set(faults.len())),
        Some(nulls) if nulls.null_count() == faults.len() => None,
        Some(nulls) => Some(nulls.inner().clone()),
    }
}
