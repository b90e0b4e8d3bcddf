//! What a coordinator counts. `deploy/metrics.md` lists every metric; a test holds it to what is served.
//!
//! Labels are bounded: pipelines, partitions, and words of ours. What only a leader knows goes when it no longer leads.

pub mod enrich;
pub mod handoff;
mod lag;
pub mod models;
mod scrape;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use millrace_proto::manifest::Manifest;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::election::LeaderInfo;
use crate::etcd::Etcd;
use crate::ledger::Why;
use crate::workers::Workers;
use lag::Lags;
use scrape::{Scrape, now};

type Labels = Vec<(&'static str, String)>;
type Seconds = fn() -> Histogram;

/// etcd that is silent for so long counts as gone.
const SILENCE: Duration = Duration::from_secs(10);

/// What grows older.
#[derive(Default)]
struct Aging {
    /// Newest committed event time by pipeline, in seconds since 1970 UTC.
    newest: BTreeMap<String, f64>,
    lags: Lags,
}

type Ages = Arc<Mutex<Aging>>;

/// What other parts of the process know.
#[derive(Default)]
struct Known {
    workers: Option<Arc<Workers>>,
    etcd: Option<Etcd>,
    leader: Option<watch::Receiver<Option<LeaderInfo>>>,
}

type Around = Arc<Mutex<Known>>;

/// The counts of one coordinator. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    leader: Gauge,
    epoch: Gauge<i64, AtomicI64>,
    events: Family<Labels, Counter>,
    written_bytes: Family<Labels, Counter>,
    batches: Family<Labels, Counter>,
    attempts_failed: Family<Labels, Counter>,
    read_ahead: Family<Labels, Counter>,
    lost: Family<Labels, Counter>,
    quarantined: Family<Labels, Counter>,
    removed: Family<Labels, Counter>,
    phases: Family<Labels, Histogram, Seconds>,
    appends: Histogram,
    ages: Ages,
    around: Around,
    lag: Family<Labels, Gauge>,
    jobs: Family<Labels, Gauge>,
    workers_lost: Counter,
    /// The counts of the handoffs.
    pub handoff: handoff::HandoffMetrics,
    /// The counts of the lookups.
    pub enrich: enrich::EnrichMetrics,
    /// The counts of the models.
    pub models: models::ModelMetrics,
}

/// Buckets of what takes milliseconds to minutes.
fn seconds() -> Seconds {
    || Histogram::new([0.01, 0.05, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0])
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            leader: Gauge::default(),
            epoch: Gauge::default(),
            events: Family::default(),
            written_bytes: Family::default(),
            batches: Family::default(),
            attempts_failed: Family::default(),
            read_ahead: Family::default(),
            lost: Family::default(),
            quarantined: Family::default(),
            removed: Family::default(),
            phases: Family::new_with_constructor(seconds()),
            appends: Histogram::new([0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]),
            ages: Ages::default(),
            around: Around::default(),
            lag: Family::default(),
            jobs: Family::default(),
            workers_lost: Counter::default(),
            handoff: handoff::HandoffMetrics::default(),
            enrich: enrich::EnrichMetrics::default(),
            models: models::ModelMetrics::default(),
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
            "1 while this coordinator leads",
            self.leader.clone(),
        );
        registry.register(
            "millrace_leader_epoch",
            "Its epoch; 0 while it follows",
            self.epoch.clone(),
        );
        registry.register("millrace_events", "Events committed", self.events.clone());
        registry.register_with_unit(
            "millrace_written",
            "Bytes of committed data files",
            Unit::Bytes,
            self.written_bytes.clone(),
        );
        registry.register(
            "millrace_batches",
            "Batches by what became of them",
            self.batches.clone(),
        );
        registry.register(
            "millrace_attempts_failed",
            "Attempts that were not committed",
            self.attempts_failed.clone(),
        );
        registry.register(
            "millrace_batches_read_ahead",
            "Batches whose reading began while the one before them was being committed",
            self.read_ahead.clone(),
        );
        registry.register(
            "millrace_lost_positions",
            "Input positions that can never be read",
            self.lost.clone(),
        );
        registry.register(
            "millrace_quarantined_events",
            "Events quarantined in committed batches, by the kind of each of their reasons",
            self.quarantined.clone(),
        );
        registry.register(
            "millrace_removed_rows",
            "Rows that expired or were erased, by the place that they left",
            self.removed.clone(),
        );
        registry.register_with_unit(
            "millrace_ledger_append",
            "Time of an append to the ledger",
            Unit::Seconds,
            self.appends.clone(),
        );
        registry.register_with_unit(
            "millrace_batch_phase",
            "Time of a batch's phases",
            Unit::Seconds,
            self.phases.clone(),
        );
        registry.register(
            "millrace_lag_events",
            "Positions still to be planned",
            self.lag.clone(),
        );
        registry.register("millrace_jobs", "Active jobs", self.jobs.clone());
        registry.register(
            "millrace_cluster_workers_lost",
            "Workers that fell silent",
            self.workers_lost.clone(),
        );
        registry.register_collector(Box::new(Scrape {
            ages: Arc::clone(&self.ages),
            around: Arc::clone(&self.around),
        }));
        self.handoff.register(registry);
        self.enrich.register(registry);
        self.models.register(registry);
    }

    /// From here on these are asked too, at each scrape.
    pub fn watch(&self, workers: Arc<Workers>, etcd: Etcd, leader: watch::Receiver<Option<LeaderInfo>>) {
        *self.around.lock() = Known {
            workers: Some(workers),
            etcd: Some(etcd),
            leader: Some(leader),
        };
    }

    /// Whether calls can be answered here: etcd is there, and somebody leads. Followers pass calls on.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let around = self.around.lock();
        let has_leader = |leader: &watch::Receiver<Option<LeaderInfo>>| leader.borrow().is_some();
        around.etcd.as_ref().is_some_and(|etcd| etcd.silence() < SILENCE)
            && around.leader.as_ref().is_some_and(has_leader)
    }

    /// Whether it leads, and under which epoch.
    pub fn leads(&self, epoch: Option<u64>) {
        self.leader.set(i64::from(epoch.is_some()));
        self.epoch
            .set(epoch.and_then(|epoch| i64::try_from(epoch).ok()).unwrap_or(0));
        if epoch.is_none() {
            let mut ages = self.ages.lock();
            ages.newest.clear();
            ages.lags.clear();
            self.lag.clear();
            self.jobs.clear();
            self.enrich.forget();
            self.models.forget();
        }
    }

    /// A batch was committed; `newest_us` is the newest event time of all that is.
    pub fn committed(&self, manifest: &Manifest, newest_us: Option<i64>, held: bool) {
        let pipeline = manifest.pipeline.as_str();
        let counts = manifest.total();
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
        for (reason, events) in &manifest.reasons {
            self.quarantined
                .get_or_create(&with(pipeline, "reason", reason))
                .inc_by(*events);
        }
        for (lookup, events) in &manifest.unmatched {
            self.enrich.unmatched(pipeline, lookup, *events);
        }
        let bytes = manifest.files.iter().map(|file| file.object.bytes).sum();
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
            self.ages.lock().newest.insert(pipeline.to_owned(), seconds);
        }
    }

    /// Rows left a place (`lake`, `quarantine`, `keys`, `warehouse`, `models` in the warehouse) for good.
    pub fn removed(&self, pipeline: &str, place: &'static str, why: Why, rows: u64) {
        let mut labels = with(pipeline, "place", place);
        labels.push(("why", why.name().to_owned()));
        self.removed.get_or_create(&labels).inc_by(rows);
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

    /// A batch is read while the one before it is being committed.
    pub fn read_ahead(&self, pipeline: &str) {
        self.read_ahead.get_or_create(&of(pipeline)).inc();
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

    /// An append to the ledger ended.
    pub fn appended(&self, took: Duration) {
        self.appends.observe(took.as_secs_f64());
    }

    /// How many positions a `follow` job has still to plan.
    pub fn lag(&self, pipeline: &str, events: u64) {
        let events = i64::try_from(events).unwrap_or(i64::MAX);
        self.lag.get_or_create(&of(pipeline)).set(events);
    }

    /// A followed partition ends at `high`, and what is committed of it at `done`. What of it is new to us has waited
    /// for `age`.
    pub fn followed(&self, pipeline: &str, partition: i32, high: u64, done: u64, age: Duration) {
        let since = now() - age.as_secs_f64();
        let mut ages = self.ages.lock();
        ages.lags.saw(pipeline, partition, high, done, since);
    }

    /// What is committed of a followed partition ends at `done` now.
    pub fn caught_up(&self, pipeline: &str, partition: i32, done: u64) {
        self.ages.lock().lags.done(pipeline, partition, done);
    }

    /// Nobody follows the pipeline's topic any more.
    pub fn unfollowed(&self, pipeline: &str) {
        self.ages.lock().lags.forget(pipeline);
        self.lag.remove(&of(pipeline));
    }

    /// Active jobs.
    pub fn jobs(&self, pending: usize, running: usize) {
        for (state, jobs) in [("pending", pending), ("running", running)] {
            let labels = vec![("state", state.to_owned())];
            self.jobs
                .get_or_create(&labels)
                .set(i64::try_from(jobs).unwrap_or(i64::MAX));
        }
    }

    /// Workers fell silent.
    pub fn workers_lost(&self, workers: usize) {
        self.workers_lost.inc_by(workers as u64);
    }
}
