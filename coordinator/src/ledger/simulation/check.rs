//! The invariants, told from what is stored alone.

use std::collections::{BTreeMap, BTreeSet};

use millrace_proto::keys;
use millrace_proto::manifest::{DataFile, Manifest};

use super::lake::ModelLake;
use super::leader::{OBJECTS, record};
use super::store::{Append, Store};
use crate::commit::live;
use crate::ledger::{Entry, State};

/// What must hold when entries are appended to a state.
pub(super) fn at_an_append(state: &State, append: &Append, lake: &ModelLake) -> Result<(), String> {
    let mut after = state.clone();
    for entry in &append.entries {
        if let Some(epoch) = entry.epoch()
            && epoch != after.epoch
        {
            return Err(format!(
                "invariant 2: epoch {epoch} wrote while {} led",
                after.epoch
            ));
        }
        check_entry(&after, entry, lake)?;
        after = after.next(entry);
    }
    for (id, was) in &state.batches {
        let is = after
            .batches
            .get(id)
            .ok_or(format!("invariant 1: batch {id} is gone"))?;
        if is.splits != was.splits {
            return Err(format!("invariant 1: the positions of batch {id} changed"));
        }
        if was.manifest.is_some() && is.manifest != was.manifest {
            return Err(format!("invariant 4: batch {id} was committed twice"));
        }
    }
    Ok(())
}

fn check_entry(state: &State, entry: &Entry, lake: &ModelLake) -> Result<(), String> {
    match entry {
        Entry::Opened { .. }
        | Entry::Lost { .. }
        | Entry::Listed { .. }
        | Entry::Dropped { .. }
        | Entry::Reached { .. }
        | Entry::Modelled { .. }
        | Entry::Swept { .. }
        | Entry::Forgotten { .. }
        | Entry::Retained { .. }
        | Entry::Released { .. } => Ok(()),
        Entry::Planned {
            batch,
            compacts,
            removes,
            ..
        } if !compacts.is_empty() || removes.is_some() => match state.open_batches().next() {
            Some((open, _)) => Err(format!("upkeep {batch} was planned while batch {open} was open")),
            None => Ok(()),
        },
        Entry::Planned {
            batch,
            splits,
            snapshots,
            ..
        } => {
            for snapshot in snapshots {
                let key = &snapshot.object.key;
                if state.forgotten.contains(key) || lake.look(key).is_none() {
                    return Err(format!("batch {batch} is to look up in `{key}`, which is erased"));
                }
            }
            for split in splits {
                let free = state.covered.get(&split.object).is_none_or(|planned| {
                    planned.missing(split.start, split.end) == vec![(split.start, split.end)]
                });
                if !free || state.batches.contains_key(batch) {
                    return Err(format!("invariant 1: batch {batch} plans again what is planned"));
                }
            }
            Ok(())
        }
        Entry::Started { batch, attempt, .. } => {
            let tried = state.batches.get(batch).map(|batch| &batch.attempts);
            if tried.is_some_and(|tried| tried.contains(attempt)) {
                return Err(format!(
                    "invariant 3: attempt {attempt} of batch {batch} was started twice"
                ));
            }
            Ok(())
        }
        Entry::Committed { batch, manifest, .. } => {
            let mut open = state.open_batches().map(|(id, _)| id);
            if let Some(before) = open.find(|open| *open < batch) {
                return Err(format!("batch {batch} was committed before batch {before}"));
            }
            let key = keys::manifest(batch);
            let bytes = lake
                .look(&key)
                .ok_or(format!("invariant 4: `{key}` is not there"))?;
            if blake3::hash(&bytes).to_hex().as_str() != manifest {
                return Err(format!("invariant 4: `{key}` is another one"));
            }
            Ok(())
        }
    }
}

/// What must hold once everything is committed.
pub(super) fn at_the_end(store: &Store, lake: &ModelLake) -> Result<(), String> {
    let replayed = store.places.iter().flat_map(|append| &append.entries);
    let state = replayed.fold(State::default(), State::next);
    if state != store.state {
        return Err("the replay is another state".to_owned());
    }
    let mut manifests = Vec::new();
    for (id, batch) in state.committed() {
        let bytes = lake
            .look(&keys::manifest(id))
            .ok_or(format!("invariant 4: the manifest of {id} is gone"))?;
        if Some(blake3::hash(&bytes).to_hex().to_string()) != batch.manifest {
            return Err(format!("invariant 4: the manifest of {id} changed"));
        }
        let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
        manifest
            .check()
            .map_err(|error| format!("invariant 6: {error}"))?;
        if manifest.splits != batch.splits {
            return Err(format!(
                "invariant 1: batch {id} read other positions than planned"
            ));
        }
        manifests.push(manifest);
    }
    let open: Vec<String> = state
        .open_batches()
        .map(|(id, batch)| format!("{id} of {}: {:?}", batch.job, batch.state))
        .collect();
    if !open.is_empty() {
        return Err(format!("batches were left open: {}", open.join(", ")));
    }
    objects(&state, &manifests, lake)?;
    positions(&manifests)?;
    rows(&state, &manifests, lake)
}

/// Every object that counts is as it was written; one that does not, or was erased, may be gone.
fn objects(state: &State, manifests: &[Manifest], lake: &ModelLake) -> Result<(), String> {
    let is_swept = |manifest: &&Manifest| {
        state
            .batches
            .get(&manifest.batch)
            .is_some_and(|batch| batch.swept)
    };
    let swept: BTreeSet<&str> = manifests
        .iter()
        .filter(is_swept)
        .flat_map(|manifest| manifest.replaces.objects())
        .map(|object| object.key.as_str())
        .collect();
    let replaced = live::replaced(manifests);
    let snapshots = manifests.iter().flat_map(|manifest| &manifest.enrich);
    let objects = manifests
        .iter()
        .flat_map(Manifest::objects)
        .chain(snapshots.map(|snapshot| &snapshot.object))
        .filter(|object| !state.forgotten.contains(&object.key));
    for object in objects {
        let bytes = lake.look(&object.key);
        let digest = bytes.map(|bytes| blake3::hash(&bytes).to_hex().to_string());
        let (is_there, is_right) = (digest.is_some(), digest.as_ref() == Some(&object.digest));
        if swept.contains(object.key.as_str()) {
            if is_there {
                return Err(format!("`{}` is swept, and there", object.key));
            }
        } else if !is_right && (is_there || !replaced.contains(object.key.as_str())) {
            return Err(format!("invariant 3: `{}` is gone or changed", object.key));
        }
    }
    Ok(())
}

/// Every position was read once.
fn positions(manifests: &[Manifest]) -> Result<(), String> {
    let (mut read, mut positions) = (0, BTreeMap::new());
    for manifest in manifests {
        read += manifest.total().read;
        for split in &manifest.splits {
            for position in split.start..split.end {
                *positions.entry((split.object.url.clone(), position)).or_insert(0) += 1;
            }
        }
    }
    let total: u64 = OBJECTS.iter().sum();
    if read != total || positions.len() as u64 != total || positions.values().any(|times| *times != 1) {
        return Err(format!("invariant 6: {read} of {total} positions were read"));
    }
    Ok(())
}

/// Every accepted key was written once, by a batch that read it. It is there still, or it has expired.
fn rows(state: &State, manifests: &[Manifest], lake: &ModelLake) -> Result<(), String> {
    let of = |file: &DataFile| -> Result<Vec<u64>, String> {
        serde_json::from_slice(&lake.remember(&file.object.key)).map_err(|error| error.to_string())
    };
    let all = |files: &mut dyn Iterator<Item = &DataFile>| -> Result<Vec<u64>, String> {
        let mut rows = Vec::new();
        for file in files {
            rows.extend(of(file)?);
        }
        rows.sort_unstable();
        Ok(rows)
    };
    let batch_of = |manifest: &Manifest| &state.batches[&manifest.batch];
    let reading = manifests
        .iter()
        .filter(|manifest| !batch_of(manifest).is_upkeep());
    let written = all(&mut reading.flat_map(|manifest| &manifest.files))?;
    let distinct: BTreeSet<u64> = written.iter().copied().collect();
    if distinct.len() != written.len() {
        return Err("invariant 7: a key was written twice".to_owned());
    }
    if distinct != accepted() {
        return Err("invariant 7: an accepted key was not written".to_owned());
    }
    let expiries = manifests
        .iter()
        .filter(|manifest| batch_of(manifest).removes.is_some());
    let gone = expiries.flat_map(|manifest| &manifest.replaces.files);
    let counts = live::files(manifests).into_iter().map(|(_, file)| file);
    let left = all(&mut counts.chain(gone))?;
    if left != written {
        return Err("a compaction lost a row, or doubled one".to_owned());
    }
    Ok(())
}

/// Every key that has a good record.
fn accepted() -> BTreeSet<u64> {
    let all = (0..)
        .zip(OBJECTS)
        .flat_map(|(object, size)| (0..size).map(move |at| record(object, at)));
    all.filter(|record| record.is_good)
        .map(|record| record.key)
        .collect()
}
