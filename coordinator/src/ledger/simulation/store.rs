//! The model of etcd: a leader's key under a lease, and a ledger whose appends compare key and place.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use millrace_proto::ids::PipelineName;

use super::lake::ModelLake;
use super::{Broken, LEASE, World, check, step};
use crate::ledger::{Entry, FencedBy, Ledger, LedgerError, State};

/// One append as it is sent; the same one may arrive more than once.
#[derive(Debug, Clone)]
pub(super) struct Append {
    pub(super) epoch: u64,
    place: usize,
    /// Handle and number: recognises its own.
    by: (u64, u64),
    pub(super) entries: Vec<Entry>,
}

pub(super) struct Store {
    /// Epoch and holder of the leader's key.
    leader: Option<(u64, u64)>,
    idle: u32,
    pub(super) epochs: u64,
    pub(super) places: Vec<Append>,
    pub(super) state: State,
    /// Requests whose sender got no answer and which arrive later.
    waiting: Vec<Append>,
    pub(super) late: u32,
    pub(super) fenced: u32,
    pub(super) adopted: u32,
    /// Batches that were read while the one before was committed, leaders that found two of them.
    pub(super) ahead: u64,
    pub(super) two_open: u64,
    /// Compactions, those that were found interrupted, expiries, and erased objects.
    pub(super) compacted: u64,
    pub(super) upkeep_left: u64,
    pub(super) expired: u64,
    pub(super) erased: u64,
    pub(super) stormy: bool,
    pub(super) fault: Option<String>,
    lake: Arc<ModelLake>,
    broken: Broken,
}

enum Answer {
    Applied,
    Taken,
    Replaced,
}

impl Store {
    pub(super) fn new(lake: Arc<ModelLake>, broken: Broken) -> Self {
        Self {
            leader: None,
            idle: 0,
            epochs: 0,
            places: Vec::new(),
            state: State::default(),
            waiting: Vec::new(),
            late: 0,
            fenced: 0,
            adopted: 0,
            ahead: 0,
            two_open: 0,
            compacted: 0,
            upkeep_left: 0,
            expired: 0,
            erased: 0,
            stormy: true,
            fault: None,
            lake,
            broken,
        }
    }

    /// A step passes; the lease lasts while its holder runs.
    pub(super) fn tick(&mut self, process: u64, runs: bool) {
        match self.leader {
            Some((_, holder)) if holder == process && runs => self.idle = 0,
            Some(_) => {
                self.idle += 1;
                if self.idle > LEASE {
                    self.leader = None;
                }
            }
            None => {}
        }
    }

    /// Takes the leader's key if nobody has it.
    pub(super) fn campaign(&mut self, process: u64) -> Option<u64> {
        if self.leader.is_some() {
            return None;
        }
        self.epochs += 1;
        self.idle = 0;
        self.leader = Some((self.epochs, process));
        Some(self.epochs)
    }

    pub(super) fn resign(&mut self, epoch: u64) {
        if self.leader.is_some_and(|(current, _)| current == epoch) {
            self.leader = None;
        }
    }

    /// One of the requests that nobody waits for any more arrives.
    pub(super) fn deliver_late(&mut self) {
        if !self.waiting.is_empty() {
            let append = self.waiting.remove(0);
            self.late += 1;
            self.request(append);
        }
    }

    fn request(&mut self, mut append: Append) -> Answer {
        let guarded = self.broken != Broken::Guard;
        if let Some(there) = self.places.get(append.place) {
            if there.by == append.by {
                return Answer::Applied;
            }
            if guarded {
                return Answer::Taken;
            }
            append.place = self.places.len();
        }
        let current = self.leader.map(|(epoch, _)| epoch);
        if guarded && current != Some(append.epoch) {
            return Answer::Replaced;
        }
        if let Err(fault) = check::at_an_append(&self.state, &append, &self.lake) {
            self.fault.get_or_insert(fault);
        }
        self.state = append
            .entries
            .iter()
            .fold(std::mem::take(&mut self.state), State::next);
        self.places.push(append);
        Answer::Applied
    }
}

/// A handle on the model, as `EtcdLedger` is one on etcd.
pub(super) struct ModelLedger {
    world: Arc<World>,
    epoch: u64,
    handle: u64,
    appends: u64,
    place: usize,
    state: State,
}

impl ModelLedger {
    pub(super) async fn open(world: &Arc<World>, epoch: u64) -> Result<Self, LedgerError> {
        loop {
            step().await;
            let handle = world.random.lock().next();
            let (place, state) = {
                let store = world.store.lock();
                (store.places.len(), store.state.clone())
            };
            let mut ledger = Self {
                world: Arc::clone(world),
                epoch,
                handle,
                appends: 0,
                place,
                state,
            };
            let opened = Entry::Opened {
                pipeline: PipelineName::try_from("p".to_owned()).unwrap(),
                epoch: Some(epoch),
            };
            match ledger.put(vec![opened]).await {
                Err(LedgerError::Fenced {
                    by: FencedBy::Place, ..
                }) => {}
                done => return done.map(|()| ledger),
            }
        }
    }

    async fn put(&mut self, entries: Vec<Entry>) -> Result<(), LedgerError> {
        self.appends += 1;
        let append = Append {
            epoch: self.epoch,
            place: self.place,
            by: (self.handle, self.appends),
            entries,
        };
        let place = self.place as u64;
        for _ in 0..3 {
            step().await;
            if self.world.chance(25) {
                // It is on its way; the answer will not come.
                self.world.store.lock().waiting.push(append.clone());
                continue;
            }
            let answer = self.world.store.lock().request(append.clone());
            step().await;
            if self.world.chance(25) {
                continue;
            }
            let by = match answer {
                Answer::Applied => {
                    self.place += 1;
                    self.state = append
                        .entries
                        .iter()
                        .fold(std::mem::take(&mut self.state), State::next);
                    return Ok(());
                }
                Answer::Taken => FencedBy::Place,
                Answer::Replaced => FencedBy::Epoch { ours: self.epoch },
            };
            self.world.store.lock().fenced += 1;
            return Err(LedgerError::Fenced { place, by });
        }
        Err(LedgerError::Unknown { place, source: None })
    }
}

impl Ledger for ModelLedger {
    fn state(&self) -> &State {
        &self.state
    }

    fn epoch(&self) -> u64 {
        self.epoch
    }

    fn append(&mut self, entries: Vec<Entry>) -> BoxFuture<'_, Result<(), LedgerError>> {
        self.put(entries).boxed()
    }
}
