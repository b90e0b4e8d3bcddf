//! `millrace handoff`: what the warehouse holds of a lake, and what becomes of batches that are held back.
//!
//! These commands need the pipeline's file, the lake and the warehouse, and no cluster. They read the lake's own ledger, so
//! a lake whose ledger is a cluster's is served by its coordinators.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use chrono::Utc;
use clap::{Args, Subcommand};
use millrace_coordinator::handoff::hold::{self, Decision, Verdict};
use millrace_coordinator::handoff::preflight::preflight;
use millrace_coordinator::handoff::{self, Standing};
use millrace_coordinator::lake::Lake;
use millrace_coordinator::ledger::Ledger;
use millrace_coordinator::ledger::embedded::EmbeddedLedger;
use millrace_pipeline::catalog::ddl;
use millrace_pipeline::spec::model::Pipeline;
use millrace_proto::ids::BatchId;
use serde_json::json;

use crate::cli::{Output, PipelineFile};
use crate::lakes;
use crate::output::{self, Exit, grouped};

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
    pipeline: PipelineFile,
    /// How it is printed.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
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
    pipeline: PipelineFile,
    /// The batch, as `handoff status` names it.
    batch: String,
    /// Why; it is kept with the decision.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Who decides.
    #[arg(long, value_name = "NAME", env = "USER", default_value = "operator")]
    by: String,
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

impl Status {
    fn execute(self) -> Result<Exit> {
        let opened = lakes::open(&self.pipeline)?;
        let all = lakes::runtime(1)?.block_on(async {
            let ledger = EmbeddedLedger::read(&opened.lake).await?;
            let handoff = handoff::Handoff::new(Arc::clone(&opened.pipeline), opened.lake.clone());
            let Some(mut handoff) = handoff else {
                bail!("pipeline `{}` has no `warehouse`", opened.pipeline.name);
            };
            Ok(handoff.standings(ledger.state()).await?)
        })?;
        let count = |standing| all.iter().filter(|one| one.standing == standing).count();
        let (waiting, held) = (count(Standing::Waiting), count(Standing::Held));
        match self.output {
            Output::Json => {
                let batches: Vec<_> = all
                    .iter()
                    .map(|one| {
                        json!({"batch": one.batch, "attempt": one.attempt.to_string(), "rows": one.rows,
                               "state": one.standing.name()})
                    })
                    .collect();
                let status = json!({"pipeline": opened.pipeline.name, "waiting": waiting, "held": held, "batches": batches});
                output::result(&status.to_string())?;
            }
            Output::Table => {
                let mut table = output::table(&["batch", "rows", "state"]);
                for one in &all {
                    table.add_row([
                        one.batch.to_string(),
                        grouped(one.rows),
                        one.standing.name().to_owned(),
                    ]);
                }
                output::result(&format!("{table}\n{waiting} waiting, {held} held"))?;
            }
        }
        Ok(Exit::Done)
    }
}

impl Load {
    fn execute(self) -> Result<Exit> {
        let opened = lakes::open(&self.pipeline)?;
        if opened.pipeline.warehouse.is_none() {
            bail!("pipeline `{}` has no `warehouse`", opened.pipeline.name);
        }
        lakes::runtime(lakes::cores())?.block_on(load(opened.pipeline, opened.lake))?;
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
        let opened = lakes::open(&self.pipeline)?;
        let batch = BatchId::try_from(self.batch)?;
        let decision = Decision {
            verdict,
            reason: self.reason,
            by: self.by,
            at: Utc::now(),
        };
        lakes::runtime(1)?.block_on(async {
            let ledger = EmbeddedLedger::read(&opened.lake).await?;
            Ok::<_, anyhow::Error>(hold::decide(&opened.lake, ledger.state(), &batch, &decision).await?)
        })?;
        output::result(&match verdict {
            Verdict::Released => {
                format!("batch {batch} is released; the next run or `millrace handoff load` loads it")
            }
            Verdict::Discarded => format!("batch {batch} is discarded; it stays in the lake"),
        })?;
        Ok(Exit::Done)
    }
}

/// Loads what is committed; nothing for a pipeline without a warehouse.
pub(crate) async fn load(pipeline: Arc<Pipeline>, lake: Lake) -> Result<()> {
    let name = pipeline.name.clone();
    let Some(mut handoff) = handoff::Handoff::new(pipeline, lake.clone()) else {
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
