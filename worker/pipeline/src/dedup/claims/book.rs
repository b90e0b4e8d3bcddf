//! What one keeper knows: the claims of each attempt at work.
//!
//! An attempt is opened by its first claim, and closed when the leader says that it is over, or when nobody has claimed in it
//! for [`IDLE`]. A closed one is remembered by name: a claim that comes all the same is refused, since its answer would
//! be made up.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use super::table::ClaimTable;
use super::{Claim, ClaimError, ClaimedKeys};

/// An attempt in which nobody has claimed for so long is closed.
const IDLE: Duration = Duration::from_secs(3600);
/// Closed attempts that are remembered.
const CLOSED_MAX: usize = 1 << 16;

/// The claims that a process keeps.
#[derive(Debug)]
pub struct ClaimBook {
    limit_bytes: usize,
    attempts: Mutex<Attempts>,
}

#[derive(Debug, Default)]
struct Attempts {
    open: HashMap<String, Arc<Page>>,
    closed: HashSet<String>,
    /// Those in `closed`, the oldest first.
    order: VecDeque<String>,
}

/// The claims of one attempt.
#[derive(Debug)]
struct Page {
    used: Mutex<Instant>,
    bytes: AtomicUsize,
    claimants: RwLock<Claimants>,
    hours: Mutex<HashMap<i64, Arc<Mutex<ClaimTable>>>>,
}

/// Who claims: a run of a split, numbered in the order in which they came.
#[derive(Debug, Default)]
struct Claimants {
    splits: Vec<u32>,
    /// The run of each split that came last, and its number.
    last: HashMap<u32, (u64, u32)>,
    known: HashSet<(u32, u64)>,
}

impl Claimants {
    fn number(&self, split: u32, run: u64) -> Result<Option<u32>, ClaimError> {
        match self.last.get(&split) {
            Some((last, number)) if *last == run => Ok(Some(*number)),
            _ if self.known.contains(&(split, run)) => Err(ClaimError::Superseded { split }),
            _ => Ok(None),
        }
    }

    fn add(&mut self, split: u32, run: u64) -> Result<u32, ClaimError> {
        if let Some(number) = self.number(split, run)? {
            return Ok(number);
        }
        let number = self.splits.len() as u32;
        self.splits.push(split);
        self.last.insert(split, (run, number));
        self.known.insert((split, run));
        Ok(number)
    }
}

impl Page {
    fn new(now: Instant) -> Self {
        Self {
            used: Mutex::new(now),
            bytes: AtomicUsize::new(0),
            claimants: RwLock::default(),
            hours: Mutex::default(),
        }
    }

    /// Answers one group.
    fn claim(&self, run: u64, group: &ClaimedKeys, won: &mut Vec<bool>) -> Result<(), ClaimError> {
        let number = self.claimants.read().number(group.split, run)?;
        let me = match number {
            Some(number) => number,
            None => self.claimants.write().add(group.split, run)?,
        };
        let table = Arc::clone(self.hours.lock().entry(group.hour).or_default());
        let claimants = self.claimants.read();
        let mut table = table.lock();
        let before = table.bytes();
        let is_earlier =
            |other: u32| other < me && claimants.splits.get(other as usize) == Some(&group.split);
        table.claim(&group.keys, me, is_earlier, won);
        self.bytes.fetch_add(table.bytes() - before, Ordering::Relaxed);
        Ok(())
    }
}

impl Attempts {
    fn close(&mut self, attempt: &str) {
        self.open.remove(attempt);
        if !self.closed.insert(attempt.to_owned()) {
            return;
        }
        self.order.push_back(attempt.to_owned());
        if self.order.len() > CLOSED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.closed.remove(&oldest);
        }
    }
}

impl ClaimBook {
    /// A book for claims of at most about `limit_bytes`.
    #[must_use]
    pub fn new(limit_bytes: usize) -> Self {
        Self {
            limit_bytes,
            attempts: Mutex::default(),
        }
    }

    /// For each key of a claim, in order, whether its row won.
    ///
    /// # Errors
    /// When the attempt is over, a later run is at work, or there is no room.
    pub fn claim(&self, claim: &Claim, now: Instant) -> Result<Vec<bool>, ClaimError> {
        if self.bytes() > self.limit_bytes {
            return Err(ClaimError::Full {
                limit: self.limit_bytes,
            });
        }
        let page = self.page(&claim.attempt, now)?;
        let keys = claim.groups.iter().map(|group| group.keys.len()).sum();
        let mut won = Vec::with_capacity(keys);
        for group in &claim.groups {
            page.claim(claim.run, group, &mut won)?;
        }
        Ok(won)
    }

    /// Closes attempts that are over.
    pub fn close(&self, over: &[String]) {
        let mut attempts = self.attempts.lock();
        for attempt in over {
            attempts.close(attempt);
        }
    }

    /// Closes attempts that nobody claims in.
    pub fn close_idle(&self, now: Instant) {
        let mut attempts = self.attempts.lock();
        let is_idle = |page: &Page| now.saturating_duration_since(*page.used.lock()) >= IDLE;
        let idle: Vec<String> = attempts
            .open
            .iter()
            .filter(|(_, page)| is_idle(page))
            .map(|(attempt, _)| attempt.clone())
            .collect();
        for attempt in idle {
            attempts.close(&attempt);
        }
    }

    /// Memory that claims take now.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let attempts = self.attempts.lock();
        attempts
            .open
            .values()
            .map(|page| page.bytes.load(Ordering::Relaxed))
            .sum()
    }

    fn page(&self, attempt: &str, now: Instant) -> Result<Arc<Page>, ClaimError> {
        let mut attempts = self.attempts.lock();
        if let Some(page) = attempts.open.get(attempt) {
            *page.used.lock() = now;
            return Ok(Arc::clone(page));
        }
        if attempts.closed.contains(attempt) {
            let attempt = attempt.to_owned();
            return Err(ClaimError::Over { attempt });
        }
        let page = Arc::new(Page::new(now));
        attempts.open.insert(attempt.to_owned(), Arc::clone(&page));
        Ok(page)
    }
}
