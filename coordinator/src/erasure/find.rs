//! Where a person stands in a lake: every object below `data/` and `quarantine/` is looked through.
//!
//! Objects that count are found by the manifests; what lies there beside them (replaced and not deleted yet, or left by dead
//! attempts) counts for nobody and may hold the person all the same: it is dead. No batch is open when this is asked, so
//! whatever a later batch writes meanwhile is not there.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, stream};
use millrace_pipeline::privacy::{Sealer, Subject};
use millrace_pipeline::sink::erase::{Without, rejects_without, rows_of};
use millrace_pipeline::spec::model::Pipeline;
use millrace_pipeline::stored::StoredObject;
use millrace_proto::ids::BatchId;
use millrace_proto::manifest::{DataFile, WrittenObject};

use super::ErasureError;
use crate::aside;
use crate::commit::live;
use crate::compaction::is_of;
use crate::job::unread;
use crate::lake::{Lake, LakeError};
use crate::ledger::{LegalHold, State};
use crate::quarantine::QuarantineError;
use crate::retention::decide::{day_of, is_day_held, is_held};

/// Objects looked through side by side.
const READS: usize = 4;

/// A quarantine file that holds a person.
#[derive(Debug, Clone)]
pub(super) struct Reject {
    pub(super) object: WrittenObject,
    /// Their records in it.
    pub(super) theirs: u64,
    /// Whether a redrive has taken its records in: nobody needs it any more.
    pub(super) is_consumed: bool,
}

/// Where a person stands.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Objects that were looked through.
    pub(super) examined: u64,
    /// Data files that count, each with how many rows are theirs.
    pub(super) files: Vec<(DataFile, u64)>,
    /// Quarantine files that count.
    pub(super) rejects: Vec<Reject>,
    /// Keys of objects that do not.
    pub(super) dead: Vec<String>,
}

impl Found {
    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty() && self.rejects.is_empty()
    }

    pub(super) fn rows(&self) -> u64 {
        self.files.iter().map(|(_, rows)| rows).sum()
    }

    pub(super) fn quarantined(&self) -> u64 {
        self.rejects.iter().map(|reject| reject.theirs).sum()
    }

    /// Files that may hold them in a range that is held.
    pub(super) fn touched_by(&self, hold: &LegalHold) -> usize {
        let holds = std::slice::from_ref(hold);
        let files = self.files.iter().filter(|(file, _)| is_held(file, holds));
        let rejects = self
            .rejects
            .iter()
            .filter(|reject| day_of(&reject.object.key).is_none_or(|day| is_day_held(day, holds)));
        files.count() + rejects.count()
    }

    /// Whether a file that a batch wrote holds them, counts it or not.
    pub(super) fn is_in(&self, batch: &BatchId) -> bool {
        let batch = BTreeSet::from([batch.clone()]);
        let mut files = self
            .files
            .iter()
            .map(|(file, _)| &file.object.key)
            .chain(&self.dead);
        files.any(|key| key.starts_with("data/") && is_of(key, &batch))
    }
}

/// Looks through everything.
pub(super) async fn find(
    pipeline: &Pipeline,
    lake: &Lake,
    state: &State,
    subject: &Subject,
) -> Result<Found, ErasureError> {
    let manifests = live::manifests(lake, state)
        .await
        .map_err(|error| unread(*error))?;
    // What lies there is listed first: nothing that counts can be taken for dead.
    let mut lying: BTreeMap<String, u64> = BTreeMap::new();
    for folder in ["data", "quarantine"] {
        lying.extend(lake.list(folder).await?);
    }
    let mut found = Found::default();
    let files = live::files(&manifests).into_iter().map(|(_, file)| file.clone());
    let files: Vec<DataFile> = files.collect();
    let looks = files.into_iter().map(|file| look_into(lake, subject, file));
    let mut looked = stream::iter(looks).buffered(READS);
    while let Some((file, theirs)) = looked.next().await {
        found.examined += 1;
        lying.remove(&file.object.key);
        match theirs? {
            0 => {}
            rows => found.files.push((file, rows)),
        }
    }
    let sealer = Sealer::of(pipeline).ok();
    let redriven = state.redriven();
    for (_, object) in live::quarantine(&manifests) {
        found.examined += 1;
        lying.remove(&object.key);
        let theirs = records_in(lake, subject, sealer.as_ref(), &object.key).await?;
        if theirs > 0 {
            found.rejects.push(Reject {
                object: object.clone(),
                theirs,
                is_consumed: redriven.contains(&object.key),
            });
        }
    }
    for (key, bytes) in lying {
        found.examined += 1;
        if is_dead_with(lake, subject, sealer.as_ref(), &key, bytes).await? {
            found.dead.push(key);
        }
    }
    Ok(found)
}

async fn look_into(lake: &Lake, subject: &Subject, file: DataFile) -> (DataFile, Result<u64, ErasureError>) {
    let theirs = rows_in(lake, subject, &file).await;
    (file, theirs)
}

async fn rows_in(lake: &Lake, subject: &Subject, file: &DataFile) -> Result<u64, ErasureError> {
    let object = stored(lake, &file.object.key, file.object.bytes);
    let (subject, file) = (subject.clone(), file.clone());
    let what = format!("looking through {}", file.object.key);
    Ok(aside::run(what, async move { rows_of(&subject, object, &file).await }).await??)
}

async fn records_in(
    lake: &Lake,
    subject: &Subject,
    sealer: Option<&Sealer>,
    key: &str,
) -> Result<u64, ErasureError> {
    Ok(records_without(lake, subject, sealer, key).await?.erased)
}

/// A quarantine file without the person's records.
pub(super) async fn records_without(
    lake: &Lake,
    subject: &Subject,
    sealer: Option<&Sealer>,
    key: &str,
) -> Result<Without, ErasureError> {
    let bytes = lake.get(key).await?;
    let (subject, sealer, file) = (subject.clone(), sealer.cloned(), key.to_owned());
    let sift = async move {
        let theirs = |payload: &[u8], sealed| is_theirs(&subject, sealer.as_ref(), &file, payload, sealed);
        rejects_without(bytes, theirs)
    };
    aside::run(format!("looking through {key}"), sift).await?
}

/// Whether a rejected record is the person's.
fn is_theirs(
    subject: &Subject,
    sealer: Option<&Sealer>,
    key: &str,
    payload: &[u8],
    sealed: bool,
) -> Result<bool, ErasureError> {
    if !sealed {
        return Ok(subject.in_record(payload));
    }
    let key = key.to_owned();
    let Some(sealer) = sealer else {
        return Err(QuarantineError::NoKey { key }.into());
    };
    let clear = sealer
        .open(payload)
        .map_err(|source| QuarantineError::Sealed { key, source })?;
    Ok(subject.in_record(&clear))
}

/// Whether an object that does not count holds the person. One that is gone meanwhile, or no whole file, holds nobody who
/// could be read.
async fn is_dead_with(
    lake: &Lake,
    subject: &Subject,
    sealer: Option<&Sealer>,
    key: &str,
    bytes: u64,
) -> Result<bool, ErasureError> {
    if key.starts_with("quarantine/") {
        return match records_in(lake, subject, sealer, key).await {
            Ok(theirs) => Ok(theirs > 0),
            Err(error) => gone_or(error),
        };
    }
    let file = DataFile {
        object: WrittenObject {
            key: key.to_owned(),
            bytes,
            rows: 0,
            digest: String::new(),
        },
        partition: Vec::new(),
        time_min: 0,
        time_max: 0,
    };
    match rows_in(lake, subject, &file).await {
        Ok(theirs) => Ok(theirs > 0),
        Err(error) => match lake.get(key).await {
            Err(LakeError::Missing { .. }) => Ok(false),
            Ok(_) | Err(_) => Err(error),
        },
    }
}

fn gone_or(error: ErasureError) -> Result<bool, ErasureError> {
    if let ErasureError::Run(run) = &error
        && let crate::job::RunError::Lake(LakeError::Missing { .. }) = **run
    {
        return Ok(false);
    }
    Err(error)
}

/// An object where it lies.
pub(super) fn stored(lake: &Lake, key: &str, bytes: u64) -> StoredObject {
    StoredObject {
        store: std::sync::Arc::clone(&lake.store),
        path: lake.path(key),
        bytes,
    }
}
