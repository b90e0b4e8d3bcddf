//! Erasure: what is one person's leaves the lake, the quarantine and the warehouse, and that is proved.
//!
//! In: a person ([`Subject`]), the ledger, every stored file. Out: a batch that writes just the files again that hold the person,
//! without them; rows deleted in the warehouse; every old object with the person deleted; a second look that finds nothing.
//!
//! | step, in order                     | a crash after it                                                     |
//! |------------------------------------|----------------------------------------------------------------------|
//! | the batch is planned               | nothing has left; it is given up, unless its manifest is there       |
//! | files are written again, committed | readers no longer see the person; asking again does the rest         |
//! | the warehouse's rows are deleted, with a row in `millrace_removals` | the same                            |
//! | old objects are deleted, at once   | the same                                                             |
//! | copies lose them: see `copies`     | the same                                                             |
//! | models' tables are loaded with what is left, and lose what the ledger does not know of | the same         |
//! | everything is looked through again | done                                                                 |
//!
//! The ledger does not know the person's value, so nobody but who asks again can go on. Old objects do not wait for
//! `retention.replaced`: a query or a `verify` that is under way may miss one of them, and is run again. What no manifest names
//! any more (files replaced earlier, leftovers of dead attempts) is looked through and deleted too.
//!
//! A load of a model's period that is under way may have rows of the person and not be seen yet. Loading the version that comes
//! after it waits for it, and is what no older version can replace: see [`marts`]. So that goes before the rows are looked for.
//!
//! The key index keeps the hashes of the person's events: an event that is sent again is a duplicate, and does not come back.

mod copies;
mod embedded;
mod find;
mod rewrite;

use std::collections::BTreeSet;

use millrace_pipeline::enrich::EnrichError;
use millrace_pipeline::privacy::{PrivacyError, Subject};
use millrace_pipeline::quality::StateError;
use millrace_pipeline::sink::SinkError;
use millrace_pipeline::spec::model::Pipeline;
use millrace_proto::ids::{BatchId, IdError, JobId};
use millrace_proto::manifest::Manifest;

use crate::compaction;
use crate::handoff::{HandoffError, marts, removal};
use crate::job::RunError;
use crate::lake::Lake;
use crate::ledger::{Entry, LedgerError, Removal, State, Why};
use crate::lifecycle::{Batches, Moment, now_us};
use crate::quarantine::QuarantineError;
use copies::Copies;
use find::{Found, find};

#[cfg(test)]
pub(crate) use copies::forget;
pub use embedded::{erase_embedded, look_embedded};

/// What erasures are asked for by: no job of the registry has this name.
const JOB: &str = "erasure";

/// Why a person was not erased, or not everywhere. Asking again goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum ErasureError {
    /// The batch, or what is around it.
    #[error(transparent)]
    Run(Box<RunError>),
    /// A file cannot be read or written.
    #[error("a stored file could not be looked through or written again")]
    File(#[from] SinkError),
    /// A quarantine file.
    #[error(transparent)]
    Quarantine(#[from] QuarantineError),
    /// A snapshot of a lookup.
    #[error(transparent)]
    Snapshot(#[from] EnrichError),
    /// A quality state.
    #[error("quality state `{key}` cannot be looked through")]
    State {
        /// Its key.
        key: String,
        /// Why.
        #[source]
        source: StateError,
    },
    /// A quality report.
    #[error("quality report `{key}` cannot be looked through or written again")]
    Report {
        /// Its key.
        key: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The pipeline cannot open what it sealed.
    #[error("quarantine cannot be looked through")]
    Sealed(#[from] PrivacyError),
    /// The warehouse.
    #[error("the warehouse has its rows of the person still; ask again to go on")]
    Warehouse(#[source] Box<HandoffError>),
    /// The warehouse was not asked what it waits for.
    #[error("the warehouse does not say what it waits for: nothing is erased until it does")]
    Unasked(#[source] Box<HandoffError>),
    /// A load would bring the person back.
    #[error(
        "{} hold the person and are not in the warehouse yet, so a load would bring them back; first load them \
         (`millrace handoff load`), or release or discard what is held", batches(.0)
    )]
    Waiting(Vec<BatchId>),
    /// A legal hold.
    #[error("{files} files hold the person in a range under legal hold ({}): nothing is erased while it stands", .holds.join(", "))]
    Held {
        /// How many.
        files: usize,
        /// Ids of the holds.
        holds: Vec<String>,
    },
}

fn batches(batches: &[BatchId]) -> String {
    let names: Vec<&str> = batches.iter().map(BatchId::as_str).collect();
    format!("batches {}", names.join(", "))
}

impl<E: Into<RunError>> From<E> for ErasureError {
    fn from(error: E) -> Self {
        Self::Run(Box::new(error.into()))
    }
}

impl ErasureError {
    /// The ledger's refusal, if it is one: nobody may go on then.
    ///
    /// # Errors
    /// Itself, where it is not.
    pub fn into_ledger(self) -> Result<LedgerError, Self> {
        let Self::Run(run) = self else {
            return Err(self);
        };
        run.into_ledger().map_err(Self::Run)
    }

    /// Whether waiting helps: loads of batches that hold the person are on their way.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Waiting(_))
    }
}

/// What was found of a person, and what became of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The person, as logs and ledgers call them.
    pub subject: String,
    /// Columns in which they were looked for.
    pub columns: Vec<String>,
    /// Columns whose masks tell nobody.
    pub blind: Vec<String>,
    /// Objects that were looked through.
    pub examined: u64,
    /// Files that were written again without them, or dropped whole.
    pub rewritten: u64,
    /// Their events in data files.
    pub rows: u64,
    /// Their records in quarantine.
    pub quarantined: u64,
    /// Their rows in the warehouse; none where there is none.
    pub warehouse: Option<u64>,
    /// Snapshots, quality states and reports, and results of models that held them.
    pub copies: u64,
    /// Rows of models' tables in the warehouse that hold them, when it was looked; none where there are none.
    pub model_rows: Option<u64>,
    /// Objects that were deleted.
    pub deleted: u64,
    /// Whether anything was to be changed.
    pub applied: bool,
    /// What a second look found, everywhere; none for a first look alone.
    pub remaining: Option<u64>,
    /// When that was, microseconds since 1970 UTC.
    pub proved_us: Option<i64>,
}

/// Finds a person; nothing is changed.
///
/// # Errors
/// When something cannot be read.
pub async fn look(
    pipeline: &Pipeline,
    lake: &Lake,
    state: &State,
    subject: &Subject,
) -> Result<Outcome, ErasureError> {
    let found = find(pipeline, lake, state, subject).await?;
    let copies = copies::find(pipeline, lake, state, subject).await?;
    let (warehouse, models) = in_warehouse(pipeline, lake, subject).await?;
    Ok(outcome(subject, &found, &copies, (warehouse, models)))
}

/// Rows of the person in the pipeline's table, and in those of models.
async fn in_warehouse(
    pipeline: &Pipeline,
    lake: &Lake,
    subject: &Subject,
) -> Result<(Option<u64>, Option<u64>), ErasureError> {
    let rows = removal::count_subject(pipeline, lake, subject).await;
    let models = removal::count_in_models(pipeline, lake, subject).await;
    Ok((rows.map_err(unreached)?, models.map_err(unreached)?))
}

fn unreached(error: HandoffError) -> ErasureError {
    ErasureError::Warehouse(Box::new(error))
}

/// Finds a person, erases them everywhere and looks again.
///
/// # Errors
/// When a legal hold or a load that is to come forbids it, or something cannot be read or written. What was done stays.
pub async fn erase(batches: &mut Batches, subject: &Subject, by: &str) -> Result<Outcome, ErasureError> {
    let found = find_in(batches, subject).await?;
    let copies = copies_in(batches, subject).await?;
    refuse_held(batches, &found, &copies)?;
    refuse_waiting(batches, &found).await?;
    let (_, models) = in_warehouse(&batches.pipeline, &batches.lake, subject).await?;
    let mut done = outcome(subject, &found, &copies, (None, models));
    done.applied = true;
    let committed = if found.is_empty() {
        None
    } else {
        Some(take(batches, subject, by, &found).await?)
    };
    let erased = removal::erase_subject(&batches.pipeline, &batches.lake, subject, by, &batches.hook).await;
    done.warehouse = erased.map_err(unreached)?;
    done.deleted = delete(batches, &found, committed.as_ref()).await?;
    done.deleted += copies::erase(batches, subject, &copies).await?;
    erase_in_models(batches, subject, by).await?;
    done.remaining = Some(remaining(batches, subject).await?);
    done.proved_us = Some(now_us());
    (batches.hook)(Moment::Finished);
    Ok(done)
}

/// The models' tables: what is left of each result is loaded, then rows leave that no result stands for.
async fn erase_in_models(batches: &Batches, subject: &Subject, by: &str) -> Result<(), ErasureError> {
    let (pipeline, lake, hook) = (&batches.pipeline, &batches.lake, &batches.hook);
    let settled = marts::settle(pipeline, lake, batches.ledger.state(), hook).await;
    settled.map_err(unreached)?;
    let erased = removal::erase_in_models(pipeline, lake, subject, by, hook).await;
    erased.map_err(unreached)
}

/// The second look, at everything.
async fn remaining(batches: &Batches, subject: &Subject) -> Result<u64, ErasureError> {
    let left = find_in(batches, subject).await?;
    let copies = copies_in(batches, subject).await?.count();
    let (rows, models) = in_warehouse(&batches.pipeline, &batches.lake, subject).await?;
    let in_warehouse = rows.unwrap_or(0) + models.unwrap_or(0);
    Ok(left.rows() + left.quarantined() + left.dead.len() as u64 + copies + in_warehouse)
}

async fn find_in(batches: &Batches, subject: &Subject) -> Result<Found, ErasureError> {
    let state = batches.ledger.state();
    find(&batches.pipeline, &batches.lake, state, subject).await
}

async fn copies_in(batches: &Batches, subject: &Subject) -> Result<Copies, ErasureError> {
    let state = batches.ledger.state();
    copies::find(&batches.pipeline, &batches.lake, state, subject).await
}

fn outcome(
    subject: &Subject,
    found: &Found,
    copies: &Copies,
    (warehouse, model_rows): (Option<u64>, Option<u64>),
) -> Outcome {
    Outcome {
        subject: subject.id().to_owned(),
        columns: subject.columns().map(str::to_owned).collect(),
        blind: subject.blind().to_vec(),
        examined: found.examined + copies.examined,
        copies: copies.count(),
        rewritten: (found.files.len() + found.rejects.len()) as u64,
        rows: found.rows(),
        quarantined: found.quarantined(),
        warehouse,
        model_rows,
        ..Outcome::default()
    }
}

fn refuse_held(batches: &Batches, found: &Found, copies: &Copies) -> Result<(), ErasureError> {
    let state = batches.ledger.state();
    let mut holds = BTreeSet::new();
    let mut files = 0;
    for hold in state.active_holds() {
        let touched = found.touched_by(hold) + copies.touched_by(hold);
        if touched > 0 {
            holds.insert(hold.id.clone());
            files += touched;
        }
    }
    if holds.is_empty() {
        return Ok(());
    }
    let holds = holds.into_iter().collect();
    Err(ErasureError::Held { files, holds })
}

async fn refuse_waiting(batches: &Batches, found: &Found) -> Result<(), ErasureError> {
    let state = batches.ledger.state();
    let waiting = compaction::waiting(&batches.pipeline, &batches.lake, state).await;
    let waiting = waiting.map_err(|error| ErasureError::Unasked(Box::new(error)))?;
    let holding: Vec<BatchId> = waiting.into_iter().filter(|batch| found.is_in(batch)).collect();
    if holding.is_empty() {
        Ok(())
    } else {
        Err(ErasureError::Waiting(holding))
    }
}

/// The batch, from plan to commit.
async fn take(
    batches: &mut Batches,
    subject: &Subject,
    by: &str,
    found: &Found,
) -> Result<Manifest, ErasureError> {
    let removal = Removal {
        why: Why::Erased,
        by: by.to_owned(),
        at_us: now_us(),
        subject: Some(subject.id().to_owned()),
    };
    let job: JobId = job()?;
    let planned = batches.plan_batch(&job, &[], Vec::new(), Vec::new(), Vec::new(), Some(removal));
    let (id, attempt) = planned.await?;
    let manifest = rewrite::rewrite(batches, subject, (&job, &id, attempt), found).await?;
    (batches.hook)(Moment::Written);
    let committed = batches.publish_manifest(manifest).await?.manifest;
    tracing::info!(
        batch = %id, attempt = %committed.attempt, by, subject = subject.id(), rows = committed.removed.rows,
        quarantined = committed.removed.quarantined, "a person is erased from the lake"
    );
    Ok(committed)
}

/// Deletes every old object that holds the person; how many.
async fn delete(
    batches: &mut Batches,
    found: &Found,
    committed: Option<&Manifest>,
) -> Result<u64, ErasureError> {
    let mut deleted = 0;
    for key in &found.dead {
        batches.lake.delete(key).await?;
        deleted += 1;
    }
    let Some(manifest) = committed else {
        return Ok(deleted);
    };
    for object in manifest.replaces.objects() {
        batches.lake.delete(&object.key).await?;
        deleted += 1;
    }
    (batches.hook)(Moment::Swept);
    let (epoch, batch) = (batches.ledger.epoch(), manifest.batch.clone());
    batches.ledger.append(vec![Entry::Swept { epoch, batch }]).await?;
    Ok(deleted)
}

fn job() -> Result<JobId, IdError> {
    JobId::try_from(JOB.to_owned())
}
