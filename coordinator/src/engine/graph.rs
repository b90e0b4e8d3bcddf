//! What the scheduler's graphs of stages tell: who is needed, and what must not be trusted.
//!
//! A first stage whose tasks or results are lost is mended by Ballista: what is missing is done again elsewhere, what is
//! there is used. A stage in the middle, the one behind the exchange, is not mended but begun anew when it had read from a
//! worker that is gone, and that Ballista 55 does wrongly, in two ways:
//!
//! - Tasks that had ended stay listed as inputs of the next stage, beside their repeats: a bucket is read twice.
//! - Tasks are numbered from 0 again, and bucket and number name the file of a result. A task of the first try that failed
//!   has left a file that is sound and empty; the next stage, where it runs on that very worker, reads this file instead of
//!   fetching the result of the second try from elsewhere: a bucket is missing.
//!
//! Counts that do not add up keep most of this out of a manifest, but a batch whose events all fall into one bucket adds up
//! when it is read twice. So such an attempt is over as soon as it is seen, and so is one in which not each bucket reported
//! once.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use ballista_core::JobId;
use ballista_core::serde::protobuf::task_status;
use ballista_scheduler::state::execution_graph::ExecutionGraphBox;
use ballista_scheduler::state::execution_stage::ExecutionStage;
use ballista_scheduler::state::task_manager::JobInfoCache;
use datafusion::physical_plan::ExecutionPlan;

/// A task as the scheduler knows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TaskPlace {
    /// Executor id of the worker that is said to run it.
    pub worker: String,
    /// The scheduler's job.
    pub job: String,
    /// Its stage.
    pub stage: usize,
    /// Its number in the stage.
    pub task: usize,
}

/// What running attempts have of workers.
#[derive(Debug, Default)]
pub struct InUse {
    /// Tasks that are said to run.
    pub tasks: HashSet<TaskPlace>,
    /// Executor ids of workers that run such a task, or hold the result of one.
    pub workers: HashSet<String>,
}

impl InUse {
    pub(super) async fn of(running: &HashMap<JobId, JobInfoCache>) -> Self {
        let mut in_use = Self::default();
        for (job, running) in running {
            let graph = running.execution_graph.read().await;
            for (number, stage) in graph.stages() {
                in_use.add(job, *number, stage);
            }
        }
        in_use
    }

    fn add(&mut self, job: &JobId, number: usize, stage: &ExecutionStage) {
        for task in stage.task_infos().unwrap_or_default() {
            let worker = match &task.task_status {
                task_status::Status::Running(run) => {
                    self.tasks.insert(TaskPlace {
                        worker: run.executor_id.clone(),
                        job: job.to_string(),
                        stage: number,
                        task: task.task_id,
                    });
                    &run.executor_id
                }
                task_status::Status::Successful(done) => &done.executor_id,
                task_status::Status::Failed(_) => continue,
            };
            self.workers.insert(worker.clone());
        }
    }
}

/// The stage that was begun anew in the middle of an attempt, behind another and before another.
pub(super) fn begun_anew(graph: &ExecutionGraphBox) -> Option<usize> {
    let tries = |stage: &ExecutionStage| match stage {
        ExecutionStage::UnResolved(stage) => (stage.stage_attempt_num, stage.inputs.len()),
        ExecutionStage::Resolved(stage) => (stage.stage_attempt_num, stage.inputs.len()),
        ExecutionStage::Running(stage) => (stage.stage_attempt_num, stage.inputs.len()),
        ExecutionStage::Successful(stage) => (stage.stage_attempt_num, stage.inputs.len()),
        // The attempt is over.
        ExecutionStage::Failed(_) => (0, 0),
    };
    graph.stages().iter().find_map(|(number, stage)| {
        let (tries, inputs) = tries(stage);
        (tries > 0 && inputs > 0 && !stage.output_links().is_empty()).then_some(*number)
    })
}

/// How many tasks of a plan report: those of the operator below the last two, which join them.
pub(super) fn sinks(plan: &Arc<dyn ExecutionPlan>) -> usize {
    let below = |plan: &Arc<dyn ExecutionPlan>| plan.children().first().map(|child| Arc::clone(child));
    below(plan)
        .and_then(|coalesce| below(&coalesce))
        .map_or(1, |sink| sink.properties().partitioning.partition_count())
}
