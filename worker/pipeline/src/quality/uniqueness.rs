//! The operator that looks for repeated values after deduplication.
//!
//! In and out: events and notes, untouched; at the end a note with what was seen. It sits before masking, so
//! that it sees what is really the same. A repeated value fails the suite and takes no row out: the rows are
//! past the verdict.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::{filter_record_batch, is_null};
use arrow::datatypes::SchemaRef;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::ExecutionPlan;
use futures::StreamExt;
use futures::stream::{BoxStream, unfold};

use super::pass::Stage;
use super::plan::QualityPlan;
use super::state::QualityState;
use crate::rows::{self, Note};
use crate::unary::{Unary, UnaryExec, UnaryTask};

/// Tallies repeated values of what passes through.
pub type UniquenessExec = UnaryExec<Uniqueness>;

/// What [`UniquenessExec`] does.
#[derive(Debug)]
pub struct Uniqueness {
    /// What it judges by.
    pub plan: Arc<QualityPlan>,
}

impl UniquenessExec {
    /// Looks at what `input` gives.
    #[must_use]
    pub fn new(input: Arc<dyn ExecutionPlan>, plan: Arc<QualityPlan>) -> Self {
        Self::over(input, Arc::new(Uniqueness { plan }))
    }
}

/// Adds the events of a batch to the state; its notes are none of our business.
fn look(plan: &QualityPlan, batch: &RecordBatch, state: &mut QualityState) -> Result<()> {
    if !rows::is_note(batch) {
        return plan.pass(Stage::AfterDedup, batch, state).map(|_| ());
    }
    let notes = batch.column_by_name(rows::NOTE);
    let Some(events) = notes.map(|notes| is_null(notes.as_ref())).transpose()? else {
        return Ok(());
    };
    if events.true_count() == 0 {
        return Ok(());
    }
    plan.pass(Stage::AfterDedup, &filter_record_batch(batch, &events)?, state)
        .map(|_| ())
}

impl Unary for Uniqueness {
    const NAME: &'static str = "UniquenessExec";

    fn schema(&self, input: &SchemaRef) -> SchemaRef {
        Arc::clone(input)
    }

    fn settings(&self, _: &SchemaRef) -> String {
        String::new()
    }

    fn run(
        &self,
        input: SendableRecordBatchStream,
        task: &UnaryTask<'_>,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let plan = Arc::clone(&self.plan);
        let state = Some(plan.empty_state());
        let start = (input, state, plan, Arc::clone(task.schema), task.metrics());
        let seen = unfold(
            start,
            |(mut input, mut state, plan, schema, metrics)| async move {
                let seen = state.as_mut()?;
                let next = input.next().await;
                let timer = metrics.elapsed_compute().timer();
                let out = match next {
                    Some(Ok(batch)) => look(&plan, &batch, seen).map(|()| batch),
                    Some(Err(error)) => Err(error),
                    None => Note::Quality(plan.seal(seen))
                        .to_batch(&schema)
                        .map_err(|error| DataFusionError::External(Box::new(error)))
                        .inspect(|_| state = None),
                };
                drop(timer);
                if out.is_err() {
                    state = None;
                }
                Some((out, (input, state, plan, schema, metrics)))
            },
        );
        Ok(seen.boxed())
    }
}
