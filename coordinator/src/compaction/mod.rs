//! Complete hours are rewritten to files of full size, and their key files to one: a batch like any other.
//!
//! In: the ledger's hours, the files that count. Out: a manifest that names what it wrote and what that replaces, and its
//! entry in the ledger, which is the commit. So it happens exactly once, whoever dies when, and no reader ever sees both or neither.
//!
//! | step        | a crash after it                                                                        |
//! |-------------|------------------------------------------------------------------------------------------|
//! | planned: the hours stand in the ledger | the next writer does the same batch again, as another attempt |
//! | written     | the same; what the dead attempt wrote is swept                                             |
//! | published: the manifest is put | the next writer commits it                                             |
//! | committed   | nothing is left to do                                                                      |
//! | swept: replaced files are deleted, once `retention.replaced` is over and no warehouse waits for them | they are deleted again |
//!
//! What it reads is fixed by its place: the files of its hours that count among the batches before it. No batch is planned
//! while another is open, so nothing comes between. A writer that was taken over may still put its manifest: then that one
//! is the batch's, and it replaces the same files with the same rows.

mod embedded;
mod rewrite;
mod select;
mod sweep;

use millrace_proto::ids::{Attempt, BatchId, IdError, JobId};
use millrace_proto::manifest::{Manifest, Replaced, TaskReport};

use crate::causes::chain;
use crate::commit::{self, live};
use crate::hours::HourState;
use crate::job::{RunError, unread};
use crate::ledger::{Batch, Entry};
use crate::lifecycle::{Batches, Moment};
use rewrite::InParquet;
use select::{Limits, select};

pub use embedded::{Compacted, compact};
pub(crate) use rewrite::{Rewrite, Rewritten};
pub(crate) use select::Selection;
pub use sweep::sweep;
pub(crate) use sweep::{is_of, waiting};

/// What compactions are asked for by: no job of the registry has this name.
const JOB: &str = "compaction";

/// Hours of one batch, at most.
const HOURS_MAX: usize = 64;
/// Bytes at which one batch begins no further partition: some seconds of encoding, which a job's batch waits for.
const STEP_BYTES: u64 = 32 << 20;

/// Does the next compaction that is due; none when there is none.
///
/// # Errors
/// When the lake or the ledger fail. A batch that was planned stays open then: see [`settle`].
pub async fn step(batches: &mut Batches, memory_bytes: usize) -> Result<Option<Manifest>, RunError> {
    step_by(batches, &InParquet { memory_bytes }).await
}

/// The same by another way to write files.
pub(crate) async fn step_by(batches: &mut Batches, by: &dyn Rewrite) -> Result<Option<Manifest>, RunError> {
    let state = batches.ledger.state();
    if state.open_batches().next().is_some() {
        return Ok(None);
    }
    let hours = due(batches);
    if hours.is_empty() {
        return Ok(None);
    }
    let (id, attempt) = batches
        .plan_batch(&job()?, &[], Vec::new(), hours, Vec::new(), None)
        .await?;
    run(batches, &id, attempt, by).await.map(Some)
}

/// Finishes upkeep that was interrupted: commits it, does it again, or, where that fails for another reason than the
/// ledger, gives it up. It is planned anew some time.
///
/// # Errors
/// The ledger's, or when nobody can say whether it is published.
pub async fn settle(
    batches: &mut Batches,
    id: &BatchId,
    memory_bytes: usize,
) -> Result<Option<Manifest>, RunError> {
    settle_by(batches, id, &InParquet { memory_bytes }).await
}

/// The same by another way to write files.
pub(crate) async fn settle_by(
    batches: &mut Batches,
    id: &BatchId,
    by: &dyn Rewrite,
) -> Result<Option<Manifest>, RunError> {
    if let Some(committed) = batches.adopt(id, &[]).await? {
        return Ok(Some(committed.manifest));
    }
    // An expiry or an erasure is decided again by whoever asks for it next: hours grow older, holds are placed.
    let known = batches.ledger.state().batches.get(id);
    if !known.is_some_and(Batch::is_compaction) {
        return give_up(batches, id).await;
    }
    let attempt = batches.start(id).await?;
    match run(batches, id, attempt, by).await {
        Ok(manifest) => Ok(Some(manifest)),
        Err(RunError::Ledger(error)) => Err(error.into()),
        Err(error) => {
            tracing::warn!(batch = %id, error = chain(&error), "a compaction is given up");
            give_up(batches, id).await
        }
    }
}

/// Drops a compaction, an expiry or an erasure, unless its manifest is there.
///
/// # Errors
/// As [`settle`].
pub async fn give_up(batches: &mut Batches, id: &BatchId) -> Result<Option<Manifest>, RunError> {
    if let Some(committed) = batches.adopt(id, &[]).await? {
        return Ok(Some(committed.manifest));
    }
    let epoch = batches.ledger.epoch();
    let batch = id.clone();
    batches
        .ledger
        .append(vec![Entry::Dropped { epoch, batch }])
        .await?;
    Ok(None)
}

fn job() -> Result<JobId, IdError> {
    JobId::try_from(JOB.to_owned())
}

/// Complete hours that nobody has compacted, oldest first: about as many as make one file.
fn due(batches: &Batches) -> Vec<i64> {
    let most = batches.pipeline.lake.file_bytes;
    let mut bytes = 0;
    let hours = batches.ledger.state().event_time.hours.iter();
    let waiting = hours.filter(|(_, record)| record.state == HourState::Complete);
    waiting
        .take(HOURS_MAX)
        .take_while(|(_, record)| {
            let is_room = bytes < most;
            bytes += record.bytes;
            is_room
        })
        .map(|(hour, _)| *hour)
        .collect()
}

async fn run(
    batches: &mut Batches,
    id: &BatchId,
    attempt: Attempt,
    by: &dyn Rewrite,
) -> Result<Manifest, RunError> {
    let selection = selected(batches, id).await?;
    let Rewritten { files, report } = by.rewrite(batches, id, attempt, &selection).await?;
    let hours = if files.is_empty() && !selection.files.is_empty() {
        // None of them can be written as the table is now, and they would come first again.
        asked(batches, id)
    } else {
        selection.finished
    };
    let replaces = Replaced {
        files,
        keys: selection.keys,
        hours,
        quarantine: Vec::new(),
    };
    let manifest = manifest(batches, &job()?, id, attempt, report, replaces);
    (batches.hook)(Moment::Written);
    let committed = batches.publish_manifest(manifest).await?;
    let (new, old) = (&committed.manifest, &committed.manifest.replaces);
    tracing::info!(
        batch = %id, attempt = %new.attempt, hours = old.hours.len(), files = new.files.len(), replaced = old.files.len(),
        keys = new.keys.len(), replaced_keys = old.keys.len(), "hours are compacted"
    );
    Ok(committed.manifest)
}

/// The hours that stand in the ledger for the batch.
fn asked(batches: &Batches, id: &BatchId) -> Vec<i64> {
    let batch = batches.ledger.state().batches.get(id);
    batch.map(|batch| batch.compacts.clone()).unwrap_or_default()
}

/// What the batch rewrites: a function of the batches before it.
async fn selected(batches: &Batches, id: &BatchId) -> Result<Selection, RunError> {
    let state = batches.ledger.state();
    let hours = asked(batches, id);
    let records = hours.iter().filter_map(|hour| state.event_time.hours.get(hour));
    let writers: std::collections::BTreeSet<&BatchId> =
        records.flat_map(|record| record.batches.iter()).collect();
    let before = |(other, _): &(&BatchId, &Batch)| *other < id && writers.contains(other);
    let manifests = live::all(live::each(&batches.lake, state.committed().filter(before)).await);
    let manifests = manifests.map_err(|error| unread(*error))?;
    let limits = Limits {
        file_bytes: batches.pipeline.lake.file_bytes,
        step_bytes: STEP_BYTES,
    };
    let is_complete = |hour: i64| {
        let record = state.event_time.hours.get(&hour);
        record.is_none_or(|record| record.state.is_complete())
    };
    Ok(select(&manifests, &hours, &is_complete, limits))
}

fn manifest(
    batches: &Batches,
    job: &JobId,
    id: &BatchId,
    attempt: Attempt,
    report: TaskReport,
    replaces: Replaced,
) -> Manifest {
    let environment = batches.environment.as_deref();
    let reports = vec![report];
    let joined = commit::join(&batches.pipeline, environment, job, id, attempt, &[], reports);
    Manifest { replaces, ..joined }
}
