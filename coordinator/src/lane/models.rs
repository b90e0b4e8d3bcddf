//! What a lane does for models: due periods in idle moments, periods of a backfill in its job's turn.
//!
//! In: the ledger's hours and results, the newest applied version of the pipeline. Out: results, one period at a time, in this
//! process with bounded memory. Jobs go on while one is computed; compactions and the deletion of replaced files wait, for its
//! query reads what they would take away, and what lets go of data ends it. A period that cannot be computed rests for a while, the
//! others go on; a lane stays while one rests.
//!
//! Nobody submits a job for what is due, so lanes are begun for pipelines with models too: when their coordinator begins to
//! lead, and when a new version is applied.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use millrace_pipeline::spec::marts::Mart;
use millrace_pipeline::spec::model::Pipeline;
use millrace_proto::ids::PipelineName;
use millrace_proto::v1::{ModelsInput, Progress};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::work::Lane;
use super::{LaneError, Tools};
use crate::applied;
use crate::causes::chain;
use crate::handoff::applied_pipelines;
use crate::job::RunError;
use crate::lake::Lake;
use crate::lifecycle::Batches;
use crate::marts::due::{Period, Standing, periods};
use crate::marts::{self, Computing, Limits, period_name};
use crate::metrics::models::ModelMetrics;

/// What a query may use at the leader: one thread, for each has buffers of its own, and the leader has other work to do.
const LIMITS: Limits = Limits {
    threads: 1,
    memory_bytes: 512 << 20,
};
/// Shortest pause after a period that could not be computed; one that took longer than that pauses as long as it took, so that it
/// has one of the process's queries for itself at most half the time.
const REST: Duration = Duration::from_secs(60);
/// How often the newest version of the pipeline is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often replaced results are looked at.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// How often pipelines are looked at.
const PIPELINES_EVERY: Duration = Duration::from_secs(2);

/// What was looked at, and what rests.
#[derive(Debug)]
pub(super) struct Modelling {
    /// The ledger's length when nothing was due.
    done_at: Option<u64>,
    look_at: Instant,
    sweep_at: Instant,
    resting: BTreeMap<(String, String), Instant>,
    /// The newest version, and its number.
    newest: Option<(u32, Arc<Pipeline>)>,
    /// The period that is being computed.
    computing: Option<Computing>,
}

impl Default for Modelling {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            done_at: None,
            look_at: now,
            sweep_at: now,
            resting: BTreeMap::new(),
            newest: None,
            computing: None,
        }
    }
}

impl Modelling {
    /// Whether some period is to be tried again.
    pub(super) fn has_resting(&self) -> bool {
        !self.resting.is_empty()
    }

    /// Whether a period is being computed.
    pub(super) fn is_computing(&self) -> bool {
        self.computing.is_some()
    }

    /// Waits until that is over; for ever where there is none.
    pub(super) async fn over(&mut self) {
        match &mut self.computing {
            Some(computing) => computing.over().await,
            None => std::future::pending().await,
        }
    }

    /// Ends it: it is due again.
    pub(super) async fn stop(&mut self) {
        if let Some(computing) = self.computing.take() {
            self.done_at = None;
            computing.stop().await;
        }
    }

    /// Ends it if it is a backfill's whose job is active no longer.
    pub(super) async fn stop_unless(&mut self, is_active: impl Fn(&str) -> bool) {
        let job = self.computing.as_ref().and_then(Computing::job);
        if job.is_some_and(|job| !is_active(job.as_str())) {
            self.stop().await;
        }
    }
}

impl Lane {
    /// Begins to compute the next period that is due; whether there was one.
    ///
    /// # Errors
    /// When the registry fails.
    pub async fn model(&mut self) -> Result<bool, LaneError> {
        let Some(length) = self.batches.as_ref().map(|batches| batches.ledger.state().length) else {
            return Ok(false);
        };
        let now = Instant::now();
        if self.models.done_at == Some(length) && now < self.models.look_at {
            return Ok(false);
        }
        if now >= self.models.look_at || self.models.newest.is_none() {
            self.models.look_at = now + LOOK_EVERY;
            self.look().await?;
        }
        let Some((_, pipeline)) = self.models.newest.clone() else {
            return Ok(false);
        };
        let Some(batches) = &mut self.batches else {
            return Ok(false);
        };
        if pipeline.marts.is_empty() {
            self.models.done_at = Some(length);
            return Ok(false);
        }
        batches.pipeline = Arc::clone(&pipeline);
        self.models.resting.retain(|_, until| now < *until);
        let resting = &self.models.resting;
        let is_free = |mart: &Mart, period: &Period| {
            let name = period_name(period.from_hour, period.hours);
            !resting.contains_key(&(mart.name.clone(), name))
        };
        let begun = marts::begin(batches, &pipeline.marts, LIMITS, &is_free);
        stand(&self.tools.metrics.models, &self.name, batches, &pipeline);
        if begun.is_some() {
            self.models.computing = begun;
            return Ok(true);
        }
        self.models.done_at = Some(length);
        if now >= self.models.sweep_at {
            self.models.sweep_at = now + SWEEP_EVERY;
            match marts::sweep(batches).await {
                Ok(0) => {}
                Ok(objects) => {
                    tracing::info!(pipeline = %self.name, objects, "replaced results of models are deleted")
                }
                Err(error) => {
                    tracing::warn!(pipeline = %self.name, error = chain(&error), "replaced results of models stay")
                }
            }
        }
        Ok(false)
    }

    /// Commits the period that was being computed, if its query is over.
    ///
    /// # Errors
    /// When the ledger or the registry refuse or fail.
    pub async fn commit_model(&mut self) -> Result<(), LaneError> {
        let Some(computing) = self.models.computing.take_if(|computing| computing.is_over()) else {
            return Ok(());
        };
        let Some(batches) = &mut self.batches else {
            return Ok(());
        };
        let (job, began) = (computing.job().map(ToString::to_string), computing.began());
        let committed = computing.commit(batches).await;
        let metrics = &self.tools.metrics.models;
        match committed {
            Ok(run) => {
                metrics.took(self.name.as_str(), &run.mart, began.elapsed());
                self.tools.committed.send_replace(());
                job.iter().for_each(|id| self.rotate(id));
            }
            Err(RunError::Mart { mart, period, source }) => {
                let error = chain(&*source);
                tracing::error!(pipeline = %self.name, model = mart, period, error, "a model's period could not be computed");
                metrics.failed(self.name.as_str(), &mart);
                match job {
                    Some(id) => {
                        let error = RunError::Mart { mart, period, source };
                        self.fail(&id, &error.into()).await?;
                    }
                    None => {
                        let rest = REST.max(began.elapsed());
                        self.models.resting.insert((mart, period), Instant::now() + rest);
                    }
                }
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Reads the newest version of the pipeline, if it is another one than before.
    async fn look(&mut self) -> Result<(), LaneError> {
        let stored = self.tools.registry.get_pipeline(self.name.as_str(), 0).await?;
        if self
            .models
            .newest
            .as_ref()
            .is_some_and(|(version, _)| *version == stored.version)
        {
            return Ok(());
        }
        match applied::load_stored(&stored, &*self.tools.env) {
            Ok(pipeline) => {
                self.models.newest = Some((stored.version, Arc::new(pipeline)));
                self.models.done_at = None;
            }
            Err(_) => {
                tracing::warn!(pipeline = %self.name, version = stored.version, "the pipeline cannot be read here: no model of it is computed");
            }
        }
        Ok(())
    }

    /// Begins to compute the next period that a backfill asks for, once no other is computed; how long to wait then, none when
    /// the backfill is done.
    pub(super) async fn backfill(
        &mut self,
        id: &str,
        asked: &ModelsInput,
    ) -> Result<Option<Duration>, LaneError> {
        if self.models.is_computing() {
            return Ok(Some(LOOK_EVERY));
        }
        let (Some(running), Some(batches)) = (self.running.get(id), &mut self.batches) else {
            return Ok(None);
        };
        let pipeline = Arc::clone(&running.prepared.steps.pipeline);
        let known: BTreeSet<&str> = pipeline.marts.iter().map(|mart| mart.name.as_str()).collect();
        if let Some(name) = asked.models.iter().find(|name| !known.contains(name.as_str())) {
            let names: Vec<&str> = known.into_iter().collect();
            let text = format!(
                "pipeline `{}` has no model `{name}`; it has {}",
                self.name,
                names.join(", ")
            );
            return Err(LaneError::Input(text));
        }
        let seconds = |time: Option<prost_types::Timestamp>| time.map(|time| time.seconds);
        let from = seconds(asked.from).unwrap_or(i64::MIN);
        let to = seconds(asked.to).unwrap_or(i64::MAX);
        let is_asked = |mart: &Mart, period: &Period| {
            let is_named = asked.models.is_empty() || asked.models.contains(&mart.name);
            let (start, end) = (period.from_hour * 3600, period.end_hour() * 3600);
            is_named && from < end && start < to
        };
        let job = running.id.clone();
        let prepared = &running.prepared;
        batches.pipeline = Arc::clone(&pipeline);
        batches.lake = Lake::of(
            &pipeline,
            (Arc::clone(&prepared.lake), prepared.root.clone()),
            self.tools.workplace.s3(),
        );
        self.models.computing = marts::begin_backfill(batches, &pipeline.marts, &job, LIMITS, &is_asked);
        stand(&self.tools.metrics.models, &self.name, batches, &pipeline);
        let lateness = pipeline.partition.lateness_seconds;
        let all = periods(batches.ledger.state(), &pipeline.marts, lateness);
        let meant: Vec<&Period> = all
            .iter()
            .filter(|period| period.standing != Standing::Waiting)
            .filter(|period| is_asked(&pipeline.marts[period.mart], period))
            .collect();
        let is_done = |period: &&&Period| {
            let run = period.run.as_ref();
            run.and_then(|run| run.job.as_ref()) == Some(&job)
        };
        let (positions, done) = (meant.len() as u64, meant.iter().filter(is_done).count() as u64);
        let update = |job: &mut millrace_proto::v1::Job| {
            job.progress = Some(Progress {
                positions_done: done,
                positions,
                ..Progress::default()
            });
        };
        self.tools
            .registry
            .update_job(&self.tools.lead, id, update)
            .await?;
        Ok(self.models.is_computing().then_some(LOOK_EVERY))
    }
}

/// Tells where the periods of a pipeline's models stand.
fn stand(metrics: &ModelMetrics, name: &PipelineName, batches: &Batches, pipeline: &Pipeline) {
    let (state, lateness) = (batches.ledger.state(), pipeline.partition.lateness_seconds);
    let periods = periods(state, &pipeline.marts, lateness);
    metrics.stand(name.as_str(), &pipeline.marts, &periods);
}

/// Tells of pipelines with models: of each once a version, and whenever leading begins.
pub async fn tend(tools: Arc<Tools>, tell: mpsc::Sender<PipelineName>) {
    let mut seen: BTreeSet<(String, u32)> = BTreeSet::new();
    loop {
        match applied_pipelines(&tools).await {
            Ok(pipelines) => {
                for stored in pipelines {
                    if !seen.insert((stored.name.clone(), stored.version)) {
                        continue;
                    }
                    let has_models = applied::load_stored(&stored, &*tools.env)
                        .is_ok_and(|pipeline| !pipeline.marts.is_empty());
                    let Ok(name) = PipelineName::try_from(stored.name) else {
                        continue;
                    };
                    if has_models && tell.send(name).await.is_err() {
                        return;
                    }
                }
            }
            Err(error) => tracing::debug!(%error, "pipelines could not be listed"),
        }
        tokio::time::sleep(PIPELINES_EVERY).await;
    }
}
