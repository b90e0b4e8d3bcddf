//! Minds the workers while we lead.
//!
//! In: the table of workers, and what running attempts have of them. Out: the scheduler forgets those that are gone, those
//! that drain learn when they may leave, and tasks that were lost on their way are given out again.
//!
//! | a worker…                                              | is                                                        |
//! |--------------------------------------------------------|------------------------------------------------------------|
//! | is silent, or replaced by a new process, and polls no more | lost: what it did is done again elsewhere              |
//! | is silent, and still polls                              | left alone: its heartbeats may be slow                     |
//! | drains, and no running attempt has anything of it       | told that it may leave                                     |
//! | says for long enough that it is idle, while a task is said to run there | lost: a poll or its answer never arrived; it gets new tasks at once |

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engine::graph::{InUse, TaskPlace};
use crate::lane::Tools;
use crate::workers::Workers;

/// Between looks.
const EVERY: Duration = Duration::from_millis(250);
/// A worker whose slots are all busy polls every five seconds.
const POLLS: Duration = Duration::from_secs(6);
/// A task that nobody runs for so long is lost.
const LOST: Duration = Duration::from_secs(6);

/// Minds the workers until it is dropped.
pub async fn tend(tools: Arc<Tools>) {
    let (engine, workers) = (&tools.engine, &tools.workers);
    let mut gone: BTreeSet<String> = BTreeSet::new();
    let mut suspects = Suspects::default();
    loop {
        tokio::time::sleep(EVERY).await;
        let now = Instant::now();
        gone.extend(workers.bury(now).into_iter().map(|worker| worker.executor_id));
        for id in gone.clone() {
            let silent = engine.silent_for(&id);
            if silent.is_some_and(|silent| silent < POLLS) && !workers.is_alive(&id, now) {
                continue;
            }
            gone.remove(&id);
            if silent.is_some() && !workers.is_alive(&id, now) {
                tracing::warn!(executor = id, "a worker is lost");
                engine.lose(&id, "silent").await;
            }
        }
        let leaving = workers.leaving();
        // Asked for after the others: what is given out later is given out to nobody of them.
        let in_use = engine.in_use().await;
        for id in leaving {
            workers.is_needed(&id, in_use.workers.contains(&id));
        }
        for id in suspects.look(&in_use, workers, now) {
            tracing::warn!(executor = id, "a task was lost on its way to a worker or back");
            engine.lose(&id, "its task was lost on the way").await;
        }
    }
}

/// Tasks that are said to run, since when.
#[derive(Debug, Default)]
struct Suspects(HashMap<TaskPlace, Instant>);

impl Suspects {
    /// Workers that have been idle for longer than a task has been said to run there.
    fn look(&mut self, in_use: &InUse, workers: &Workers, now: Instant) -> BTreeSet<String> {
        self.0.retain(|task, _| in_use.tasks.contains(task));
        for task in &in_use.tasks {
            self.0.entry(task.clone()).or_insert(now);
        }
        let is_old = |since: Instant| now.saturating_duration_since(since) >= LOST;
        let idle = |task: &TaskPlace| {
            workers
                .idle_for(&task.worker, now)
                .is_some_and(|idle| idle >= LOST)
        };
        let lost = self
            .0
            .iter()
            .filter(|(task, since)| is_old(**since) && idle(task));
        lost.map(|(task, _)| task.worker.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use millrace_proto::v1::{self, PROTOCOL_VERSION};

    use super::*;

    fn beat(workers: &Workers, busy: u32, now: Instant) {
        let worker = v1::Worker {
            name: "w1".to_owned(),
            executor_id: "a".to_owned(),
            slots: 1,
            slots_busy: busy,
            ..v1::Worker::default()
        };
        let request = v1::JoinClusterRequest {
            protocol_version: PROTOCOL_VERSION,
            worker: Some(worker),
        };
        workers.join(request, now).unwrap();
    }

    fn running(task: usize) -> InUse {
        let place = TaskPlace {
            worker: "a".to_owned(),
            job: "j".to_owned(),
            stage: 1,
            task,
        };
        InUse {
            tasks: HashSet::from([place]),
            workers: HashSet::from(["a".to_owned()]),
        }
    }

    /// What is found each second, while the worker says how busy it is and the scheduler which task it runs.
    fn seconds(says: impl Fn(u64) -> (u32, usize)) -> Vec<bool> {
        let (workers, start, mut suspects) = (Workers::default(), Instant::now(), Suspects::default());
        (0..20)
            .map(|second| {
                let now = start + Duration::from_secs(second);
                let (busy, task) = says(second);
                beat(&workers, busy, now);
                !suspects.look(&running(task), &workers, now).is_empty()
            })
            .collect()
    }

    #[test]
    fn a_task_that_nobody_runs_is_lost() {
        let found = seconds(|_| (0, 1));
        let first = found.iter().position(|lost| *lost);
        assert_eq!(first, Some(6));
    }

    #[test]
    fn a_busy_worker_and_one_whose_tasks_change_have_lost_nothing() {
        assert!(!seconds(|_| (1, 1)).contains(&true));
        assert!(!seconds(|second| (u32::from(second % 3 == 0), 1)).contains(&true));
        assert!(!seconds(|second| (0, second as usize / 4)).contains(&true));
    }
}
