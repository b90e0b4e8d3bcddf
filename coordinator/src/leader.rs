//! What a coordinator does while it leads: a lane for every pipeline with active jobs or models, a handoff for every warehouse.
//!
//! In: the registry's active jobs, watched. Out: lanes, begun when a pipeline gets a job, gone a while after its last one
//! ended, begun again when one broke. Ends when the leadership is lost; every lane ends with it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use millrace_proto::ids::PipelineName;
use millrace_proto::v1::{Job, JobState};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::Instrument;

use crate::causes::chain;
use crate::engine::stopped;
use crate::handoff;
use crate::lane::{self, ActiveJobs, LaneError, Tools};
use crate::mind;
use crate::registry::Retention;
use crate::registry::state::is_active;

/// Pause before a broken lane is begun again.
const PAUSE: Duration = Duration::from_secs(1);
/// How often old jobs are pruned.
const PRUNE_EVERY: Duration = Duration::from_secs(300);

/// Leads until the leadership is lost or `stop` says so.
pub async fn lead(tools: Arc<Tools>, mut stop: watch::Receiver<bool>) {
    let mut lost = tools.lead.lost();
    let (active, jobs) = watch::channel(ActiveJobs::new());
    let mut watched = tools.registry.watch_jobs();
    let mut lanes: JoinSet<(PipelineName, Result<(), LaneError>)> = JoinSet::new();
    let mut at_work: BTreeSet<PipelineName> = BTreeSet::new();
    let mut prune = tokio::time::interval(PRUNE_EVERY);
    // Ends with this function, wherever it stands.
    let mut beside = JoinSet::new();
    let span = tracing::error_span!("handoffs", epoch = tools.lead.epoch());
    beside.spawn(handoff::tend(Arc::clone(&tools)).instrument(span));
    beside.spawn(mind::tend(Arc::clone(&tools)));
    let (tell, mut with_models) = mpsc::channel(16);
    beside.spawn(lane::tend_models(Arc::clone(&tools), tell));
    // Lanes that are begun without a job: nobody submits one for what is due.
    let mut to_model: BTreeSet<PipelineName> = BTreeSet::new();
    let mut modelled = to_model.clone();
    loop {
        tokio::select! {
            job = watched.next() => match job {
                Some(job) => { active.send_if_modified(|active| take_in(active, job)); }
                None => return,
            },
            Some(ended) = lanes.join_next() => {
                if let Ok((name, outcome)) = ended {
                    if let Err(error) = outcome {
                        tracing::warn!(pipeline = %name, error = chain(&error), "a lane broke");
                        if modelled.contains(&name) && !error.is_about_nothing() {
                            to_model.insert(name.clone());
                        }
                    }
                    at_work.remove(&name);
                }
            }
            Some(name) = with_models.recv() => {
                modelled.insert(name.clone());
                to_model.insert(name);
            }
            _ = prune.tick() => {
                if let Err(error) = tools.registry.prune(&tools.lead, &Retention::default(), std::time::SystemTime::now()).await {
                    tracing::debug!(%error, "old jobs were not pruned");
                }
            }
            () = stopped(&mut lost) => {
                tracing::warn!(epoch = tools.lead.epoch(), "no longer leads");
                return;
            }
            () = stopped(&mut stop) => return,
        }
        let running = jobs
            .borrow()
            .values()
            .filter(|job| job.state() == JobState::Running)
            .count();
        let pending = jobs.borrow().len() - running;
        tools.metrics.jobs(pending, running);
        let wanted: BTreeSet<String> = jobs.borrow().values().map(|job| job.pipeline.clone()).collect();
        let wanted = wanted
            .into_iter()
            .filter_map(|name| PipelineName::try_from(name).ok());
        for name in wanted.chain(to_model.clone()) {
            if at_work.insert(name.clone()) {
                to_model.remove(&name);
                let (tools, jobs) = (Arc::clone(&tools), jobs.clone());
                let span = tracing::error_span!("lane", pipeline = %name, epoch = tools.lead.epoch());
                let run = async move {
                    let ended = lane::run(tools, name.clone(), jobs).await;
                    if ended.is_err() {
                        // Its own pause: the other lanes, and the loss of the leadership, do not wait for it.
                        tokio::time::sleep(PAUSE).await;
                    }
                    (name, ended)
                };
                lanes.spawn(run.instrument(span));
            }
        }
    }
}

/// Keeps the active jobs; whether anything changed that lanes act on.
fn take_in(active: &mut ActiveJobs, job: Job) -> bool {
    let state = JobState::try_from(job.state).unwrap_or_default();
    if is_active(state) {
        let known = active.insert(job.job_id.clone(), job);
        known.is_none()
    } else {
        active.remove(&job.job_id).is_some()
    }
}
