//! The lane at work: which job is next, its batch from plan to commit, its record in the registry.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use chrono::Utc;
use millrace_pipeline::codec::{AttemptSpec, PipelineText};
use millrace_pipeline::dedup::KeyIndex;
use millrace_pipeline::spec::model::DedupScope;
use millrace_proto::ids::{Attempt, BatchId, JobId, PipelineName};
use millrace_proto::manifest::{KeyFile, SplitCounts, TaskReport};
use millrace_proto::split::{InputObject, Split};
use millrace_proto::v1::{self, JobState};
use tokio::sync::watch;

use super::input::{Input, Next, SharedPipeline};
use super::{ActiveJobs, LaneError, Tools};
use crate::applied;
use crate::commit::CommitError;
use crate::engine::EngineError;
use crate::engine::ballista::Work;
use crate::engine::embedded::Embedded;
use crate::job::{Progress, RunError, RunOptions, Runner};
use crate::lake::Lake;
use crate::ledger::etcd::EtcdLedger;
use crate::ledger::{Batch, Entry, Ledger, LostRange};
use crate::lifecycle::{Batches, CommittedBatch, Moment};
use crate::query::manifests_of;
use crate::registry::RegistryError;
use crate::split::deal;

/// Attempts of one batch in a row before its job fails.
const ATTEMPTS_MAX: u32 = 8;
/// Pause after the first failed attempt; doubles.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// Memory for keys while quarantine is read again, in bytes.
const REDRIVE_BYTES: usize = 256 << 20;
/// Longest pause.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(10);
/// Pause before brokers that did not answer are asked again.
const BROKER_PAUSE: Duration = Duration::from_secs(1);
/// How much larger records are than the files that they become, about.
const PACKED_RATIO: u64 = 8;
/// Bytes of a batch of a backfill while a `follow` job shares the lane.
const SHARED_BATCH_BYTES: u64 = 128 << 20;

/// A job in the lane.
struct Running {
    job: v1::Job,
    id: JobId,
    text: PipelineText,
    prepared: SharedPipeline,
    input: Input,
}

/// Who asks for a batch: a job, and the version of the pipeline that it runs.
#[derive(Clone, Copy)]
struct Asked<'a> {
    job: &'a v1::Job,
    text: &'a PipelineText,
    prepared: &'a SharedPipeline,
}

/// One pipeline's lane.
pub struct Lane {
    tools: Arc<Tools>,
    name: PipelineName,
    jobs: watch::Receiver<ActiveJobs>,
    batches: Option<Batches>,
    keys: Vec<KeyFile>,
    running: BTreeMap<String, Running>,
    turn: VecDeque<String>,
}

impl Lane {
    /// Takes the pipeline's ledger over.
    ///
    /// # Errors
    /// When the ledger, the registry or the lake refuse or fail.
    pub async fn open(
        tools: Arc<Tools>,
        name: PipelineName,
        jobs: watch::Receiver<ActiveJobs>,
    ) -> Result<Self, LaneError> {
        Ok(Self {
            tools,
            name,
            jobs,
            batches: None,
            keys: Vec::new(),
            running: BTreeMap::new(),
            turn: VecDeque::new(),
        })
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
        let Some(job) = self.jobs.borrow().values().find(|job| self.is_ours(job)).cloned() else {
            return Ok(());
        };
        let (_, prepared) = self.prepare(&job).await?;
        self.open_ledger(&prepared).await?;
        let open = self.batches.as_ref().map(Batches::open).unwrap_or_default();
        for (id, batch) in open {
            if let Err(error) = self.finish_batch(&id, &batch).await {
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
        let asked = Asked {
            job: &job,
            text: &text,
            prepared: &prepared,
        };
        let committed = self.attempts(asked, id, attempt, &batch.splits, tasks).await?;
        self.committed(&job.job_id, committed).await
    }

    /// Does the next thing there is to do. Gives how long to wait before the next step; none when no job is active.
    ///
    /// # Errors
    /// When the ledger or the registry refuse or fail: the lane is over then. What goes wrong with one job is that job's
    /// failure.
    pub async fn step(&mut self) -> Result<Option<Duration>, LaneError> {
        self.welcome().await?;
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
                    tracing::warn!(job = id, error = error.text(), "the brokers are asked again");
                    pause = Some(pause.map_or(BROKER_PAUSE, |pause| pause.min(BROKER_PAUSE)));
                }
                Err(error) => {
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
        self.running.retain(|id, _| active.contains_key(id));
        self.turn.retain(|id| active.contains_key(id));
        let new = active
            .into_values()
            .filter(|job| job.pipeline == self.name.as_str());
        for job in new.collect::<Vec<_>>() {
            if self.running.contains_key(&job.job_id) {
                continue;
            }
            let id = job.job_id.clone();
            match self.admit(job).await {
                Ok(()) => {}
                Err(error) if error.is_fatal() => return Err(error),
                Err(error) if error.is_passing() => {
                    tracing::warn!(job = id, error = error.text(), "the job waits for its brokers");
                }
                Err(error) => self.fail(&id, &error).await?,
            }
        }
        Ok(())
    }

    async fn admit(&mut self, job: v1::Job) -> Result<(), LaneError> {
        let (text, prepared) = self.prepare(&job).await?;
        self.open_ledger(&prepared).await?;
        let input = Input::of(&job, &prepared).await?;
        let id = JobId::try_from(job.job_id.clone())?;
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
        tracing::info!(job = job.job_id, pipeline = %self.name, "a job runs");
        self.turn.push_back(job.job_id.clone());
        let running = Running {
            id,
            text,
            prepared,
            input,
            job,
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
        let spec = AttemptSpec {
            pipeline: text.clone(),
            environment: environment(job),
            batch: BatchId::try_from("prepared".to_owned())?,
            attempt: Attempt { epoch: 0, number: 0 },
            watermark_us: None,
            quarantine_date: String::new(),
        };
        let prepared = self.tools.workplace.prepare(&spec).map_err(EngineError::from)?;
        Ok((text, prepared))
    }

    async fn open_ledger(&mut self, prepared: &SharedPipeline) -> Result<(), LaneError> {
        if self.batches.is_some() {
            return Ok(());
        }
        let pipeline = Arc::clone(&prepared.steps.pipeline);
        let lake = Lake {
            url: pipeline.lake.url.clone(),
            store: Arc::clone(&prepared.lake),
            root: prepared.root.clone(),
        };
        let tools = &self.tools;
        let ledger =
            EtcdLedger::open(&tools.etcd, &tools.prefix, &self.name, &tools.lead, lake.clone()).await?;
        (tools.hook)(Moment::Opened);
        if pipeline.dedup.is_some() {
            let manifests = manifests_of(&lake, ledger.state()).await?;
            self.keys = manifests.into_iter().flat_map(|manifest| manifest.keys).collect();
        }
        self.batches = Some(Batches {
            pipeline,
            lake,
            ledger: Box::new(ledger),
            environment: None,
            hook: Arc::clone(&tools.hook),
        });
        Ok(())
    }

    /// The next batches are this job's.
    fn wear(&mut self, prepared: &SharedPipeline, job: &v1::Job) {
        if let Some(batches) = &mut self.batches {
            batches.pipeline = Arc::clone(&prepared.steps.pipeline);
            batches.environment = environment(job);
        }
    }

    /// One step of one job: none when it did something, else how long it waits.
    async fn step_of(&mut self, id: &str) -> Result<Option<Duration>, LaneError> {
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
            self.tools.metrics.lag(self.name.as_str(), follow.behind());
        }
        let job = running.id.clone();
        if !lost.is_empty() {
            self.record_lost(&job, lost).await?;
        }
        match next {
            Next::Wait(pause) => Ok(Some(pause)),
            Next::Done { open } => {
                self.succeed(id, open).await?;
                Ok(None)
            }
            Next::Redrive => {
                self.redrive(id).await?;
                self.succeed(id, false).await?;
                Ok(None)
            }
            Next::Batch(splits) => {
                self.run_batch(id, &splits).await?;
                if let Some(at) = self.turn.iter().position(|turn| turn == id) {
                    self.turn.remove(at);
                    self.turn.push_back(id.to_owned());
                }
                Ok(None)
            }
        }
    }

    async fn record_lost(&mut self, job: &JobId, ranges: Vec<LostRange>) -> Result<(), LaneError> {
        for lost in &ranges {
            tracing::error!(
                job = %job, object = lost.object.url, start = lost.start, end = lost.end, reason = lost.reason,
                "positions are lost"
            );
            let positions = lost.end - lost.start;
            self.tools
                .metrics
                .lost(self.name.as_str(), &lost.reason, positions);
        }
        let gaps: Vec<v1::Gap> = ranges.iter().map(gap).collect();
        if let Some(batches) = &mut self.batches {
            let epoch = batches.ledger.epoch();
            let entry = Entry::Lost {
                epoch,
                job: job.clone(),
                ranges,
            };
            batches.ledger.append(vec![entry]).await?;
        }
        let add = |job: &mut v1::Job| job.gaps.extend(gaps.clone());
        self.tools
            .registry
            .update_job(&self.tools.lead, job.as_str(), add)
            .await?;
        Ok(())
    }

    async fn run_batch(&mut self, id: &str, splits: &[Split]) -> Result<(), LaneError> {
        let Some(running) = self.running.get(id) else {
            return Ok(());
        };
        let (job, text) = (running.job.clone(), running.text.clone());
        let prepared = Arc::clone(&running.prepared);
        let job_id = running.id.clone();
        let slots = self.tools.slots_ready().await;
        let tasks = deal_out(splits, slots, &prepared, &|split| running.input.weigh(split));
        self.wear(&prepared, &job);
        let Some(batches) = &mut self.batches else {
            return Ok(());
        };
        let began = Instant::now();
        let (batch, attempt) = batches.plan(&job_id, splits, Vec::new()).await?;
        self.tools.metrics.phase("plan", began.elapsed());
        let asked = Asked {
            job: &job,
            text: &text,
            prepared: &prepared,
        };
        let ran = self.attempts(asked, &batch, attempt, splits, tasks).await;
        match ran {
            Ok(committed) => self.committed(id, committed).await,
            Err(LaneError::Engine(EngineError::Stopped)) => {
                tracing::info!(job = id, batch = %batch, "the batch is given up: its job was cancelled");
                self.give_up(&batch).await
            }
            Err(error) if error.is_fatal() => Err(error),
            Err(error) => {
                self.give_up(&batch).await?;
                Err(error)
            }
        }
    }

    /// Sends what is in quarantine through the pipeline again, in this process: there is little of it, and it lies
    /// sealed in objects that have no splits.
    async fn redrive(&mut self, id: &str) -> Result<(), LaneError> {
        let Some(running) = self.running.get(id) else {
            return Ok(());
        };
        let (job, prepared, job_id) = (
            running.job.clone(),
            Arc::clone(&running.prepared),
            running.id.clone(),
        );
        self.wear(&prepared, &job);
        let Some(batches) = self.batches.take() else {
            return Ok(());
        };
        let keys = KeyIndex::new(
            Arc::clone(&prepared.lake),
            prepared.root.clone(),
            self.keys.clone(),
            REDRIVE_BYTES,
        );
        let engine = Embedded {
            steps: Arc::clone(&prepared.steps),
            stores: Arc::clone(&prepared.stores),
            keys: Arc::new(keys),
            threads: 1,
        };
        let options = RunOptions {
            environment: environment(&job),
            inputs: Vec::new(),
            threads: 1,
            batch_bytes: REDRIVE_BYTES as u64,
            memory_bytes: 2 * REDRIVE_BYTES,
            hook: Arc::clone(&self.tools.hook),
        };
        let (_stop, stopped) = watch::channel(false);
        let mut runner = Runner::over(batches, engine, options, job_id, stopped);
        let redriven = runner.redrive_waiting(&Progress::default()).await;
        let (batches, manifests) = runner.into_parts();
        let left: Vec<BatchId> = batches.open().into_iter().map(|(id, _)| id).collect();
        self.batches = Some(batches);
        for manifest in manifests {
            let breached = false;
            self.committed(id, CommittedBatch { manifest, breached }).await?;
        }
        for batch in left {
            self.give_up(&batch).await?;
        }
        redriven.map_err(|error| LaneError::Input(error_text(&error)))
    }

    /// Attempt after attempt over the same positions, until one is committed.
    async fn attempts(
        &mut self,
        asked: Asked<'_>,
        batch: &BatchId,
        mut attempt: Attempt,
        splits: &[Split],
        tasks: Vec<Vec<Split>>,
    ) -> Result<CommittedBatch, LaneError> {
        let job = asked.job;
        let mut pause = RETRY_PAUSE;
        let mut tries = 1;
        loop {
            let began = Instant::now();
            let ran = self.attempt(asked, batch, attempt, &tasks).await;
            let Some(batches) = &mut self.batches else {
                return Err(EngineError::Stopped.into());
            };
            let failed = match ran {
                Ok(reports) => {
                    self.tools.metrics.phase("run", began.elapsed());
                    let (id, began) = (JobId::try_from(job.job_id.clone())?, Instant::now());
                    match publish(batches, &id, batch, attempt, splits, reports).await {
                        Ok(committed) => {
                            self.tools.metrics.phase("publish", began.elapsed());
                            return Ok(committed);
                        }
                        Err(error) if error.is_miscounted() => error,
                        Err(error) => return Err(error),
                    }
                }
                Err(EngineError::Stopped) => return Err(EngineError::Stopped.into()),
                Err(error) => error.into(),
            };
            if tries >= ATTEMPTS_MAX {
                return Err(failed);
            }
            self.tools.metrics.attempt_failed(self.name.as_str());
            tracing::warn!(job = job.job_id, batch = %batch, attempt = %attempt, error = failed.text(), "an attempt failed");
            tokio::time::sleep(pause).await;
            (pause, tries) = ((pause * 2).min(RETRY_PAUSE_MAX), tries + 1);
            attempt = batches.start(batch).await?;
        }
    }

    async fn attempt(
        &self,
        Asked { job, text, prepared }: Asked<'_>,
        batch: &BatchId,
        attempt: Attempt,
        tasks: &[Vec<Split>],
    ) -> Result<Vec<TaskReport>, EngineError> {
        let Some(batches) = &self.batches else {
            return Err(EngineError::Stopped);
        };
        let spec = AttemptSpec {
            pipeline: text.clone(),
            environment: environment(job),
            batch: batch.clone(),
            attempt,
            watermark_us: batches.ledger.state().newest_us,
            quarantine_date: Utc::now().format("%Y-%m-%d").to_string(),
        };
        let (stop, stopped) = watch::channel(false);
        let watching = self.watch_cancel(&job.job_id, stop);
        let buckets = (self.tools.slots)().max(1);
        let telling = Telling::begin(&self.tools, &job.job_id, batch, attempt);
        let progress = |now| telling.tell(now);
        let keys: &[KeyFile] = if prepared.steps.pipeline.dedup.is_some() {
            &self.keys
        } else {
            &[]
        };
        let work = Work {
            attempt: spec,
            tasks,
            buckets,
            committed: keys,
        };
        let running = self.tools.engine.run(work, &batches.lake, &progress, &stopped);
        tokio::select! {
            reports = running => reports,
            () = watching => Err(EngineError::Stopped),
        }
    }

    /// Says stop when the job is no longer active, and never ends.
    async fn watch_cancel(&self, job: &str, stop: watch::Sender<bool>) {
        let mut jobs = self.jobs.clone();
        let gone = jobs.wait_for(|jobs| !jobs.contains_key(job)).await.is_ok();
        if gone {
            stop.send_replace(true);
        }
        std::future::pending().await
    }

    /// Drops a batch: whatever of it is not committed by now never will be. A batch whose manifest is there, put by a call
    /// that never answered, is committed: readers of the lake may have seen it.
    async fn give_up(&mut self, batch: &BatchId) -> Result<(), LaneError> {
        let known = self
            .batches
            .as_ref()
            .and_then(|batches| batches.ledger.state().batches.get(batch))
            .map(|batch| (batch.job.clone(), batch.splits.clone()));
        let (Some(batches), Some((job, splits))) = (&mut self.batches, known) else {
            return Ok(());
        };
        let adopted = batches.adopt(batch, &splits).await;
        let unsettled = |source: RunError| LaneError::Unsettled {
            batch: batch.clone(),
            source: Box::new(source),
        };
        if let Some(committed) = adopted.map_err(unsettled)? {
            return self.committed(job.as_str(), committed).await;
        }
        if let Some(batches) = &mut self.batches {
            let epoch = batches.ledger.epoch();
            let batch = batch.clone();
            batches
                .ledger
                .append(vec![Entry::Dropped { epoch, batch }])
                .await?;
        }
        Ok(())
    }

    /// A batch was committed: its keys are known, its job's record and lag tools are told.
    async fn committed(&mut self, job: &str, committed: CommittedBatch) -> Result<(), LaneError> {
        let CommittedBatch { manifest, breached } = committed;
        let total = manifest.total();
        tracing::info!(
            job, batch = %manifest.batch, attempt = %manifest.attempt, read = total.read, written = total.written,
            duplicates = total.duplicates, quarantined = total.quarantined, "a batch is committed"
        );
        self.keys.extend(manifest.keys.iter().cloned());
        if let Some(running) = self.running.get_mut(job) {
            let bytes = manifest.files.iter().map(|file| file.object.bytes).sum::<u64>();
            running
                .input
                .learn(bytes.saturating_mul(PACKED_RATIO), total.written);
        }
        let Some(batches) = &self.batches else {
            return Ok(());
        };
        let state = batches.ledger.state();
        let mut counts = SplitCounts::default();
        let (mut number, mut held) = (0, 0);
        for (_, batch) in state.committed().filter(|(_, batch)| batch.job.as_str() == job) {
            counts.add(&batch.counts);
            number += 1;
            held += u32::from(batch.held);
        }
        let left = self
            .running
            .get(job)
            .map_or(0, |running| running.input.left(state));
        let bytes = manifest.files.iter().map(|file| file.object.bytes).sum();
        let is_held = state.batches.get(&manifest.batch).is_some_and(|batch| batch.held);
        self.tools
            .metrics
            .committed(self.name.as_str(), &total, bytes, state.newest_us, is_held);
        if breached {
            tracing::warn!(job, batch = %manifest.batch, held, "the share of clean events is under the minimum");
        }
        let update = |job: &mut v1::Job| {
            job.counts = Some(v1::Counts {
                read: counts.read,
                written: counts.written,
                duplicates: counts.duplicates,
                quarantined: counts.quarantined,
                late: counts.late,
            });
            job.batches = number;
            job.batches_held = held;
            let positions = counts.read + left;
            job.progress = Some(v1::Progress {
                positions_done: counts.read,
                positions,
                ..v1::Progress::default()
            });
        };
        self.tools
            .registry
            .update_job(&self.tools.lead, job, update)
            .await?;
        self.mirror(job, &manifest.splits).await;
        (self.tools.hook)(Moment::Finished);
        Ok(())
    }

    /// Writes committed offsets to the pipeline's consumer group. Nothing depends on it.
    async fn mirror(&self, job: &str, splits: &[Split]) {
        let Some(Running {
            input: Input::Follow(follow),
            ..
        }) = self.running.get(job)
        else {
            return;
        };
        let mut ends: BTreeMap<String, (InputObject, u64)> = BTreeMap::new();
        for split in splits {
            let entry = ends
                .entry(split.object.url.clone())
                .or_insert((split.object.clone(), 0));
            entry.1 = entry.1.max(split.end);
        }
        let group = format!("millrace-{}", self.name);
        let offsets: Vec<_> = ends.into_values().collect();
        if let Err(error) = follow.client().mirror(&group, &offsets).await {
            tracing::warn!(job, group, %error, "offsets were not mirrored");
        }
    }

    async fn succeed(&mut self, id: &str, open: bool) -> Result<(), LaneError> {
        let ended = SystemTime::now();
        self.leave(id);
        let end = |job: &mut v1::Job| {
            job.set_state(JobState::Succeeded);
            job.open = open;
            job.end_time = Some(ended.into());
            job.progress = None;
        };
        self.tools.registry.update_job(&self.tools.lead, id, end).await?;
        tracing::info!(job = id, open, "a job is done");
        Ok(())
    }

    async fn fail(&mut self, id: &str, error: &LaneError) -> Result<(), LaneError> {
        let text = error.text();
        tracing::error!(job = id, error = text, "a job failed");
        self.leave(id);
        let ended = SystemTime::now();
        let end = |job: &mut v1::Job| {
            if matches!(job.state(), JobState::Pending | JobState::Running) {
                job.set_state(JobState::Failed);
                job.error.clone_from(&text);
                job.end_time = Some(ended.into());
                job.progress = None;
            }
        };
        self.tools.registry.update_job(&self.tools.lead, id, end).await?;
        Ok(())
    }

    fn leave(&mut self, id: &str) {
        self.running.remove(id);
        self.turn.retain(|turn| turn != id);
    }
}

fn deal_out(
    splits: &[Split],
    slots: usize,
    prepared: &SharedPipeline,
    weigh: &dyn Fn(&Split) -> u64,
) -> Vec<Vec<Split>> {
    let dedup = prepared.steps.pipeline.dedup.as_ref();
    let together = dedup.is_some_and(|dedup| dedup.scope == DedupScope::Partition);
    deal(splits, slots, together, weigh)
}

fn error_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Publishes what an attempt wrote. A store that does not answer is asked again: the work is done already, and a manifest
/// that was put by a call without an answer is found.
async fn publish(
    batches: &mut Batches,
    job: &JobId,
    batch: &BatchId,
    attempt: Attempt,
    splits: &[Split],
    reports: Vec<TaskReport>,
) -> Result<CommittedBatch, LaneError> {
    let mut pause = RETRY_PAUSE;
    for _ in 1..ATTEMPTS_MAX {
        match batches
            .publish(job, batch, attempt, splits, reports.clone())
            .await
        {
            Err(RunError::Commit {
                source: CommitError::Lake(source),
                ..
            }) => {
                tracing::warn!(%job, %batch, %attempt, error = crate::verify::chain(&source), "publishing is tried again");
            }
            published => return Ok(published?),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_PAUSE_MAX);
    }
    Ok(batches.publish(job, batch, attempt, splits, reports).await?)
}

fn environment(job: &v1::Job) -> Option<String> {
    (!job.environment.is_empty()).then(|| job.environment.clone())
}

fn gap(lost: &LostRange) -> v1::Gap {
    v1::Gap {
        object: lost.object.url.clone(),
        start: lost.start,
        end: lost.end,
        reason: lost.reason.clone(),
    }
}

/// Tells the registry how far an attempt is, once a second at most.
struct Telling {
    now: watch::Sender<crate::engine::ballista::TaskProgress>,
    task: tokio::task::JoinHandle<()>,
}

impl Telling {
    fn begin(tools: &Arc<Tools>, job: &str, batch: &BatchId, attempt: Attempt) -> Self {
        let (now, mut told) = watch::channel(crate::engine::ballista::TaskProgress::default());
        let (tools, job) = (Arc::clone(tools), job.to_owned());
        let (batch, attempt) = (batch.to_string(), attempt.to_string());
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if told.changed().await.is_err() {
                    return;
                }
                let progress = *told.borrow_and_update();
                let update = |job: &mut v1::Job| {
                    let known = job.progress.clone().unwrap_or_default();
                    job.progress = Some(v1::Progress {
                        batch_id: batch.clone(),
                        attempt: attempt.clone(),
                        phase: "running".to_owned(),
                        tasks_done: progress.done,
                        tasks: progress.tasks,
                        ..known
                    });
                };
                if let Err(error) = tools.registry.update_job(&tools.lead, &job, update).await {
                    tracing::debug!(job, %error, "progress was not told");
                }
            }
        });
        Self { now, task }
    }

    fn tell(&self, progress: crate::engine::ballista::TaskProgress) {
        self.now.send_if_modified(|known| {
            let changed = *known != progress;
            *known = progress;
            changed
        });
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        self.task.abort();
    }
}
