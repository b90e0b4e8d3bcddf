//! Retention: what is older than the pipeline keeps it leaves the lake, the quarantine and the warehouse.
//!
//! In: a pipeline's `retention`, its ledger, its manifests, the clock. Out: expiries. An expiry is a batch without input: its
//! manifest names the files that it replaces with nothing, and how many rows left with them, so that `verify` can still
//! account for every event. The ledger's entry is the commit; the files are deleted later, as those of a compaction are
//! (`retention.replaced`), and not while a batch that lies in them waits for the warehouse.
//!
//! | a crash...                       | then                                                                       |
//! |-----------------------------------|----------------------------------------------------------------------------|
//! | before the manifest is put        | nothing has left; the batch is given up, the next expiry decides anew      |
//! | between manifest and ledger       | the next writer commits it                                                 |
//! | after that                        | the files are deleted some time, however often that is begun               |
//! | in the warehouse's transaction    | the warehouse rolls back; the next expiry deletes the same rows            |
//!
//! The key index stays whole, unless `retention.keys` says how long: until then an event that is sent again after its hour
//! has expired is a duplicate, as ever (invariant 7); from then on it is a new one. An event of an expired hour that was
//! never there before is written, and leaves with the next expiry.

pub mod decide;
mod embedded;
pub mod hold;
pub mod wire;

use std::collections::BTreeSet;

use millrace_pipeline::spec::model::Pipeline;
use millrace_proto::ids::{BatchId, IdError, JobId};
use millrace_proto::manifest::{Manifest, Removed, Replaced};

use crate::commit::{self, live};
use crate::compaction::{self, sweep};
use crate::handoff::{HandoffError, removal};
use crate::job::{RunError, unread};
use crate::lake::Lake;
use crate::ledger::{LedgerError, LegalHold, Removal, State, Why};
use crate::lifecycle::{Batches, Moment, now_us};
use decide::{Cutoffs, Expiring, Kept, Share, expiring};

pub(crate) use embedded::open;
pub use embedded::{apply, place_hold, plan, release_hold};

/// What expiries are asked for by: no job of the registry has this name.
const JOB: &str = "retention";

/// Files of one kind that one expiry takes, at most: they all stand in its manifest.
const FILES_MAX: usize = 10_000;

/// Why nothing, or not everything, expired.
#[derive(Debug, thiserror::Error)]
pub enum RetentionError {
    /// The batch, or what is around it.
    #[error(transparent)]
    Run(Box<RunError>),
    /// The warehouse.
    #[error("the warehouse does not say what it waits for, and what it waits for must stay: nothing expired")]
    Warehouse(#[source] Box<HandoffError>),
    /// Its rows.
    #[error("the lake has let go of what is too old, the warehouse has not; ask again to go on")]
    Rows(#[source] Box<HandoffError>),
    /// A legal hold that makes no sense.
    #[error(transparent)]
    Hold(#[from] hold::HoldError),
}

impl<E: Into<RunError>> From<E> for RetentionError {
    fn from(error: E) -> Self {
        Self::Run(Box::new(error.into()))
    }
}

impl RetentionError {
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
}

/// What an expiry takes, or took.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Up to where.
    pub cutoffs: Cutoffs,
    /// Data files.
    pub data: Share,
    /// The same by event hour, in hours since 1970 UTC.
    pub hours: Vec<(i64, Share)>,
    /// Quarantine files.
    pub quarantine: Share,
    /// Key files; their rows are keys.
    pub keys: Share,
    /// Rows of the warehouse; none where there is none, or nothing expires there.
    pub warehouse: Option<u64>,
    /// What legal holds keep of it.
    pub held: Share,
    /// What stays until the warehouse is loaded with it.
    pub waiting: Share,
    /// Legal holds that stand.
    pub holds: Vec<LegalHold>,
    /// Batches that it took.
    pub batches: u64,
    /// Replaced files that were deleted: those of earlier batches, as a rule.
    pub deleted: u64,
}

impl Outcome {
    fn of(cutoffs: Cutoffs, found: &Expiring, holds: Vec<LegalHold>) -> Self {
        Self {
            cutoffs,
            data: found.data(),
            hours: found.by_hour().into_iter().collect(),
            quarantine: found.rejects(),
            keys: found.index(),
            held: found.held,
            waiting: found.waiting,
            holds,
            ..Self::default()
        }
    }
}

/// What would leave now. Nothing is changed.
///
/// # Errors
/// When the lake cannot be read, or the warehouse does not say what it waits for.
pub async fn plan_of(pipeline: &Pipeline, lake: &Lake, state: &State) -> Result<Outcome, RetentionError> {
    let cutoffs = Cutoffs::of(&pipeline.retention, now_us());
    let waiting = waiting(pipeline, lake, state, &cutoffs).await?;
    let manifests = manifests(lake, state).await?;
    let holds: Vec<LegalHold> = state.active_holds().cloned().collect();
    let kept = Kept {
        holds: &holds,
        waiting: &waiting,
    };
    let found = expiring(&manifests, &cutoffs, kept);
    let warehouse = match cutoffs.warehouse_before_us {
        Some(before) => removal::count_expired(pipeline, lake, before, &holds).await,
        None => Ok(None),
    };
    Ok(Outcome {
        warehouse: warehouse.map_err(|error| RetentionError::Warehouse(Box::new(error)))?,
        ..Outcome::of(cutoffs, &found, holds)
    })
}

/// Takes away what is too old at a time, which is now but for tests, then deletes what was replaced long enough ago.
///
/// # Errors
/// When the lake, the ledger or the warehouse fail. What was committed stays so.
pub async fn expire(batches: &mut Batches, by: &str, at_us: i64) -> Result<Outcome, RetentionError> {
    let (pipeline, lake) = (&batches.pipeline, &batches.lake);
    let cutoffs = Cutoffs::of(&pipeline.retention, at_us);
    let state = batches.ledger.state();
    let waiting = waiting(pipeline, lake, state, &cutoffs).await?;
    let mut manifests = manifests(lake, state).await?;
    let holds: Vec<LegalHold> = state.active_holds().cloned().collect();
    let mut outcome: Option<Outcome> = None;
    let mut done = 0;
    loop {
        let kept = Kept {
            holds: &holds,
            waiting: &waiting,
        };
        let found = expiring(&manifests, &cutoffs, kept);
        outcome.get_or_insert_with(|| Outcome::of(cutoffs, &found, holds.clone()));
        if found.is_empty() {
            break;
        }
        manifests.push(take(batches, by, found.first(FILES_MAX)).await?);
        done += 1;
    }
    let mut outcome = outcome.unwrap_or_default();
    outcome.batches = done;
    outcome.deleted = sweep(batches).await?;
    if let Some(before) = cutoffs.warehouse_before_us {
        let expired = removal::expire(
            &batches.pipeline,
            &batches.lake,
            before,
            &holds,
            by,
            &batches.hook,
        )
        .await;
        outcome.warehouse = expired.map_err(|error| RetentionError::Rows(Box::new(error)))?;
    }
    Ok(outcome)
}

/// One expiry, from plan to commit.
async fn take(batches: &mut Batches, by: &str, found: Expiring) -> Result<Manifest, RetentionError> {
    let removal = Removal {
        why: Why::Expired,
        by: by.to_owned(),
        at_us: now_us(),
        subject: None,
    };
    let job = job()?;
    let planned = batches.plan_batch(&job, &[], Vec::new(), Vec::new(), Vec::new(), Some(removal));
    let (id, attempt) = planned.await?;
    let removed = Removed {
        rows: found.data().rows,
        quarantined: found.rejects().rows,
        keys: found.index().rows,
    };
    let replaces = Replaced {
        files: found.files,
        quarantine: found.quarantine,
        keys: found.keys,
        ..Replaced::default()
    };
    let environment = batches.environment.as_deref();
    let joined = commit::join(
        &batches.pipeline,
        environment,
        &job,
        &id,
        attempt,
        &[],
        Vec::new(),
    );
    let manifest = Manifest {
        replaces,
        removed,
        ..joined
    };
    (batches.hook)(Moment::Written);
    let committed = batches.publish_manifest(manifest).await?.manifest;
    let old = &committed.replaces;
    tracing::info!(
        batch = %id, attempt = %committed.attempt, by, files = old.files.len(), rows = committed.removed.rows,
        quarantine_files = old.quarantine.len(), quarantined = committed.removed.quarantined,
        key_files = old.keys.len(), keys = committed.removed.keys, "hours have expired"
    );
    Ok(committed)
}

fn job() -> Result<JobId, IdError> {
    JobId::try_from(JOB.to_owned())
}

/// What the warehouse waits for, where that matters.
async fn waiting(
    pipeline: &Pipeline,
    lake: &Lake,
    state: &State,
    cutoffs: &Cutoffs,
) -> Result<BTreeSet<BatchId>, RetentionError> {
    if cutoffs.data_before.is_none() {
        return Ok(BTreeSet::new());
    }
    let waiting = compaction::waiting(pipeline, lake, state).await;
    waiting.map_err(|error| RetentionError::Warehouse(Box::new(error)))
}

async fn manifests(lake: &Lake, state: &State) -> Result<Vec<Manifest>, RunError> {
    let read = live::manifests(lake, state).await;
    read.map_err(|error| unread(*error))
}
