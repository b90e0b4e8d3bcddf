//! What a worker counts.
//!
//! | metric                                   | meaning                                                    |
//! |-------------------------------------------|-------------------------------------------------------------|
//! | `millrace_worker_slots{state}`            | task slots, `busy` and `free`                               |
//! | `millrace_worker_leader_epoch`            | epoch of the leader that it follows; 0 for none             |
//! | `millrace_step_rows_total{step}`          | rows that each step gave (the scan of lines: chunks)        |
//! | `millrace_step_compute_seconds_total{step}` | time that each step computed                              |
//! | `millrace_read_bytes_total`               | bytes of input                                              |

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use millrace_pipeline::codec::StepCounters;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

/// The counts of one worker.
#[derive(Debug, Default)]
pub struct WorkerMetrics {
    /// What passed through each step.
    pub steps: Arc<StepCounters>,
    slots: AtomicU64,
    busy: AtomicU64,
    epoch: AtomicU64,
}

impl WorkerMetrics {
    pub(crate) fn slots(&self, slots: usize, busy: usize) {
        self.slots.store(slots as u64, Ordering::Relaxed);
        self.busy.store(busy as u64, Ordering::Relaxed);
    }

    pub(crate) fn follows(&self, epoch: u64) {
        self.epoch.store(epoch, Ordering::Relaxed);
    }

    /// Whether it follows a leader.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.epoch.load(Ordering::Relaxed) > 0
    }

    /// Adds these counts to a registry.
    pub fn register(self: &Arc<Self>, registry: &mut Registry) {
        registry.register_collector(Box::new(Scrape(Arc::clone(self))));
    }
}

#[derive(Debug)]
struct Scrape(Arc<WorkerMetrics>);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let busy = self.0.busy.load(Ordering::Relaxed);
        let free = self.0.slots.load(Ordering::Relaxed).saturating_sub(busy);
        let gauge = |value: u64| ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
        let kind = gauge(0).metric_type();
        let mut slots = encoder.encode_descriptor("millrace_worker_slots", "Task slots.", None, kind)?;
        for (state, value) in [("busy", busy), ("free", free)] {
            gauge(value).encode(slots.encode_family(&[("state", state)])?)?;
        }
        let epoch = gauge(self.0.epoch.load(Ordering::Relaxed));
        let help = "Epoch of the leader that is followed; 0 for none.";
        epoch.encode(encoder.encode_descriptor("millrace_worker_leader_epoch", help, None, kind)?)?;
        let counter = ConstCounter::new(0_u64).metric_type();
        let mut rows = encoder.encode_descriptor("millrace_step_rows", "Rows by step.", None, counter)?;
        for count in self.0.steps.read() {
            ConstCounter::new(count.rows).encode(rows.encode_family(&[("step", count.step.name())])?)?;
        }
        let help = "Time that each step computed.";
        let mut time =
            encoder.encode_descriptor("millrace_step_compute", help, Some(&Unit::Seconds), counter)?;
        for count in self.0.steps.read() {
            #[expect(clippy::cast_precision_loss, reason = "a metric")]
            let seconds = count.cpu_nanos as f64 / 1e9;
            ConstCounter::new(seconds).encode(time.encode_family(&[("step", count.step.name())])?)?;
        }
        let bytes: u64 = self.0.steps.read().map(|count| count.bytes).sum();
        let read =
            encoder.encode_descriptor("millrace_read", "Bytes of input.", Some(&Unit::Bytes), counter)?;
        ConstCounter::new(bytes).encode(read)
    }
}
