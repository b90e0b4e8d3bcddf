//! A batch's end: published, told of, or given up.

use millrace_proto::ids::BatchId;
use tracing::{Instrument, info_span};

use super::LaneError;
use super::attempt::{Retry, Written};
use super::work::Lane;
use crate::causes::chain;
use crate::commit::CommitError;
use crate::engine::EngineError;
use crate::job::RunError;
use crate::ledger::{BatchState, Entry};
use crate::lifecycle::CommittedBatch;

impl Lane {
    /// Commits the batch whose tasks are done, if there is one. False when it failed, and its job with it.
    pub(super) async fn settle(&mut self) -> Result<bool, LaneError> {
        let Some(written) = self.written.take() else {
            return Ok(true);
        };
        let job = written.flight.job.job_id.clone();
        match self.commit(written).await {
            Ok(()) => Ok(true),
            Err(LaneError::Engine(EngineError::Stopped)) => Ok(false),
            Err(error) if error.is_fatal() => Err(error),
            Err(error) => {
                self.fail(&job, &error).await?;
                Ok(false)
            }
        }
    }

    /// Publishes a batch whose tasks are done; one whose counts do not add up is run again. What fails for good is given up.
    pub(super) async fn commit(&mut self, mut written: Written) -> Result<(), LaneError> {
        let (batch, job) = (written.flight.batch.clone(), written.flight.job.job_id.clone());
        let span = written.flight.span.clone();
        let failed = loop {
            match self.publish(&written).await {
                Ok(committed) => return self.committed(&job, committed).instrument(span).await,
                Err(error) if error.is_miscounted() => match self.fly_again(written.flight, error).await {
                    Ok(again) => written = again,
                    Err(error) => break error,
                },
                Err(error) => break error,
            }
        };
        Err(self.abandon(&batch, failed).await?)
    }

    /// Publishes what an attempt wrote. A store that does not answer is asked again: the work is done already, and a
    /// manifest that was put by a call without an answer is found.
    pub(super) async fn publish(&mut self, written: &Written) -> Result<CommittedBatch, LaneError> {
        let Written { flight, reports } = written;
        let (job, batch, attempt) = (&flight.id, &flight.batch, flight.attempt);
        let began = std::time::Instant::now();
        let mut retry = Retry::default();
        loop {
            let Some(batches) = &mut self.batches else {
                return Err(EngineError::Stopped.into());
            };
            batches.reached.clone_from(&flight.reached);
            let published = batches.publish(job, batch, attempt, &flight.splits, reports.clone());
            let published = published
                .instrument(info_span!(parent: &flight.span, "publish", %attempt))
                .await;
            match published {
                Ok(committed) => {
                    self.tools.metrics.phase("publish", began.elapsed());
                    return Ok(committed);
                }
                Err(RunError::Commit {
                    source: CommitError::Lake(source),
                    batch,
                }) => {
                    let Some(pause) = retry.next() else {
                        let source = CommitError::Lake(source);
                        return Err(RunError::Commit { batch, source }.into());
                    };
                    tracing::warn!(%job, %batch, %attempt, error = chain(&source), "publishing is tried again");
                    tokio::time::sleep(pause).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Gives a batch up that failed so, unless the whole lane did; hands the failure back.
    pub(super) async fn abandon(
        &mut self,
        batch: &BatchId,
        failed: LaneError,
    ) -> Result<LaneError, LaneError> {
        if failed.is_fatal() {
            return Err(failed);
        }
        self.give_up(batch).await?;
        Ok(failed)
    }

    /// Drops a batch: whatever of it is not committed by now never will be. A batch whose manifest is there, put by a call
    /// that never answered, is committed: readers of the lake may have seen it.
    pub(super) async fn give_up(&mut self, batch: &BatchId) -> Result<(), LaneError> {
        let known = self
            .batches
            .as_ref()
            .and_then(|batches| batches.ledger.state().batches.get(batch))
            .filter(|batch| matches!(batch.state, BatchState::Planned | BatchState::Started(_)))
            .map(|batch| (batch.job.clone(), batch.splits.clone()));
        let (Some(batches), Some((job, splits))) = (&mut self.batches, known) else {
            return Ok(());
        };
        // What was read behind it need not be all that was there.
        batches.reached.clear();
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
            self.tools.metrics.dropped(self.name.as_str());
        }
        Ok(())
    }
}
