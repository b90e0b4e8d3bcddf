//! A job that sends what is in quarantine through its pipeline again.

use std::sync::Arc;

use millrace_pipeline::dedup::KeyIndex;
use millrace_proto::ids::BatchId;
use tokio::sync::watch;

use super::LaneError;
use super::work::{Lane, environment};
use crate::causes::chain;
use crate::engine::embedded::Embedded;
use crate::job::{Progress, RunError, RunOptions, Runner};
use crate::lifecycle::CommittedBatch;
use crate::quarantine::QuarantineError;

/// Memory for keys while quarantine is read again, in bytes.
const REDRIVE_BYTES: usize = 256 << 20;

impl Lane {
    /// Sends what is in quarantine through the pipeline again, in this process: there is little of it, and it lies
    /// sealed in objects that have no splits. False when it was cancelled: what is committed stays.
    pub(super) async fn redrive(&mut self, id: &str) -> Result<bool, LaneError> {
        let Some(running) = self.running.get(id) else {
            return Ok(false);
        };
        let (job, prepared, job_id) = (
            running.job.clone(),
            Arc::clone(&running.prepared),
            running.id.clone(),
        );
        self.wear(&prepared, &job);
        let Some(batches) = self.batches.take() else {
            return Ok(false);
        };
        let keys = KeyIndex::new(
            Arc::clone(&prepared.lake),
            prepared.root.clone(),
            self.keys.files().to_vec(),
            REDRIVE_BYTES,
        );
        let engine = Embedded {
            steps: Arc::clone(&prepared.steps),
            stores: Arc::clone(&prepared.stores),
            keys: Arc::new(keys),
            threads: 1,
            snapshots: self.tools.workplace.snapshots(),
        };
        let options = RunOptions {
            environment: environment(&job),
            inputs: Vec::new(),
            threads: 1,
            batch_bytes: REDRIVE_BYTES as u64,
            memory_bytes: 2 * REDRIVE_BYTES,
            hook: Arc::clone(&self.tools.hook),
        };
        let (stop, stopped) = watch::channel(false);
        let mut runner = Runner::over(batches, engine, options, job_id, stopped);
        let progress = Progress::default();
        let redriven = tokio::select! {
            redriven = runner.redrive_waiting(&progress) => redriven,
            () = self.watch_cancel(id, stop) => Ok(()),
        };
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
        match redriven {
            Ok(()) => Ok(true),
            Err(_) if !self.jobs.borrow().contains_key(id) => Ok(false),
            Err(QuarantineError::Run(error)) if matches!(*error, RunError::Enrich(_)) => {
                Err(LaneError::Run(error))
            }
            Err(error) => Err(LaneError::Input(chain(&error))),
        }
    }
}
