//! The lane at work: which job is next, and its batch from plan to commit.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use millrace_pipeline::codec::PipelineText;
use millrace_pipeline::spec::model::DedupScope;
use millrace_proto::ids::{BatchId, JobId, PipelineName};
use millrace_proto::split::Split;
use millrace_proto::v1::{self, JobState};
use tokio::sync::watch;
use tracing::{Instrument, Span, error_span, field, info_span};

use super::attempt::{Flight, Retry, Written};
use super::input::{Input, Next, SharedPipeline};
use super::keys::Keys;
use super::listing;
use super::models::Modelling;
use super::tidy::Tidy;
use super::{ActiveJobs, LaneError, Tools};
use crate::applied;
use crate::causes::chain;
use crate::engine::EngineError;
use crate::enrich::Snapshots;
use crate::hours::{OBJECTS, PartitionTime};
use crate::lake::Lake;
use crate::ledger::etcd::EtcdLedger;
use crate::ledger::timed::Timed;
use crate::ledger::{Batch, Ledger};
use crate::lifecycle::{Batches, Moment};
use crate::query::manifests_of;
use crate::registry::RegistryError;
use crate::registry::state::is_active;
use crate::split::{deal, deal_runs};

/// Pause before brokers or a database that did not answer are asked again.
const ASK_PAUSE: Duration = Duration::from_secs(1);
/// Bytes of a batch of a backfill while a `follow` job shares the lane.
const SHARED_BATCH_BYTES: u64 = 128 << 20;

/// A job in the lane.
pub(super) struct Running {
    pub(super) job: v1::Job,
    pub(super) id: JobId,
    pub(super) text: PipelineText,
    pub(super) prepared: SharedPipeline,
    pub(super) input: Input,
    /// From its admission here to its end.
    span: Span,
}

/// One pipeline's lane.
pub struct Lane {
    pub(super) tools: Arc<Tools>,
    pub(super) name: PipelineName,
    pub(super) jobs: watch::Receiver<ActiveJobs>,
    pub(super) batches: Option<Batches>,
    pub(super) keys: Keys,
    /// A batch whose tasks are done: it is committed while the next one of its job is read, or else at once.
    pub(super) written: Option<Written>,
    pub(super) running: BTreeMap<String, Running>,
    pub(super) turn: VecDeque<String>,
    pub(super) tidy: Tidy,
    pub(super) models: Modelling,
}

impl Lane {
    /// A lane that has done nothing yet: its ledger is opened with its first job.
    #[must_use]
    pub fn new(tools: Arc<Tools>, name: PipelineName, jobs: watch::Receiver<ActiveJobs>) -> Self {
        Self {
            tools,
            name,
            jobs,
            batches: None,
            keys: Keys::default(),
            written: None,
            running: BTreeMap::new(),
            turn: VecDeque::new(),
            tidy: Tidy::default(),
            models: Modelling::default(),
        }
    }

    /// Whether no job is active.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && !self.jobs.borrow().values().any(|job| self.is_ours(job))
    }

    fn is_ours(&self, job: &v1::Job) -> bool {
        job.pipeline == self.name.as_str()
    }

    /// Runs the batches that an earlier leader left behind. What their jobs are makes no difference: their positions are
    /// fixed.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub async fn finish_interrupted(&mut self) -> Result<(), LaneError> {
        let job = self.jobs.borrow().values().find(|job| self.is_ours(job)).cloned();
        // Without a job it is there for models: as the newest version has them.
        let job = job.unwrap_or_else(|| v1::Job {
            pipeline: self.name.to_string(),
            ..v1::Job::default()
        });
        let (_, prepared) = self.prepare(&job).await?;
        self.open_ledger(&prepared).await?;
        let open = self.batches.as_ref().map(Batches::open).unwrap_or_default();
        for (id, batch) in open {
            let span = self.batch_span(batch.job.as_str(), None);
            span.record("batch", field::display(&id));
            if let Err(error) = self.finish_batch(&id, &batch).instrument(span).await {
                if error.is_fatal() {
                    return Err(error);
                }
                self.fail(batch.job.as_str(), &error).await?;
                self.give_up(&id).await?;
            }
        }
        Ok(())
    }

    async fn finish_batch(&mut self, id: &BatchId, batch: &Batch) -> Result<(), LaneError> {
        if batch.is_upkeep() {
            return self.finish_compaction(id).await;
        }
        let job = match self.tools.registry.get_job(batch.job.as_str()).await {
            Ok(job) => job,
            // Its job is forgotten: nobody waits for it.
            Err(RegistryError::NotFound { .. }) => return self.give_up(id).await,
            Err(error) => return Err(error.into()),
        };
        let (text, prepared) = self.prepare(&job).await?;
        self.wear(&prepared, &job);
        tracing::info!(job = job.job_id, batch = %id, "an interrupted batch is finished");
        if let Some(batches) = &mut self.batches
            && let Some(committed) = batches.adopt(id, &batch.splits).await?
        {
            return self.committed(&job.job_id, committed).await;
        }
        if !batch.redrives.is_empty() {
            return self.give_up(id).await;
        }
        let Some(batches) = &mut self.batches else {
            return Ok(());
        };
        let attempt = batches.start(id).await?;
        let weigh = |split: &Split| split.end - split.start;
        let slots = self.tools.slots_ready().await;
        let tasks = deal_out(&batch.splits, slots, &prepared, &weigh);
        let flight = Flight {
            id: batch.job.clone(),
            job,
            text,
            prepared,
            batch: id.clone(),
            attempt,
            splits: batch.splits.clone(),
            tasks: Arc::new(tasks),
            reached: Vec::new(),
            retry: Retry::default(),
            span: Span::current(),
        };
        let written = self.fly(flight).await?;
        self.commit(written).await
    }

    /// Does the next thing there is to do. Gives how long to wait before the next step; none when no job is active.
    ///
    /// # Errors
    /// When the ledger or the registry refuse or fail: the lane is over then. What goes wrong with one job is that job's
    /// failure.
    pub async fn step(&mut self) -> Result<Option<Duration>, LaneError> {
        self.welcome().await?;
        let is_going_on = |written: &Written| self.running.contains_key(&written.flight.job.job_id);
        if self.written.as_ref().is_some_and(|written| !is_going_on(written)) {
            self.settle().await?;
        }
        let mut pause: Option<Duration> = None;
        // Follow jobs first; the others in turn.
        let mut order: Vec<String> = self.turn.iter().cloned().collect();
        order.sort_by_key(|id| {
            !self
                .running
                .get(id)
                .is_some_and(|running| running.input.is_follow())
        });
        for id in order {
            match self.step_of(&id).await {
                Ok(None) => return Ok(Some(Duration::ZERO)),
                Ok(Some(wait)) => pause = Some(pause.map_or(wait, |pause| pause.min(wait))),
                Err(error) if error.is_fatal() => return Err(error),
                Err(error) if error.is_passing() => {
                    self.settle().await?;
                    self.waits(&id, &error).await?;
                    pause = Some(pause.map_or(ASK_PAUSE, |pause| pause.min(ASK_PAUSE)));
                }
                Err(error) => {
                    self.settle().await?;
                    self.fail(&id, &error).await?;
                    return Ok(Some(Duration::ZERO));
                }
            }
        }
        Ok(pause)
    }

    /// Takes in new jobs and lets go of those that are no longer active.
    async fn welcome(&mut self) -> Result<(), LaneError> {
        let active = self.jobs.borrow_and_update().clone();
        let before = self.running.len();
        self.running.retain(|id, _| active.contains_key(id));
        if self.running.len() < before {
            self.unfollow();
        }
        self.turn.retain(|id| active.contains_key(id));
        self.models.stop_unless(|id| active.contains_key(id)).await;
        for job in active.into_values() {
            if !self.is_ours(&job) || self.running.contains_key(&job.job_id) {
                continue;
            }
            let id = job.job_id.clone();
            match self.admit(job).await {
                Ok(()) => {}
                Err(error) if error.is_fatal() => return Err(error),
                Err(error) if error.is_passing() => {
                    tracing::warn!(job = id, error = chain(&error), "the job waits for its brokers");
                }
                Err(error) => self.fail(&id, &error).await?,
            }
        }
        Ok(())
    }

    async fn admit(&mut self, job: v1::Job) -> Result<(), LaneError> {
        let (text, prepared) = self.prepare(&job).await?;
        self.open_ledger(&prepared).await?;
        let id = JobId::try_from(job.job_id.clone())?;
        let objects = match &mut self.batches {
            Some(batches) if Input::takes_objects(&job, &prepared) => {
                listing::fixed(&job, &id, &prepared, batches).await?
            }
            _ => Vec::new(),
        };
        let input = Input::of(&job, &prepared, &objects)?;
        let started = SystemTime::now();
        let job = self
            .tools
            .registry
            .update_job(&self.tools.lead, &job.job_id, |job| {
                if job.state() == JobState::Pending {
                    job.set_state(JobState::Running);
                    job.start_time = Some(started.into());
                }
            })
            .await?;
        // What is known of the active jobs may be older than its end.
        if !is_active(job.state()) {
            return Ok(());
        }
        tracing::info!(job = job.job_id, pipeline = %self.name, "a job runs");
        self.turn.push_back(job.job_id.clone());
        let span = error_span!(
            parent: None,
            "job",
            pipeline = self.name.as_str(),
            job = job.job_id,
            epoch = self.tools.lead.epoch()
        );
        let running = Running {
            id,
            text,
            prepared,
            input,
            job,
            span,
        };
        self.running.insert(running.job.job_id.clone(), running);
        Ok(())
    }

    async fn prepare(&self, job: &v1::Job) -> Result<(PipelineText, SharedPipeline), LaneError> {
        let stored = self
            .tools
            .registry
            .get_pipeline(&job.pipeline, job.pipeline_version)
            .await?;
        let text = applied::text(&stored).map_err(LaneError::Input)?;
        let environment = environment(job);
        let prepared = self.tools.workplace.prepare(&text, environment.as_deref());
        let prepared = prepared.map_err(EngineError::from)?;
        Ok((text, prepared))
    }

    async fn open_ledger(&mut self, prepared: &SharedPipeline) -> Result<(), LaneError> {
        if self.batches.is_some() {
            return Ok(());
        }
        let pipeline = Arc::clone(&prepared.steps.pipeline);
        let lake = Lake::of(
            &pipeline,
            (Arc::clone(&prepared.lake), prepared.root.clone()),
            self.tools.workplace.s3(),
        );
        let tools = &self.tools;
        let ledger =
            EtcdLedger::open(&tools.etcd, &tools.prefix, &self.name, &tools.lead, lake.clone()).await?;
        (tools.hook)(Moment::Opened);
        if pipeline.dedup.is_some() {
            let manifests = manifests_of(&lake, ledger.state()).await?;
            self.keys = Keys::of(&manifests);
        }
        let metrics = tools.metrics.clone();
        let took = Arc::new(move |took| metrics.appended(took));
        let ledger = Box::new(Timed::new(Box::new(ledger), took));
        self.batches = Some(Batches {
            snapshots: Snapshots::new(tools.metrics.enrich.clone()),
            ..Batches::new(pipeline, lake, ledger, Arc::clone(&tools.hook))
        });
        Ok(())
    }

    /// The next batches are this job's.
    pub(super) fn wear(&mut self, prepared: &SharedPipeline, job: &v1::Job) {
        if let Some(batches) = &mut self.batches {
            batches.pipeline = Arc::clone(&prepared.steps.pipeline);
            batches.environment = environment(job);
        }
    }

    /// One step of one job: none when it did something, else how long it waits.
    async fn step_of(&mut self, id: &str) -> Result<Option<Duration>, LaneError> {
        // What another job's batch has planned counts as read: whether it is must be known first.
        let is_others = |written: &Written| written.flight.job.job_id != id;
        if self.written.as_ref().is_some_and(is_others) {
            self.settle().await?;
        }
        let follows = self.running.values().any(|running| running.input.is_follow());
        let Some(running) = self.running.get_mut(id) else {
            return Ok(None);
        };
        let Some(batches) = &mut self.batches else {
            return Ok(None);
        };
        let batch_bytes = if follows && !running.input.is_follow() {
            self.tools.batch_bytes.min(SHARED_BATCH_BYTES)
        } else {
            self.tools.batch_bytes
        };
        let (next, lost) = running.input.next(batches.ledger.state(), batch_bytes).await?;
        if let Input::Follow(follow) = &running.input {
            let (metrics, name) = (&self.tools.metrics, self.name.as_str());
            metrics.lag(name, follow.behind());
            for seen in follow.seen() {
                metrics.followed(name, seen.partition, seen.high, seen.done, seen.age);
            }
        }
        let job = running.id.clone();
        let reached = running.input.reached(batches.ledger.state(), &next);
        if !lost.is_empty() {
            self.record_lost(&job, lost).await?;
        }
        // All else is done behind what is committed.
        if !matches!(next, Next::Batch(_)) && !self.settle().await? {
            return Ok(None);
        }
        let reached = self.reach(id, &next, reached).await?;
        match next {
            Next::Wait(pause) => Ok(Some(pause)),
            Next::Done { open } => {
                self.succeed(id, open).await?;
                Ok(None)
            }
            Next::Redrive => {
                let span = self
                    .running
                    .get(id)
                    .map_or_else(Span::none, |running| running.span.clone());
                if self.redrive(id).instrument(span).await? {
                    self.succeed(id, false).await?;
                }
                Ok(None)
            }
            Next::Models(asked) => {
                let pause = self.backfill(id, &asked).await?;
                if pause.is_none() {
                    self.succeed(id, false).await?;
                }
                Ok(pause)
            }
            Next::Upkeep => {
                let span = self
                    .running
                    .get(id)
                    .map_or_else(Span::none, |running| running.span.clone());
                self.upkeep(id).instrument(span).await
            }
            Next::Batch(splits) => {
                // A job that never ends is no trace: each of its batches is one.
                let running = self.running.get(id).filter(|running| !running.input.is_follow());
                let span = self.batch_span(id, running.map(|running| &running.span));
                self.run_batch(id, &splits, reached).instrument(span).await?;
                self.rotate(id);
                Ok(None)
            }
        }
    }

    /// The other jobs come first now.
    pub(super) fn rotate(&mut self, id: &str) {
        if let Some(at) = self.turn.iter().position(|turn| turn == id) {
            self.turn.remove(at);
            self.turn.push_back(id.to_owned());
        }
    }

    /// A batch's span; its number is recorded when it is known.
    fn batch_span(&self, job: &str, parent: Option<&Span>) -> Span {
        let (pipeline, epoch) = (self.name.as_str(), self.tools.lead.epoch());
        match parent {
            Some(parent) => error_span!(parent: parent, "batch", batch = field::Empty),
            None => error_span!(parent: None, "batch", pipeline, job, epoch, batch = field::Empty),
        }
    }

    /// What is read out is told with the batch at work, or by itself where there is none: then nothing is left to be told.
    async fn reach(
        &mut self,
        id: &str,
        next: &Next,
        reached: Vec<PartitionTime>,
    ) -> Result<Vec<PartitionTime>, LaneError> {
        let listings = self.running.iter().filter(|(other, _)| *other != id);
        let others_list = listings
            .map(|(_, running)| running)
            .any(|running| running.input.is_listing());
        let is_closing = reached.iter().any(|one| one.partition == OBJECTS);
        let Some(batches) = &mut self.batches else {
            return Ok(Vec::new());
        };
        if reached.is_empty() || (is_closing && others_list) {
            return Ok(Vec::new());
        }
        match next {
            Next::Batch(_) => Ok(reached),
            Next::Redrive | Next::Models(_) | Next::Upkeep | Next::Wait(_) | Next::Done { .. } => {
                batches.reach(reached).await?;
                Ok(Vec::new())
            }
        }
    }

    async fn run_batch(
        &mut self,
        id: &str,
        splits: &[Split],
        reached: Vec<PartitionTime>,
    ) -> Result<(), LaneError> {
        let Some(flight) = self.plan(id, splits, reached).await? else {
            return Ok(());
        };
        let batch = flight.batch.clone();
        match self.fly(flight).await {
            Ok(written) => {
                self.written = Some(written);
                if !self.has_more(id) {
                    self.settle().await?;
                }
                Ok(())
            }
            Err(LaneError::Engine(EngineError::Stopped)) => {
                tracing::info!(job = id, batch = %batch, "the batch is given up: its job was cancelled");
                self.give_up(&batch).await
            }
            Err(error) => Err(self.abandon(&batch, error).await?),
        }
    }

    /// Whether a job is known to have another batch, so that this one may be committed while that one is read.
    fn has_more(&self, id: &str) -> bool {
        let (Some(running), Some(batches)) = (self.running.get(id), &self.batches) else {
            return false;
        };
        running.input.has_more(batches.ledger.state())
    }

    /// Fixes the positions of a job's next batch, and deals them out.
    async fn plan(
        &mut self,
        id: &str,
        splits: &[Split],
        reached: Vec<PartitionTime>,
    ) -> Result<Option<Flight>, LaneError> {
        let looks_up = |running: &Running| !running.prepared.steps.pipeline.enrich.is_empty();
        // No commit waits for workers, nor for a table that is asked for a snapshot.
        let may_wait = (self.tools.slots)() == 0 || self.running.get(id).is_some_and(looks_up);
        if may_wait && !self.settle().await? {
            return Ok(None);
        }
        let Some(running) = self.running.get(id) else {
            return Ok(None);
        };
        let (job, text) = (running.job.clone(), running.text.clone());
        let prepared = Arc::clone(&running.prepared);
        let job_id = running.id.clone();
        let slots = self.tools.slots_ready().await;
        let weigh = |split: &Split| running.input.weigh(split);
        let tasks = if running.input.is_listing() {
            deal_out(splits, slots, &prepared, &weigh)
        } else {
            deal_runs(splits, slots, together(&prepared), &weigh)
        };
        let mut splits = tasks.concat();
        splits.sort_by_key(|split| split.index);
        self.wear(&prepared, &job);
        let Some(batches) = &mut self.batches else {
            return Ok(None);
        };
        let began = Instant::now();
        let planning = batches.plan(&job_id, &splits, Vec::new());
        let (batch, attempt) = planning.instrument(info_span!("plan")).await?;
        Span::current().record("batch", field::display(&batch));
        self.tools.metrics.phase("plan", began.elapsed());
        Ok(Some(Flight {
            job,
            id: job_id,
            text,
            prepared,
            batch,
            attempt,
            splits,
            tasks: Arc::new(tasks),
            reached,
            retry: Retry::default(),
            span: Span::current(),
        }))
    }
}

fn deal_out(
    splits: &[Split],
    slots: usize,
    prepared: &SharedPipeline,
    weigh: &dyn Fn(&Split) -> u64,
) -> Vec<Vec<Split>> {
    deal(splits, slots, together(prepared), weigh)
}

/// Whether the splits of one object must stay in one task.
fn together(prepared: &SharedPipeline) -> bool {
    let dedup = prepared.steps.pipeline.dedup.as_ref();
    dedup.is_some_and(|dedup| dedup.scope == DedupScope::Partition)
}

pub(super) fn environment(job: &v1::Job) -> Option<String> {
    (!job.environment.is_empty()).then(|| job.environment.clone())
}
