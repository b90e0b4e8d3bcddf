//! The operator that judges: takes rows out, counts, and says so in notes.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::error::Result;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::ExecutionPlan;
use futures::StreamExt;
use futures::stream::{BoxStream, unfold};

use super::judge::Run;
use super::plan::QualityPlan;
use crate::rows;
use crate::unary::{Unary, UnaryExec, UnaryTask};

/// Judges rows by a suite. In: the table's columns and [`rows::origin_fields`]; out: [`rows::event_schema`].
pub type QualityExec = UnaryExec<Quality>;

/// What [`QualityExec`] does.
#[derive(Debug)]
pub struct Quality {
    /// What it judges by.
    pub plan: Arc<QualityPlan>,
}

impl QualityExec {
    /// Judges what `input` gives.
    #[must_use]
    pub fn new(input: Arc<dyn ExecutionPlan>, plan: Arc<QualityPlan>) -> Self {
        Self::over(input, Arc::new(Quality { plan }))
    }
}

impl Unary for Quality {
    const NAME: &'static str = "QualityExec";

    fn schema(&self, _: &SchemaRef) -> SchemaRef {
        rows::event_schema(&self.plan.table, false)
    }

    fn settings(&self, _: &SchemaRef) -> String {
        format!("expectations={}", self.plan.checks.len())
    }

    fn run(
        &self,
        input: SendableRecordBatchStream,
        task: &UnaryTask<'_>,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let run = Run::new(Arc::clone(&self.plan), Arc::clone(task.schema));
        let state = (input, Some(run), VecDeque::<RecordBatch>::new(), task.metrics());
        let judged = unfold(state, |(mut input, mut run, mut ready, metrics)| async move {
            loop {
                if let Some(batch) = ready.pop_front() {
                    metrics.output_rows().add(batch.num_rows());
                    return Some((Ok(batch), (input, run, ready, metrics)));
                }
                let judging = run.as_mut()?;
                let next = input.next().await;
                let timer = metrics.elapsed_compute().timer();
                let judged = match next {
                    Some(Ok(batch)) => judging.judge(&batch),
                    Some(Err(error)) => Err(error),
                    None => judging.finish().inspect(|_| run = None),
                };
                drop(timer);
                match judged {
                    Ok(batches) => ready.extend(batches),
                    // An error ends the stream: a half-judged task has nothing to say.
                    Err(error) => return Some((Err(error), (input, None, VecDeque::new(), metrics))),
                }
            }
        });
        Ok(judged.boxed())
    }
}
