//! What passed through each step of a process and what is held, for its metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::plan::Step;

/// Tells what is held at this moment.
type Gauge = Box<dyn Fn() -> Held + Send + Sync>;

/// Counts of every step since the process began.
#[derive(Default)]
pub struct StepCounters {
    steps: [Counts; Step::ALL.len()],
    held: Mutex<Option<Gauge>>,
    waiting: Arc<AtomicUsize>,
}

impl std::fmt::Debug for StepCounters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StepCounters")
            .field("steps", &self.steps)
            .finish_non_exhaustive()
    }
}

/// Bytes that a process holds at a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// By the claims of attempts at work.
    pub claims: usize,
    /// By committed keys that are cached.
    pub keys: usize,
    /// By rows that wait to be written.
    pub rows: usize,
}

#[derive(Debug, Default)]
struct Counts {
    rows: AtomicU64,
    bytes: AtomicU64,
    cpu_nanos: AtomicU64,
}

/// One step's counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepCount {
    /// The step.
    pub step: Step,
    /// Rows that it gave (for the scan of lines: chunks).
    pub rows: u64,
    /// For the scan: bytes of what it read.
    pub bytes: u64,
    /// Time that it computed, in nanoseconds, where the operator measures it.
    pub cpu_nanos: u64,
}

impl StepCounters {
    pub(super) fn add(&self, step: Step, rows: usize, bytes: usize) {
        if let Some(counts) = self.steps.get(step as usize) {
            counts.rows.fetch_add(rows as u64, Ordering::Relaxed);
            counts.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    pub(super) fn add_cpu(&self, step: Step, nanos: usize) {
        if let Some(counts) = self.steps.get(step as usize) {
            counts.cpu_nanos.fetch_add(nanos as u64, Ordering::Relaxed);
        }
    }

    /// Asks this for what is held, instead of whoever was asked before.
    pub fn watch_memory(&self, held: impl Fn() -> Held + Send + Sync + 'static) {
        *self.held.lock() = Some(Box::new(held));
    }

    /// What is held at this moment.
    #[must_use]
    pub fn held(&self) -> Held {
        let held = self.held.lock().as_ref().map(|held| held());
        Held {
            rows: self.waiting.load(Ordering::Relaxed),
            ..held.unwrap_or_default()
        }
    }

    /// Where sinks say what they hold.
    pub(super) fn waiting(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.waiting)
    }

    /// All steps, in the order of the walk.
    pub fn read(&self) -> impl Iterator<Item = StepCount> {
        let read = |(step, counts): (Step, &Counts)| StepCount {
            step,
            rows: counts.rows.load(Ordering::Relaxed),
            bytes: counts.bytes.load(Ordering::Relaxed),
            cpu_nanos: counts.cpu_nanos.load(Ordering::Relaxed),
        };
        Step::ALL.into_iter().zip(&self.steps).map(read)
    }
}
