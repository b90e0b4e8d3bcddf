//! The leader's table of workers, fed by their heartbeats.
//!
//! In: `JoinCluster` every second, `DrainWorker` from operators. Out: who is alive and with how many slots. The
//! table lives in memory only: a new leader knows every worker again within a second.
//!
//! | the worker…                                        | in the table                                |
//! |-----------------------------------------------------|---------------------------------------------|
//! | speaks another protocol version                     | not taken in                                |
//! | was silent for [`SILENCE`]                          | dead: not listed, no slots; comes back by its next heartbeat |
//! | comes back under its name with another executor id  | is a new process: the drain asked of the old one is forgotten |
//! | is draining, by itself or on request                | listed, but gives no slots; stays until nobody needs what it holds |
//! | has a trouble of its own (a full disk)              | listed with it, but gives no slots          |
//!
//! The clock comes in as a value.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use millrace_pipeline::dedup::claims::Keeper;
use millrace_proto::v1::{self, PROTOCOL_VERSION, Worker, WorkerState};
use parking_lot::Mutex;

/// A worker that says nothing for so long is dead.
pub const SILENCE: Duration = Duration::from_secs(5);

/// How long workers are told of an attempt that is over.
const REMEMBERED: Duration = Duration::from_secs(60);

/// What a heartbeat is answered with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Welcome {
    /// The worker was asked to drain.
    pub drain: bool,
    /// It drains, and an attempt that runs may need what it holds: it stays.
    pub is_needed: bool,
    /// Attempts that are over, `<pipeline>/<batch>-<attempt>`: their tasks may stop, their claims be forgotten.
    pub over: Vec<String>,
}

/// Why a heartbeat was not taken.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum JoinError {
    /// Plans and reports of two versions do not fit together.
    #[error(
        "worker `{name}` speaks protocol version {theirs}, this coordinator {ours}; run the same release of both"
    )]
    Protocol {
        /// The worker.
        name: String,
        /// Its version.
        theirs: u32,
        /// Ours.
        ours: u32,
    },
    /// A heartbeat that says too little.
    #[error("the heartbeat's `{field}` is empty")]
    Incomplete {
        /// The field.
        field: &'static str,
    },
}

/// The table.
#[derive(Debug, Default)]
pub struct Workers {
    seats: Mutex<BTreeMap<String, Seat>>,
    /// Earlier processes of workers that started anew.
    replaced: Mutex<Vec<Worker>>,
    over: Mutex<VecDeque<(Instant, String)>>,
}

#[derive(Debug)]
struct Seat {
    worker: Worker,
    seen: Instant,
    drain: bool,
    /// Whether a running attempt may need what it holds: yes, until somebody has looked.
    is_needed: bool,
    /// Since when it has nothing to do.
    idle_since: Option<Instant>,
}

impl Seat {
    fn is_alive(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.seen) < SILENCE
    }

    fn is_draining(&self) -> bool {
        self.drain || self.worker.state() == WorkerState::Draining
    }

    fn is_ready(&self, now: Instant) -> bool {
        self.is_alive(now) && !self.is_draining() && self.worker.trouble.is_empty()
    }

    fn shown(&self) -> Worker {
        let mut worker = self.worker.clone();
        if self.drain {
            worker.set_state(WorkerState::Draining);
        }
        worker
    }
}

impl Workers {
    /// Takes a heartbeat in.
    ///
    /// # Errors
    /// When the worker speaks another protocol version, or does not say who it is.
    pub fn join(&self, request: v1::JoinClusterRequest, now: Instant) -> Result<Welcome, JoinError> {
        let mut worker = request.worker.unwrap_or_default();
        if request.protocol_version != PROTOCOL_VERSION {
            return Err(JoinError::Protocol {
                name: worker.name,
                theirs: request.protocol_version,
                ours: PROTOCOL_VERSION,
            });
        }
        for (field, value) in [
            ("worker.name", &worker.name),
            ("worker.executor_id", &worker.executor_id),
        ] {
            if value.is_empty() {
                return Err(JoinError::Incomplete { field });
            }
        }
        if worker.state() == WorkerState::Unspecified {
            worker.set_state(WorkerState::Ready);
        }
        worker.seen_time = Some(std::time::SystemTime::now().into());
        let mut seats = self.seats.lock();
        let name = worker.name.clone();
        let mut before = seats.remove(&name);
        if let Some(other) = before.take_if(|before| before.worker.executor_id != worker.executor_id) {
            self.replaced.lock().push(other.worker);
        }
        if before.is_none() {
            tracing::info!(worker = %name, executor = %worker.executor_id, "worker joined");
        }
        let idle = |before: &Seat| before.idle_since.unwrap_or(now);
        let mut seat = Seat {
            seen: now,
            drain: before.as_ref().is_some_and(|before| before.drain),
            is_needed: before.as_ref().is_none_or(|before| before.is_needed),
            idle_since: (worker.slots_busy == 0).then(|| before.as_ref().map_or(now, idle)),
            worker,
        };
        seat.is_needed |= !seat.is_draining();
        let welcome = Welcome {
            drain: seat.drain,
            is_needed: seat.is_draining() && seat.is_needed,
            over: self.over(now),
        };
        seats.insert(name, seat);
        Ok(welcome)
    }

    /// An attempt is over: workers are told so.
    pub fn end(&self, attempt: String, now: Instant) {
        self.over.lock().push_back((now, attempt));
    }

    fn over(&self, now: Instant) -> Vec<String> {
        let mut over = self.over.lock();
        over.retain(|(at, _)| now.saturating_duration_since(*at) < REMEMBERED);
        over.iter().map(|(_, attempt)| attempt.clone()).collect()
    }

    /// Who can keep claims: those who take tasks, or all that live where none does.
    pub fn keepers(&self, now: Instant) -> Vec<Keeper> {
        let seats = self.seats.lock();
        let of = |is: &dyn Fn(&Seat) -> bool| -> Vec<Keeper> {
            let chosen = seats.values().filter(|seat| is(seat));
            let keeper = |seat: &Seat| Keeper {
                executor_id: seat.worker.executor_id.clone(),
                address: seat.worker.address.clone(),
            };
            chosen.map(keeper).collect()
        };
        let ready = of(&|seat| seat.is_ready(now));
        if ready.is_empty() {
            of(&|seat| seat.is_alive(now))
        } else {
            ready
        }
    }

    /// The first of these that is gone.
    pub fn gone<'a>(&self, keepers: &'a [Keeper], now: Instant) -> Option<&'a Keeper> {
        let seats = self.seats.lock();
        let alive = seats.values().filter(|seat| seat.is_alive(now));
        let alive: HashSet<&str> = alive.map(|seat| seat.worker.executor_id.as_str()).collect();
        keepers
            .iter()
            .find(|keeper| !alive.contains(keeper.executor_id.as_str()))
    }

    /// Whether the worker of this executor id may be given tasks. One that drains or has a trouble may while no other is
    /// there: what runs can end.
    pub fn takes_tasks(&self, executor_id: &str, now: Instant) -> bool {
        let seats = self.seats.lock();
        let of = |seat: &&Seat| seat.worker.executor_id == executor_id;
        seats.values().find(of).is_none_or(|seat| seat.is_ready(now))
            || !seats.values().any(|seat| seat.is_ready(now))
    }

    /// Executor ids of those that drain.
    pub fn leaving(&self) -> Vec<String> {
        let seats = self.seats.lock();
        let leaving = seats.values().filter(|seat| seat.is_draining());
        leaving.map(|seat| seat.worker.executor_id.clone()).collect()
    }

    /// Notes whether a running attempt needs what a worker that drains holds.
    pub fn is_needed(&self, executor_id: &str, is_needed: bool) {
        let mut seats = self.seats.lock();
        let of = |seat: &&mut Seat| seat.worker.executor_id == executor_id;
        if let Some(seat) = seats.values_mut().find(of) {
            seat.is_needed = is_needed;
        }
    }

    /// How long a worker has had nothing to do, as far as it says so.
    pub fn idle_for(&self, executor_id: &str, now: Instant) -> Option<Duration> {
        let seats = self.seats.lock();
        let of = |seat: &&Seat| seat.worker.executor_id == executor_id && seat.is_alive(now);
        let since = seats.values().find(of)?.idle_since?;
        Some(now.saturating_duration_since(since))
    }

    /// Asks a worker to drain; its next heartbeat is told. None if there is no such worker.
    pub fn drain(&self, name: &str, now: Instant) -> Option<Worker> {
        let mut seats = self.seats.lock();
        let seat = seats.get_mut(name).filter(|seat| seat.is_alive(now))?;
        seat.drain = true;
        Some(seat.shown())
    }

    /// Every living worker, by name.
    pub fn alive(&self, now: Instant) -> Vec<Worker> {
        let seats = self.seats.lock();
        seats
            .values()
            .filter(|seat| seat.is_alive(now))
            .map(Seat::shown)
            .collect()
    }

    /// Whether the process of this executor id is alive.
    pub fn is_alive(&self, executor_id: &str, now: Instant) -> bool {
        let seats = self.seats.lock();
        seats
            .values()
            .any(|seat| seat.worker.executor_id == executor_id && seat.is_alive(now))
    }

    /// Slots of workers that take tasks.
    pub fn slots(&self, now: Instant) -> u32 {
        let seats = self.seats.lock();
        seats
            .values()
            .filter(|seat| seat.is_ready(now))
            .map(|seat| seat.worker.slots)
            .sum()
    }

    /// Takes the dead out of the table and names them, each once; those whom a new process has replaced as well.
    pub fn bury(&self, now: Instant) -> Vec<Worker> {
        let mut seats = self.seats.lock();
        let dead: Vec<String> = seats
            .iter()
            .filter(|(_, seat)| !seat.is_alive(now))
            .map(|(name, _)| name.clone())
            .collect();
        let mut buried: Vec<Worker> = dead
            .iter()
            .filter_map(|name| seats.remove(name))
            .map(|seat| seat.worker)
            .collect();
        for worker in &buried {
            tracing::warn!(worker = %worker.name, executor = %worker.executor_id, "worker is taken for dead");
        }
        // They said so themselves when they joined again: nobody is missing.
        buried.append(&mut self.replaced.lock());
        buried
    }

    /// Forgets everybody: what a coordinator does that does not lead any more.
    pub fn clear(&self) {
        self.seats.lock().clear();
        self.replaced.lock().clear();
        self.over.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn beat(name: &str, executor: &str) -> v1::JoinClusterRequest {
        v1::JoinClusterRequest {
            protocol_version: PROTOCOL_VERSION,
            worker: Some(Worker {
                name: name.to_owned(),
                executor_id: executor.to_owned(),
                slots: 2,
                ..Worker::default()
            }),
        }
    }

    #[test]
    fn a_silent_worker_is_dead_until_it_speaks_again() {
        let (table, start) = (Workers::default(), Instant::now());
        table.join(beat("w1", "a"), start).unwrap();
        table
            .join(beat("w2", "b"), start + Duration::from_secs(3))
            .unwrap();
        let later = start + SILENCE;
        assert_eq!(table.slots(later), 2);
        assert!(!table.is_alive("a", later) && table.is_alive("b", later));
        assert_eq!(
            table
                .bury(later)
                .iter()
                .map(|worker| &worker.name)
                .collect::<Vec<_>>(),
            ["w1"]
        );
        assert!(table.bury(later).is_empty());
        table.join(beat("w1", "a"), later).unwrap();
        assert_eq!(table.slots(later), 4);
    }

    #[test]
    fn a_drained_worker_is_told_and_gives_no_slots_until_it_starts_anew() {
        let (table, now) = (Workers::default(), Instant::now());
        assert!(table.drain("w1", now).is_none());
        assert!(!table.join(beat("w1", "a"), now).unwrap().drain);
        assert_eq!(table.drain("w1", now).unwrap().state(), WorkerState::Draining);
        assert!(table.join(beat("w1", "a"), now).unwrap().drain);
        assert_eq!((table.slots(now), table.alive(now).len()), (0, 1));
        assert!(!table.join(beat("w1", "b"), now).unwrap().drain);
        assert_eq!(table.slots(now), 2);
        let buried = table.bury(now);
        assert_eq!(
            buried.first().map(|worker| worker.executor_id.as_str()),
            Some("a")
        );
    }

    #[test]
    fn a_worker_that_drains_is_needed_until_somebody_has_looked() {
        let (table, now) = (Workers::default(), Instant::now());
        assert!(!table.join(beat("w1", "a"), now).unwrap().is_needed);
        // What was found before it drained says nothing about now.
        table.is_needed("a", false);
        table.join(beat("w1", "a"), now).unwrap();
        table.drain("w1", now).unwrap();
        assert!(table.join(beat("w1", "a"), now).unwrap().is_needed);
        assert_eq!(table.leaving(), ["a"]);
        table.is_needed("a", false);
        assert!(!table.join(beat("w1", "a"), now).unwrap().is_needed);
    }

    #[test]
    fn who_drains_or_has_a_trouble_takes_tasks_only_while_nobody_else_does() {
        let (table, now) = (Workers::default(), Instant::now());
        assert!(table.takes_tasks("not heard of yet", now));
        table.join(beat("w1", "a"), now).unwrap();
        table.join(beat("w2", "b"), now).unwrap();
        table.drain("w1", now).unwrap();
        assert!(!table.takes_tasks("a", now) && table.takes_tasks("b", now));
        let mut full = beat("w2", "b");
        full.worker.as_mut().unwrap().trouble = "its disk is full".to_owned();
        table.join(full, now).unwrap();
        assert!(table.takes_tasks("a", now) && table.takes_tasks("b", now));
        assert_eq!(table.slots(now), 0);
    }

    #[test]
    fn attempts_that_are_over_are_told_for_a_while() {
        let (table, now) = (Workers::default(), Instant::now());
        table.end("shop/b1-7.1".to_owned(), now);
        assert_eq!(table.join(beat("w1", "a"), now).unwrap().over, ["shop/b1-7.1"]);
        let later = now + REMEMBERED;
        assert_eq!(table.join(beat("w1", "a"), later).unwrap().over.len(), 0);
    }

    #[test]
    fn a_worker_is_idle_since_it_first_said_so() {
        let (table, start) = (Workers::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        table.join(beat("w1", "a"), start).unwrap();
        table.join(beat("w1", "a"), at(2)).unwrap();
        assert_eq!(table.idle_for("a", at(3)), Some(Duration::from_secs(3)));
        let mut busy = beat("w1", "a");
        busy.worker.as_mut().unwrap().slots_busy = 1;
        table.join(busy, at(3)).unwrap();
        assert_eq!(table.idle_for("a", at(3)), None);
    }

    #[test]
    fn another_protocol_version_is_refused_with_both() {
        let mut other = beat("w1", "a");
        other.protocol_version += 1;
        let refused = Workers::default()
            .join(other, Instant::now())
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains(&PROTOCOL_VERSION.to_string())
                && refused.contains(&(PROTOCOL_VERSION + 1).to_string())
        );
        let nameless = Workers::default().join(beat("", "a"), Instant::now());
        assert_eq!(nameless, Err(JoinError::Incomplete { field: "worker.name" }));
    }

    proptest! {
        #[test]
        fn slots_are_those_of_workers_heard_within_the_silence(beats in prop::collection::vec((0u8..4, 0u64..3000), 0..60)) {
            let (table, start) = (Workers::default(), Instant::now());
            let (mut at, mut heard) = (start, [None; 4]);
            for (who, gap) in beats {
                at += Duration::from_millis(gap);
                table.join(beat(&format!("w{who}"), "x"), at).unwrap();
                heard[usize::from(who)] = Some(at);
            }
            let alive = heard.iter().flatten().filter(|seen| at.duration_since(**seen) < SILENCE).count();
            prop_assert_eq!(table.slots(at) as usize, 2 * alive);
        }
    }
}
