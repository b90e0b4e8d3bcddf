//! `millrace handoff`: what the warehouse holds of a lake, and what becomes of batches that are held back.
//!
//! PIPELINE is a file, where `millrace run` writes the lake: these commands then need the lake and the warehouse, and no
//! cluster. Or it is the name of an applied pipeline: its coordinators answer, and they load by themselves.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand, ValueEnum};
use millrace_client::v1::{self, LoadState};
use millrace_coordinator::handoff::hold::{self, Decision, Verdict};
use millrace_coordinator::handoff::preflight::preflight;
use millrace_coordinator::handoff::{self, Candidate, Known, Standing, Watched};
use millrace_coordinator::lake::Lake;
use millrace_coordinator::ledger::Ledger;
use millrace_coordinator::ledger::embedded::EmbeddedLedger;
use millrace_coordinator::lifecycle::Hook;
use millrace_pipeline::catalog::ddl;
use millrace_pipeline::spec::model::Pipeline;
use millrace_proto::ids::BatchId;
use serde_json::{Value, json};

use crate::cli::{Output, PipelineFile, name_of};
use crate::jobs::time;
use crate::lakes::{self, Opened, Whose};
use crate::output::{self, Exit, grouped};
use crate::reach::Reach;
use crate::run::crash_hook;

/// How long an unreachable warehouse is tried.
const PATIENCE: Duration = Duration::from_secs(60);

/// Subcommands of `handoff`.
#[derive(Debug, Subcommand)]
pub(crate) enum Handoff {
    /// Each committed batch: loaded, waiting, held or discarded.
    Status(Status),
    /// Load what is committed and not loaded.
    Load(Load),
    /// Say of Parquet files why Redshift would refuse to COPY them.
    Preflight(Preflight),
    /// Load a held batch after all.
    Release(Decide),
    /// Never load a held batch; it stays in the lake.
    Discard(Decide),
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    whose: Whose,
    /// Only batches in this state. Held and discarded ones are told while the warehouse is down.
    #[arg(long, value_enum)]
    state: Option<State>,
    /// How it is printed.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum State {
    Loaded,
    Waiting,
    Unfinished,
    Held,
    Discarded,
}

#[derive(Debug, Args)]
pub(crate) struct Load {
    #[command(flatten)]
    pipeline: PipelineFile,
}

#[derive(Debug, Args)]
pub(crate) struct Preflight {
    /// Parquet files.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// The pipeline into whose table they would go; without it, only rules that hold for every table are checked.
    #[arg(long, value_name = "FILE")]
    pipeline: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Decide {
    #[command(flatten)]
    whose: Whose,
    /// The batch, as `handoff status` names it.
    batch: String,
    /// Why; it is kept with the decision.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Who decides, where no cluster knows it by its token.
    #[arg(long, value_name = "NAME", env = "USER", default_value = "operator")]
    by: String,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

impl Handoff {
    pub(crate) fn execute(self) -> Result<Exit> {
        match self {
            Self::Status(status) => status.execute(),
            Self::Load(load) => load.execute(),
            Self::Preflight(preflight) => preflight.execute(),
            Self::Release(decide) => decide.execute(Verdict::Released),
            Self::Discard(decide) => decide.execute(Verdict::Discarded),
        }
    }
}

/// A batch as it is told.
struct Row {
    batch: String,
    job: String,
    attempt: String,
    rows: u64,
    state: &'static str,
    decision: Option<(String, String, String)>,
}

impl Status {
    fn execute(self) -> Result<Exit> {
        let (name, rows) = match self.whose.name() {
            Some(name) => (name.to_owned(), of_cluster(&self.whose.reach, name, self.state)?),
            None => {
                let opened = self.whose.open()?;
                (opened.pipeline.name.to_string(), of_lake(&opened, self.state)?)
            }
        };
        let count = |state| rows.iter().filter(|row| row.state == state).count();
        let (waiting, held) = (count("waiting"), count("held"));
        match self.output {
            Output::Json => {
                let batches: Vec<Value> = rows.iter().map(row_json).collect();
                let status = json!({"pipeline": name, "waiting": waiting, "held": held, "batches": batches});
                output::result(&status.to_string())?;
            }
            Output::Table => {
                let mut table = output::table(&["batch", "job", "rows", "state", "decision"]);
                for row in &rows {
                    let decision = row.decision.as_ref();
                    let decision = decision.map(|(by, at, reason)| format!("{by} at {at}: {reason}"));
                    table.add_row([
                        row.batch.clone(),
                        row.job.clone(),
                        grouped(row.rows),
                        row.state.to_owned(),
                        decision.unwrap_or_default(),
                    ]);
                }
                output::result(&format!("{table}\n{waiting} waiting, {held} held"))?;
            }
        }
        Ok(Exit::Done)
    }
}

fn row_json(row: &Row) -> Value {
    let decision = row
        .decision
        .as_ref()
        .map(|(by, at, reason)| json!({"by": by, "at": at, "reason": reason}));
    json!({"batch": row.batch, "job": row.job, "attempt": row.attempt, "rows": row.rows, "state": row.state, "decision": decision})
}

fn of_cluster(reach: &Reach, name: &str, asked: Option<State>) -> Result<Vec<Row>> {
    let state = match asked {
        None => LoadState::Unspecified,
        Some(State::Loaded) => LoadState::Loaded,
        Some(State::Waiting) => LoadState::Waiting,
        Some(State::Unfinished) => LoadState::Unfinished,
        Some(State::Held) => LoadState::Held,
        Some(State::Discarded) => LoadState::Discarded,
    };
    let loads = reach.with(async |client| Ok(client.list_loads(name, state).await?))?;
    let row = |load: v1::Load| Row {
        state: match load.state() {
            LoadState::Unspecified => "unspecified",
            LoadState::Loaded => Standing::Loaded.name(),
            LoadState::Waiting => Standing::Waiting.name(),
            LoadState::Unfinished => Standing::Unfinished.name(),
            LoadState::Held => Standing::Held.name(),
            LoadState::Discarded => Standing::Discarded.name(),
        },
        decision: load.decision.map(|decision| {
            let at = time(decision.decide_time.as_ref()).unwrap_or_default();
            (decision.decider, at, decision.reason)
        }),
        batch: load.batch_id,
        job: load.job_id,
        attempt: load.attempt,
        rows: load.rows,
    };
    Ok(loads.into_iter().map(row).collect())
}

fn of_lake(opened: &Opened, asked: Option<State>) -> Result<Vec<Row>> {
    if opened.pipeline.warehouse.is_none() {
        bail!("pipeline `{}` has no `warehouse`", opened.pipeline.name);
    }
    let mut all = lakes::runtime(1)?.block_on(async {
        let ledger = EmbeddedLedger::read(&opened.lake).await?;
        let known = Known {
            state: ledger.state().clone(),
            ..Known::default()
        };
        let all = match asked {
            Some(State::Held | State::Discarded) => handoff::held(&opened.lake, &known).await,
            Some(State::Loaded | State::Waiting | State::Unfinished) | None => {
                handoff::standings(&opened.pipeline, &opened.lake, &known).await
            }
        };
        Ok::<_, anyhow::Error>(all?)
    })?;
    let standing = asked.map(|asked| match asked {
        State::Loaded => Standing::Loaded,
        State::Waiting => Standing::Waiting,
        State::Unfinished => Standing::Unfinished,
        State::Held => Standing::Held,
        State::Discarded => Standing::Discarded,
    });
    all.retain(|one| standing.is_none_or(|standing| one.standing == standing));
    let row = |one: Candidate| Row {
        batch: one.batch.to_string(),
        job: one.job.to_string(),
        attempt: one.attempt.to_string(),
        rows: one.rows,
        state: one.standing.name(),
        decision: one
            .decision
            .map(|decision| (decision.by, shown(decision.at), decision.reason)),
    };
    Ok(all.into_iter().map(row).collect())
}

fn shown(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

impl Load {
    fn execute(self) -> Result<Exit> {
        if let Some(name) = name_of(&self.pipeline.file) {
            bail!(
                "the coordinators of pipeline `{name}` load by themselves; `millrace handoff status {name}` shows how far they are"
            );
        }
        let opened = lakes::open(&self.pipeline)?;
        if opened.pipeline.warehouse.is_none() {
            bail!("pipeline `{}` has no `warehouse`", opened.pipeline.name);
        }
        let hook = crash_hook(std::env::var("MILLRACE_CRASH_AT").ok());
        lakes::runtime(lakes::cores())?.block_on(load(opened.pipeline, opened.lake, hook))?;
        Ok(Exit::Done)
    }
}

impl Preflight {
    fn execute(self) -> Result<Exit> {
        let pipeline = self.pipeline.as_deref().map(lakes::pipeline).transpose()?;
        let table = pipeline.as_ref().map(ddl::redshift_columns);
        let (mut lines, mut exit) = (Vec::new(), Exit::Done);
        for file in &self.files {
            let bytes =
                std::fs::read(file).with_context(|| format!("`{}` cannot be read", file.display()))?;
            let faults = preflight(&bytes.into(), table.as_deref());
            if faults.is_empty() {
                lines.push(format!("{}: COPY would take it", file.display()));
            }
            for fault in faults {
                exit = Exit::Failed;
                lines.push(format!("{}: {fault}", file.display()));
            }
        }
        output::result(&lines.join("\n"))?;
        Ok(exit)
    }
}

impl Decide {
    fn execute(self, verdict: Verdict) -> Result<Exit> {
        let batch = BatchId::try_from(self.batch.clone())?;
        let (by, at, next) = match self.whose.name() {
            Some(name) => {
                let decision = self.ask(name, &batch, verdict)?;
                let at = time(decision.decide_time.as_ref()).unwrap_or_default();
                (decision.decider, at, "it is loaded in its turn")
            }
            None => {
                let decision = self.decide(&batch, verdict)?;
                let next = "the next run or `millrace handoff load` loads it";
                (decision.by, shown(decision.at), next)
            }
        };
        match self.output {
            Output::Json => {
                let verdict = verdict.name();
                let decision =
                    json!({"batch": batch, "verdict": verdict, "by": by, "at": at, "reason": self.reason});
                output::result(&decision.to_string())?;
            }
            Output::Table => output::result(&match verdict {
                Verdict::Released => format!("batch {batch} is released; {next}"),
                Verdict::Discarded => format!("batch {batch} is discarded; it stays in the lake"),
            })?,
        }
        Ok(Exit::Done)
    }

    /// Has the cluster decide.
    fn ask(&self, name: &str, batch: &BatchId, verdict: Verdict) -> Result<v1::Decision> {
        let (batch, reason) = (batch.as_str(), self.reason.as_str());
        self.whose.reach.with(async |client| {
            Ok(match verdict {
                Verdict::Released => client.release_batch(name, batch, reason).await?,
                Verdict::Discarded => client.discard_batch(name, batch, reason).await?,
            })
        })
    }

    fn decide(&self, batch: &BatchId, verdict: Verdict) -> Result<Decision> {
        let opened = self.whose.open()?;
        let decision = Decision {
            verdict,
            reason: self.reason.clone(),
            by: self.by.clone(),
            at: Utc::now(),
        };
        let stands = lakes::runtime(1)?.block_on(async {
            let ledger = EmbeddedLedger::read(&opened.lake).await?;
            Ok::<_, anyhow::Error>(hold::decide(&opened.lake, ledger.state(), batch, &decision).await?)
        })?;
        tracing::info!(
            target: "audit", who = stands.by, method = verdict.name(), resource = %format!("batches/{batch}"),
            reason = stands.reason, outcome = "done"
        );
        Ok(stands)
    }
}

/// Loads what is committed; nothing for a pipeline without a warehouse.
pub(crate) async fn load(pipeline: Arc<Pipeline>, lake: Lake, hook: Hook) -> Result<()> {
    let name = pipeline.name.clone();
    let watched = Watched {
        hook,
        ..Watched::default()
    };
    let Some(mut handoff) = handoff::Handoff::new(pipeline, lake.clone(), watched) else {
        return Ok(());
    };
    let ledger = EmbeddedLedger::read(&lake).await?;
    let round = handoff
        .settle(ledger.state(), PATIENCE)
        .await
        .with_context(|| format!("pipeline `{name}`: the lake has everything, the warehouse does not; the same command goes on from there"))?;
    if round.batches > 0 {
        output::note(&format!(
            "{} rows of {} batches loaded into the warehouse",
            grouped(round.rows),
            round.batches
        ));
    }
    if round.held > 0 {
        output::note(&format!(
            "{} batches are held back by a quality breach: see `millrace handoff status`",
            round.held
        ));
    }
    Ok(())
}
