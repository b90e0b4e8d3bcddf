//! `millrace models`: tables that SQL makes of complete hours.
//!
//! PIPELINE is a file, where `millrace run` writes the lake: then `run` computes what is due, in this process. Or it is the
//! name of an applied pipeline: its leader computes what is due by itself, and a backfill is a job.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use millrace_client::v1::job_input::Input;
use millrace_client::v1::{self, JobInput, ModelsInput, PeriodState};
use millrace_coordinator::handoff;
use millrace_coordinator::ledger::Ledger;
use millrace_coordinator::ledger::embedded::EmbeddedLedger;
use millrace_coordinator::marts::due::{Period, Standing, periods};
use millrace_coordinator::marts::{self, Asked, Done, Limits, MartRun, period_name};
use millrace_pipeline::spec::marts::Mart;
use serde_json::{Value, json};

use crate::cli::Output;
use crate::jobs::{instant, print, time, timestamp, until_ended};
use crate::lakes::{self, Opened, Whose};
use crate::output::{self, Exit, grouped};
use crate::run::{crash_hook, lock};

/// Subcommands of `models`.
#[derive(Debug, Subcommand)]
pub(crate) enum Models {
    /// Compute what is due: periods whose hours are complete, and those that late events changed.
    Run(Run),
    /// Each period: waiting for complete hours, due, outdated or current.
    List(List),
    /// Compute periods again, whatever they hold: after a query has changed, for instance.
    Backfill(Backfill),
}

/// The models that are meant.
#[derive(Debug, Args)]
struct Meant {
    #[command(flatten)]
    whose: Whose,
    /// Only this model; may be repeated.
    #[arg(long, value_name = "NAME")]
    model: Vec<String>,
    /// How it is printed.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// What a query may use.
#[derive(Debug, Args)]
struct How {
    /// Compute threads. Default: all cores.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Memory of a query, in MiB; beyond that it goes on from disk.
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(16..))]
    memory: u32,
    /// Leave the warehouse alone; a later run loads what is computed.
    #[arg(long)]
    no_handoff: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    meant: Meant,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    meant: Meant,
}

#[derive(Debug, Args)]
pub(crate) struct Backfill {
    #[command(flatten)]
    meant: Meant,
    #[command(flatten)]
    how: How,
    /// Periods that end after this time: `2026-01-01T00:00:00Z`. Default: all before `--to`.
    #[arg(long, value_parser = instant)]
    from: Option<DateTime<Utc>>,
    /// Periods that begin before this time. Default: all after `--from`.
    #[arg(long, value_parser = instant)]
    to: Option<DateTime<Utc>>,
    /// On a cluster: wait until the job has ended.
    #[arg(long)]
    wait: bool,
}

impl Models {
    pub(crate) fn execute(self) -> Result<Exit> {
        match self {
            Self::Run(run) => {
                if let Some(name) = run.meant.whose.name() {
                    bail!(
                        "`{name}` is a pipeline of the cluster, whose leader computes what is due by itself; \
                         `millrace models list {name}` shows how far it is"
                    );
                }
                compute(&run.meant, &run.how, None)
            }
            Self::List(list) => list.execute(),
            Self::Backfill(backfill) => backfill.execute(),
        }
    }
}

impl Meant {
    fn open(&self) -> Result<Opened> {
        let opened = self.whose.open()?;
        if opened.pipeline.marts.is_empty() {
            bail!("pipeline `{}` has no `models`", opened.pipeline.name);
        }
        let unknown = |name: &&String| !opened.pipeline.marts.iter().any(|mart| mart.name == **name);
        if let Some(name) = self.model.iter().find(unknown) {
            let known: Vec<&str> = opened
                .pipeline
                .marts
                .iter()
                .map(|mart| mart.name.as_str())
                .collect();
            bail!(
                "pipeline `{}` has no model `{name}`; it has {}",
                opened.pipeline.name,
                known.join(", ")
            );
        }
        Ok(opened)
    }

    fn is_asked(&self, model: &str) -> bool {
        self.model.is_empty() || self.model.iter().any(|name| name == model)
    }
}

/// Computes in this process.
fn compute(meant: &Meant, how: &How, again: Option<(i64, i64)>) -> Result<Exit> {
    let opened = meant.open()?;
    let _lock = lock(&opened)?;
    let hook = crash_hook(std::env::var("MILLRACE_CRASH_AT").ok());
    let threads = how.threads.map_or_else(lakes::cores, usize::from);
    let limits = Limits {
        threads,
        memory_bytes: (how.memory as usize) << 20,
    };
    let asked = Asked {
        marts: meant.model.iter().cloned().collect::<BTreeSet<_>>(),
        again,
    };
    let Opened { pipeline, lake, .. } = opened;
    let name = pipeline.name.to_string();
    let done = lakes::runtime(threads)?.block_on(async {
        let done = marts::run(
            pipeline.clone(),
            lake.clone(),
            &asked,
            limits,
            std::sync::Arc::clone(&hook),
        )
        .await?;
        if !how.no_handoff {
            let ledger = EmbeddedLedger::read(&lake).await?;
            let loaded = handoff::marts::settle(&pipeline, &lake, ledger.state(), &hook).await?;
            if loaded > 0 {
                output::note(&format!("{} periods loaded into the warehouse", grouped(loaded)));
            }
        }
        Ok::<_, anyhow::Error>(done)
    })?;
    for failed in &done.failed {
        output::note(&format!("{} {}: {}", failed.mart, failed.period, failed.error));
    }
    match meant.output {
        Output::Json => output::result(&done_json(&name, &done).to_string())?,
        Output::Table => output::result(&done_text(&name, &done))?,
    }
    Ok(if done.failed.is_empty() {
        Exit::Done
    } else {
        Exit::Failed
    })
}

fn done_json(name: &str, done: &Done) -> Value {
    let computed: Vec<Value> = done
        .runs
        .iter()
        .map(|run| {
            let period = period_name(run.from_hour, run.hours);
            json!({"model": run.mart, "period": period, "version": run.version, "rows": run.object.rows})
        })
        .collect();
    let failed: Vec<Value> = done
        .failed
        .iter()
        .map(|failed| json!({"model": failed.mart, "period": failed.period, "error": failed.error}))
        .collect();
    json!({"pipeline": name, "computed": computed, "failed": failed, "waiting": done.waiting, "deleted": done.deleted})
}

fn done_text(name: &str, done: &Done) -> String {
    let rows: u64 = done.runs.iter().map(|run| run.object.rows).sum();
    let mut text = match done.runs.len() {
        0 => format!("{name}: no period was due"),
        periods => format!(
            "{name}: {} periods are computed, {} rows",
            grouped(periods as u64),
            grouped(rows)
        ),
    };
    if done.waiting > 0 {
        text.push_str(&format!(
            "\n{} periods wait for complete hours",
            grouped(done.waiting)
        ));
    }
    if done.deleted > 0 {
        text.push_str(&format!(
            "\n{} replaced results are deleted",
            grouped(done.deleted)
        ));
    }
    text
}

/// A period as it is told.
struct Row {
    model: String,
    period: String,
    state: &'static str,
    version: Option<u64>,
    rows: Option<u64>,
    at: Option<String>,
}

impl List {
    fn execute(self) -> Result<Exit> {
        let (name, rows) = match self.meant.whose.name() {
            Some(name) => (name.to_owned(), self.of_cluster(name)?),
            None => {
                let opened = self.meant.open()?;
                (opened.pipeline.name.to_string(), of_lake(&opened)?)
            }
        };
        let rows: Vec<Row> = rows
            .into_iter()
            .filter(|row| self.meant.is_asked(&row.model))
            .collect();
        match self.meant.output {
            Output::Json => {
                let periods: Vec<Value> = rows
                    .iter()
                    .map(|row| {
                        json!({"model": row.model, "period": row.period, "state": row.state, "version": row.version,
                               "rows": row.rows, "computed_at": row.at})
                    })
                    .collect();
                output::result(&json!({"pipeline": name, "periods": periods}).to_string())?;
            }
            Output::Table => {
                let mut table = output::table(&["model", "period", "state", "rows", "computed"]);
                for row in &rows {
                    table.add_row([
                        row.model.clone(),
                        row.period.clone(),
                        row.state.to_owned(),
                        row.rows.map(grouped).unwrap_or_default(),
                        row.at.clone().unwrap_or_default(),
                    ]);
                }
                output::result(&table.to_string())?;
            }
        }
        Ok(Exit::Done)
    }

    fn of_cluster(&self, name: &str) -> Result<Vec<Row>> {
        let all = self
            .meant
            .whose
            .reach
            .with(async |client| Ok(client.list_periods(name, "", PeriodState::Unspecified).await?))?;
        let row = |period: v1::Period| Row {
            state: match period.state() {
                PeriodState::Unspecified => "unspecified",
                PeriodState::Waiting => state_name(Standing::Waiting),
                PeriodState::Due => state_name(Standing::Due),
                PeriodState::Outdated => state_name(Standing::Outdated),
                PeriodState::Current => state_name(Standing::Current),
            },
            version: period.result.as_ref().map(|result| result.version),
            rows: period.result.as_ref().map(|result| result.rows),
            at: period
                .result
                .as_ref()
                .and_then(|result| time(result.compute_time.as_ref())),
            model: period.model,
            period: period.period,
        };
        Ok(all.into_iter().map(row).collect())
    }
}

fn of_lake(opened: &Opened) -> Result<Vec<Row>> {
    let ledger = lakes::runtime(1)?.block_on(EmbeddedLedger::read(&opened.lake))?;
    let (pipeline, marts) = (&opened.pipeline, &opened.pipeline.marts);
    let all = periods(ledger.state(), marts, pipeline.partition.lateness_seconds);
    Ok(all.iter().map(|period| row(marts, period)).collect())
}

fn row(marts: &[Mart], period: &Period) -> Row {
    let at = |run: &MartRun| {
        let at = DateTime::from_timestamp_micros(run.at_us);
        at.map(|at| at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
    };
    Row {
        model: marts
            .get(period.mart)
            .map(|mart| mart.name.clone())
            .unwrap_or_default(),
        period: period_name(period.from_hour, period.hours),
        state: state_name(period.standing),
        version: period.run.as_ref().map(|run| run.version),
        rows: period.run.as_ref().map(|run| run.object.rows),
        at: period.run.as_ref().and_then(at),
    }
}

fn state_name(standing: Standing) -> &'static str {
    match standing {
        Standing::Waiting => "waiting",
        Standing::Due => "due",
        Standing::Outdated => "outdated",
        Standing::Current => "current",
    }
}

impl Backfill {
    fn execute(self) -> Result<Exit> {
        if let Some(name) = self.meant.whose.name() {
            return self.submit(name);
        }
        // Hours of times: a period is meant when any of it is.
        let hour = |time: DateTime<Utc>| time.timestamp().div_euclid(3600);
        let from = self.from.map_or(i64::MIN, hour);
        let to = self
            .to
            .map_or(i64::MAX, |to| hour(to - chrono::TimeDelta::nanoseconds(1)) + 1);
        compute(&self.meant, &self.how, Some((from, to)))
    }

    fn submit(&self, name: &str) -> Result<Exit> {
        let (first, last) = (DateTime::UNIX_EPOCH, Utc::now() + chrono::TimeDelta::days(366));
        let models = ModelsInput {
            models: self.meant.model.clone(),
            from: Some(timestamp(self.from.unwrap_or(first))),
            to: Some(timestamp(self.to.unwrap_or(last))),
        };
        let request = v1::SubmitJobRequest {
            pipeline: name.to_owned(),
            input: Some(JobInput {
                input: Some(Input::Models(models)),
            }),
            ..v1::SubmitJobRequest::default()
        };
        self.meant.whose.reach.with(async |client| {
            let job = client.submit_job(request).await?;
            if self.wait {
                output::note(&format!("{} submitted", job.job_id));
                return until_ended(&client, &job.job_id, self.meant.output).await;
            }
            match self.meant.output {
                Output::Table => output::result(&format!("{} submitted", job.job_id))?,
                Output::Json => print(&job, Output::Json)?,
            }
            Ok(Exit::Done)
        })
    }
}
