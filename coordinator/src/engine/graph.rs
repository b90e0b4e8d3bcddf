//! What the scheduler's graphs of stages tell: who is needed, and how many reports an attempt must have.
//!
//! An attempt has two stages: tasks that walk their splits and report, and one that joins the reports. Tasks that are lost, or
//! whose reports are, are mended by Ballista: what is missing is done again elsewhere, what is there is used.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use ballista_core::JobId;
use ballista_core::serde::protobuf::task_status;
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

/// How many tasks of a plan report: those of the operator below the last two, which join them.
pub(super) fn sinks(plan: &Arc<dyn ExecutionPlan>) -> usize {
    let below = |plan: &Arc<dyn ExecutionPlan>| plan.children().first().map(|child| Arc::clone(child));
    below(plan)
        .and_then(|coalesce| below(&coalesce))
        .map_or(1, |sink| sink.properties().partitioning.partition_count())
}
