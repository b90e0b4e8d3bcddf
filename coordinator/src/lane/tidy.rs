//! What a lane does in idle moments: complete hours are compacted, replaced files are deleted.
//!
//! In: the ledger's hours. Out: compactions, each a batch like any other. It is done in this process, a partition at a time, or
//! several small ones, and only when no job has a batch to be run: no job waits longer than that. A lane whose jobs are over goes
//! on until nothing is left to be compacted; what failed is tried again with growing pauses.

use std::time::Duration;

use millrace_proto::ids::{BatchId, JobId};
use tokio::time::Instant;

use super::work::Lane;
use super::{LaneError, listing};
use crate::causes::chain;
use crate::commit::live;
use crate::compaction;
use crate::job::{RunError, unread};
use crate::ledger::Batch;

/// Memory for rows that are rewritten, in bytes.
const MEMORY_BYTES: usize = 256 << 20;
/// Pause after a compaction that failed; it doubles with each one more.
const PAUSE: Duration = Duration::from_secs(5);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// How often replaced files are looked at.
const SWEEP_EVERY: Duration = Duration::from_secs(20);

/// When what is looked at next.
#[derive(Debug)]
pub(super) struct Tidy {
    /// The ledger's length when nothing was left to be done.
    done_at: Option<u64>,
    /// After a compaction that failed: when it is tried again, and how long that is after it.
    again: Option<(Instant, Duration)>,
    sweep_at: Instant,
    /// Whether what earlier leaders left for their attempts is gone.
    has_swept_lists: bool,
}

impl Default for Tidy {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            done_at: None,
            again: None,
            sweep_at: now,
            has_swept_lists: false,
        }
    }
}

impl Tidy {
    /// Whether a compaction is to be tried again.
    pub(super) fn has_failed(&self) -> bool {
        self.again.is_some()
    }
}

impl Lane {
    /// Does the next thing that can be done beside jobs; whether there was one.
    ///
    /// # Errors
    /// When the ledger refuses or fails.
    pub async fn tidy(&mut self) -> Result<bool, LaneError> {
        self.sweep_lists().await?;
        let Some(batches) = &mut self.batches else {
            return Ok(false);
        };
        let now = Instant::now();
        if now >= self.tidy.sweep_at {
            self.tidy.sweep_at = now + SWEEP_EVERY;
            match compaction::sweep(batches).await {
                Ok(0) => {}
                Ok(files) => tracing::info!(pipeline = %self.name, files, "replaced files are deleted"),
                Err(RunError::Ledger(error)) => return Err(error.into()),
                Err(error) => {
                    tracing::warn!(pipeline = %self.name, error = chain(&error), "replaced files stay")
                }
            }
        }
        let length = batches.ledger.state().length;
        let is_early = self.tidy.again.is_some_and(|(at, _)| now < at);
        if is_early || self.tidy.done_at == Some(length) {
            return Ok(false);
        }
        match compaction::step(batches, MEMORY_BYTES).await {
            Ok(done) => {
                self.tidy.again = None;
                match &done {
                    Some(manifest) => self.keys.replace(manifest),
                    None => self.tidy.done_at = Some(length),
                }
                Ok(done.is_some())
            }
            Err(RunError::Ledger(error)) => Err(error.into()),
            Err(error) => {
                tracing::warn!(pipeline = %self.name, error = chain(&error), "a compaction failed");
                let last = self.tidy.again.map(|(_, pause)| pause);
                let pause = last.map_or(PAUSE, |pause| (pause * 2).min(PAUSE_MAX));
                self.tidy.again = Some((Instant::now() + pause, pause));
                self.drop_upkeep().await?;
                Ok(false)
            }
        }
    }

    /// Deletes, once, the lists of key files and the listings that nobody needs any more. Nothing is under way now.
    async fn sweep_lists(&mut self) -> Result<(), LaneError> {
        let Some(batches) = self.batches.as_ref().filter(|_| !self.tidy.has_swept_lists) else {
            return Ok(());
        };
        self.tidy.has_swept_lists = true;
        // As they are now: this coordinator may not have heard of all of them yet.
        let active = self.tools.registry.active_jobs().await?.into_iter();
        let active = active
            .filter_map(|job| JobId::try_from(job.job_id).ok())
            .collect();
        let state = batches.ledger.state();
        let swept = async {
            self.keys.sweep(&batches.lake).await?;
            listing::sweep(&batches.lake, state, &active).await
        };
        if let Err(error) = swept.await {
            tracing::warn!(pipeline = %self.name, error = chain(&error), "what earlier attempts were told stays");
        }
        Ok(())
    }

    /// Finishes a compaction that an earlier leader left behind.
    pub(super) async fn finish_compaction(&mut self, id: &BatchId) -> Result<(), LaneError> {
        let Some(batches) = &mut self.batches else {
            return Ok(());
        };
        let settled = compaction::settle(batches, id, MEMORY_BYTES).await;
        if let Some(manifest) = settled.map_err(|source| unsettled(id, source))? {
            self.keys.replace(&manifest);
        }
        Ok(())
    }

    /// Lets go of the key files that upkeep behind a batch took away.
    pub(super) async fn forget_keys(&mut self, last: Option<&BatchId>) -> Result<(), LaneError> {
        let Some(batches) = &self.batches else {
            return Ok(());
        };
        let is_new =
            |(id, batch): &(&BatchId, &Batch)| batch.is_upkeep() && last.is_none_or(|last| *id > last);
        let new = batches.ledger.state().committed().filter(is_new);
        for (id, manifest) in live::each(&batches.lake, new).await {
            match manifest {
                Ok(manifest) => self.keys.replace(&manifest),
                Err(source) => return Err(unsettled(&id, unread((id.clone(), source)))),
            }
        }
        Ok(())
    }

    /// What upkeep that failed had planned is free again.
    pub(super) async fn drop_upkeep(&mut self) -> Result<(), LaneError> {
        let Some(batches) = &mut self.batches else {
            return Ok(());
        };
        for (id, _) in batches.open().into_iter().filter(|(_, batch)| batch.is_upkeep()) {
            let given_up = compaction::give_up(batches, &id).await;
            if let Some(manifest) = given_up.map_err(|source| unsettled(&id, source))? {
                self.keys.replace(&manifest);
            }
        }
        Ok(())
    }
}

fn unsettled(batch: &BatchId, source: RunError) -> LaneError {
    LaneError::Unsettled {
        batch: batch.clone(),
        source: Box::new(source),
    }
}
