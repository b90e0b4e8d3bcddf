//! What is worked out when somebody asks for it: ages, and what other parts of the process know.

use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use millrace_proto::v1::WorkerState;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::{Ages, Around};

/// At the moment of a scrape.
pub(super) struct Scrape {
    pub(super) ages: Ages,
    pub(super) around: Around,
}

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrape")
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.ages(&mut encoder)?;
        self.workers(&mut encoder)?;
        self.etcd(&mut encoder)?;
        self.room(&mut encoder)
    }
}

impl Scrape {
    fn ages(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let ages = self.ages.lock();
        let now = now();
        let kind = ConstGauge::new(0.0_f64).metric_type();
        let help = "From the newest committed event time to now.";
        let mut freshness =
            encoder.encode_descriptor("millrace_freshness", help, Some(&Unit::Seconds), kind)?;
        for (pipeline, newest) in &ages.newest {
            let labels = [("pipeline", pipeline.as_str())];
            ConstGauge::new(now - newest).encode(freshness.encode_family(&labels)?)?;
        }
        let help = "How long the oldest message of a followed partition that is not committed has waited.";
        let mut lag = encoder.encode_descriptor("millrace_lag", help, Some(&Unit::Seconds), kind)?;
        for (pipeline, partition, seconds) in ages.lags.seconds(now) {
            let partition = partition.to_string();
            let labels = [("pipeline", pipeline), ("partition", partition.as_str())];
            ConstGauge::new(seconds).encode(lag.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn workers(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let around = self.around.lock();
        let workers = around
            .workers
            .as_ref()
            .map(|workers| workers.alive(Instant::now()))
            .unwrap_or_default();
        let is_ready = |state: WorkerState| state == WorkerState::Ready;
        let ready = || workers.iter().filter(|worker| is_ready(worker.state()));
        let kind = gauge(0).metric_type();
        let help = "Workers that the leader hears of.";
        let mut count = encoder.encode_descriptor("millrace_cluster_workers", help, None, kind)?;
        let draining = workers.len() - ready().count();
        for (state, number) in [("ready", ready().count()), ("draining", draining)] {
            gauge(number as u64).encode(count.encode_family(&[("state", state)])?)?;
        }
        let slots = gauge(ready().map(|worker| u64::from(worker.slots)).sum());
        let help = "Task slots of all workers that take tasks.";
        slots.encode(encoder.encode_descriptor("millrace_cluster_slots", help, None, kind)?)?;
        let busy = gauge(workers.iter().map(|worker| u64::from(worker.slots_busy)).sum());
        let help = "Task slots with a task in them.";
        busy.encode(encoder.encode_descriptor("millrace_cluster_slots_busy", help, None, kind)?)
    }

    fn etcd(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let silence = self.around.lock().etcd.as_ref().map(|etcd| etcd.silence());
        let silence = ConstGauge::new(silence.unwrap_or(Duration::ZERO).as_secs_f64());
        let help = "Since etcd last answered this coordinator.";
        let encoder = encoder.encode_descriptor(
            "millrace_etcd_silence",
            help,
            Some(&Unit::Seconds),
            silence.metric_type(),
        )?;
        silence.encode(encoder)
    }

    fn room(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let is_full = self
            .around
            .lock()
            .etcd
            .as_ref()
            .is_some_and(|etcd| etcd.is_full());
        let full = gauge(u64::from(is_full));
        let help = "1 while etcd's NOSPACE alarm refuses writes: compact and defragment every member, then disarm it.";
        full.encode(encoder.encode_descriptor("millrace_etcd_full", help, None, full.metric_type())?)
    }
}

fn gauge(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}

/// Seconds since 1970.
pub(super) fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}
