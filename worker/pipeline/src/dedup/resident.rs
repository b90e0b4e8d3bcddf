//! Which hours' keys are in memory, and which of them give way: the books of a key index.
//!
//! In: the key files of each hour, what is asked of it, how much memory there is. Out: whether an hour fits, and which others are
//! forgotten for it. Whoever holds a forgotten hour keeps it; its files bring it back.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use millrace_proto::ids::BatchId;
use millrace_proto::manifest::KeyFile;
use tokio::sync::OnceCell;

use super::index::Hour;
use super::set::KeySet;

/// How many times as much must be asked of an hour that another one is forgotten for. Of two that are asked for alike, one may
/// have been opened for the batch at work already and the other not yet: that makes twice as much.
const MUCH_MORE: u64 = 4;

/// All hours of a lake.
#[derive(Default)]
pub(super) struct State {
    pub(super) hours: HashMap<i64, Entry>,
    /// The key files of all hours, by name.
    pub(super) known: HashSet<String>,
    /// The batch with the newest list of them: those of the batches before it are older.
    pub(super) newest: Option<BatchId>,
    /// Digest of the list that was learnt last; empty for files that came without one.
    pub(super) list: String,
    /// Memory of all hours' sets.
    pub(super) bytes: usize,
}

/// What is known of an hour, in memory or not.
#[derive(Default)]
pub(super) struct Entry {
    pub(super) files: Vec<KeyFile>,
    pub(super) hour: Arc<OnceCell<Arc<Hour>>>,
    /// The hour once every file that was known then is in it: later files must be added to it.
    pub(super) resident: Option<Arc<Hour>>,
    pub(super) bytes: usize,
    /// Rows that it was opened for; those of each batch before count half as much.
    pub(super) asked: u64,
    /// Opened by the batch at work, so that there may be claims that no file holds yet.
    pub(super) claimed: bool,
}

impl State {
    pub(super) fn add_files(&mut self, files: &[KeyFile]) {
        for file in files {
            self.known.insert(file.object.key.clone());
            self.hours.entry(file.hour).or_default().files.push(file.clone());
        }
    }

    /// Lets go of files that are not among `files`: a compaction or an expiry replaced them. False for an older batch's list
    /// than others had, which a task brings that was taken for dead: all of it is known, replaced by what is known, or gone.
    pub(super) fn forget_replaced(&mut self, batch: &BatchId, files: &[KeyFile]) -> bool {
        match &self.newest {
            Some(newest) if batch < newest => return false,
            Some(newest) if batch == newest => {}
            Some(_) | None => self.begin_batch(),
        }
        self.newest = Some(batch.clone());
        let listed: HashSet<&str> = files.iter().map(|file| file.object.key.as_str()).collect();
        let State {
            hours, known, bytes, ..
        } = self;
        known.retain(|key| listed.contains(key.as_str()));
        for entry in hours.values_mut() {
            let before = entry.files.len();
            entry
                .files
                .retain(|file| listed.contains(file.object.key.as_str()));
            if entry.files.len() != before {
                *bytes -= entry.forget();
            }
        }
        true
    }

    /// Another batch is at work than before: nothing is claimed, and it decides anew which hours fit.
    pub(super) fn begin_batch(&mut self) {
        for entry in self.hours.values_mut() {
            entry.claimed = false;
            entry.asked /= 2;
            if entry.hour.get().is_some_and(|hour| hour.deferred) {
                self.bytes -= entry.forget();
            }
        }
    }

    /// Sets memory aside for an hour's committed keys; false when they do not fit. An hour without any
    /// always fits.
    pub(super) fn reserve(&mut self, hour: i64, keys: usize, memory_bytes: usize) -> bool {
        let bytes = KeySet::bytes_for(keys);
        if bytes > 0 {
            let asked = self.hours.get(&hour).map_or(0, |entry| entry.asked);
            // Claims may have taken more than there is.
            let stay = self.hours.values().filter(|entry| !entry.gives_way(asked));
            if stay.map(|entry| entry.bytes).sum::<usize>() + bytes > memory_bytes {
                return false;
            }
            self.evict_down_to(memory_bytes - bytes);
        }
        self.bytes += bytes;
        self.hours.entry(hour).or_default().bytes = bytes;
        true
    }

    pub(super) fn forget(&mut self, hour: i64) {
        if let Some(entry) = self.hours.get_mut(&hour) {
            self.bytes -= entry.forget();
        }
    }

    /// Gives back what was set aside for an hour, unless it was forgotten meanwhile.
    pub(super) fn release(&mut self, hour: i64, cell: &Arc<OnceCell<Arc<Hour>>>) {
        if let Some(entry) = self.hours.get_mut(&hour)
            && Arc::ptr_eq(&entry.hour, cell)
        {
            self.bytes -= std::mem::take(&mut entry.bytes);
        }
    }

    pub(super) fn grow(&mut self, hour: i64, bytes: usize, memory_bytes: usize) {
        self.bytes += bytes;
        self.hours.entry(hour).or_default().bytes += bytes;
        self.evict_down_to(memory_bytes);
    }

    /// Forgets hours without claims, those that least is asked of first, until the rest fits.
    pub(super) fn evict_down_to(&mut self, bytes_max: usize) {
        while self.bytes > bytes_max {
            let idle = self.hours.values_mut().filter(|entry| entry.gives_way(u64::MAX));
            let Some(least) = idle.min_by_key(|entry| entry.asked) else {
                return;
            };
            self.bytes -= least.forget();
        }
    }
}

impl Entry {
    /// Whether it may be forgotten for an hour that so much is asked of: much more than of this one.
    pub(super) fn gives_way(&self, asked: u64) -> bool {
        !self.claimed && self.bytes > 0 && self.asked.saturating_mul(MUCH_MORE) < asked
    }

    /// Drops the set; its files bring it back. Returns the bytes freed.
    pub(super) fn forget(&mut self) -> usize {
        self.hour = Arc::default();
        self.resident = None;
        std::mem::take(&mut self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Claims exist nowhere else, so they may take more memory than there is: nothing is loaded beside them then, and nothing is
    /// forgotten in vain.
    #[test]
    fn no_hour_is_loaded_beside_claims_that_take_all_memory() {
        let bytes = KeySet::bytes_for(1_000);
        let mut state = State::default();
        let entry = |bytes, claimed| Entry {
            bytes,
            claimed,
            ..Entry::default()
        };
        state
            .hours
            .extend([(0, entry(2 * bytes, true)), (1, entry(bytes, false))]);
        state.bytes = 3 * bytes;
        state.hours.entry(2).or_default().asked = 1_000;
        assert!(!state.reserve(2, 1_000, 2 * bytes));
        assert_eq!((state.bytes, state.hours[&1].bytes), (3 * bytes, bytes));
        assert!(state.reserve(2, 1_000, 3 * bytes));
        assert_eq!((state.bytes, state.hours[&1].bytes), (3 * bytes, 0));
    }
}
