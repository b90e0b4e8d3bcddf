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
//! | is draining, by itself or on request                | listed, but gives no slots                  |
//!
//! The clock comes in as a value.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use millrace_proto::v1::{self, PROTOCOL_VERSION, Worker, WorkerState};
use parking_lot::Mutex;

/// A worker that says nothing for so long is dead.
pub const SILENCE: Duration = Duration::from_secs(5);

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
pub struct Workers(Mutex<BTreeMap<String, Seat>>);

#[derive(Debug)]
struct Seat {
    worker: Worker,
    seen: Instant,
    drain: bool,
}

impl Seat {
    fn is_alive(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.seen) < SILENCE
    }

    fn is_ready(&self, now: Instant) -> bool {
        self.is_alive(now) && self.worker.state() == WorkerState::Ready && !self.drain
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
    /// Takes a heartbeat in; says whether the worker was asked to drain.
    ///
    /// # Errors
    /// When the worker speaks another protocol version, or does not say who it is.
    pub fn join(&self, request: v1::JoinClusterRequest, now: Instant) -> Result<bool, JoinError> {
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
        let mut seats = self.0.lock();
        let drain = seats
            .get(&worker.name)
            .is_some_and(|before| before.drain && before.worker.executor_id == worker.executor_id);
        let name = worker.name.clone();
        let seat = Seat {
            worker,
            seen: now,
            drain,
        };
        if seats.insert(name.clone(), seat).is_none() {
            tracing::info!(worker = %name, "worker joined");
        }
        Ok(drain)
    }

    /// Asks a worker to drain; its next heartbeat is told. None if there is no such worker.
    pub fn drain(&self, name: &str, now: Instant) -> Option<Worker> {
        let mut seats = self.0.lock();
        let seat = seats.get_mut(name).filter(|seat| seat.is_alive(now))?;
        seat.drain = true;
        Some(seat.shown())
    }

    /// Every living worker, by name.
    pub fn alive(&self, now: Instant) -> Vec<Worker> {
        let seats = self.0.lock();
        seats
            .values()
            .filter(|seat| seat.is_alive(now))
            .map(Seat::shown)
            .collect()
    }

    /// Whether the process of this executor id is alive.
    pub fn is_alive(&self, executor_id: &str, now: Instant) -> bool {
        let seats = self.0.lock();
        seats
            .values()
            .any(|seat| seat.worker.executor_id == executor_id && seat.is_alive(now))
    }

    /// Slots of workers that take tasks.
    pub fn slots(&self, now: Instant) -> u32 {
        let seats = self.0.lock();
        seats
            .values()
            .filter(|seat| seat.is_ready(now))
            .map(|seat| seat.worker.slots)
            .sum()
    }

    /// Takes the dead out of the table and names them, each once.
    pub fn bury(&self, now: Instant) -> Vec<Worker> {
        let mut seats = self.0.lock();
        let dead: Vec<String> = seats
            .iter()
            .filter(|(_, seat)| !seat.is_alive(now))
            .map(|(name, _)| name.clone())
            .collect();
        let buried: Vec<Worker> = dead
            .iter()
            .filter_map(|name| seats.remove(name))
            .map(|seat| seat.worker)
            .collect();
        for worker in &buried {
            tracing::warn!(worker = %worker.name, executor = %worker.executor_id, "worker is silent: taken for dead");
        }
        buried
    }

    /// Forgets everybody: what a coordinator does that does not lead any more.
    pub fn clear(&self) {
        self.0.lock().clear();
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
        assert!(!table.join(beat("w1", "a"), now).unwrap());
        assert_eq!(table.drain("w1", now).unwrap().state(), WorkerState::Draining);
        assert!(table.join(beat("w1", "a"), now).unwrap());
        assert_eq!((table.slots(now), table.alive(now).len()), (0, 1));
        assert!(!table.join(beat("w1", "b"), now).unwrap());
        assert_eq!(table.slots(now), 2);
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
