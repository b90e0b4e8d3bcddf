//! The key index of a lake: which keys each event hour holds, shared by all tasks of a process.
//!
//! An hour's keys are loaded when its first row is seen and stay in memory as long as there is room. An hour makes room for
//! itself at the cost of those that much less is asked of, by rows, of late more than of old; never of one with claims of the batch
//! at work. So late events do not push out the hour that most events are of, and hours that together are too many do not push
//! out each other again and again, each to be read anew by the next task. An hour that does not fit is *deferred* for a batch:
//! its claims are tracked as usual, but without the committed keys; rows that win a claim are held back by the operator until
//! its input ends, and then compared with the hour's files in one pass over both (see `deferred`).
//!
//! Across processes a task that is repeated must not meet its own claims: there each task has an index of its own, a
//! [`KeyIndex::layer`] over the process's index of what is committed, which nobody claims in. Where copies of a key can meet
//! only within the task, it claims in that layer; elsewhere with the key's [keeper](super::claims).
//!
//! Memory is bounded by `memory_bytes` for committed keys. The claims of the batch at work come on top
//! where they alone exceed it: they exist nowhere else, and the planner bounds a batch.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::TryStreamExt;
use hashbrown::HashMap;
use millrace_proto::ids::BatchId;
use millrace_proto::manifest::KeyFile;
use object_store::ObjectStore;
use object_store::path::Path;
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::DedupError;
use super::claims::Question;
use super::files::stream_keys;
pub use super::files::{encode_keys, keys_between, read_keys};
use super::grouping::Groups;
use super::listed::{KeyList, Listed};
use super::resident::State;
use super::set::{KeySet, SHARDS};

/// The committed and the claimed keys of a lake, by event hour.
///
/// One batch is at work at a time: what was claimed since the last [`Self::commit`] belongs to it. Claims of a batch that
/// failed are never taken back: its process ends, or its index is dropped.
pub struct KeyIndex {
    store: Arc<dyn ObjectStore>,
    root: Path,
    memory_bytes: usize,
    /// What is committed, for an index that holds one task's claims only.
    below: Option<Below>,
    /// One at a time learns: whoever comes second finds the keys of the first in place.
    learning: tokio::sync::Mutex<()>,
    state: Mutex<State>,
    turn: AtomicUsize,
}

/// A process's index of what is committed, and the files that it must know first.
struct Below {
    index: Arc<KeyIndex>,
    files: Listed,
    /// Whose list that is.
    batch: BatchId,
    learnt: OnceCell<()>,
}

/// An hour's keys in memory.
pub(super) struct Hour {
    set: KeySet,
    /// The set holds this batch's claims only.
    pub(super) deferred: bool,
    /// The committed keys, where they are kept apart from the claims.
    below: Option<Arc<Hour>>,
}

impl Hour {
    /// What becomes of the first row of a key that is not known to be committed.
    fn first(&self) -> Verdict {
        let is_deferred = self.below.as_ref().map_or(self.deferred, |below| below.deferred);
        if is_deferred { Verdict::Hold } else { Verdict::Keep }
    }
}

/// What becomes of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// First of its key, or without one.
    Keep,
    /// First of its key in this batch; whether an earlier batch had it is still to be seen.
    Hold,
    /// Seen before.
    Duplicate,
}

impl std::fmt::Debug for KeyIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyIndex")
            .field("root", &self.root)
            .field("memory_bytes", &self.memory_bytes)
            .finish_non_exhaustive()
    }
}

impl KeyIndex {
    /// The index of the lake below `root`, whose manifests name `files`; nothing is read yet.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>, root: Path, files: Vec<KeyFile>, memory_bytes: usize) -> Self {
        let index = Self {
            store,
            root,
            memory_bytes,
            below: None,
            learning: tokio::sync::Mutex::default(),
            state: Mutex::default(),
            turn: AtomicUsize::new(0),
        };
        index.state.lock().add_files(&files);
        index
    }

    /// An index for the claims of one task of a batch, over what `committed` knows once it has learnt of `files`, all those
    /// that count for the batch. Nothing that is claimed in it reaches `committed`.
    #[must_use]
    pub fn layer(committed: Arc<Self>, batch: BatchId, files: Vec<KeyFile>) -> Self {
        Self::over(committed, batch, Listed::Here(files))
    }

    /// The same, once it has learnt of the files that an object lists.
    #[must_use]
    pub fn layer_listed(committed: Arc<Self>, batch: BatchId, list: KeyList) -> Self {
        Self::over(committed, batch, Listed::There(list))
    }

    fn over(committed: Arc<Self>, batch: BatchId, files: Listed) -> Self {
        Self {
            store: Arc::clone(&committed.store),
            root: committed.root.clone(),
            memory_bytes: committed.memory_bytes,
            below: Some(Below {
                index: committed,
                files,
                batch,
                learnt: OnceCell::new(),
            }),
            learning: tokio::sync::Mutex::default(),
            state: Mutex::default(),
            turn: AtomicUsize::new(0),
        }
    }

    async fn learn_listed(&self, batch: &BatchId, listed: &Listed) -> Result<(), DedupError> {
        let list = match listed {
            Listed::Here(files) => return self.learn(batch, files).await,
            Listed::There(list) => list,
        };
        if self.state.lock().list == list.digest {
            return Ok(());
        }
        let files = list.read(&self.store, &self.root).await?;
        self.learn(batch, &files).await?;
        self.state.lock().list.clone_from(&list.digest);
        Ok(())
    }

    /// Takes in the key files that are committed before a batch, all of them; those that it knows already are passed over.
    /// An hour that is in memory takes in the keys of its new files; one of whose files some were replaced by a compaction or
    /// an expiry is read anew when it is needed.
    ///
    /// # Errors
    /// When a file cannot be read; it is then read when it is needed.
    async fn learn(&self, batch: &BatchId, files: &[KeyFile]) -> Result<(), DedupError> {
        let _learning = self.learning.lock().await;
        let mut behind = Behind {
            index: self,
            hours: HashMap::new(),
        };
        {
            let mut state = self.state.lock();
            if !state.forget_replaced(batch, files) {
                return Ok(());
            }
            state.list.clear();
            for file in files {
                if !state.known.insert(file.object.key.clone()) {
                    continue;
                }
                let entry = state.hours.entry(file.hour).or_default();
                entry.files.push(file.clone());
                if let Some(hour) = &entry.resident {
                    let (_, new) = behind
                        .hours
                        .entry(file.hour)
                        .or_insert_with(|| (Arc::clone(hour), Vec::new()));
                    new.push(file.clone());
                }
            }
        }
        let numbers: Vec<i64> = behind.hours.keys().copied().collect();
        for number in numbers {
            if let Some((hour, new)) = behind.hours.get(&number) {
                let grown = self.read_into(&hour.set, new).await?;
                behind.hours.remove(&number);
                self.state.lock().grow(number, grown, self.memory_bytes);
            }
        }
        Ok(())
    }

    /// The batch at work is committed with these key files: its claims last, and its hours may be
    /// forgotten from now on, since the files give them back.
    pub fn commit(&self, files: &[KeyFile]) {
        let mut state = self.state.lock();
        state.add_files(files);
        state.begin_batch();
        state.evict_down_to(self.memory_bytes);
    }

    /// Memory that the sets take now.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.state.lock().bytes
    }

    /// The hours that are in memory with all their keys.
    #[cfg(test)]
    pub(super) fn residents(&self) -> std::collections::BTreeMap<i64, Arc<Hour>> {
        let state = self.state.lock();
        let residents = state.hours.iter();
        residents
            .filter_map(|(hour, entry)| Some((*hour, Arc::clone(entry.resident.as_ref()?))))
            .collect()
    }

    /// The keys of each hour of a batch, loaded if need be; from now on they stay until the batch ends.
    pub(super) async fn open_all(&self, groups: &Groups) -> Result<Vec<Arc<Hour>>, DedupError> {
        let mut hours = Vec::with_capacity(groups.hours.len());
        for (slot, hour) in groups.hours.iter().enumerate() {
            let rows = (0..SHARDS).map(|shard| groups.range(slot, shard).len() as u64);
            hours.push(self.open(*hour, rows.sum(), true).await?);
        }
        Ok(hours)
    }

    /// Claims the keys of a batch of `rows` rows in its hours, and says what becomes of each row.
    pub(super) fn claim(&self, groups: &Groups, hours: &[Arc<Hour>], rows: usize) -> Vec<Verdict> {
        let mut verdicts = vec![Verdict::Keep; rows];
        // Each batch starts with another shard, so that tasks do not queue for the same one.
        let turn = self.turn.fetch_add(11, Ordering::Relaxed);
        for (slot, hour) in hours.iter().enumerate() {
            let first = hour.first();
            let mut grown = 0;
            for shard in (0..SHARDS).map(|shard| (shard + turn) % SHARDS) {
                let range = groups.range(slot, shard);
                if range.is_empty() {
                    continue;
                }
                let rows = &groups.rows[range.clone()];
                if let Some(below) = hour.below.as_ref().filter(|below| !below.deferred) {
                    let (keys, rows) = below.set.unknown(shard, &groups.keys[range], rows, |row| {
                        verdicts[row as usize] = Verdict::Duplicate;
                    });
                    grown += hour.set.claim(shard, &keys, |i, new| {
                        verdicts[rows[i] as usize] = if new { first } else { Verdict::Duplicate };
                    });
                    continue;
                }
                grown += hour.set.claim(shard, &groups.keys[range], |i, new| {
                    verdicts[rows[i] as usize] = if new { first } else { Verdict::Duplicate };
                });
            }
            if grown > 0 {
                self.state
                    .lock()
                    .grow(groups.hours[slot], grown, self.memory_bytes);
            }
        }
        verdicts
    }

    /// What becomes of each of a batch's `rows` rows as far as committed keys tell, and the keys that are still to be
    /// claimed with their keepers.
    pub(super) fn look_up(
        groups: &Groups,
        hours: &[Arc<Hour>],
        rows: usize,
    ) -> (Vec<Verdict>, Vec<Question>) {
        let mut verdicts = vec![Verdict::Keep; rows];
        let mut questions = Vec::with_capacity(hours.len());
        for (slot, hour) in hours.iter().enumerate() {
            let committed = hour.below.as_ref().unwrap_or(hour);
            let mut question = Question {
                hour: groups.hours[slot],
                keys: Vec::new(),
                rows: Vec::new(),
            };
            for shard in 0..SHARDS {
                let range = groups.range(slot, shard);
                let (keys, rows) = (&groups.keys[range.clone()], &groups.rows[range]);
                if committed.deferred || keys.is_empty() {
                    question.keys.extend_from_slice(keys);
                    question.rows.extend_from_slice(rows);
                    continue;
                }
                let (keys, rows) = committed.set.unknown(shard, keys, rows, |row| {
                    verdicts[row as usize] = Verdict::Duplicate;
                });
                question.keys.extend(keys);
                question.rows.extend(rows);
            }
            for row in &question.rows {
                verdicts[*row as usize] = hour.first();
            }
            if !question.keys.is_empty() {
                questions.push(question);
            }
        }
        (verdicts, questions)
    }

    /// Which of the sorted keys the hour's committed files hold.
    pub(super) async fn committed(&self, hour: i64, keys: &[u128]) -> Result<Vec<bool>, DedupError> {
        let index = self.below.as_ref().map_or(self, |below| &below.index);
        let files = index
            .state
            .lock()
            .hours
            .get(&hour)
            .map(|entry| entry.files.clone());
        let mut found = vec![false; keys.len()];
        for file in files.unwrap_or_default() {
            let store = Arc::clone(&self.store);
            let mut pieces = std::pin::pin!(stream_keys(store, &self.root, &file, Some(keys)).await?);
            let mut next = 0;
            while let Some(piece) = pieces.try_next().await? {
                next = super::deferred::mark_common(keys, next, &piece, &mut found);
            }
        }
        Ok(found)
    }

    /// An hour, for so many rows. One that is not opened to be claimed in may be forgotten at any time; those who hold it keep it.
    async fn open(&self, hour: i64, rows: u64, claimed: bool) -> Result<Arc<Hour>, DedupError> {
        let cell = {
            let mut state = self.state.lock();
            let entry = state.hours.entry(hour).or_default();
            entry.asked += rows;
            entry.claimed |= claimed;
            Arc::clone(&entry.hour)
        };
        let loaded = cell.get_or_try_init(|| self.load(hour, rows, &cell)).await?;
        Ok(Arc::clone(loaded))
    }

    async fn load(
        &self,
        hour: i64,
        rows: u64,
        cell: &Arc<OnceCell<Arc<Hour>>>,
    ) -> Result<Arc<Hour>, DedupError> {
        if let Some(below) = &self.below {
            let Below {
                index, files, batch, ..
            } = below;
            below
                .learnt
                .get_or_try_init(|| index.learn_listed(batch, files))
                .await?;
            let below = Some(Box::pin(index.open(hour, rows, false)).await?);
            return Ok(Arc::new(Hour {
                set: KeySet::new(),
                deferred: false,
                below,
            }));
        }
        let (files, reserved) = {
            let mut state = self.state.lock();
            let files = state
                .hours
                .get(&hour)
                .map_or_else(Vec::new, |entry| entry.files.clone());
            let reserved = state.reserve(hour, key_count(&files), self.memory_bytes);
            (files, reserved)
        };
        if !reserved {
            return Ok(Arc::new(Hour {
                set: KeySet::new(),
                deferred: true,
                below: None,
            }));
        }
        let mut reserved = Reserved {
            index: self,
            hour,
            cell,
            is_used: false,
        };
        let hour_set = Arc::new(Hour {
            set: KeySet::new(),
            deferred: false,
            below: None,
        });
        // The memory that was set aside for it.
        hour_set.set.expect(key_count(&files));
        let mut read = 0;
        let mut unread = files;
        loop {
            let grown = self.read_into(&hour_set.set, &unread).await?;
            self.state.lock().grow(hour, grown, self.memory_bytes);
            read += unread.len();
            let mut state = self.state.lock();
            let entry = state.hours.entry(hour).or_default();
            // Files that came while these were read.
            unread = entry.files.get(read..).unwrap_or_default().to_vec();
            if unread.is_empty() {
                reserved.is_used = true;
                // Forgotten meanwhile: whoever opens the hour next reads it anew, and later keys are added there.
                if Arc::ptr_eq(&entry.hour, cell) {
                    entry.resident = Some(Arc::clone(&hour_set));
                }
                return Ok(hour_set);
            }
        }
    }

    async fn read_into(&self, set: &KeySet, files: &[KeyFile]) -> Result<usize, DedupError> {
        let mut grown = set.expect(key_count(files));
        for file in files {
            let store = Arc::clone(&self.store);
            let mut pieces = std::pin::pin!(stream_keys(store, &self.root, file, None).await?);
            while let Some(piece) = pieces.try_next().await? {
                grown += set.load(&piece);
            }
        }
        Ok(grown + set.settle())
    }
}

/// Hours in memory, and the files that are known and not in them yet. A task may fail or be stopped wherever it waits: what is
/// left here then is forgotten, and read anew when it is needed.
struct Behind<'a> {
    index: &'a KeyIndex,
    hours: HashMap<i64, (Arc<Hour>, Vec<KeyFile>)>,
}

impl Drop for Behind<'_> {
    fn drop(&mut self) {
        let mut state = self.index.state.lock();
        for hour in self.hours.keys() {
            state.forget(*hour);
        }
    }
}

/// Memory that is set aside for an hour; given back unless the hour came to be in it.
struct Reserved<'a> {
    index: &'a KeyIndex,
    hour: i64,
    cell: &'a Arc<OnceCell<Arc<Hour>>>,
    is_used: bool,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if !self.is_used {
            self.index.state.lock().release(self.hour, self.cell);
        }
    }
}

fn key_count(files: &[KeyFile]) -> usize {
    files.iter().map(|file| file.object.rows as usize).sum()
}
