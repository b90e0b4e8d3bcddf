//! What others see of a lane's jobs: their records in the registry, metrics, mirrored offsets.

use std::collections::BTreeMap;
use std::time::SystemTime;

use millrace_pipeline::source::kafka::TopicPartition;
use millrace_proto::ids::JobId;
use millrace_proto::manifest::SplitCounts;
use millrace_proto::split::{InputObject, Split};
use millrace_proto::v1::{self, JobState};

use super::LaneError;
use super::input::Input;
use super::work::{Lane, Running};
use crate::causes::chain;
use crate::ledger::{Entry, LostRange};
use crate::lifecycle::{CommittedBatch, Moment};

/// How much larger records are than the files that they become, about.
const PACKED_RATIO: u64 = 8;

impl Lane {
    pub(super) async fn record_lost(&mut self, job: &JobId, ranges: Vec<LostRange>) -> Result<(), LaneError> {
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

    /// A batch was committed: its keys are known, its job's record and lag tools are told.
    pub(super) async fn committed(&mut self, job: &str, committed: CommittedBatch) -> Result<(), LaneError> {
        let CommittedBatch { manifest, breached } = committed;
        let total = manifest.total();
        tracing::info!(
            job, batch = %manifest.batch, attempt = %manifest.attempt, read = total.read, written = total.written,
            duplicates = total.duplicates, quarantined = total.quarantined, "a batch is committed"
        );
        self.tools.committed.send_replace(());
        self.keys.add(&manifest);
        let bytes: u64 = manifest.files.iter().map(|file| file.object.bytes).sum();
        if let Some(running) = self.running.get_mut(job) {
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
        let is_held = state.batches.get(&manifest.batch).is_some_and(|batch| batch.held);
        self.tools.metrics.committed(&manifest, state.newest_us, is_held);
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

    /// Tells lag tools what is committed: our own metrics, and the pipeline's consumer group. Nothing depends on it.
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
        for (object, end) in ends.values() {
            if let Ok(place) = TopicPartition::parse(&object.url) {
                let metrics = &self.tools.metrics;
                metrics.caught_up(self.name.as_str(), place.partition, *end);
            }
        }
        let group = format!("millrace-{}", self.name);
        let offsets: Vec<_> = ends.into_values().collect();
        if let Err(error) = follow.client().mirror(&group, &offsets).await {
            tracing::warn!(job, group, %error, "offsets were not mirrored");
        }
    }

    /// A job waits for brokers, or for a table that it looks up in: for as long as it takes.
    pub(super) async fn waits(&mut self, id: &str, error: &LaneError) -> Result<(), LaneError> {
        tracing::warn!(job = id, error = chain(error), "the job waits, and asks again");
        let Some(lookup) = error.waits_for() else {
            return Ok(());
        };
        let phase = format!("waiting for {lookup}");
        let is_told = |job: &v1::Job| job.progress.as_ref().is_some_and(|now| now.phase == phase);
        let Some(running) = self.running.get_mut(id).filter(|running| !is_told(&running.job)) else {
            return Ok(());
        };
        let update = |job: &mut v1::Job| {
            let known = job.progress.clone().unwrap_or_default();
            job.progress = Some(v1::Progress {
                phase: phase.clone(),
                ..known
            });
        };
        let told = self
            .tools
            .registry
            .update_job(&self.tools.lead, id, update)
            .await?;
        running.job.progress = told.progress;
        Ok(())
    }

    pub(super) async fn succeed(&mut self, id: &str, open: bool) -> Result<(), LaneError> {
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

    pub(super) async fn fail(&mut self, id: &str, error: &LaneError) -> Result<(), LaneError> {
        let text = chain(error);
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

    /// A pipeline that no job follows any more has no lag.
    pub(super) fn unfollow(&self) {
        if !self.running.values().any(|running| running.input.is_follow()) {
            self.tools.metrics.unfollowed(self.name.as_str());
        }
    }

    fn leave(&mut self, id: &str) {
        self.running.remove(id);
        self.unfollow();
        self.turn.retain(|turn| turn != id);
    }
}

fn gap(lost: &LostRange) -> v1::Gap {
    v1::Gap {
        object: lost.object.url.clone(),
        start: lost.start,
        end: lost.end,
        reason: lost.reason.clone(),
    }
}
