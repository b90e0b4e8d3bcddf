//! Retention of a lake that keeps its own ledger, in this process: `millrace retention`.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use millrace_pipeline::spec::model::Pipeline;

use super::hold::{self, Asked};
use super::{Outcome, RetentionError, expire, plan_of};
use crate::compaction;
use crate::job::RunError;
use crate::lake::Lake;
use crate::ledger::embedded::EmbeddedLedger;
use crate::ledger::{Ledger, LegalHold};
use crate::lifecycle::{Batches, Hook, Moment};

/// Memory for a compaction that is to be finished first, in bytes.
const MEMORY_BYTES: usize = 256 << 20;

/// What would leave now.
///
/// # Errors
/// As [`plan_of`].
pub fn plan<'a>(pipeline: &'a Pipeline, lake: &'a Lake) -> BoxFuture<'a, Result<Outcome, RetentionError>> {
    async move {
        let ledger = EmbeddedLedger::read(lake).await.map_err(RunError::from)?;
        plan_of(pipeline, lake, ledger.state()).await
    }
    .boxed()
}

/// Takes away what is too old at a time, which is now but for tests.
///
/// # Errors
/// As [`expire`], or when an interrupted run is to be finished first.
pub fn apply<'a>(
    pipeline: Arc<Pipeline>,
    lake: Lake,
    by: &'a str,
    at_us: i64,
    hook: Hook,
) -> BoxFuture<'a, Result<Outcome, RetentionError>> {
    async move {
        let mut batches = open(pipeline, lake, hook).await?;
        let outcome = expire(&mut batches, by, at_us).await?;
        (batches.hook)(Moment::Finished);
        Ok(outcome)
    }
    .boxed()
}

/// Places a legal hold.
///
/// # Errors
/// As [`hold::place`].
pub fn place_hold(
    pipeline: Arc<Pipeline>,
    lake: Lake,
    asked: Asked,
) -> BoxFuture<'static, Result<LegalHold, RetentionError>> {
    async move {
        let mut batches = open(pipeline, lake, Arc::new(|_| {})).await?;
        hold::place(&mut batches, asked).await
    }
    .boxed()
}

/// Releases a legal hold.
///
/// # Errors
/// As [`hold::release`].
pub fn release_hold<'a>(
    pipeline: Arc<Pipeline>,
    lake: Lake,
    id: &'a str,
    by: &'a str,
    reason: &'a str,
) -> BoxFuture<'a, Result<LegalHold, RetentionError>> {
    async move {
        let mut batches = open(pipeline, lake, Arc::new(|_| {})).await?;
        hold::release(&mut batches, id, by, reason).await
    }
    .boxed()
}

/// Takes the ledger over, and finishes upkeep that was interrupted.
pub(crate) async fn open(pipeline: Arc<Pipeline>, lake: Lake, hook: Hook) -> Result<Batches, RunError> {
    let mut batches = Batches::of_lake(pipeline, lake, hook).await?;
    for (id, batch) in batches.open() {
        if !batch.is_upkeep() {
            return Err(RunError::Interrupted { batch: id });
        }
        compaction::settle(&mut batches, &id, MEMORY_BYTES).await?;
    }
    Ok(batches)
}
