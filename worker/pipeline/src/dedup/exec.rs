//! The operator that drops repeats: thin, what it knows is in the [`KeyIndex`], or with the [`Keepers`] of an attempt.
//!
//! Keepers are asked ahead, for some thousand rows at once: those wait for the answer while the next ones are decoded. A
//! task's stream is its input's batches less the repeats, with the survivors of deferred hours where enough of them were
//! held back and at the end, then one note with the duplicates counted by split.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, RecordBatch, UInt32Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{filter_record_batch, take_record_batch};
use arrow::datatypes::{SchemaRef, UInt32Type};
use datafusion::common::runtime::SpawnedTask;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::BaselineMetrics;
use futures::StreamExt;
use futures::stream::{BoxStream, try_unfold};
use millrace_proto::manifest::SplitCounts;

use super::claims::{ClaimError, Keepers, Run};
use super::deferred::HeldBack;
use super::grouping::{Columns, Groups};
use super::index::Verdict;
use super::{DedupError, KeyIndex};
use crate::rows::Note;
use crate::unary::{Unary, UnaryExec, UnaryTask};

/// Held rows are settled when they take this much, in each task. Each time the key files of their hours are read once
/// more: a smaller bound reads more often.
const HELD_BYTES: usize = 128 << 20;
/// Rows from which on keepers are asked: a question costs the same for one row.
const ASKED_ROWS: usize = 8192;
/// Batches that a question waits for, at most: those of large events hold few rows and much memory.
const ASKED_BATCHES: usize = 4;
/// Questions whose answers are waited for while the rows of the next one are decoded.
const ASKED_AHEAD: usize = 3;

/// Keeps the first event of each key in its event hour.
pub type DedupExec = UnaryExec<Dedup>;

/// What [`DedupExec`] does.
#[derive(Debug)]
pub struct Dedup {
    /// Keys seen so far, for all partitions of the process.
    pub index: Arc<KeyIndex>,
    /// Where keys are claimed, where not in `index`.
    pub apart: Option<Apart>,
    /// Position of the event time.
    pub time_column: usize,
    /// Memory of held rows from which on they are settled before the input ends.
    held_bytes: usize,
}

/// How a process takes part where an attempt's claims are kept by several.
#[derive(Debug, Clone)]
pub struct Apart {
    /// Who keeps them.
    pub keepers: Arc<Keepers>,
    /// What the process is called, among all that take part.
    pub runner: String,
}

impl DedupExec {
    /// Drops from `input`, which has keys, what was seen before. All partitions share the index and the keepers, so
    /// rows need not be partitioned by key.
    #[must_use]
    pub fn new(
        input: Arc<dyn ExecutionPlan>,
        index: Arc<KeyIndex>,
        apart: Option<Apart>,
        time_column: usize,
    ) -> Self {
        Self::holding(HELD_BYTES, input, index, apart, time_column)
    }

    /// The same with another bound for rows of deferred hours.
    pub(super) fn holding(
        held_bytes: usize,
        input: Arc<dyn ExecutionPlan>,
        index: Arc<KeyIndex>,
        apart: Option<Apart>,
        time_column: usize,
    ) -> Self {
        let step = Dedup {
            index,
            apart,
            time_column,
            held_bytes,
        };
        Self::over(input, Arc::new(step))
    }
}

/// One task at work.
struct Task {
    input: SendableRecordBatchStream,
    schema: SchemaRef,
    index: Arc<KeyIndex>,
    /// This task's run, where keepers are asked.
    run: Option<Run>,
    columns: Columns,
    duplicates: BTreeMap<u32, u64>,
    /// Rows that wait for answers, in the order of the input.
    asked: VecDeque<Asked>,
    held: HeldBack,
    held_bytes: usize,
    /// What is still to be emitted.
    ready: VecDeque<RecordBatch>,
    ended: bool,
    metrics: BaselineMetrics,
}

/// Batches that are asked for together, and what becomes of their rows.
struct Asked {
    batches: Vec<RecordBatch>,
    verdicts: Vec<Verdict>,
    /// The rows that lost, where that is still to be said.
    lost: Option<SpawnedTask<Result<Vec<u32>, ClaimError>>>,
}

impl Asked {
    async fn answered(self) -> Result<(Vec<RecordBatch>, Vec<Verdict>), DedupError> {
        let mut verdicts = self.verdicts;
        if let Some(lost) = self.lost {
            for row in lost.join().await.map_err(ClaimError::unanswered)?? {
                verdicts[row as usize] = Verdict::Duplicate;
            }
        }
        Ok((self.batches, verdicts))
    }
}

impl Task {
    /// The next batch to emit.
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            match self.ready.pop_front() {
                Some(batch) if batch.num_rows() > 0 => {
                    self.metrics.output_rows().add(batch.num_rows());
                    return Ok(Some(batch));
                }
                Some(_) => {}
                None if self.ended && self.asked.is_empty() => return Ok(None),
                None => self.step().await?,
            }
        }
    }

    /// Takes rows in, or has some ready.
    async fn step(&mut self) -> Result<()> {
        let ahead = if self.run.is_some() { ASKED_AHEAD } else { 0 };
        if !self.ended && self.asked.len() <= ahead {
            let batches = self.gather().await?;
            if !batches.is_empty() {
                let asked = self.ask(batches).await.map_err(external)?;
                self.asked.push_back(asked);
            }
            if self.asked.len() <= ahead && !self.ended {
                return Ok(());
            }
        }
        if let Some(asked) = self.asked.pop_front() {
            let (batches, verdicts) = asked.answered().await.map_err(external)?;
            let mut verdicts = verdicts.as_slice();
            for batch in batches {
                let (of_batch, others) = verdicts.split_at(batch.num_rows());
                verdicts = others;
                let kept = self.judge(batch, of_batch).await.map_err(external)?;
                self.ready.extend(kept);
            }
        }
        if self.ended && self.asked.is_empty() {
            self.settle().await.map_err(external)?;
            self.ready.extend(self.note()?);
        }
        Ok(())
    }

    /// The next batch; where keepers are asked, as many as make a question.
    async fn gather(&mut self) -> Result<Vec<RecordBatch>> {
        let most = if self.run.is_some() { ASKED_BATCHES } else { 1 };
        let (mut batches, mut rows) = (Vec::new(), 0);
        while batches.len() < most && rows < ASKED_ROWS {
            let Some(batch) = self.input.next().await.transpose()? else {
                self.ended = true;
                break;
            };
            rows += batch.num_rows();
            batches.push(batch);
        }
        Ok(batches)
    }

    /// Claims the keys of some batches. Notes have no key, so they win.
    async fn ask(&mut self, batches: Vec<RecordBatch>) -> Result<Asked, DedupError> {
        let elapsed = self.metrics.elapsed_compute().clone();
        let timer = elapsed.timer();
        let (columns, decisive) = self.columns.of_all(&batches)?;
        let rows = decisive.num_rows();
        let groups = Groups::of(&columns.keyed(&decisive)?);
        timer.done();
        // Loading an hour waits for storage, which is not computing.
        let hours = self.index.open_all(&groups).await?;
        let _timer = elapsed.timer();
        let Some(run) = &self.run else {
            let verdicts = self.index.claim(&groups, &hours, rows);
            return Ok(Asked {
                batches,
                verdicts,
                lost: None,
            });
        };
        let (verdicts, questions) = KeyIndex::look_up(&groups, &hours, rows);
        let lost = (!questions.is_empty()).then(|| {
            let splits = decisive.column(columns.split).as_primitive::<UInt32Type>();
            run.ask(&questions, splits.values())
        });
        Ok(Asked {
            batches,
            verdicts,
            lost,
        })
    }

    /// Gives back the rows of a batch that won.
    async fn judge(
        &mut self,
        batch: RecordBatch,
        verdicts: &[Verdict],
    ) -> Result<Option<RecordBatch>, DedupError> {
        if self.held.bytes() >= self.held_bytes {
            self.settle().await?;
        }
        let elapsed = self.metrics.elapsed_compute().clone();
        let _timer = elapsed.timer();
        if verdicts.iter().all(|verdict| *verdict == Verdict::Keep) {
            return Ok(Some(batch));
        }
        let is = |which: Verdict| BooleanBuffer::collect_bool(verdicts.len(), |row| verdicts[row] == which);
        self.count(&batch, &is(Verdict::Duplicate));
        let held = is(Verdict::Hold);
        if held.count_set_bits() > 0 {
            let held = filter_record_batch(&batch, &BooleanArray::new(held, None))?;
            self.held.push(&held, &self.columns)?;
        }
        // Most rows are kept, in short runs: taking them one by one is faster than filtering.
        let kept = is(Verdict::Keep).set_indices_u32().collect::<Vec<_>>();
        Ok(Some(take_record_batch(&batch, &UInt32Array::from(kept))?))
    }

    /// Compares what was held back with the committed keys of its hours.
    async fn settle(&mut self) -> Result<(), DedupError> {
        let held = std::mem::take(&mut self.held);
        for settled in held.settle(&self.index).await? {
            self.count(&settled.batch, &!&settled.kept);
            self.ready.push_back(settled.survivors()?);
        }
        Ok(())
    }

    /// The duplicates, counted by split.
    fn note(&self) -> Result<Option<RecordBatch>> {
        if self.duplicates.is_empty() {
            return Ok(None);
        }
        let counts = self.duplicates.iter().map(|(split, duplicates)| SplitCounts {
            split: *split,
            duplicates: *duplicates,
            ..SplitCounts::default()
        });
        let note = Note::Counts(counts.collect()).to_batch(&self.schema);
        note.map(Some)
            .map_err(|error| DataFusionError::External(Box::new(error)))
    }

    fn count(&mut self, batch: &RecordBatch, duplicates: &BooleanBuffer) {
        let splits = batch
            .column(self.columns.split)
            .as_primitive::<UInt32Type>()
            .values();
        let mut rows = duplicates.set_indices().peekable();
        // Rows of a split stand together: one look-up a run.
        while let Some(row) = rows.next() {
            let split = splits[row];
            let mut count = 1;
            while rows.next_if(|row| splits[*row] == split).is_some() {
                count += 1;
            }
            *self.duplicates.entry(split).or_default() += count;
        }
    }
}

/// The engine repeats a task only after an I/O error, so what may pass by itself becomes one.
fn external(error: DedupError) -> DataFusionError {
    if error.is_retryable() {
        DataFusionError::IoError(std::io::Error::other(error))
    } else {
        DataFusionError::External(Box::new(error))
    }
}

impl Unary for Dedup {
    const NAME: &'static str = "DedupExec";

    fn schema(&self, input: &SchemaRef) -> SchemaRef {
        Arc::clone(input)
    }

    fn settings(&self, input: &SchemaRef) -> String {
        format!("time={}", input.field(self.time_column).name())
    }

    fn run(
        &self,
        input: SendableRecordBatchStream,
        task: &UnaryTask<'_>,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let run = self.apart.as_ref().map(|apart| {
            let execution = task.execution(&apart.runner);
            let [a, b, c, d, e, f, g, h, ..] = *execution.as_bytes();
            Run {
                keepers: Arc::clone(&apart.keepers),
                id: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            }
        });
        let task = Task {
            input,
            schema: Arc::clone(task.schema),
            index: Arc::clone(&self.index),
            run,
            asked: VecDeque::new(),
            columns: Columns::of(task.schema, self.time_column).map_err(external)?,
            duplicates: BTreeMap::new(),
            held: HeldBack::default(),
            held_bytes: self.held_bytes,
            ready: VecDeque::new(),
            ended: false,
            metrics: task.metrics(),
        };
        let kept = try_unfold(task, |mut task| async move {
            Ok(task.next().await?.map(|batch| (batch, task)))
        });
        Ok(kept.boxed())
    }
}
