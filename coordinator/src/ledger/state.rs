//! The fold of the ledger's entries.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use millrace_proto::ids::{Attempt, BatchId, JobId, PipelineName};
use millrace_proto::manifest::{Snapshot, SplitCounts};
use millrace_proto::split::{InputObject, Split};

use super::removal::{LegalHold, Removal, Why};
use super::{Entry, Listing, LostRange};
use crate::hours::EventTime;
use crate::marts::Marts;
use crate::split::Ranges;

/// What a batch has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchState {
    /// Its positions are fixed; no attempt is known.
    Planned,
    /// This attempt may have written objects.
    Started(Attempt),
    /// This attempt's manifest is the batch.
    Committed(Attempt),
    /// Given up for good: its positions are free again, nothing of it counts.
    Dropped,
}

impl BatchState {
    /// Total and pure. A late or repeated entry leaves the state as it was: a committed batch stays so.
    #[must_use]
    fn next(self, on: Change) -> Self {
        match (self, on) {
            (Self::Planned | Self::Started(_), Change::Started(attempt)) => Self::Started(attempt),
            (Self::Planned | Self::Started(_), Change::Committed(attempt)) => Self::Committed(attempt),
            (Self::Planned | Self::Started(_), Change::Dropped) => Self::Dropped,
            (Self::Committed(attempt), Change::Started(_) | Change::Committed(_) | Change::Dropped) => {
                Self::Committed(attempt)
            }
            (Self::Dropped, Change::Started(_) | Change::Committed(_) | Change::Dropped) => Self::Dropped,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Change {
    Started(Attempt),
    Committed(Attempt),
    Dropped,
}

/// A batch as the ledger knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Job that asked for it.
    pub job: JobId,
    /// What it reads.
    pub splits: Vec<Split>,
    /// Quarantine objects that it consumes.
    pub redrives: Vec<String>,
    /// Event hours whose files it rewrites; none for a batch that is no compaction.
    pub compacts: Vec<i64>,
    /// The snapshots that it looks up in.
    pub snapshots: Vec<Snapshot>,
    /// Why it takes away what earlier batches wrote; none for a batch that is no expiry and no erasure.
    pub removes: Option<Box<Removal>>,
    /// What it has come to.
    pub state: BatchState,
    /// Every attempt that began.
    pub attempts: Vec<Attempt>,
    /// Epoch of the run that committed it.
    pub committed_by: Option<u64>,
    /// BLAKE3 of the manifest, once committed.
    pub manifest: Option<String>,
    /// Sums, once committed.
    pub counts: SplitCounts,
    /// Whether a breach holds it back from the warehouse.
    pub held: bool,
    /// The committer's clock, microseconds since 1970 UTC, once committed.
    pub committed_us: Option<i64>,
    /// The files that it replaced are deleted.
    pub swept: bool,
}

impl Batch {
    /// A batch of which nothing is known but what it reads.
    pub(crate) fn planned(job: &JobId, splits: &[Split]) -> Self {
        Self {
            job: job.clone(),
            splits: splits.to_vec(),
            redrives: Vec::new(),
            compacts: Vec::new(),
            snapshots: Vec::new(),
            removes: None,
            state: BatchState::Planned,
            attempts: Vec::new(),
            committed_by: None,
            manifest: None,
            counts: SplitCounts::default(),
            held: false,
            committed_us: None,
            swept: false,
        }
    }

    /// Whether it only writes again what is committed already.
    #[must_use]
    pub fn is_compaction(&self) -> bool {
        !self.compacts.is_empty()
    }

    /// Whether it brings no events: a compaction, an expiry or an erasure.
    #[must_use]
    pub fn is_upkeep(&self) -> bool {
        self.is_compaction() || self.removes.is_some()
    }

    /// The attempt that a writer of this epoch starts next: no attempt before it has its name (invariant 3).
    #[must_use]
    pub fn next_attempt(&self, epoch: u64) -> Attempt {
        let tried = self.attempts.iter().filter(|attempt| attempt.epoch == epoch);
        let number = tried.map(|attempt| attempt.number).max().unwrap_or(0) + 1;
        Attempt { epoch, number }
    }
}

/// What all entries so far add up to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// The pipeline that the lake belongs to.
    pub pipeline: Option<PipelineName>,
    /// Entries folded; the next entry's place in the sequence.
    pub length: u64,
    /// The current writer's epoch.
    pub epoch: u64,
    /// Batches in the order of planning (ids sort so).
    pub batches: BTreeMap<BatchId, Batch>,
    /// Which positions of each input object are planned, or known to be lost.
    pub covered: HashMap<InputObject, Ranges>,
    /// Positions that were there and could not be read (invariant 9).
    pub lost: Vec<LostRange>,
    /// What each job over a prefix or a folder has listed.
    pub listings: BTreeMap<JobId, Listing>,
    /// Newest committed event time, microseconds since 1970 UTC.
    pub newest_us: Option<i64>,
    /// Watermarks and event hours.
    pub event_time: EventTime,
    /// Results of models.
    pub marts: Marts,
    /// Every legal hold that was ever placed, in order.
    pub holds: Vec<LegalHold>,
    /// Snapshots and quality states that were erased, by key: nothing is written under it again.
    pub forgotten: BTreeSet<String>,
}

impl State {
    /// Folds one entry. Total: an entry of a writer that was taken over, or about a batch that is not
    /// known, changes nothing but the length.
    #[must_use]
    pub fn next(mut self, entry: &Entry) -> Self {
        let place = self.length;
        self.length += 1;
        if entry.epoch().is_some_and(|epoch| epoch != self.epoch) {
            return self;
        }
        match entry {
            Entry::Opened { pipeline, epoch } => {
                let epoch = epoch.unwrap_or(place);
                if epoch >= self.epoch {
                    self.epoch = epoch;
                    self.pipeline.get_or_insert_with(|| pipeline.clone());
                }
            }
            Entry::Planned {
                job,
                batch,
                splits,
                redrives,
                compacts,
                snapshots,
                removes,
                ..
            } => {
                let mut planned = Batch::planned(job, splits);
                planned.redrives.clone_from(redrives);
                planned.compacts.clone_from(compacts);
                planned.snapshots.clone_from(snapshots);
                planned.removes.clone_from(removes);
                self.plan(batch, planned);
            }
            Entry::Retained { hold, .. } => {
                if !self.holds.iter().any(|known| known.id == hold.id) {
                    self.holds.push((**hold).clone());
                }
            }
            Entry::Released { hold, released, .. } => {
                if let Some(known) = self.holds.iter_mut().find(|known| known.id == *hold) {
                    known.released.get_or_insert_with(|| (**released).clone());
                }
            }
            Entry::Modelled { run, .. } => self.marts.take(run),
            Entry::Reached { partitions, .. } => self.event_time.reach(partitions),
            Entry::Swept { batch, .. } => {
                if let Some(batch) = self.batches.get_mut(batch) {
                    batch.swept = true;
                }
            }
            Entry::Forgotten { objects, .. } => self.forgotten.extend(objects.iter().cloned()),
            Entry::Dropped { batch, .. } => self.drop_batch(batch),
            Entry::Listed { job, listing, .. } => {
                self.listings.insert(job.clone(), listing.clone());
            }
            Entry::Lost { ranges, .. } => {
                for lost in ranges {
                    let known = self.covered.entry(lost.object.clone()).or_default();
                    known.add(lost.start, lost.end);
                    if !self.lost.contains(lost) {
                        self.lost.push(lost.clone());
                    }
                }
            }
            Entry::Started { batch, attempt, .. } => {
                if let Some(batch) = self.batches.get_mut(batch) {
                    batch.state = batch.state.next(Change::Started(*attempt));
                    batch.attempts.push(*attempt);
                }
            }
            Entry::Committed {
                epoch,
                batch,
                attempt,
                manifest,
                counts,
                newest_us,
                held,
                told,
            } => {
                if let Some(known) = self.batches.get_mut(batch)
                    && !matches!(known.state, BatchState::Committed(_) | BatchState::Dropped)
                {
                    known.state = known.state.next(Change::Committed(*attempt));
                    known.committed_by = Some(*epoch);
                    known.manifest = Some(manifest.clone());
                    known.counts = *counts;
                    known.held = *held;
                    known.committed_us = told.as_ref().map(|told| told.at_us);
                    self.newest_us = self.newest_us.max(*newest_us);
                    if let Some(told) = told {
                        self.event_time.commit(batch, told, counts, known.is_upkeep());
                        let removal = known.removes.as_ref();
                        if removal.is_some_and(|removal| removal.why == Why::Expired) {
                            self.event_time.expire(told);
                        }
                    }
                }
            }
        }
        self
    }

    fn plan(&mut self, batch: &BatchId, planned: Batch) {
        if self.batches.contains_key(batch) {
            return;
        }
        if planned.redrives.is_empty() {
            for split in &planned.splits {
                let covered = self.covered.entry(split.object.clone()).or_default();
                covered.add(split.start, split.end);
            }
        }
        self.batches.insert(batch.clone(), planned);
    }

    /// The newest snapshot of a lookup that was taken for this shape, and for a batch; none when that one was erased.
    #[must_use]
    pub fn snapshot(&self, lookup: &str, shape: &str) -> Option<&Snapshot> {
        let newest_first = self.batches.values().rev();
        newest_first
            .flat_map(|batch| &batch.snapshots)
            .find(|snapshot| snapshot.lookup == lookup && snapshot.shape == shape)
            .filter(|snapshot| !self.forgotten.contains(&snapshot.object.key))
    }

    fn drop_batch(&mut self, id: &BatchId) {
        let Some(batch) = self.batches.get_mut(id) else {
            return;
        };
        let was = batch.state;
        batch.state = was.next(Change::Dropped);
        if was != batch.state && batch.redrives.is_empty() {
            for split in &batch.splits {
                if let Some(planned) = self.covered.get_mut(&split.object) {
                    planned.remove(split.start, split.end);
                }
            }
        }
    }

    /// Legal holds that were not released.
    pub fn active_holds(&self) -> impl Iterator<Item = &LegalHold> {
        self.holds.iter().filter(|hold| hold.released.is_none())
    }

    /// Batches that are planned and not committed, in order.
    pub fn open_batches(&self) -> impl Iterator<Item = (&BatchId, &Batch)> {
        self.batches
            .iter()
            .filter(|(_, batch)| matches!(batch.state, BatchState::Planned | BatchState::Started(_)))
    }

    /// Committed batches, in order.
    pub fn committed(&self) -> impl Iterator<Item = (&BatchId, &Batch)> {
        self.batches
            .iter()
            .filter(|(_, batch)| matches!(batch.state, BatchState::Committed(_)))
    }

    /// Quarantine objects that a committed redrive has consumed.
    #[must_use]
    pub fn redriven(&self) -> std::collections::BTreeSet<String> {
        self.committed()
            .flat_map(|(_, batch)| batch.redrives.iter().cloned())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use millrace_proto::manifest::WrittenObject;
    use proptest::prelude::*;

    use super::*;

    fn batch_id(n: u8) -> BatchId {
        BatchId::try_from(format!("b{n}")).unwrap()
    }

    fn entry(kind: u8, batch: u8, epoch: u64) -> Entry {
        let attempt = Attempt { epoch, number: 1 };
        match kind {
            0 => Entry::Opened {
                pipeline: PipelineName::try_from("p".to_owned()).unwrap(),
                epoch: None,
            },
            1 => Entry::Planned {
                epoch,
                job: JobId::try_from("j".to_owned()).unwrap(),
                batch: batch_id(batch),
                splits: Vec::new(),
                redrives: Vec::new(),
                compacts: Vec::new(),
                snapshots: Vec::new(),
                removes: None,
            },
            2 => Entry::Started {
                epoch,
                batch: batch_id(batch),
                attempt,
            },
            3 => Entry::Dropped {
                epoch,
                batch: batch_id(batch),
            },
            _ => Entry::Committed {
                epoch,
                batch: batch_id(batch),
                attempt,
                manifest: format!("m{epoch}"),
                counts: SplitCounts::default(),
                newest_us: None,
                held: false,
                told: None,
            },
        }
    }

    #[test]
    fn an_erased_snapshot_is_used_by_no_later_batch() {
        let taken = |key: &str| Snapshot {
            lookup: "customers".to_owned(),
            object: WrittenObject {
                key: key.to_owned(),
                bytes: 1,
                rows: 1,
                digest: String::new(),
            },
            version: "v".to_owned(),
            shape: "s".to_owned(),
            taken_us: 1,
        };
        let opened = State::default().next(&entry(0, 0, 0));
        let epoch = opened.epoch;
        let planned = |batch: u8, snapshot: &Snapshot| {
            let mut planned = entry(1, batch, epoch);
            if let Entry::Planned { snapshots, .. } = &mut planned {
                snapshots.push(snapshot.clone());
            }
            planned
        };
        let last = |state: &State| state.snapshot("customers", "s").cloned();
        let (older, erased, newer) = (taken("k1"), taken("k2"), taken("k3"));
        let state = opened.next(&planned(1, &older)).next(&planned(2, &erased));
        assert_eq!(last(&state).as_ref(), Some(&erased));
        let forgotten = |epoch| Entry::Forgotten {
            epoch,
            objects: vec![erased.object.key.clone()],
        };
        assert_eq!(
            last(&state.clone().next(&forgotten(epoch + 1))).as_ref(),
            Some(&erased),
            "a writer that does not lead"
        );
        let state = state.next(&forgotten(epoch));
        assert_eq!(
            last(&state),
            None,
            "nor the one before it: the table is to be read"
        );
        assert!(state.forgotten.contains("k2"));
        let state = state.next(&planned(3, &newer));
        assert_eq!(last(&state).as_ref(), Some(&newer));
    }

    proptest! {
        /// Whatever stale writers append, a committed batch keeps its first manifest, and only the
        /// writer of the current epoch changes anything (invariants 2 and 4).
        #[test]
        fn a_committed_batch_never_changes(
            steps in proptest::collection::vec((0u8..5, 0u8..3, 0u64..40), 1..40),
        ) {
            let mut state = State::default();
            for (kind, batch, epoch) in steps {
                let entry = entry(kind, batch, epoch);
                let before = state.clone();
                state = state.next(&entry);
                prop_assert_eq!(state.length, before.length + 1);
                for (id, was) in before.committed() {
                    prop_assert_eq!(&state.batches[id].manifest, &was.manifest);
                    prop_assert_eq!(state.batches[id].state, was.state);
                }
                if entry.epoch().is_some_and(|epoch| epoch != before.epoch) {
                    prop_assert_eq!(&state.batches, &before.batches);
                }
            }
        }
    }
}
