//! What a coordinator counts.
//!
//! | metric                                        | meaning                                                          |
//! |------------------------------------------------|--------------------------------------------------------------------|
//! | `millrace_leader`                              | 1 while this coordinator leads                                     |
//! | `millrace_leader_epoch`                        | its epoch; 0 while it follows                                      |
//! | `millrace_events_total{pipeline,outcome}`      | events committed: `read`, `written`, `duplicate`, `quarantined`, `late` |
//! | `millrace_written_bytes_total{pipeline}`       | bytes of committed data files                                      |
//! | `millrace_batches_total{pipeline,outcome}`     | batches `committed`, `held` by a breach, `dropped`                 |
//! | `millrace_attempts_failed_total{pipeline}`     | attempts that were not committed                                   |
//! | `millrace_lost_positions_total{pipeline,reason}` | input positions that can never be read                           |
//! | `millrace_batch_phase_seconds{phase}`          | time of `plan`, `run`, `publish` by batch                          |
//! | `millrace_freshness_seconds{pipeline}`         | from the newest committed event time to now                        |
//! | `millrace_lag_events{pipeline}`                | positions that a `follow` job has still to plan                    |
//! | `millrace_jobs{state}`                         | active jobs                                                        |
//! | `millrace_cluster_slots`                       | task slots of all workers                                          |

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use millrace_proto::manifest::SplitCounts;
use parking_lot::Mutex;

type Labels = Vec<(&'static str, String)>;
type Seconds = fn() -> Histogram;
/// Newest committed event time by pipeline, in seconds since 1970 UTC.
type Newest = Arc<Mutex<BTreeMap<String, f64>>>;

/// The counts of one coordinator. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    leader: Gauge,
    epoch: Gauge<i64, AtomicI64>,
    events: Family<Labels, Counter>,
    written_bytes: Family<Labels, Counter>,
    batches: Family<Labels, Counter>,
    attempts_failed: Family<Labels, Counter>,
    lost: Family<Labels, Counter>,
    phases: Family<Labels, Histogram, Seconds>,
    newest: Newest,
    lag: Family<Labels, Gauge>,
    jobs: Family<Labels, Gauge>,
    slots: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let seconds: Seconds = || Histogram::new([0.01, 0.05, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0]);
        Self {
            leader: Gauge::default(),
            epoch: Gauge::default(),
            events: Family::default(),
            written_bytes: Family::default(),
            batches: Family::default(),
            attempts_failed: Family::default(),
            lost: Family::default(),
            phases: Family::new_with_constructor(seconds),
            newest: Newest::default(),
            lag: Family::default(),
            jobs: Family::default(),
            slots: Gauge::default(),
        }
    }
}

fn of(pipeline: &str) -> Labels {
    vec![("pipeline", pipeline.to_owned())]
}

fn with(pipeline: &str, label: &'static str, value: &str) -> Labels {
    vec![("pipeline", pipeline.to_owned()), (label, value.to_owned())]
}

impl Metrics {
    /// Adds these counts to a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "millrace_leader",
            "1 while this coordinator leads.",
            self.leader.clone(),
        );
        registry.register(
            "millrace_leader_epoch",
            "Its epoch; 0 while it follows.",
            self.epoch.clone(),
        );
        registry.register("millrace_events", "Events committed.", self.events.clone());
        registry.register_with_unit(
            "millrace_written",
            "Bytes of committed data files.",
            Unit::Bytes,
            self.written_bytes.clone(),
        );
        registry.register(
            "millrace_batches",
            "Batches by what became of them.",
            self.batches.clone(),
        );
        registry.register(
            "millrace_attempts_failed",
            "Attempts that were not committed.",
            self.attempts_failed.clone(),
        );
        registry.register(
            "millrace_lost_positions",
            "Input positions that can never be read.",
            self.lost.clone(),
        );
        registry.register_with_unit(
            "millrace_batch_phase",
            "Time of a batch's phases.",
            Unit::Seconds,
            self.phases.clone(),
        );
        registry.register(
            "millrace_lag_events",
            "Positions still to be planned.",
            self.lag.clone(),
        );
        registry.register("millrace_jobs", "Active jobs.", self.jobs.clone());
        registry.register(
            "millrace_cluster_slots",
            "Task slots of all workers.",
            self.slots.clone(),
        );
        registry.register_collector(Box::new(Freshness(self.newest.clone())));
    }

    /// Whether it leads, and under which epoch.
    pub fn leads(&self, epoch: Option<u64>) {
        self.leader.set(i64::from(epoch.is_some()));
        self.epoch
            .set(epoch.and_then(|epoch| i64::try_from(epoch).ok()).unwrap_or(0));
    }

    /// Whether this coordinator leads now.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.leader.get() == 1
    }

    /// A batch was committed.
    pub fn committed(
        &self,
        pipeline: &str,
        counts: &SplitCounts,
        bytes: u64,
        newest_us: Option<i64>,
        held: bool,
    ) {
        let outcomes = [
            ("read", counts.read),
            ("written", counts.written),
            ("duplicate", counts.duplicates),
            ("quarantined", counts.quarantined),
            ("late", counts.late),
        ];
        for (outcome, events) in outcomes {
            self.events
                .get_or_create(&with(pipeline, "outcome", outcome))
                .inc_by(events);
        }
        self.written_bytes.get_or_create(&of(pipeline)).inc_by(bytes);
        self.batches
            .get_or_create(&with(pipeline, "outcome", "committed"))
            .inc();
        if held {
            self.batches
                .get_or_create(&with(pipeline, "outcome", "held"))
                .inc();
        }
        if let Some(newest) = newest_us {
            #[expect(clippy::cast_precision_loss, reason = "a metric")]
            let seconds = newest as f64 / 1e6;
            self.newest.lock().insert(pipeline.to_owned(), seconds);
        }
    }

    /// A batch was given up.
    pub fn dropped(&self, pipeline: &str) {
        self.batches
            .get_or_create(&with(pipeline, "outcome", "dropped"))
            .inc();
    }

    /// An attempt failed.
    pub fn attempt_failed(&self, pipeline: &str) {
        self.attempts_failed.get_or_create(&of(pipeline)).inc();
    }

    /// Positions are lost.
    pub fn lost(&self, pipeline: &str, reason: &str, positions: u64) {
        self.lost
            .get_or_create(&with(pipeline, "reason", reason))
            .inc_by(positions.max(1));
    }

    /// A phase of a batch ended.
    pub fn phase(&self, phase: &'static str, took: Duration) {
        let labels = vec![("phase", phase.to_owned())];
        self.phases.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// How many positions a `follow` job has still to plan.
    pub fn lag(&self, pipeline: &str, events: u64) {
        let events = i64::try_from(events).unwrap_or(i64::MAX);
        self.lag.get_or_create(&of(pipeline)).set(events);
    }

    /// Active jobs and slots.
    pub fn cluster(&self, pending: usize, running: usize, slots: usize) {
        for (state, jobs) in [("pending", pending), ("running", running)] {
            let labels = vec![("state", state.to_owned())];
            self.jobs
                .get_or_create(&labels)
                .set(i64::try_from(jobs).unwrap_or(i64::MAX));
        }
        self.slots.set(i64::try_from(slots).unwrap_or(i64::MAX));
    }
}

/// From the newest committed event to the moment of the scrape.
struct Freshness(Newest);

impl std::fmt::Debug for Freshness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Freshness")
    }
}

impl Collector for Freshness {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs_f64();
        let kind = ConstGauge::new(0.0_f64).metric_type();
        let help = "From the newest committed event time to now.";
        let mut family = encoder.encode_descriptor("millrace_freshness", help, Some(&Unit::Seconds), kind)?;
        for (pipeline, newest) in self.0.lock().iter() {
            let labels = [("pipeline", pipeline.as_str())];
            ConstGauge::new(now - newest).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
