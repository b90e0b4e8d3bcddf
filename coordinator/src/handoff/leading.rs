//! The handoffs of a leader: one loop for every applied pipeline with a warehouse, apart from the lanes.
//!
//! In: the registry's pipelines, and the ledger of each, looked at once a second. Out: their loops, begun again when a newer
//! version is applied. A lane that is slow or gone does not slow a handoff, and a warehouse that is down slows no lane.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use millrace_pipeline::spec::model::Pipeline;
use millrace_proto::ids::PipelineName;
use millrace_proto::v1;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::Handoff;
use crate::applied;
use crate::lake::Lake;
use crate::lane::Tools;
use crate::ledger::etcd::EtcdLedger;

/// How often pipelines are looked at.
const PIPELINES_EVERY: Duration = Duration::from_secs(2);
/// How often a ledger is looked at: one small read.
const LEDGER_EVERY: Duration = Duration::from_millis(500);

/// Hands off the batches of all pipelines, for as long as it is polled.
pub async fn tend(tools: Arc<Tools>) {
    let mut loops = JoinSet::new();
    let mut running: BTreeMap<String, (u32, AbortHandle)> = BTreeMap::new();
    loop {
        while loops.try_join_next().is_some() {}
        match pipelines(&tools).await {
            Ok(pipelines) => {
                running.retain(|name, (_, handle)| {
                    let stays = pipelines.iter().any(|pipeline| pipeline.name == *name);
                    if !stays {
                        handle.abort();
                    }
                    stays
                });
                for pipeline in pipelines {
                    let known = running.get(&pipeline.name);
                    if known.is_some_and(|(version, _)| *version == pipeline.version) {
                        continue;
                    }
                    if let Some((_, handle)) = known {
                        handle.abort();
                    }
                    let (name, version) = (pipeline.name.clone(), pipeline.version);
                    let handle = loops.spawn(hand_off(Arc::clone(&tools), pipeline));
                    running.insert(name, (version, handle));
                }
            }
            Err(error) => tracing::debug!(%error, "pipelines could not be listed"),
        }
        tokio::time::sleep(PIPELINES_EVERY).await;
    }
}

async fn pipelines(tools: &Tools) -> Result<Vec<v1::Pipeline>, crate::registry::RegistryError> {
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

/// One pipeline's handoff, if it has a warehouse.
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
            return;
        }
    };
    let lake = match tools.workplace.lake(&pipeline) {
        Ok(opened) => Lake::of(&pipeline, opened),
        Err(error) => {
            tracing::error!(pipeline = name, %error, "the lake cannot be opened: nothing of it is handed off");
            return;
        }
    };
    let Some(handoff) = Handoff::new(Arc::clone(&pipeline), lake.clone()) else {
        return;
    };
    tracing::info!(
        pipeline = name,
        version = stored.version,
        "its batches are handed off"
    );
    let (told, states) = watch::channel(Arc::default());
    tokio::select! {
        () = handoff.follow(states) => {}
        () = tell(&tools, &pipeline, &lake, told) => {}
    }
}

/// Reads the ledger whenever something was appended.
async fn tell(
    tools: &Tools,
    pipeline: &Pipeline,
    lake: &Lake,
    told: watch::Sender<Arc<crate::ledger::State>>,
) {
    let name: &PipelineName = &pipeline.name;
    let mut seen = 0;
    loop {
        match EtcdLedger::revision(&tools.etcd, &tools.prefix, name).await {
            Ok(revision) if revision != seen => {
                match EtcdLedger::read(&tools.etcd, &tools.prefix, name, lake).await {
                    Ok(state) => {
                        seen = revision;
                        told.send_replace(Arc::new(state));
                    }
                    Err(error) => tracing::warn!(pipeline = %name, %error, "the ledger could not be read"),
                }
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(pipeline = %name, %error, "the ledger could not be looked at"),
        }
        tokio::time::sleep(LEDGER_EVERY).await;
    }
}
