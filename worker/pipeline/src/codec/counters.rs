//! What passed through each step of a process, for its metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::plan::Step;

/// Counts of every step since the process began.
#[derive(Debug, Default)]
pub struct StepCounters {
    steps: [Counts; Step::ALL.len()],
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
