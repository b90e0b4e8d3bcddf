//! The operator around `TaskSink`: one task a partition, one row out.

use std::sync::Arc;

use arrow::array::{RecordBatch, StringArray};
use arrow::datatypes::SchemaRef;
use datafusion::common::{Result, internal_err};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use futures::StreamExt;
use futures::stream::BoxStream;
use millrace_proto::keys::TaskNames;

use super::SinkSpec;
use super::report::report_schema;
use super::task::TaskSink;
use crate::unary::{Unary, UnaryExec, UnaryTask};

/// Writes its input to the lake; see the module.
pub type SinkExec = UnaryExec<Sink>;

/// What [`SinkExec`] does.
#[derive(Debug)]
pub struct Sink {
    /// Where and how it writes.
    pub spec: Arc<SinkSpec>,
}

impl SinkExec {
    /// Writes each partition of `input` as one task.
    #[must_use]
    pub fn new(input: Arc<dyn ExecutionPlan>, spec: Arc<SinkSpec>) -> Self {
        Self::over(input, Arc::new(Sink { spec }))
    }
}

/// What the task calls its objects. An engine across processes says which run of which task this is
/// (`TID job/stage.attempt/task.attempt`): a run that was taken for dead may still write, so every run has
/// names of its own (invariant 3).
fn task_names(spec: &SinkSpec, partition: u32, task: &UnaryTask<'_>) -> TaskNames {
    let (task, run) = match (&spec.runner, task.context.task_id()) {
        (Some(runner), Some(identity)) => {
            let execution = task.execution(runner);
            let number = identity
                .rsplit('/')
                .next()
                .and_then(|task| task.split('.').next()?.parse().ok());
            let run = execution.to_hex().chars().take(8).collect();
            (number.unwrap_or(partition), run)
        }
        _ => (partition, String::new()),
    };
    TaskNames {
        batch: spec.batch.clone(),
        attempt: spec.attempt,
        task: spec.first_task + task,
        run,
    }
}

impl Unary for Sink {
    const NAME: &'static str = "SinkExec";

    fn schema(&self, _: &SchemaRef) -> SchemaRef {
        report_schema()
    }

    fn settings(&self, _: &SchemaRef) -> String {
        format!("batch={}, attempt={}", self.spec.batch, self.spec.attempt)
    }

    fn emission(&self, _: EmissionType) -> EmissionType {
        EmissionType::Final
    }

    fn boundedness(&self, _: Boundedness) -> Boundedness {
        Boundedness::Bounded
    }

    fn run(
        &self,
        mut input: SendableRecordBatchStream,
        task: &UnaryTask<'_>,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let Ok(number) = u32::try_from(task.partition) else {
            return internal_err!("SinkExec: partition {} has no task number", task.partition);
        };
        let names = task_names(&self.spec, number, task);
        let spec = Arc::clone(&self.spec);
        let metrics = task.metrics();
        let report = futures::stream::once(async move {
            let mut task = TaskSink::new(spec, names, input.schema())?;
            while let Some(batch) = input.next().await {
                let batch = batch?;
                let compute = metrics.elapsed_compute().clone();
                let _timer = compute.timer();
                task.append(&batch).await?;
            }
            drop(input); // its buffers are not needed while files are written
            let report = task.finish().await?;
            metrics.record_output(1);
            let column = Arc::new(StringArray::from(vec![report.into_json()?]));
            Ok(RecordBatch::try_new(report_schema(), vec![column])?)
        });
        Ok(report.boxed())
    }
}
