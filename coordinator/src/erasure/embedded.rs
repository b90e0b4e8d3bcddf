//! Erasure in a lake that keeps its own ledger, in this process: `millrace erase`.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
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
pub fn look_embedded<'a>(
    pipeline: &'a Pipeline,
    lake: &'a Lake,
    subject: &'a Subject,
) -> BoxFuture<'a, Result<Outcome, ErasureError>> {
    async move {
        let ledger = EmbeddedLedger::read(lake).await?;
        look(pipeline, lake, ledger.state(), subject).await
    }
    .boxed()
}

/// Finds a person and erases them.
///
/// # Errors
/// As [`erase`], or when an interrupted run is to be finished first.
pub fn erase_embedded<'a>(
    pipeline: Arc<Pipeline>,
    lake: Lake,
    subject: &'a Subject,
    by: &'a str,
    hook: Hook,
) -> BoxFuture<'a, Result<Outcome, ErasureError>> {
    async move {
        let mut batches = open(pipeline, lake, hook).await?;
        erase(&mut batches, subject, by).await
    }
    .boxed()
}
