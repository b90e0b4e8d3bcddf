//! The way of a batch under every interleaving that a seed can think of.
//!
//! The real [`Batches`](crate::lifecycle::Batches), commit, planning and fold run over a model of etcd's
//! transactions and a model of the lake. Every request to either is a point where the scheduler may let another
//! leader go on, stop this one (it wakes later, stale), kill it, lose the response, or deliver the request only
//! after its sender is gone. There is no clock and no thread: a seed is one history, and it is printed when an
//! invariant does not hold.
//!
//! | invariant | where it is checked                                                                    |
//! |-----------|----------------------------------------------------------------------------------------|
//! | 1         | a batch's positions never change, no position is planned twice                         |
//! | 2         | the fold takes every entry: none is of a writer that was replaced                      |
//! | 3         | no object name is written twice; nothing that a manifest names is swept               |
//! | 4         | when a commit is appended its manifest lies in the lake, with that digest; it never changes |
//! | 6         | the counts of every manifest add up, to every position that there is                   |
//! | 7         | no key is written twice in an hour; every key that was accepted is written, and there still unless it expired |
//!
//! Beside them: batches are committed in the order in which they were planned, also where one is read while the one before is
//! being committed, and what is committed then is the attempt that was read behind; compactions and expiries are planned when
//! nothing is open, lose no row and double none; what is swept is gone, and nothing else. Snapshots and quality states are erased
//! between batches: no later batch looks up in one, and none that was not erased is missing.
//!
//! A model that breaks no broken system proves nothing: with the guard or the conditional put switched off the
//! same seeds must find a broken invariant.

mod check;
mod lake;
mod leader;
mod store;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use lake::ModelLake;
use store::Store;

/// What is switched off to see whether the checks would notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// Appends of leaders that were replaced are taken, at the next free place.
    Guard,
    /// A manifest that is there is written over.
    PutIfAbsent,
    /// An attempt has the name of the one before it.
    AttemptNames,
    /// A batch that is read ahead does not wait for the keys of the one before it.
    AheadKeys,
    /// A compaction writes another key in the place of one.
    CompactedKeys,
    /// What was erased is written again under the key that it had.
    ErasedKeys,
}

/// Steps in which faults happen; after them whoever leads finishes.
const STORMY: u32 = 520;
/// Steps after which a history that has not come to its end is stuck.
const STUCK: u32 = 40_000;
/// Steps that a lease lasts when its holder is not running.
const LEASE: u32 = 12;
const LEADERS: usize = 3;

/// What the leaders, the models and the scheduler share.
struct World {
    random: Mutex<Random>,
    store: Mutex<Store>,
    lake: Arc<ModelLake>,
    broken: Broken,
}

impl World {
    fn chance(&self, one_in: u64) -> bool {
        self.store.lock().stormy && self.random.lock().below(one_in) == 0
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// Lets the scheduler decide who goes on.
async fn step() {
    let mut stepped = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut stepped, true) {
            Poll::Ready(())
        } else {
            // The scheduler polls whom it likes; futures that wait side by side in one process are polled when they wake.
            context.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await;
}

type Running = Pin<Box<dyn Future<Output = bool> + Send>>;

struct Process {
    running: Running,
    id: u64,
    paused_until: u32,
}

/// What a history had in it.
#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    kills: u32,
    pauses: u32,
    leaders: u64,
    late: u32,
    fenced: u32,
    adopted: u32,
    ahead: u64,
    two_open: u64,
    compacted: u64,
    upkeep_left: u64,
    expired: u64,
    erased: u64,
}

impl Seen {
    /// What the store has seen, beside what happened to leaders.
    fn of(self, store: &Store) -> Self {
        Self {
            late: store.late,
            fenced: store.fenced,
            leaders: store.epochs,
            adopted: store.adopted,
            ahead: store.ahead,
            two_open: store.two_open,
            compacted: store.compacted,
            upkeep_left: store.upkeep_left,
            expired: store.expired,
            erased: store.erased,
            ..self
        }
    }

    fn add(&mut self, one: &Self) {
        self.kills += one.kills;
        self.pauses += one.pauses;
        self.leaders += one.leaders;
        self.late += one.late;
        self.fenced += one.fenced;
        self.adopted += one.adopted;
        self.ahead += one.ahead;
        self.two_open += one.two_open;
        self.compacted += one.compacted;
        self.upkeep_left += one.upkeep_left;
        self.expired += one.expired;
        self.erased += one.erased;
    }
}

struct History {
    world: Arc<World>,
    processes: Vec<Process>,
    started: u64,
    seen: Seen,
}

impl History {
    fn new(seed: u64, broken: Broken) -> Self {
        let lake = Arc::new(ModelLake::new(broken));
        let world = Arc::new(World {
            random: Mutex::new(Random(seed)),
            store: Mutex::new(Store::new(Arc::clone(&lake), broken)),
            lake,
            broken,
        });
        let mut history = Self {
            world,
            processes: Vec::new(),
            started: 0,
            seen: Seen::default(),
        };
        for _ in 0..LEADERS {
            let process = history.start();
            history.processes.push(process);
        }
        history
    }

    fn start(&mut self) -> Process {
        self.started += 1;
        Process {
            running: Box::pin(leader::lead(Arc::clone(&self.world), self.started)),
            id: self.started,
            paused_until: 0,
        }
    }

    /// Runs until everything is committed; the first broken invariant is the error.
    fn run(mut self) -> Result<Seen, String> {
        let mut calm_done = 0;
        for now in 0..STUCK {
            if let Some(broken) = self.world.store.lock().fault.take() {
                return Err(broken);
            }
            if let Some(broken) = self.world.lake.fault() {
                return Err(broken);
            }
            if now == STORMY {
                self.world.store.lock().stormy = false;
            }
            if self.turn(now) && now > STORMY {
                calm_done += 1;
                // The others go on a while: a stale one may still wake, a late request still arrive.
                if calm_done > 2 * LEADERS as u32 {
                    let store = self.world.store.lock();
                    check::at_the_end(&store, &self.world.lake)?;
                    return Ok(self.seen.of(&store));
                }
            }
        }
        check::at_the_end(&self.world.store.lock(), &self.world.lake)?;
        Err("nobody came to the end".to_owned())
    }

    /// One step of somebody; true when a leader found nothing left to do.
    fn turn(&mut self, now: u32) -> bool {
        let n = self.world.random.lock().below(LEADERS as u64) as usize;
        if self.world.chance(30) {
            self.world.store.lock().deliver_late();
        }
        if self.processes[n].paused_until > now {
            let id = self.processes[n].id;
            self.world.store.lock().tick(id, false);
            return false;
        }
        if self.world.chance(40) {
            self.seen.kills += 1;
            self.processes[n] = self.start();
            return false;
        }
        if self.world.chance(40) {
            self.seen.pauses += 1;
            let asleep = self.world.random.lock().below(u64::from(10 * LEASE));
            self.processes[n].paused_until = now + 1 + asleep as u32;
            return false;
        }
        let process = &mut self.processes[n];
        self.world.store.lock().tick(process.id, true);
        let mut context = Context::from_waker(Waker::noop());
        match process.running.as_mut().poll(&mut context) {
            Poll::Pending => false,
            Poll::Ready(done) => {
                self.processes[n] = self.start();
                done
            }
        }
    }
}

fn run(seed: u64, broken: Broken) -> Result<Seen, String> {
    History::new(seed, broken).run()
}

/// Seeds of a run, some 8 ms each.
const SEEDS: std::ops::Range<u64> = 0..3_000;

#[test]
fn every_interleaving_keeps_the_invariants() {
    let begun = Instant::now();
    let mut total = Seen::default();
    for seed in SEEDS {
        match run(seed, Broken::Nothing) {
            Ok(seen) => total.add(&seen),
            Err(broken) => panic!("seed {seed}: {broken}"),
        }
    }
    println!("{} seeds in {:?}: {total:?}", SEEDS.end, begun.elapsed());
    // Each fault happened, often.
    for (what, count) in [
        ("kills", total.kills.into()),
        ("pauses", total.pauses.into()),
        ("late requests", total.late.into()),
        ("fenced appends", total.fenced.into()),
        ("adopted manifests", total.adopted.into()),
        ("batches read ahead", total.ahead),
        ("leaders that found two open batches", total.two_open),
        ("compactions", total.compacted),
        ("interrupted upkeep", total.upkeep_left),
        ("expiries", total.expired),
        ("erased snapshots and states", total.erased),
    ] {
        assert!(count > 1000, "only {count} {what}");
    }
    assert!(
        begun.elapsed() < Duration::from_secs(120),
        "too slow to be run often"
    );
}

#[test]
fn a_broken_system_is_found_out() {
    let all = [
        Broken::Guard,
        Broken::PutIfAbsent,
        Broken::AttemptNames,
        Broken::AheadKeys,
        Broken::CompactedKeys,
        Broken::ErasedKeys,
    ];
    for broken in all {
        let found = SEEDS
            .take(500)
            .find_map(|seed| Some((seed, run(seed, broken).err()?)));
        let (seed, fault) = found.unwrap_or_else(|| panic!("{broken:?} was not noticed"));
        println!("{broken:?}: seed {seed}: {fault}");
    }
}
