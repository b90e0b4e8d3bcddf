//! Marts of a lake that keeps its own ledger, in this process: `millrace models run` and `backfill`.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use millrace_pipeline::spec::marts::Mart;
use millrace_pipeline::spec::model::Pipeline;
use millrace_proto::ids::JobId;

use super::due::{self, Period, Standing};
use super::run::{Limits, begin, begin_backfill};
use super::state::MartRun;
use super::{period_name, sweep};
use crate::causes::chain;
use crate::job::RunError;
use crate::lake::Lake;
use crate::lifecycle::{Batches, Hook, Moment};

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// Only these models; none: all.
    pub marts: BTreeSet<String>,
    /// Compute these periods whether they are due or not: first hour, and one past the last.
    pub again: Option<(i64, i64)>,
}

impl Asked {
    fn is_asked(&self, mart: &Mart) -> bool {
        self.marts.is_empty() || self.marts.contains(&mart.name)
    }
}

/// What was done.
#[derive(Debug, Clone, Default)]
pub struct Done {
    /// Periods computed.
    pub runs: Vec<MartRun>,
    /// Periods that could not be.
    pub failed: Vec<Failed>,
    /// Periods that wait for complete hours.
    pub waiting: u64,
    /// Objects deleted that counted no longer.
    pub deleted: u64,
}

/// A period that could not be computed.
#[derive(Debug, Clone)]
pub struct Failed {
    /// The model.
    pub mart: String,
    /// `2026-01-01`, or `2026-01-01T05`.
    pub period: String,
    /// Why.
    pub error: String,
}

/// Computes what is due, or what is asked for.
///
/// # Errors
/// When the ledger fails. What was committed stays.
pub fn run<'a>(
    pipeline: Arc<Pipeline>,
    lake: Lake,
    asked: &'a Asked,
    limits: Limits,
    hook: Hook,
) -> BoxFuture<'a, Result<Done, RunError>> {
    async move {
        let marts = pipeline.marts.clone();
        let mut batches = Batches::of_lake(pipeline, lake, hook).await?;
        let mut done = Done::default();
        let job = JobId::try_from(format!("backfill-{}", uuid::Uuid::new_v4().simple()))?;
        loop {
            let is_new =
                |mart: &Mart, period: &Period| asked.is_asked(mart) && !done.has_failed(mart, period);
            let begun = match asked.again {
                None => begin(&batches, &marts, limits, &is_new),
                Some((from, to)) => {
                    let within = |mart: &Mart, period: &Period| {
                        is_new(mart, period) && period.from_hour < to && from < period.end_hour()
                    };
                    begin_backfill(&batches, &marts, &job, limits, &within)
                }
            };
            let Some(computing) = begun else { break };
            match computing.commit(&mut batches).await {
                Ok(run) => done.runs.push(run),
                Err(RunError::Mart { mart, period, source }) => {
                    let error = chain(&*source);
                    tracing::warn!(
                        model = mart,
                        period,
                        error,
                        "a model's period could not be computed"
                    );
                    done.failed.push(Failed { mart, period, error });
                }
                Err(error) => return Err(error),
            }
        }
        let lateness = batches.pipeline.partition.lateness_seconds;
        let periods = due::periods(batches.ledger.state(), &marts, lateness);
        done.waiting = periods
            .iter()
            .filter(|period| period.standing == Standing::Waiting)
            .count() as u64;
        done.deleted = sweep(&batches).await?;
        (batches.hook)(Moment::Finished);
        Ok(done)
    }
    .boxed()
}

impl Done {
    fn has_failed(&self, mart: &Mart, period: &Period) -> bool {
        let name = period_name(period.from_hour, period.hours);
        self.failed
            .iter()
            .any(|failed| failed.mart == mart.name && failed.period == name)
    }
}
