//! Whose turn it is: which attempt gets the slot that a worker has just offered.
//!
//! In: a worker with free slots, and every attempt that runs. Out: tasks for it. Ballista's own policies hand out all of
//! one job before they look at the next, in no order that anybody chose.
//!
//! | among the attempts that have a task to give       | comes first                                        |
//! |----------------------------------------------------|----------------------------------------------------|
//! | one holds fewer slots                              | that one                                           |
//! | as many, and one is of a `follow` job              | that one, unless it was served last                |
//! | as many otherwise                                  | the pipeline that was served longest ago           |
//!
//! So a slot that comes free goes to a `follow` job before a backfill that holds others, and a `follow` job that never
//! has enough does not keep a backfill from running. A worker that takes no tasks (it drains, its disk is full) is given
//! none, unless there is no other: what runs may end there, and nothing new begins.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use ballista_core::JobId;
use ballista_core::serde::protobuf::{AvailableVcores, job_status};
use ballista_core::serde::scheduler::TaskKey;
use ballista_scheduler::cluster::{BoundTask, DistributionPolicy};
use ballista_scheduler::state::execution_graph::{TaskDescription, create_task_info};
use ballista_scheduler::state::execution_stage::RunningStage;
use ballista_scheduler::state::task_manager::JobInfoCache;
use parking_lot::Mutex;

/// Says whether a worker, by its executor id, may be given tasks.
pub(super) type TakesTasks = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// Hands out slots.
pub(super) struct Turns {
    takes_tasks: TakesTasks,
    /// When each pipeline was served last: greater is later.
    served: Mutex<HashMap<String, u64>>,
}

impl Turns {
    pub(super) fn new(takes_tasks: TakesTasks) -> Self {
        Self {
            takes_tasks,
            served: Mutex::default(),
        }
    }

    /// The first of the candidates.
    fn next<'a>(&self, candidates: &'a mut [Candidate]) -> Option<&'a mut Candidate> {
        let served = self.served.lock();
        let last = served.values().max().copied().unwrap_or_default();
        candidates.iter_mut().min_by_key(|candidate| {
            let at = served.get(&candidate.name.pipeline).copied().unwrap_or_default();
            let is_urgent = candidate.name.is_follow && (at < last || at == 0);
            (candidate.running, Reverse(is_urgent), at)
        })
    }

    fn serve(&self, pipeline: &str) {
        let mut served = self.served.lock();
        let now = served.values().max().map_or(1, |last| last + 1);
        served.insert(pipeline.to_owned(), now);
    }
}

impl fmt::Debug for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turns").finish_non_exhaustive()
    }
}

/// What an attempt is called in the scheduler: `<pipeline>/<batch>-<attempt>`, and a `!` before it for a `follow` job's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct JobName {
    pub(super) pipeline: String,
    pub(super) attempt: String,
    pub(super) is_follow: bool,
}

impl fmt::Display for JobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.is_follow { "!" } else { "" };
        write!(f, "{mark}{}/{}", self.pipeline, self.attempt)
    }
}

impl JobName {
    fn parse(name: &str) -> Self {
        let plain = name.strip_prefix('!');
        let (pipeline, attempt) = plain.unwrap_or(name).split_once('/').unwrap_or((name, ""));
        Self {
            pipeline: pipeline.to_owned(),
            attempt: attempt.to_owned(),
            is_follow: plain.is_some(),
        }
    }
}

/// An attempt that may have tasks to give.
struct Candidate {
    id: JobId,
    name: JobName,
    running: usize,
}

#[async_trait::async_trait]
impl DistributionPolicy for Turns {
    async fn bind_tasks(
        &self,
        mut budgets: Vec<&mut AvailableVcores>,
        running_jobs: Arc<HashMap<JobId, JobInfoCache>>,
    ) -> datafusion::error::Result<Vec<BoundTask>> {
        budgets.retain(|budget| budget.vcores > 0 && (self.takes_tasks)(&budget.executor_id));
        let mut bound = Vec::new();
        if budgets.is_empty() {
            return Ok(bound);
        }
        let mut candidates = candidates(&running_jobs).await;
        for budget in budgets {
            while budget.vcores > 0
                && let Some(candidate) = self.next(&mut candidates)
            {
                let id = candidate.id.clone();
                let task = match running_jobs.get(&id) {
                    Some(job) => bind(job, &id, budget).await,
                    None => None,
                };
                if let Some(task) = task {
                    candidate.running += 1;
                    self.serve(&candidate.name.pipeline);
                    bound.push(task);
                } else {
                    candidates.retain(|candidate| candidate.id != id);
                }
            }
        }
        Ok(bound)
    }

    fn name(&self) -> &str {
        "turns"
    }
}

async fn candidates(running_jobs: &HashMap<JobId, JobInfoCache>) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    for (id, job) in running_jobs {
        if !matches!(job.status, Some(job_status::Status::Running(_))) {
            continue;
        }
        let graph = job.execution_graph.read().await;
        candidates.push(Candidate {
            id: id.clone(),
            name: JobName::parse(graph.job_name()),
            running: graph.running_tasks().len(),
        });
    }
    candidates
}

/// Takes the next task of a job and notes who runs it.
async fn bind(job: &JobInfoCache, id: &JobId, budget: &mut AvailableVcores) -> Option<BoundTask> {
    let mut graph = job.execution_graph.write().await;
    let session = graph.session_id().to_owned();
    let stage = graph.fetch_running_stage(&[])?;
    let partitions = stage
        .pending
        .next_slice(if joins(stage) { usize::MAX } else { 1 });
    if partitions.is_empty() {
        return None;
    }
    let number = stage.task_infos.len();
    let failures = |partition: &usize| stage.task_failure_numbers.get(*partition).copied();
    let task_attempt = partitions.iter().filter_map(failures).max().unwrap_or(0);
    let mut info = create_task_info(budget.executor_id.clone(), number);
    info.global_input_partition_ids.clone_from(&partitions);
    info.vcores_consumed = 1;
    stage.task_infos.push(info);
    budget.vcores -= 1;
    let task = TaskDescription {
        session_id: session,
        key: TaskKey {
            job_id: id.clone(),
            stage_id: stage.stage_id,
            task_id: number,
        },
        stage_attempt_num: stage.stage_attempt_num,
        task_attempt,
        global_input_partition_ids: partitions,
        vcores_consumed: 1,
        plan: Arc::clone(&stage.plan),
        session_config: Arc::clone(&stage.session_config),
    };
    Some((budget.executor_id.clone(), task))
}

/// Whether a stage makes one partition of all that it reads: then one task must read all of it.
fn joins(stage: &RunningStage) -> bool {
    let outputs = |plan: &&Arc<dyn datafusion::physical_plan::ExecutionPlan>| {
        plan.properties().partitioning.partition_count()
    };
    stage.plan.children().first().map(outputs) == Some(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(pipeline: &str, is_follow: bool, running: usize) -> Candidate {
        Candidate {
            id: pipeline.into(),
            name: JobName {
                pipeline: pipeline.to_owned(),
                attempt: "b00000001-7.1".to_owned(),
                is_follow,
            },
            running,
        }
    }

    /// Who gets so many slots, one after the other, each being given back before the next is offered.
    fn turns(turns: &Turns, mut candidates: Vec<Candidate>, slots: usize) -> String {
        let mut order = String::new();
        for _ in 0..slots {
            let name = turns.next(&mut candidates).unwrap().name.pipeline.clone();
            turns.serve(&name);
            order.push_str(&name);
        }
        order
    }

    fn all_take() -> Turns {
        Turns::new(Arc::new(|_| true))
    }

    #[test]
    fn a_name_comes_back_as_it_was() {
        for is_follow in [false, true] {
            let name = JobName {
                pipeline: "shop".to_owned(),
                attempt: "b00000001-7.1".to_owned(),
                is_follow,
            };
            assert_eq!(JobName::parse(&name.to_string()), name);
        }
    }

    #[test]
    fn who_holds_fewer_slots_comes_first() {
        let mut all = vec![candidate("a", true, 2), candidate("b", false, 1)];
        assert_eq!(all_take().next(&mut all).unwrap().name.pipeline, "b");
    }

    #[test]
    fn on_one_slot_a_follow_job_gets_every_second_turn_and_the_others_share_the_rest() {
        let all = vec![
            candidate("a", false, 0),
            candidate("b", false, 0),
            candidate("f", true, 0),
        ];
        let order = turns(&all_take(), all, 8);
        let of = |name: char| order.chars().filter(|turn| *turn == name).count();
        assert_eq!((of('f'), of('a'), of('b')), (4, 2, 2), "{order}");
    }
}
