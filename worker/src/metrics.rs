//! What a worker counts. `deploy/metrics.md` lists every metric; a test holds it to what is served.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use millrace_pipeline::codec::StepCounters;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use crate::claims::ClaimCounts;

/// The counts of one worker.
#[derive(Debug, Default)]
pub struct WorkerMetrics {
    /// What passed through each step.
    pub steps: Arc<StepCounters>,
    claims: Arc<ClaimCounts>,
    slots: AtomicU64,
    busy: AtomicU64,
    epoch: AtomicU64,
    memory_bytes: AtomicU64,
    shuffle: AtomicU64,
}

impl WorkerMetrics {
    pub(crate) fn slots(&self, slots: usize, busy: usize) {
        self.slots.store(slots as u64, Ordering::Relaxed);
        self.busy.store(busy as u64, Ordering::Relaxed);
    }

    /// Where claims between workers are counted.
    pub(crate) fn claims(&self) -> Arc<ClaimCounts> {
        Arc::clone(&self.claims)
    }

    /// How much it may hold in rows and keys together.
    pub(crate) fn memory_bytes(&self, bytes: usize) {
        self.memory_bytes.store(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn shuffle_bytes(&self, bytes: u64) {
        self.shuffle.store(bytes, Ordering::Relaxed);
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
        let kind = gauge(0).metric_type();
        let mut slots = encoder.encode_descriptor("millrace_worker_slots", "Task slots.", None, kind)?;
        for (state, value) in [("busy", busy), ("free", free)] {
            gauge(value).encode(slots.encode_family(&[("state", state)])?)?;
        }
        let epoch = gauge(self.0.epoch.load(Ordering::Relaxed));
        let help = "Epoch of the leader that is followed; 0 for none.";
        epoch.encode(encoder.encode_descriptor("millrace_worker_leader_epoch", help, None, kind)?)?;
        let shuffle = gauge(self.0.shuffle.load(Ordering::Relaxed));
        let help = "Shuffle data on this worker's disk.";
        let unit = Some(&Unit::Bytes);
        shuffle.encode(encoder.encode_descriptor("millrace_worker_shuffle", help, unit, kind)?)?;
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
        ConstCounter::new(bytes).encode(read)?;
        self.claims(&mut encoder)?;
        self.memory(&mut encoder)
    }
}

fn gauge(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}

impl Scrape {
    fn claims(&self, encoder: &mut DescriptorEncoder<'_>) -> std::fmt::Result {
        let counter = ConstCounter::new(0_u64).metric_type();
        let (sent, taken) = self.0.claims.read();
        let help = "Keys that tasks here claimed with other workers.";
        let keys = encoder.encode_descriptor("millrace_claims_sent", help, None, counter)?;
        ConstCounter::new(sent).encode(keys)?;
        let help = "Keys that tasks of other workers claimed here.";
        let keys = encoder.encode_descriptor("millrace_claims_taken", help, None, counter)?;
        ConstCounter::new(taken).encode(keys)
    }

    fn memory(&self, encoder: &mut DescriptorEncoder<'_>) -> std::fmt::Result {
        let held = self.0.steps.held();
        let kind = gauge(0).metric_type();
        let help = "Memory held, by what holds it: cached keys, rows that wait to be written, claims of attempts at work.";
        let mut pools = encoder.encode_descriptor("millrace_memory_pool", help, Some(&Unit::Bytes), kind)?;
        for (pool, bytes) in [("keys", held.keys), ("rows", held.rows), ("claims", held.claims)] {
            gauge(bytes as u64).encode(pools.encode_family(&[("pool", pool)])?)?;
        }
        let help = "What keys and rows may take together.";
        let most = gauge(self.0.memory_bytes.load(Ordering::Relaxed));
        most.encode(encoder.encode_descriptor("millrace_memory_limit", help, Some(&Unit::Bytes), kind)?)
    }
}
