//! What models count: where their periods stand, how long a period takes, how far the newest one is behind, what fails.
//!
//! In: the periods of a pipeline's models, whenever the leader has looked at them. Out: gauges of the models that the newest
//! version of the pipeline has, and of no others. The lag grows between two looks: it is told at the moment of the scrape.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use millrace_pipeline::spec::marts::Mart;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::Labels;
use super::scrape::now;
use crate::marts::due::{Period, Standing};

/// Where the periods of one model stand.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Model {
    waiting: u64,
    due: u64,
    outdated: u64,
    current: u64,
    /// The end of the newest period that was computed, in seconds since 1970.
    newest: Option<f64>,
}

/// What was told of all models of a leader.
#[derive(Default)]
struct Told {
    /// By pipeline and model.
    models: BTreeMap<String, BTreeMap<String, Model>>,
    /// Seconds of the last computation, by pipeline and model.
    took: BTreeMap<(String, String), f64>,
}

/// The counts of all models of a process. Cheap to clone.
#[derive(Clone, Default)]
pub struct ModelMetrics {
    told: Arc<Mutex<Told>>,
    failures: Family<Labels, Counter>,
}

fn of(pipeline: &str, model: &str) -> Labels {
    vec![("pipeline", pipeline.to_owned()), ("model", model.to_owned())]
}

impl ModelMetrics {
    /// Adds these counts to a registry.
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "millrace_model_failures",
            "Periods of a model that could not be computed, each time that it was tried",
            self.failures.clone(),
        );
        registry.register_collector(Box::new(Standings(Arc::clone(&self.told))));
    }

    /// The periods of a pipeline's models stand so now.
    pub fn stand(&self, pipeline: &str, marts: &[Mart], periods: &[Period]) {
        let mut models: BTreeMap<String, Model> = BTreeMap::new();
        for (at, mart) in marts.iter().enumerate() {
            let model = models.entry(mart.name.clone()).or_default();
            periods
                .iter()
                .filter(|period| period.mart == at)
                .for_each(|period| model.add(period));
        }
        self.told.lock().models.insert(pipeline.to_owned(), models);
    }

    /// A period was computed and committed in this time.
    pub fn took(&self, pipeline: &str, model: &str, took: Duration) {
        let model = (pipeline.to_owned(), model.to_owned());
        self.told.lock().took.insert(model, took.as_secs_f64());
    }

    /// A period could not be computed.
    pub fn failed(&self, pipeline: &str, model: &str) {
        self.failures.get_or_create(&of(pipeline, model)).inc();
    }

    /// This process no longer leads.
    pub(super) fn forget(&self) {
        *self.told.lock() = Told::default();
    }
}

impl Model {
    fn add(&mut self, period: &Period) {
        let (count, is_there) = match period.standing {
            Standing::Waiting => (&mut self.waiting, false),
            Standing::Due => (&mut self.due, false),
            Standing::Outdated => (&mut self.outdated, true),
            Standing::Current => (&mut self.current, true),
        };
        *count += 1;
        if is_there {
            #[expect(clippy::cast_precision_loss, reason = "a metric")]
            let end = period.bounds_us().1 as f64 / 1e6;
            self.newest = Some(self.newest.map_or(end, |newest| newest.max(end)));
        }
    }

    fn states(&self) -> [(&'static str, u64); 4] {
        [
            ("waiting", self.waiting),
            ("due", self.due),
            ("outdated", self.outdated),
            ("current", self.current),
        ]
    }
}

/// Where all models stand, at the moment of the scrape.
struct Standings(Arc<Mutex<Told>>);

impl fmt::Debug for Standings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Standings")
    }
}

impl Collector for Standings {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let told = self.0.lock();
        told.periods(&mut encoder)?;
        told.lags(&mut encoder)?;
        told.took(&mut encoder)
    }
}

impl Told {
    fn all(&self) -> impl Iterator<Item = (&str, &str, &Model)> {
        let by_pipeline = self.models.iter();
        by_pipeline.flat_map(|(pipeline, models)| {
            let of = move |(name, model)| (pipeline.as_str(), String::as_str(name), model);
            models.iter().map(of)
        })
    }

    fn periods(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let kind = ConstGauge::new(0.0_f64).metric_type();
        let help = "Periods of a model, by where they stand.";
        let mut periods = encoder.encode_descriptor("millrace_model_periods", help, None, kind)?;
        for (pipeline, model, stands) in self.all() {
            for (state, count) in stands.states() {
                let labels = [("pipeline", pipeline), ("model", model), ("state", state)];
                #[expect(clippy::cast_precision_loss, reason = "a metric")]
                ConstGauge::new(count as f64).encode(periods.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn lags(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let kind = ConstGauge::new(0.0_f64).metric_type();
        let help = "Since the end of the newest period of a model that is computed.";
        let unit = Some(&Unit::Seconds);
        let mut lags = encoder.encode_descriptor("millrace_model_lag", help, unit, kind)?;
        let now = now();
        for (pipeline, model, stands) in self.all() {
            let Some(newest) = stands.newest else { continue };
            let labels = [("pipeline", pipeline), ("model", model)];
            ConstGauge::new(now - newest).encode(lags.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn took(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let kind = ConstGauge::new(0.0_f64).metric_type();
        let help = "Time of a model's last computed period, from its query to its commit.";
        let unit = Some(&Unit::Seconds);
        let mut took = encoder.encode_descriptor("millrace_model_compute", help, unit, kind)?;
        for ((pipeline, model), seconds) in &self.took {
            let labels = [("pipeline", pipeline.as_str()), ("model", model.as_str())];
            ConstGauge::new(*seconds).encode(took.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use millrace_pipeline::spec::marts::Every;

    use super::*;

    fn mart(name: &str) -> Mart {
        Mart {
            name: name.to_owned(),
            every: Every::Hour,
            look_back_hours: 0,
            timeout_seconds: 7_200,
            sql: String::new(),
            file: None,
            description: None,
            columns: Vec::new(),
            uses: Default::default(),
            reads_events: true,
            table: None,
            digest: String::new(),
        }
    }

    fn period(mart: usize, from_hour: i64, standing: Standing) -> Period {
        Period {
            mart,
            from_hour,
            hours: 1,
            window_hour: from_hour,
            standing,
            input: String::new(),
            expired: false,
            run: None,
        }
    }

    #[test]
    fn periods_are_counted_by_model_and_the_lag_is_of_the_newest_that_was_computed() {
        let (mut registry, metrics) = (Registry::default(), ModelMetrics::default());
        metrics.register(&mut registry);
        #[expect(clippy::cast_possible_truncation, reason = "hours since 1970")]
        let hour = (now() / 3600.0) as i64;
        let periods = [
            period(0, hour - 9, Standing::Current),
            period(0, hour - 4, Standing::Outdated),
            period(0, hour - 3, Standing::Due),
            period(0, hour - 1, Standing::Waiting),
            period(1, hour - 1, Standing::Waiting),
        ];
        let value = |name: &str| {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        };
        metrics.stand("shop", &[mart("funnel"), mart("orders")], &periods);
        let of = |model: &str, state: &str| {
            let labels = format!("pipeline=\"shop\",model=\"{model}\",state=\"{state}\"");
            value(&format!("millrace_model_periods{{{labels}}}"))
        };
        for state in ["current", "outdated", "due", "waiting"] {
            assert_eq!(of("funnel", state), Some(1.0), "{state}");
        }
        assert_eq!(
            (of("orders", "waiting"), of("orders", "due")),
            (Some(1.0), Some(0.0))
        );
        let lag = |model: &str| {
            value(&format!(
                "millrace_model_lag_seconds{{pipeline=\"shop\",model=\"{model}\"}}"
            ))
        };
        let since_three_hours = lag("funnel").unwrap();
        assert!(
            (3.0 * 3600.0..4.0 * 3600.0 + 60.0).contains(&since_three_hours),
            "{since_three_hours}"
        );
        assert_eq!(lag("orders"), None, "nothing of it was computed");
        metrics.stand("shop", &[mart("orders")], &[]);
        assert_eq!(of("funnel", "due"), None, "the pipeline has that model no longer");
        metrics.forget();
        assert_eq!(of("orders", "due"), None);
    }
}
