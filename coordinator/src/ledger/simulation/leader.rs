//! A leader: campaigns, opens the ledger, finishes what is open, plans what is new, compacts and expires what is complete, and
//! erases copies. And an engine that is as simple as one can be: each record is a function of its position.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use millrace_pipeline::spec::{self, model::Pipeline};
use millrace_proto::ids::{Attempt, BatchId, JobId};
use millrace_proto::keys::TaskNames;
use millrace_proto::manifest::{DataFile, KeyFile, Snapshot, SplitCounts, TaskReport, WrittenObject};
use millrace_proto::split::{InputObject, Split};
use parking_lot::Mutex;

use super::store::ModelLedger;
use super::{Broken, World, lake, step};
use crate::ahead::Ahead;
use crate::commit::live;
use crate::compaction::{self, Rewrite, Rewritten, Selection};
use crate::enrich::free_key;
use crate::erasure::forget;
use crate::hours::{self, PartitionTime};
use crate::job::{RunError, unread};
use crate::lake::{Lake, LakeError};
use crate::ledger::{LedgerError, State};
use crate::lifecycle::Batches;
use crate::retention::{self, RetentionError};
use crate::split::next_batch;

/// Positions of each input object.
pub(super) const OBJECTS: [u64; 3] = [40, 25, 33];
/// Positions of a batch.
const BATCH: u64 = 22;
/// Positions of a split.
const SPLIT: u64 = 9;
/// The job after which all that is written is too old.
const EXPIRES_AFTER: usize = 1;

/// What a record is. All are of one hour.
pub(super) struct Record {
    pub(super) key: u64,
    pub(super) is_good: bool,
}

pub(super) fn record(object: u64, position: u64) -> Record {
    let hash = blake3::hash(&[object.to_le_bytes(), position.to_le_bytes()].concat());
    let byte = |n: usize| u64::from(hash.as_bytes()[n]);
    let key = byte(0) % 60;
    Record {
        key,
        is_good: byte(1) % 8 != 0,
    }
}

pub(super) fn input() -> Vec<Split> {
    let object = |n: usize, size: u64| InputObject {
        url: format!("model://{n}"),
        size,
        version: "1".to_owned(),
    };
    let splits = OBJECTS.iter().enumerate().flat_map(|(n, &size)| {
        (0..size.div_ceil(SPLIT)).map(move |i| Split {
            index: 0,
            object: object(n, size),
            start: i * SPLIT,
            end: ((i + 1) * SPLIT).min(size),
        })
    });
    splits.collect()
}

fn pipeline() -> Arc<Pipeline> {
    static PIPELINE: std::sync::LazyLock<Arc<Pipeline>> = std::sync::LazyLock::new(|| {
        let text = "version: 1
pipeline: p
source:
  files: {path: in/, format: json}
schema:
  - {name: key, type: string, required: true}
  - {name: time, type: timestamp, required: true}
dedup: {key: [key]}
privacy: {clear_in: [dev], hash_key: a-key-of-thirty-two-characters-xx}
partition: {time: time, by: [date, hour]}
lake: {url: ./lake}
retention: {lake: 1h}
";
        let none = |_: &Path| Err(std::io::Error::other("there are no files"));
        let loaded = spec::load(text, "p.yaml", Path::new("/"), &|_| None, &none);
        let mut pipeline = loaded.unwrap_or_else(|report| panic!("{report:?}"));
        // No file may say so: replaced files are deleted at once.
        pipeline.retention.replaced_seconds = 0;
        Arc::new(pipeline)
    });
    Arc::clone(&PIPELINE)
}

/// One process; true when it found everything committed.
pub(super) async fn lead(world: Arc<World>, process: u64) -> bool {
    let epoch = loop {
        step().await;
        if let Some(epoch) = world.store.lock().campaign(process) {
            break epoch;
        }
    };
    loop {
        match run(&world, epoch).await {
            Ok(()) => {
                world.store.lock().resign(epoch);
                return true;
            }
            // The same leader opens the ledger again.
            Err(
                RunError::Ledger(LedgerError::Unknown { .. }) | RunError::Lake(_) | RunError::Commit { .. },
            ) if world.random.lock().below(2) == 0 => {}
            Err(RunError::Ledger(LedgerError::Fenced { .. })) => return false,
            Err(RunError::Ledger(_) | RunError::Lake(_) | RunError::Commit { .. }) => {
                world.store.lock().resign(epoch);
                return false;
            }
            Err(error) => {
                world.store.lock().fault.get_or_insert(format!("{error:?}"));
                return false;
            }
        }
    }
}

async fn run(world: &Arc<World>, epoch: u64) -> Result<(), RunError> {
    let ledger = ModelLedger::open(world, epoch).await?;
    let mut batches = Batches::new(pipeline(), lake::reach(world), Box::new(ledger), Arc::new(|_| {}));
    finish_interrupted(world, &mut batches).await?;
    for job in 0..OBJECTS.len() {
        read_all(world, &mut batches, job).await?;
        upkeep(world, &mut batches, job).await?;
    }
    Ok(())
}

/// What an earlier leader left behind.
async fn finish_interrupted(world: &World, batches: &mut Batches) -> Result<(), RunError> {
    let open = batches.open();
    if open.len() > 1 {
        world.store.lock().two_open += 1;
    }
    for (id, batch) in open {
        if batch.is_upkeep() {
            world.store.lock().upkeep_left += 1;
            compaction::settle_by(batches, &id, &Model { broken: world.broken }).await?;
            continue;
        }
        if batches.adopt(&id, &batch.splits).await?.is_some() {
            world.store.lock().adopted += 1;
            continue;
        }
        let attempt = batches.start(&id).await?;
        let keys = key_files(&batches.lake, batches.ledger.state()).await?;
        let flight = Flight {
            id,
            attempt,
            splits: batch.splits,
        };
        let reports = attempt_of(world.broken, &batches.lake, &flight, &keys).await?;
        batches
            .publish(&batch.job, &flight.id, attempt, &flight.splits, reports)
            .await?;
    }
    Ok(())
}

/// The newest one that is not erased, or one that is taken now: of the same content always.
async fn snapshot(broken: Broken, batches: &Batches) -> Result<Snapshot, RunError> {
    let (lookup, state) = ("lookup", batches.ledger.state());
    if let Some(last) = state.snapshot(lookup, "") {
        return Ok(last.clone());
    }
    let key = if broken == Broken::ErasedKeys {
        free_key(lookup, "v", false, &State::default())
    } else {
        free_key(lookup, "v", false, state)
    };
    let content = b"a table";
    match batches.lake.create(&key, Bytes::from_static(content)).await {
        Ok(()) | Err(LakeError::Exists { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(Snapshot {
        lookup: lookup.to_owned(),
        object: WrittenObject {
            key,
            bytes: content.len() as u64,
            rows: 1,
            digest: blake3::hash(content).to_hex().to_string(),
        },
        version: "v".to_owned(),
        shape: String::new(),
        taken_us: 0,
    })
}

/// A batch on its way.
struct Flight {
    id: BatchId,
    attempt: Attempt,
    splits: Vec<Split>,
}

/// One job: an object, batch by batch. Each is read while the one before it is committed.
async fn read_all(world: &World, batches: &mut Batches, number: usize) -> Result<(), RunError> {
    let job = JobId::try_from(format!("j{number}"))?;
    let input: Vec<Split> = input()
        .into_iter()
        .filter(|split| split.object.url == format!("model://{number}"))
        .collect();
    let mut before: Option<(Flight, Vec<TaskReport>)> = None;
    loop {
        let covered = &batches.ledger.state().covered;
        let splits = next_batch(&input, covered, BATCH, &|split| split.end - split.start);
        if splits.is_empty() {
            let Some((flight, reports)) = before else {
                return Ok(());
            };
            batches
                .publish(&job, &flight.id, flight.attempt, &flight.splits, reports)
                .await?;
            return Ok(());
        }
        let snapshot = snapshot(world.broken, batches).await?;
        let planned = batches.plan_batch(&job, &splits, Vec::new(), Vec::new(), vec![snapshot], None);
        let (id, attempt) = planned.await?;
        let flight = Flight { id, attempt, splits };
        let reports = match before.take() {
            Some(before) => behind(world, batches, &job, before, &flight).await?,
            None => {
                let keys = key_files(&batches.lake, batches.ledger.state()).await?;
                attempt_of(world.broken, &batches.lake, &flight, &keys).await?
            }
        };
        before = Some((flight, reports));
    }
}

/// An attempt whose tasks wait for the keys of the batch before it, which is committed meanwhile.
async fn behind(
    world: &World,
    batches: &mut Batches,
    job: &JobId,
    (before, reports): (Flight, Vec<TaskReport>),
    flight: &Flight,
) -> Result<Vec<TaskReport>, RunError> {
    world.store.lock().ahead += 1;
    let ahead = Ahead::of(&before.id, before.attempt, &reports);
    let committed = key_files(&batches.lake, batches.ledger.state()).await?;
    let keys = if world.broken == Broken::AheadKeys {
        committed
    } else {
        ahead.after(&committed)
    };
    let lake = batches.lake.clone();
    // That the batch before is committed, once it is.
    let told: Mutex<Option<bool>> = Mutex::new(None);
    let running = async {
        loop {
            step().await;
            match *told.lock() {
                None => {}
                Some(false) => return Ok(Vec::new()),
                Some(true) => break,
            }
        }
        attempt_of(world.broken, &lake, flight, &keys).await
    };
    let landing = async {
        let landed = batches
            .publish(job, &before.id, before.attempt, &before.splits, reports)
            .await;
        *told.lock() = Some(landed.is_ok());
        landed
    };
    let (ran, landed) = futures::join!(running, landing);
    let landed = landed?;
    if !ahead.is(&landed.manifest) {
        // Only who planned a batch reads behind it, with the one attempt that it made. Another attempt is another leader's, which
        // has begun it in the ledger: from then on this one commits nothing.
        let (batch, attempt) = (&before.id, landed.manifest.attempt);
        let fault =
            format!("batch {batch} was read behind, and another attempt of it, {attempt}, was committed");
        world.store.lock().fault.get_or_insert(fault);
    }
    ran
}

/// What a lane does when a job is over: the hour is complete, compacted, and, once, too old.
async fn upkeep(world: &World, batches: &mut Batches, number: usize) -> Result<(), RunError> {
    let everything = PartitionTime {
        partition: hours::OBJECTS.to_owned(),
        time_us: Some(i64::MAX),
    };
    batches.reach(vec![everything]).await?;
    let model = Model { broken: world.broken };
    loop {
        match compaction::step_by(batches, &model).await {
            Ok(Some(_)) => world.store.lock().compacted += 1,
            Ok(None) => break,
            Err(error @ (RunError::Lake(_) | RunError::Commit { .. })) => {
                give_up_upkeep(batches).await?;
                tracing::debug!(%error, "a compaction failed");
                break;
            }
            Err(error) => return Err(error),
        }
    }
    compaction::sweep(batches).await?;
    if number == EXPIRES_AFTER {
        let expired = retention::expire(batches, "simulation", i64::MAX / 2).await;
        let expired = expired.map_err(|error| match error {
            RetentionError::Run(error) => *error,
            RetentionError::Warehouse(_) | RetentionError::Rows(_) | RetentionError::Hold(_) => {
                panic!("{error}")
            }
        })?;
        world.store.lock().expired += expired.batches;
    }
    erase_copies(world, batches).await
}

/// Somebody stands in the snapshot, and in every third quality state.
async fn erase_copies(world: &World, batches: &mut Batches) -> Result<(), RunError> {
    let is_theirs = |key: &String| blake3::hash(key.as_bytes()).as_bytes()[0].is_multiple_of(3);
    let states = batches.lake.list("quality").await?.into_iter();
    let mut objects: Vec<String> = states.map(|(key, _)| key).filter(is_theirs).collect();
    let snapshots = batches.lake.list("enrich").await?;
    objects.extend(snapshots.into_iter().map(|(key, _)| key));
    let erased = forget(batches, &objects).await?;
    world.store.lock().erased += erased;
    Ok(())
}

async fn give_up_upkeep(batches: &mut Batches) -> Result<(), RunError> {
    for (id, _) in batches.open().into_iter().filter(|(_, batch)| batch.is_upkeep()) {
        compaction::give_up(batches, &id).await?;
    }
    Ok(())
}

/// Two tasks read the splits; keys that are committed, or that the other task has claimed, are duplicates.
async fn attempt_of(
    broken: Broken,
    lake: &Lake,
    flight: &Flight,
    keys: &[KeyFile],
) -> Result<Vec<TaskReport>, RunError> {
    let mut attempt = flight.attempt;
    if broken == Broken::AttemptNames {
        attempt = Attempt { epoch: 0, number: 1 };
    }
    let mut claimed = BTreeSet::new();
    for file in keys {
        claimed.extend(read_keys(lake, &file.object).await?);
    }
    let mut reports = Vec::new();
    for (task, splits) in flight.splits.chunks(2).enumerate() {
        let names = TaskNames {
            batch: flight.id.clone(),
            attempt,
            task: u32::try_from(task).unwrap(),
            run: String::new(),
        };
        reports.push(run_task(lake, &names, splits, &mut claimed).await?);
    }
    Ok(reports)
}

async fn run_task(
    lake: &Lake,
    names: &TaskNames,
    splits: &[Split],
    claimed: &mut BTreeSet<u64>,
) -> Result<TaskReport, RunError> {
    let (mut report, mut written, mut rejected) = (TaskReport::default(), Vec::new(), 0);
    for split in splits {
        let object = split.object.url.trim_start_matches("model://").parse().unwrap();
        let mut counts = SplitCounts {
            split: split.index,
            ..SplitCounts::default()
        };
        for position in split.start..split.end {
            let record = record(object, position);
            counts.read += 1;
            if !record.is_good {
                counts.quarantined += 1;
            } else if claimed.insert(record.key) {
                counts.written += 1;
                written.push(record.key);
            } else {
                counts.duplicates += 1;
            }
        }
        rejected += counts.quarantined;
        report.splits.push(counts);
    }
    let hour = 0;
    let bytes = serde_json::to_vec(&written).unwrap();
    let object = put(lake, names.data(&[], 0), &bytes, written.len() as u64).await?;
    let (partition, time_min, time_max) = (Vec::new(), hour, hour);
    report.files.push(DataFile {
        object,
        partition,
        time_min,
        time_max,
    });
    let object = put(lake, names.keys("h", 0), &bytes, written.len() as u64).await?;
    report.keys.push(KeyFile { object, hour });
    let object = put(lake, names.quarantine("d", 0), b"[]", rejected).await?;
    report.quarantine.push(object);
    let object = put(lake, names.quality(), b"a state", 1).await?;
    report.quality.push(object);
    Ok(report)
}

async fn put(lake: &Lake, key: String, bytes: &[u8], rows: u64) -> Result<WrittenObject, RunError> {
    lake.create(&key, Bytes::copy_from_slice(bytes)).await?;
    Ok(WrittenObject {
        key,
        bytes: bytes.len() as u64,
        rows,
        digest: blake3::hash(bytes).to_hex().to_string(),
    })
}

/// The key files that count.
async fn key_files(lake: &Lake, state: &State) -> Result<Vec<KeyFile>, RunError> {
    let manifests = live::manifests(lake, state)
        .await
        .map_err(|error| unread(*error))?;
    Ok(live::key_files(&manifests).into_iter().cloned().collect())
}

async fn read_keys(lake: &Lake, object: &WrittenObject) -> Result<Vec<u64>, RunError> {
    let bytes = lake.get(&object.key).await?;
    Ok(serde_json::from_slice(&bytes).unwrap())
}

/// Rewrites the model's files.
struct Model {
    broken: Broken,
}

impl Rewrite for Model {
    fn rewrite<'a>(
        &'a self,
        batches: &'a Batches,
        id: &'a BatchId,
        attempt: Attempt,
        selection: &'a Selection,
    ) -> BoxFuture<'a, Result<Rewritten, RunError>> {
        async move {
            let lake = &batches.lake;
            let names = TaskNames {
                batch: id.clone(),
                attempt,
                task: 0,
                run: String::new(),
            };
            let mut report = TaskReport::default();
            let (mut rows, mut keys) = (Vec::new(), Vec::new());
            for file in &selection.files {
                rows.extend(read_keys(lake, &file.object).await?);
            }
            for file in &selection.keys {
                keys.extend(read_keys(lake, &file.object).await?);
            }
            if let Some(file) = selection.files.first() {
                let object = put(
                    lake,
                    names.data(&[], 0),
                    &serde_json::to_vec(&rows).unwrap(),
                    rows.len() as u64,
                )
                .await?;
                report.files.push(DataFile {
                    object,
                    ..file.clone()
                });
            }
            if let Some(file) = selection.keys.first() {
                if self.broken == Broken::CompactedKeys {
                    keys.pop();
                    keys.push(u64::MAX);
                }
                let object = put(
                    lake,
                    names.keys("h", 0),
                    &serde_json::to_vec(&keys).unwrap(),
                    keys.len() as u64,
                )
                .await?;
                report.keys.push(KeyFile {
                    object,
                    ..file.clone()
                });
            }
            Ok(Rewritten {
                files: selection.files.clone(),
                report,
            })
        }
        .boxed()
    }
}
