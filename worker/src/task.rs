//! One task of a plan, watched: whose it is stands on every line that it logs and on its span.
//!
//! In: a stage's plan, as the engine hands it out. Out: what the engine would have made of it.

use std::fmt;
use std::sync::Arc;

use ballista_core::JobId;
use ballista_core::serde::protobuf::ShuffleWritePartition;
use ballista_executor::execution_engine::{DefaultExecutionEngine, ExecutionEngine, QueryStageExecutor};
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::prelude::SessionConfig;
use millrace_pipeline::codec::{AttemptSpec, Travelling};
use millrace_pipeline::trace;
use tracing::{Instrument, Span};

/// Runs stages as Ballista does, and watches them. Plans of ours have nothing that the other reports of a stage are
/// about: neither window functions nor ranges.
pub(crate) struct WatchedEngine {
    inner: DefaultExecutionEngine,
}

impl WatchedEngine {
    pub(crate) fn new() -> Self {
        let inner = DefaultExecutionEngine::new();
        Self { inner }
    }
}

impl ExecutionEngine for WatchedEngine {
    fn create_query_stage_exec(
        &self,
        job_id: JobId,
        stage_id: usize,
        task_id: usize,
        global_output_partition_ids: Vec<usize>,
        plan: Arc<dyn ExecutionPlan>,
        work_dir: &str,
        config: &SessionConfig,
    ) -> Result<Arc<dyn QueryStageExecutor>> {
        let span = match whose(&plan) {
            Some(attempt) => span_of(attempt, stage_id, task_id),
            None => tracing::error_span!("task", stage = stage_id, task = task_id),
        };
        let inner = self.inner.create_query_stage_exec(
            job_id,
            stage_id,
            task_id,
            global_output_partition_ids,
            plan,
            work_dir,
            config,
        )?;
        Ok(Arc::new(WatchedTask { inner, span }))
    }
}

/// The attempt that a plan belongs to: any operator of ours knows.
fn whose(plan: &Arc<dyn ExecutionPlan>) -> Option<&AttemptSpec> {
    match plan.downcast_ref::<Travelling>() {
        Some(ours) => Some(ours.attempt()),
        None => plan.children().into_iter().find_map(whose),
    }
}

fn span_of(spec: &AttemptSpec, stage: usize, task: usize) -> Span {
    let span = tracing::error_span!(
        "task",
        job = %spec.job,
        batch = %spec.batch,
        attempt = %spec.attempt,
        epoch = spec.attempt.epoch,
        stage,
        task
    );
    if let Some(context) = &spec.trace {
        trace::continue_from(&span, context);
    }
    span
}

#[derive(Debug)]
struct WatchedTask {
    inner: Arc<dyn QueryStageExecutor>,
    span: Span,
}

impl fmt::Display for WatchedTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.inner, f)
    }
}

#[tonic::async_trait]
impl QueryStageExecutor for WatchedTask {
    async fn execute_query_stage(
        &self,
        task_id: usize,
        context: Arc<TaskContext>,
    ) -> Result<Vec<ShuffleWritePartition>> {
        let task = self.inner.execute_query_stage(task_id, context);
        task.instrument(self.span.clone()).await
    }

    fn collect_plan_metrics(&self) -> Vec<MetricsSet> {
        self.inner.collect_plan_metrics()
    }
}
