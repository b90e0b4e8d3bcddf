//! A leader: campaigns, opens the ledger, finishes what is open, plans what is new. And an engine that is as simple
//! as one can be: each record is a function of its position.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use millrace_pipeline::spec::{self, model::Pipeline};
use millrace_proto::ids::{Attempt, BatchId, JobId};
use millrace_proto::keys::TaskNames;
use millrace_proto::manifest::{DataFile, KeyFile, SplitCounts, TaskReport, WrittenObject};
use millrace_proto::split::{InputObject, Split};

use super::store::ModelLedger;
use super::{Broken, World, lake, step};
use crate::commit;
use crate::enrich::Snapshots;
use crate::job::RunError;
use crate::lake::Lake;
use crate::ledger::{LedgerError, State};
use crate::lifecycle::Batches;
use crate::split::next_batch;

/// Positions of each input object.
pub(super) const OBJECTS: [u64; 3] = [40, 25, 33];
/// Positions of a batch.
const BATCH: u64 = 22;
/// Positions of a split.
const SPLIT: u64 = 9;

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
";
        let none = |_: &Path| Err(std::io::Error::other("there are no files"));
        let loaded = spec::load(text, "p.yaml", Path::new("/"), &|_| None, &none);
        Arc::new(loaded.unwrap_or_else(|report| panic!("{report:?}")))
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
    let job = JobId::try_from("j".to_owned())?;
    let mut batches = Batches {
        pipeline: pipeline(),
        lake: lake::reach(world),
        ledger: Box::new(ledger),
        environment: None,
        hook: Arc::new(|_| {}),
        reached: Vec::new(),
        snapshots: Snapshots::default(),
    };
    for (id, batch) in batches.open() {
        if batches.adopt(&id, &batch.splits).await?.is_some() {
            world.store.lock().adopted += 1;
            continue;
        }
        let attempt = batches.start(&id).await?;
        let reports = attempt_of(world, &batches, &id, attempt, &batch.splits).await?;
        batches
            .publish(&job, &id, attempt, &batch.splits, reports)
            .await?;
    }
    loop {
        let covered = &batches.ledger.state().covered;
        let splits = next_batch(&input(), covered, BATCH, &|split| split.end - split.start);
        if splits.is_empty() {
            return Ok(());
        }
        let (id, attempt) = batches.plan(&job, &splits, Vec::new()).await?;
        let reports = attempt_of(world, &batches, &id, attempt, &splits).await?;
        batches.publish(&job, &id, attempt, &splits, reports).await?;
    }
}

/// Two tasks read the splits; keys that are committed, or that the other task has claimed, are duplicates.
async fn attempt_of(
    world: &World,
    batches: &Batches,
    batch: &BatchId,
    mut attempt: Attempt,
    splits: &[Split],
) -> Result<Vec<TaskReport>, RunError> {
    if world.broken == Broken::AttemptNames {
        attempt = Attempt { epoch: 0, number: 1 };
    }
    let mut claimed = committed_keys(&batches.lake, batches.ledger.state()).await?;
    let mut reports = Vec::new();
    for (task, splits) in splits.chunks(2).enumerate() {
        let names = TaskNames {
            batch: batch.clone(),
            attempt,
            task: u32::try_from(task).unwrap(),
            run: String::new(),
        };
        reports.push(run_task(&batches.lake, &names, splits, &mut claimed).await?);
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

async fn committed_keys(lake: &Lake, state: &State) -> Result<BTreeSet<u64>, RunError> {
    let mut keys = BTreeSet::new();
    for (id, batch) in state.committed() {
        let digest = batch.manifest.as_deref().unwrap_or_default();
        let manifest = commit::committed(lake, id, digest).await;
        let manifest = manifest.map_err(|source| RunError::Commit {
            batch: id.clone(),
            source,
        })?;
        for file in &manifest.keys {
            let bytes = lake.get(&file.object.key).await?;
            let written: Vec<u64> = serde_json::from_slice(&bytes).unwrap();
            keys.extend(written);
        }
    }
    Ok(keys)
}
