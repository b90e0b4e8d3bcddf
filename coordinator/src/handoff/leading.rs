//! The handoffs of a leader: one loop for every applied pipeline with a warehouse, apart from the lanes.
//!
//! In: the registry's pipelines, and the ledger of each, looked at when something was committed and twice a second. Out:
//! their loops, begun again when a newer version is applied or one broke. A lane that is slow or gone does not slow a
//! handoff, and a warehouse that is down slows no lane.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use millrace_pipeline::spec::model::{HandoffUnit, Pipeline};
use millrace_proto::ids::JobId;
use millrace_proto::v1::{self, job_input::Input};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::{Handoff, Known, Watched, marts};
use crate::applied;
use crate::causes::chain;
use crate::lake::Lake;
use crate::lane::Tools;
use crate::ledger::LedgerError;
use crate::ledger::etcd::EtcdLedger;
use crate::registry::{Registry, RegistryError};

/// How often pipelines are looked at.
const PIPELINES_EVERY: Duration = Duration::from_secs(2);
/// How often a ledger is looked at when nobody says that something was committed: one small read.
const LEDGER_EVERY: Duration = Duration::from_millis(500);

/// Hands off the batches of all pipelines, for as long as it is polled.
pub async fn tend(tools: Arc<Tools>) {
    let mut loops = JoinSet::new();
    let mut running: BTreeMap<String, (u32, AbortHandle)> = BTreeMap::new();
    loop {
        while let Some(ended) = loops.try_join_next() {
            if let Err(error) = ended
                && error.is_panic()
            {
                tracing::error!(%error, "a handoff broke");
            }
        }
        match applied_pipelines(&tools).await {
            Ok(pipelines) => {
                running.retain(|name, (version, handle)| {
                    let newest = pipelines.iter().find(|pipeline| pipeline.name == *name);
                    let stays = newest.is_some_and(|newest| newest.version == *version);
                    if !stays {
                        handle.abort();
                    }
                    stays && !handle.is_finished()
                });
                for pipeline in pipelines {
                    if !running.contains_key(&pipeline.name) {
                        let (name, version) = (pipeline.name.clone(), pipeline.version);
                        let handle = loops.spawn(hand_off(Arc::clone(&tools), pipeline));
                        running.insert(name, (version, handle));
                    }
                }
            }
            Err(error) => tracing::debug!(%error, "pipelines could not be listed"),
        }
        tokio::time::sleep(PIPELINES_EVERY).await;
    }
}

/// The newest version of every applied pipeline.
pub(crate) async fn applied_pipelines(tools: &Tools) -> Result<Vec<v1::Pipeline>, RegistryError> {
    let (mut all, mut token) = (Vec::new(), String::new());
    loop {
        let (page, next) = tools.registry.list_pipelines(1000, &token).await?;
        all.extend(page);
        if next.is_empty() {
            return Ok(all);
        }
        token = next;
    }
}

/// One pipeline's handoff. It ends only to be begun again: where there is nothing to do in this version, it never ends.
async fn hand_off(tools: Arc<Tools>, stored: v1::Pipeline) {
    let name = stored.name.clone();
    let pipeline = match applied::load_stored(&stored, &*tools.env) {
        Ok(pipeline) => Arc::new(pipeline),
        Err(faults) => {
            let problem = faults
                .first()
                .map(|fault| fault.problem.clone())
                .unwrap_or_default();
            tracing::error!(
                pipeline = name,
                problem,
                "the pipeline cannot be read here: nothing of it is handed off"
            );
            return std::future::pending().await;
        }
    };
    if pipeline.warehouse.is_none() {
        return std::future::pending().await;
    }
    let lake = match tools.workplace.lake(&pipeline) {
        Ok(opened) => Lake::of(&pipeline, opened, tools.workplace.s3()),
        Err(error) => {
            tracing::error!(
                pipeline = name,
                error = chain(&error),
                "the lake cannot be opened: nothing of it is handed off"
            );
            return std::future::pending().await;
        }
    };
    let watched = Watched {
        hook: Arc::clone(&tools.hook),
        metrics: tools.metrics.handoff.clone(),
        service_level: tools.service_level,
    };
    let first = first_look(&tools, &pipeline, &lake).await;
    let Some(handoff) = Handoff::new(Arc::clone(&pipeline), lake.clone(), watched) else {
        return;
    };
    tracing::info!(
        pipeline = name,
        version = stored.version,
        "its batches are handed off"
    );
    let (told, known) = watch::channel(Arc::new(first.known));
    tokio::select! {
        () = handoff.follow(known.clone()) => {}
        () = marts::follow(Arc::clone(&pipeline), lake.clone(), Arc::clone(&tools.hook), known) => {}
        () = tell(&tools, &pipeline, &lake, first.revision, told) => {}
    }
}

/// What is known, and the ledger's revision then.
struct Look {
    known: Known,
    revision: i64,
}

/// The first look: a handoff that began with nothing would take what is committed for new.
async fn first_look(tools: &Tools, pipeline: &Pipeline, lake: &Lake) -> Look {
    loop {
        match look(tools, pipeline, lake, -1, &BTreeSet::new()).await {
            Ok(Some(look)) => return look,
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(pipeline = %pipeline.name, error = chain(&error), "the ledger could not be read")
            }
        }
        tokio::time::sleep(LEDGER_EVERY).await;
    }
}

/// Tells whatever is new.
async fn tell(
    tools: &Tools,
    pipeline: &Pipeline,
    lake: &Lake,
    mut seen: i64,
    told: watch::Sender<Arc<Known>>,
) {
    let mut committed = tools.committed.subscribe();
    loop {
        // Somebody committed something, perhaps elsewhere; or it is time to look again.
        let _ = tokio::time::timeout(LEDGER_EVERY, committed.changed()).await;
        let open = told.borrow().open.clone();
        match look(tools, pipeline, lake, seen, &open).await {
            Ok(Some(look)) => {
                seen = look.revision;
                told.send_replace(Arc::new(look.known));
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(pipeline = %pipeline.name, error = chain(&error), "the ledger could not be read")
            }
        }
    }
}

/// Why nothing new could be learned.
#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// What is known now; none where that is what was known before.
async fn look(
    tools: &Tools,
    pipeline: &Pipeline,
    lake: &Lake,
    seen: i64,
    open: &BTreeSet<JobId>,
) -> Result<Option<Look>, LookError> {
    // First the jobs, then the ledger: of a job that had ended, every batch is seen.
    let now_open = open_jobs(&tools.registry, pipeline).await?;
    let revision = EtcdLedger::revision(&tools.etcd, &tools.prefix, &pipeline.name)
        .await
        .map_err(LedgerError::from)?;
    if revision == seen && now_open == *open {
        return Ok(None);
    }
    let state = EtcdLedger::read(&tools.etcd, &tools.prefix, &pipeline.name, lake).await?;
    let known = Known {
        state,
        open: now_open,
    };
    Ok(Some(Look { known, revision }))
}

/// The jobs whose batches wait for their end: none where batches are handed off each. A `follow` job has no end.
pub(crate) async fn open_jobs(
    registry: &Registry,
    pipeline: &Pipeline,
) -> Result<BTreeSet<JobId>, RegistryError> {
    if pipeline.handoff == HandoffUnit::Batch {
        return Ok(BTreeSet::new());
    }
    let ends = |job: &v1::Job| {
        let input = job.input.as_ref().and_then(|input| input.input.as_ref());
        job.pipeline == pipeline.name.as_str() && !matches!(input, Some(Input::Follow(_)))
    };
    let active = registry.active_jobs().await?.into_iter().filter(ends);
    Ok(active
        .filter_map(|job| JobId::try_from(job.job_id).ok())
        .collect())
}
