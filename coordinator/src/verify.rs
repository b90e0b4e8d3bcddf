//! Proves from what is stored that nothing was lost, doubled or changed.
//!
//! In: a lake. Out: what was checked, and every fault. It reads the ledger, the manifests and every byte
//! of every object that they name; it trusts no count that it can count again.
//!
//! | checked                                                          | invariant |
//! |-------------------------------------------------------------------|-----------|
//! | the ledger is one unbroken chain; each manifest is the one it names    | 4    |
//! | the planned ranges of each input object are disjoint and leave no gap  | 1    |
//! | read = written + duplicates + quarantined, by split                    | 6    |
//! | files have the rows, size and BLAKE3 that were written                 | 3, 6 |
//! | no object lies there that nothing names                                | 3    |
//! | no key stands twice in an event hour; as many keys as written events   | 7    |
//! | the snapshots that batches looked up in are the planned ones, as they were | 10 |
//! | a compaction replaces what counted, with as many rows and keys         | 4, 6 |
//! | written = what counts + what expiries and erasures of the ledger took; the same for quarantine and keys | 6, 7, 9 |
//!
//! Only a batch of the pipeline as it is today must have one key for each event, and only where a key
//! column is required: an event whose key columns are all null has no key.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use futures::{StreamExt, stream};
use millrace_pipeline::dedup::index::read_keys;
use millrace_pipeline::spec::model::Pipeline;
use millrace_proto::ids::BatchId;
use millrace_proto::keys;
use millrace_proto::manifest::{Manifest, Removed, SplitCounts, WrittenObject};
use millrace_proto::split::InputObject;
use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::SerializedFileReader;
use serde::Serialize;

use crate::causes::chain;
use crate::commit::live;
use crate::lake::{Lake, LakeError};
use crate::ledger::embedded::EmbeddedLedger;
use crate::ledger::{Batch, BatchState, Ledger, LedgerError, State, Why};
use crate::split::Ranges;

/// Objects read side by side; each is held in memory while it is checked.
const READS: usize = 4;

/// Folders in which only named objects may lie.
const FOLDERS: [&str; 5] = ["data", "quarantine", "keys", "quality", "manifests"];

/// Why verification could not be done at all.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The ledger cannot be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The lake cannot be listed.
    #[error("the lake could not be listed")]
    Lake(#[from] LakeError),
}

/// What verification found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Committed batches.
    pub batches: u64,
    /// Objects whose every byte was read.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Distinct keys seen, when the pipeline deduplicates.
    pub keys: u64,
    /// Sums over all committed batches.
    pub events: SplitCounts,
    /// What left because it was older than it is kept.
    pub expired: Removed,
    /// What left because a person asked for it.
    pub erased: Removed,
    /// Objects of attempts that are not finished: harmless, the next run sweeps them.
    pub leftovers: Vec<String>,
    /// Everything that is wrong; empty means proved.
    pub faults: Vec<String>,
}

/// Checks a whole lake that a pipeline wrote and that keeps its own ledger.
///
/// # Errors
/// When the lake cannot be read; everything that is wrong in it is a fault in the verdict.
pub async fn verify(lake: &Lake, pipeline: &Pipeline) -> Result<Verdict, VerifyError> {
    match EmbeddedLedger::read(lake).await {
        Ok(ledger) => verify_of(lake, ledger.state(), pipeline).await,
        // Nothing can be held against a ledger that is not ours.
        Err(damage) if damage.is_damage() => Ok(Verdict {
            faults: vec![chain(&damage)],
            ..Verdict::default()
        }),
        Err(error) => Err(error.into()),
    }
}

/// Checks a whole lake against its ledger's state, wherever that ledger is kept.
///
/// # Errors
/// When the lake cannot be read; everything that is wrong in it is a fault in the verdict.
pub async fn verify_of(lake: &Lake, state: &State, pipeline: &Pipeline) -> Result<Verdict, VerifyError> {
    let mut verdict = Verdict::default();
    check_positions(state, &mut verdict);
    let manifests = committed_manifests(lake, state, &mut verdict).await;
    check_replaced(&manifests, &mut verdict);
    check_removed(state, &manifests, &mut verdict);
    check_objects(lake, state, &manifests, &mut verdict).await;
    check_strangers(lake, state, &manifests, &mut verdict).await?;
    check_keys(lake, &manifests, &mut verdict).await;
    check_key_counts(pipeline, &manifests, &mut verdict);
    Ok(verdict)
}

/// Invariant 1: no position is planned twice, and of a stored object none is left out. (Of a topic, hours are asked for
/// in any order.)
fn check_positions(state: &State, verdict: &mut Verdict) {
    let mut planned: HashMap<&InputObject, Ranges> = HashMap::new();
    let counted = |batch: &&Batch| batch.redrives.is_empty() && batch.state != BatchState::Dropped;
    for (id, batch) in state.batches.iter().filter(|(_, batch)| counted(batch)) {
        for split in &batch.splits {
            let ranges = planned.entry(&split.object).or_default();
            let is_new = ranges.missing(split.start, split.end) == [(split.start, split.end)];
            let is_next = split.object.url.starts_with("kafka://") || split.start == ranges.end();
            if !is_new || !is_next || split.end <= split.start {
                verdict.faults.push(format!(
                    "batch {id}: `{}` is planned from position {} on, expected from {}",
                    split.object.url,
                    split.start,
                    ranges.end()
                ));
            }
            ranges.add(split.start, split.end);
        }
    }
}

async fn committed_manifests(lake: &Lake, state: &State, verdict: &mut Verdict) -> Vec<Manifest> {
    let mut manifests = Vec::new();
    let read = live::each(lake, state.committed()).await;
    for ((id, batch), (_, manifest)) in state.committed().zip(read) {
        verdict.batches += 1;
        let manifest = match manifest {
            Ok(manifest) => manifest,
            Err(error) => {
                verdict.faults.push(format!("batch {id}: {}", chain(&error)));
                continue;
            }
        };
        if let Err(error) = manifest.check() {
            verdict.faults.push(error.to_string());
        }
        if manifest.splits != batch.splits {
            verdict.faults.push(format!(
                "batch {id}: the manifest's splits are not the planned ones"
            ));
        }
        if manifest.enrich != batch.snapshots {
            verdict.faults.push(format!(
                "batch {id}: the manifest's snapshots are not the planned ones"
            ));
        }
        if manifest.total() != batch.counts {
            verdict
                .faults
                .push(format!("batch {id}: the manifest's counts are not the ledger's"));
        }
        verdict.events.add(&manifest.total());
        manifests.push(manifest);
    }
    manifests
}

/// What upkeep replaces is named by an earlier batch, and replaced only once.
fn check_replaced(manifests: &[Manifest], verdict: &mut Verdict) {
    let mut standing: HashMap<&str, &WrittenObject> = HashMap::new();
    for manifest in manifests {
        for object in manifest.replaces.objects() {
            if standing.remove(object.key.as_str()) != Some(object) {
                verdict.faults.push(format!(
                    "batch {}: it replaces `{}`, which no batch before it names, or which was replaced before",
                    manifest.batch, object.key
                ));
            }
        }
        let data = manifest.files.iter().map(|file| &file.object);
        let objects = data.chain(manifest.keys.iter().map(|file| &file.object));
        let objects = objects.chain(&manifest.quarantine);
        standing.extend(objects.map(|object| (object.key.as_str(), object)));
    }
}

/// Nothing leaves but by an expiry or an erasure that the ledger planned: what counts and what they took is everything.
fn check_removed(state: &State, manifests: &[Manifest], verdict: &mut Verdict) {
    for manifest in manifests.iter().filter(|manifest| !manifest.removed.is_empty()) {
        let planned = state.batches.get(&manifest.batch);
        match planned.and_then(|batch| batch.removes.as_ref()).map(|removal| removal.why) {
            Some(Why::Expired) => verdict.expired.add(&manifest.removed),
            Some(Why::Erased) => verdict.erased.add(&manifest.removed),
            None => verdict.faults.push(format!(
                "batch {}: it removes {} events and {} rejected ones, and was planned as no expiry and no erasure",
                manifest.batch, manifest.removed.rows, manifest.removed.quarantined
            )),
        }
    }
    let mut gone = verdict.expired;
    gone.add(&verdict.erased);
    let files = live::files(manifests);
    let rows: u64 = files.iter().map(|(_, file)| file.object.rows).sum();
    let rejects = live::quarantine(manifests);
    let rejected: u64 = rejects.iter().map(|(_, object)| object.rows).sum();
    let keys: u64 = live::key_files(manifests)
        .iter()
        .map(|file| file.object.rows)
        .sum();
    // Upkeep writes no key that was not there.
    let first = manifests.iter().filter(|manifest| manifest.replaces.is_empty());
    let indexed: u64 = first
        .flat_map(|manifest| &manifest.keys)
        .map(|file| file.object.rows)
        .sum();
    let counted = [
        ("the files", rows, gone.rows, verdict.events.written, "written"),
        (
            "the quarantine files",
            rejected,
            gone.quarantined,
            verdict.events.quarantined,
            "quarantined",
        ),
        ("the key files", keys, gone.keys, indexed, "indexed"),
    ];
    for (what, rows, gone, events, how) in counted {
        if rows + gone != events {
            verdict.faults.push(format!(
                "{what} that count hold {rows} rows, {gone} were removed, {events} events were {how}"
            ));
        }
    }
}

/// Invariants 3 and 6: every named object is there, as it was written, results of models too; what was replaced or erased may
/// be gone.
async fn check_objects(lake: &Lake, state: &State, manifests: &[Manifest], verdict: &mut Verdict) {
    let gone = live::replaced(manifests);
    let objects = manifests.iter().flat_map(Manifest::objects);
    let objects = objects.filter(|object| !gone.contains(object.key.as_str()));
    // Batches share snapshots.
    let used = manifests.iter().flat_map(|manifest| &manifest.enrich);
    let used: BTreeMap<&str, &WrittenObject> = used
        .map(|snapshot| (snapshot.object.key.as_str(), &snapshot.object))
        .collect();
    let objects = objects
        .chain(used.into_values())
        .chain(state.marts.all().map(|run| &run.object))
        .filter(|object| !state.forgotten.contains(&object.key));
    let mut checked = stream::iter(objects)
        .map(|object| check_object(lake, object))
        .buffer_unordered(READS);
    while let Some(found) = checked.next().await {
        match found {
            Ok(bytes) => {
                verdict.objects += 1;
                verdict.bytes += bytes;
            }
            Err(fault) => verdict.faults.push(fault),
        }
    }
}

async fn check_object(lake: &Lake, object: &WrittenObject) -> Result<u64, String> {
    let key = &object.key;
    let bytes = lake.get(key).await.map_err(|error| chain(&error))?;
    if bytes.len() as u64 != object.bytes {
        return Err(format!(
            "object `{key}` has {} bytes, {} were written",
            bytes.len(),
            object.bytes
        ));
    }
    let digest = blake3::hash(&bytes).to_hex().to_string();
    if digest != object.digest {
        return Err(format!(
            "object `{key}` was changed: its BLAKE3 is {digest}, it was {}",
            object.digest
        ));
    }
    if key.ends_with(".parquet") {
        let rows = SerializedFileReader::new(bytes.clone())
            .map(|reader| reader.metadata().file_metadata().num_rows())
            .map_err(|error| format!("object `{key}` is not readable Parquet: {error}"))?;
        if u64::try_from(rows) != Ok(object.rows) {
            return Err(format!(
                "object `{key}` has {rows} rows, {} were written",
                object.rows
            ));
        }
    }
    Ok(object.bytes)
}

/// Invariant 3: what no manifest names does not exist; what no attempt can have left is a fault.
async fn check_strangers(
    lake: &Lake,
    state: &State,
    manifests: &[Manifest],
    verdict: &mut Verdict,
) -> Result<(), VerifyError> {
    let mut named: BTreeSet<String> = manifests
        .iter()
        .flat_map(Manifest::objects)
        .map(|o| o.key.clone())
        .collect();
    named.extend(state.committed().map(|(id, _)| keys::manifest(id)));
    let unfinished: Vec<String> = state
        .batches
        .iter()
        .filter(|(_, batch)| !matches!(batch.state, BatchState::Committed(_)))
        .flat_map(|(id, batch)| leftover_names(id, &batch.attempts))
        // The next attempt of an open batch may begin meanwhile.
        .chain(state.open_batches().map(|(id, _)| format!("/{id}-")))
        .collect();
    let swept = swept(state, manifests);
    let last = state.batches.keys().next_back();
    for folder in FOLDERS {
        for (key, _) in lake.list(folder).await? {
            if swept.contains(key.as_str()) || state.forgotten.contains(&key) {
                verdict.leftovers.push(key);
                continue;
            }
            if named.contains(&key) {
                continue;
            }
            // Batches go on while this reads: what was planned after the ledger was read is at work.
            let is_newer = last.is_some_and(|last| batch_of(&key).is_some_and(|batch| batch > *last));
            if is_newer || unfinished.iter().any(|name| key.contains(name)) || is_rerun(state, &key) {
                verdict.leftovers.push(key);
            } else {
                verdict
                    .faults
                    .push(format!("object `{key}` is named by no manifest"));
            }
        }
    }
    Ok(())
}

/// What was replaced and the ledger says is deleted.
fn swept<'a>(state: &State, manifests: &'a [Manifest]) -> BTreeSet<&'a str> {
    let is_swept = |manifest: &&Manifest| {
        let batch = state.batches.get(&manifest.batch);
        batch.is_some_and(|batch| batch.swept)
    };
    let swept = manifests.iter().filter(is_swept);
    swept
        .flat_map(|manifest| manifest.replaces.objects())
        .map(|object| object.key.as_str())
        .collect()
}

/// Whether an object was written by a run of a task that the engine repeated elsewhere: such a run may write for a
/// while after its batch is committed, under names that nobody else has.
fn is_rerun(state: &State, key: &str) -> bool {
    let name = key.rsplit('/').next().unwrap_or_default();
    let Some((_, rest)) = name.split_once('-') else {
        return false;
    };
    let known = batch_of(key).and_then(|id| state.batches.get(&id));
    let is_of = |attempt: &millrace_proto::ids::Attempt| {
        let task = rest
            .strip_prefix(&format!("{attempt}-"))
            .and_then(|rest| rest.split('-').next());
        task.is_some_and(|task| task.contains('x'))
    };
    known.is_some_and(|batch| batch.attempts.iter().any(is_of))
}

/// The batch that an object's name begins with.
fn batch_of(key: &str) -> Option<BatchId> {
    let name = key.rsplit('/').next()?;
    let batch = name.split(['-', '.']).next()?;
    let is_numbered = batch
        .strip_prefix('b')
        .is_some_and(|number| number.len() >= 8 && number.bytes().all(|byte| byte.is_ascii_digit()));
    BatchId::try_from(batch.to_owned()).ok().filter(|_| is_numbered)
}

fn leftover_names(id: &BatchId, attempts: &[millrace_proto::ids::Attempt]) -> Vec<String> {
    let mut names: Vec<String> = attempts
        .iter()
        .map(|attempt| format!("/{id}-{attempt}-"))
        .collect();
    names.push(keys::manifest(id));
    names
}

/// Invariant 7: hour by hour, so that memory holds one hour's keys.
async fn check_keys(lake: &Lake, manifests: &[Manifest], verdict: &mut Verdict) {
    let mut hours: BTreeMap<i64, Vec<&WrittenObject>> = BTreeMap::new();
    for file in live::key_files(manifests) {
        hours.entry(file.hour).or_default().push(&file.object);
    }
    for (hour, objects) in hours {
        let mut keys: Vec<u128> = Vec::new();
        for object in objects {
            let Ok(bytes) = lake.get(&object.key).await else {
                continue;
            }; // reported as missing already
            match read_keys(bytes) {
                Ok(read) => keys.extend(read),
                Err(error) => verdict
                    .faults
                    .push(format!("object `{}`: {}", object.key, chain(&error))),
            }
        }
        let all = keys.len();
        keys.sort_unstable();
        keys.dedup();
        verdict.keys += keys.len() as u64;
        if keys.len() != all {
            let twice = all - keys.len();
            verdict.faults.push(format!(
                "event hour {hour}: {twice} keys were written more than once"
            ));
        }
    }
}

/// Invariant 7: no written event is without its key, no key without its event.
fn check_key_counts(pipeline: &Pipeline, manifests: &[Manifest], verdict: &mut Verdict) {
    let required = |name: &String| {
        let column = pipeline.columns.iter().find(|column| column.name == *name);
        column.is_some_and(|column| column.required)
    };
    let always = pipeline
        .dedup
        .as_ref()
        .is_some_and(|dedup| dedup.key.iter().any(required));
    // A compaction has as many keys as what it replaces: its manifest says so.
    for manifest in manifests.iter().filter(|manifest| manifest.replaces.is_empty()) {
        let keys: u64 = manifest.keys.iter().map(|file| file.object.rows).sum();
        let written = manifest.total().written;
        let exact = always && manifest.pipeline_digest == pipeline.digest;
        if keys > written || (exact && keys != written) {
            verdict.faults.push(format!(
                "batch {}: {keys} keys are indexed for {written} written events",
                manifest.batch
            ));
        }
    }
}
