//! What lookups count: how old their snapshots are, what they do not find, what keeps new snapshots from being taken.
//!
//! The age is told at the moment of the scrape, by the coordinator that leads: it grows while no batch runs, and while the
//! database is down.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Registry, Unit};

use super::Labels;
use super::scrape::now;

/// When the snapshot in use was taken, in seconds since 1970, by pipeline and lookup.
type Taken = Arc<Mutex<BTreeMap<(String, String), f64>>>;

/// The counts of all lookups of a process. Cheap to clone.
#[derive(Clone, Default)]
pub struct EnrichMetrics {
    taken: Taken,
    unmatched: Family<Labels, Counter>,
    failures: Family<Labels, Counter>,
    waiting: Family<Labels, Gauge>,
}

fn of(pipeline: &str, lookup: &str) -> Labels {
    vec![("pipeline", pipeline.to_owned()), ("lookup", lookup.to_owned())]
}

impl EnrichMetrics {
    /// Adds these counts to a registry.
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "millrace_enrich_unmatched_events",
            "Events read in committed batches whose key a lookup did not find",
            self.unmatched.clone(),
        );
        registry.register(
            "millrace_enrich_failures",
            "Tries to take a snapshot of a lookup's table that failed",
            self.failures.clone(),
        );
        registry.register(
            "millrace_enrich_waiting",
            "1 while a batch waits for a snapshot of a lookup's table",
            self.waiting.clone(),
        );
        registry.register_collector(Box::new(Age(Arc::clone(&self.taken))));
    }

    /// A batch uses the snapshot that was taken at this time, in microseconds since 1970.
    pub fn uses(&self, pipeline: &str, lookup: &str, taken_us: i64) {
        #[expect(clippy::cast_precision_loss, reason = "a metric")]
        let seconds = taken_us as f64 / 1e6;
        let lookup = (pipeline.to_owned(), lookup.to_owned());
        self.taken.lock().insert(lookup, seconds);
    }

    /// A batch waits for a snapshot, or no longer does.
    pub fn waits(&self, pipeline: &str, lookup: &str, waits: bool) {
        self.waiting
            .get_or_create(&of(pipeline, lookup))
            .set(i64::from(waits));
    }

    /// No batch is there any more that could wait.
    pub(crate) fn let_go(&self, pipeline: &str, lookup: &str) {
        self.waiting.remove(&of(pipeline, lookup));
    }

    /// No snapshot could be taken.
    pub fn failed(&self, pipeline: &str, lookup: &str) {
        self.failures.get_or_create(&of(pipeline, lookup)).inc();
    }

    /// Keys that were not found in a committed batch.
    pub fn unmatched(&self, pipeline: &str, lookup: &str, events: u64) {
        self.unmatched.get_or_create(&of(pipeline, lookup)).inc_by(events);
    }

    /// This process no longer leads.
    pub(super) fn forget(&self) {
        self.taken.lock().clear();
        self.waiting.clear();
    }
}

struct Age(Taken);

impl fmt::Debug for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Age")
    }
}

impl Collector for Age {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let kind = ConstGauge::new(0.0_f64).metric_type();
        let help = "Age of the snapshot that a lookup's last batch used.";
        let mut ages =
            encoder.encode_descriptor("millrace_enrich_snapshot_age", help, Some(&Unit::Seconds), kind)?;
        let now = now();
        for ((pipeline, lookup), taken) in self.0.lock().iter() {
            let labels = [("pipeline", pipeline.as_str()), ("lookup", lookup.as_str())];
            ConstGauge::new((now - taken).max(0.0)).encode(ages.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
