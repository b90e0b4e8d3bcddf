//! Erasure in a lake that keeps its own ledger, in this process: `millrace erase`.

use std::sync::Arc;

use millrace_pipeline::privacy::Subject;
use millrace_pipeline::spec::model::Pipeline;

use super::{ErasureError, Outcome, erase, look};
use crate::lake::Lake;
use crate::ledger::Ledger;
use crate::ledger::embedded::EmbeddedLedger;
use crate::lifecycle::Hook;
use crate::retention::open;

/// Finds a person; nothing is changed.
///
/// # Errors
/// As [`look`].
pub async fn look_embedded(
    pipeline: &Pipeline,
    lake: &Lake,
    subject: &Subject,
) -> Result<Outcome, ErasureError> {
    let ledger = EmbeddedLedger::read(lake).await?;
    look(pipeline, lake, ledger.state(), subject).await
}

/// Finds a person and erases them.
///
/// # Errors
/// As [`erase`], or when an interrupted run is to be finished first.
pub async fn erase_embedded(
    pipeline: Arc<Pipeline>,
    lake: Lake,
    subject: &Subject,
    by: &str,
    hook: Hook,
) -> Result<Outcome, ErasureError> {
    let mut batches = open(pipeline, lake, hook).await?;
    erase(&mut batches, subject, by).await
}
