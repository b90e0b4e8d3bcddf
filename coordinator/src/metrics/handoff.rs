//! What the handoffs count: how far each warehouse is behind, what was loaded, what went wrong.
//!
//! | metric                                          | meaning                                                             |
//! |--------------------------------------------------|---------------------------------------------------------------------|
//! | `millrace_handoff_lag_seconds{pipeline}`         | since when the oldest batch waits that could be loaded; 0: none waits |
//! | `millrace_handoff_waiting_batches{pipeline}`     | batches that could be loaded                                         |
//! | `millrace_handoff_held_batches{pipeline}`        | batches that wait for a person                                       |
//! | `millrace_handoff_batches_total{pipeline}`       | batches loaded                                                       |
//! | `millrace_handoff_rows_total{pipeline}`          | their rows                                                           |
//! | `millrace_handoff_load_seconds{pipeline}`        | from reading a manifest to the warehouse's commit, by transaction    |
//! | `millrace_handoff_failures_total{pipeline,reason}` | rounds that failed: `connection`, `refused`, `credentials`, `conflict`, `resources`, `table`, `data`, `lake`, `configuration` |
//!
//! The first three are told by the coordinator that leads, and by no other: what is not looked at any more is forgotten.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::{Labels, Seconds, of, seconds, with};

/// How far a warehouse is behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Behind {
    /// Batches that could be loaded.
    pub waiting: usize,
    /// Batches that wait for a person.
    pub held: usize,
    /// When the oldest that could be loaded was committed.
    pub since: Option<SystemTime>,
}

/// The counts of all handoffs of a process. Cheap to clone.
#[derive(Clone)]
pub struct HandoffMetrics {
    behind: Arc<Mutex<BTreeMap<String, Behind>>>,
    batches: Family<Labels, Counter>,
    rows: Family<Labels, Counter>,
    loads: Family<Labels, Histogram, Seconds>,
    failures: Family<Labels, Counter>,
}

impl Default for HandoffMetrics {
    fn default() -> Self {
        Self {
            behind: Arc::default(),
            batches: Family::default(),
            rows: Family::default(),
            loads: Family::new_with_constructor(seconds()),
            failures: Family::default(),
        }
    }
}

impl HandoffMetrics {
    /// Adds these counts to a registry.
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "millrace_handoff_batches",
            "Batches loaded into warehouses",
            self.batches.clone(),
        );
        registry.register(
            "millrace_handoff_rows",
            "Rows loaded into warehouses",
            self.rows.clone(),
        );
        registry.register_with_unit(
            "millrace_handoff_load",
            "From reading a manifest to the warehouse's commit, by transaction",
            Unit::Seconds,
            self.loads.clone(),
        );
        registry.register(
            "millrace_handoff_failures",
            "Rounds of loads that failed, by what was in the way",
            self.failures.clone(),
        );
        registry.register_collector(Box::new(Lag(Arc::clone(&self.behind))));
    }

    /// How far a pipeline's warehouse is behind now.
    pub fn behind(&self, pipeline: &str, behind: Behind) {
        self.behind.lock().insert(pipeline.to_owned(), behind);
    }

    /// Nobody here looks at a pipeline any more.
    pub(crate) fn forget(&self, pipeline: &str) {
        self.behind.lock().remove(pipeline);
    }

    /// A batch was loaded.
    pub fn loaded(&self, pipeline: &str, rows: u64) {
        self.batches.get_or_create(&of(pipeline)).inc();
        self.rows.get_or_create(&of(pipeline)).inc_by(rows);
    }

    /// A transaction with its batches took so long.
    pub fn took(&self, pipeline: &str, took: Duration) {
        self.loads
            .get_or_create(&of(pipeline))
            .observe(took.as_secs_f64());
    }

    /// A round failed.
    pub fn failed(&self, pipeline: &str, reason: &'static str) {
        self.failures
            .get_or_create(&with(pipeline, "reason", reason))
            .inc();
    }
}

/// How far every warehouse is behind, at the moment of the scrape.
struct Lag(Arc<Mutex<BTreeMap<String, Behind>>>);

impl std::fmt::Debug for Lag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lag")
    }
}

/// A gauge that is told of every pipeline.
struct Told {
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    value: fn(&Behind) -> f64,
}

#[expect(clippy::cast_precision_loss, reason = "metrics")]
const TOLD: [Told; 3] = [
    Told {
        name: "millrace_handoff_lag",
        help: "Since when the oldest batch waits that could be loaded.",
        unit: Some(Unit::Seconds),
        value: |behind| {
            let waited = behind.since.and_then(|since| since.elapsed().ok());
            waited.unwrap_or_default().as_secs_f64()
        },
    },
    Told {
        name: "millrace_handoff_waiting_batches",
        help: "Batches that could be loaded.",
        unit: None,
        value: |behind| behind.waiting as f64,
    },
    Told {
        name: "millrace_handoff_held_batches",
        help: "Batches that wait for a person.",
        unit: None,
        value: |behind| behind.held as f64,
    },
];

impl Collector for Lag {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let all = self.0.lock().clone();
        for told in &TOLD {
            let kind = ConstGauge::new(0.0_f64).metric_type();
            let mut family = encoder.encode_descriptor(told.name, told.help, told.unit.as_ref(), kind)?;
            for (pipeline, behind) in &all {
                let labels = [("pipeline", pipeline.as_str())];
                ConstGauge::new((told.value)(behind)).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lag_counts_from_the_oldest_batch_and_a_pipeline_that_is_let_go_is_forgotten() {
        let (mut registry, metrics) = (Registry::default(), HandoffMetrics::default());
        metrics.register(&mut registry);
        let since = SystemTime::now() - Duration::from_secs(90);
        let behind = Behind {
            waiting: 3,
            held: 1,
            since: Some(since),
        };
        metrics.behind("shop", behind);
        let text = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            text
        };
        let value = |name: &str| {
            let text = text();
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        };
        let lag = value("millrace_handoff_lag_seconds{pipeline=\"shop\"}").unwrap();
        assert!((90.0..120.0).contains(&lag), "{lag}");
        assert_eq!(
            value("millrace_handoff_waiting_batches{pipeline=\"shop\"}"),
            Some(3.0)
        );
        metrics.forget("shop");
        assert_eq!(value("millrace_handoff_waiting_batches{pipeline=\"shop\"}"), None);
    }
}
