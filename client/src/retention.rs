//! `millrace retention` and `millrace erase`: what is too old leaves, what is held stays, what is one person's is erased.
//!
//! PIPELINE is a file, where `millrace run` writes the lake: these commands then work on the lake themselves. Or it is the name of
//! an applied pipeline: its leader does the same as a job between batches, and these commands wait for it.

mod of_cluster;
mod show;

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use millrace_coordinator::erasure::{erase_embedded, look_embedded};
use millrace_coordinator::ledger::LegalHold;
use millrace_coordinator::retention::hold::Asked;
use millrace_coordinator::retention::{apply, place_hold, plan, release_hold};
use millrace_pipeline::privacy::Subject;

use crate::cli::Output;
use crate::lakes::{self, Whose};
use crate::output::{self, Exit};
use crate::run::{crash_hook, lock};

/// Subcommands of `retention`.
#[derive(Debug, Subcommand)]
pub(crate) enum Retention {
    /// What is older than the pipeline's `retention` keeps it, and the legal holds that stand. Changes nothing.
    Plan(Plan),
    /// Let go of it: in the lake, the quarantine and the warehouse.
    Apply(Apply),
    /// Place a legal hold: nothing of a range of event time is removed while it stands.
    Hold(Hold),
    /// Release a legal hold.
    Release(Release),
}

/// How the result is printed.
#[derive(Debug, Args)]
struct Told {
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// Who asks, where no cluster knows it by its token.
#[derive(Debug, Args)]
struct Who {
    /// Who asks, where no cluster knows it by its token.
    #[arg(long, value_name = "NAME", env = "USER", default_value = "operator")]
    by: String,
}

#[derive(Debug, Args)]
pub(crate) struct Plan {
    #[command(flatten)]
    whose: Whose,
    #[command(flatten)]
    told: Told,
}

#[derive(Debug, Args)]
pub(crate) struct Apply {
    #[command(flatten)]
    whose: Whose,
    #[command(flatten)]
    told: Told,
    #[command(flatten)]
    who: Who,
}

#[derive(Debug, Args)]
pub(crate) struct Hold {
    #[command(flatten)]
    whose: Whose,
    #[command(flatten)]
    told: Told,
    #[command(flatten)]
    who: Who,
    /// First event time that is held, RFC 3339.
    #[arg(long, value_name = "TIME")]
    from: DateTime<Utc>,
    /// First event time after it.
    #[arg(long, value_name = "TIME")]
    to: DateTime<Utc>,
    /// Why; it is kept for ever.
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

#[derive(Debug, Args)]
pub(crate) struct Release {
    #[command(flatten)]
    whose: Whose,
    #[command(flatten)]
    told: Told,
    #[command(flatten)]
    who: Who,
    /// The hold, as `retention plan` names it.
    hold: String,
    /// Why; it is kept for ever.
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// Arguments of `erase`.
#[derive(Debug, Args)]
pub(crate) struct Erase {
    #[command(flatten)]
    whose: Whose,
    #[command(flatten)]
    told: Told,
    #[command(flatten)]
    who: Who,
    /// The person's value as it came in, clear; `-`: the first line of standard input, so that no list of processes shows it.
    #[arg(long, value_name = "VALUE")]
    pii_id: String,
    /// The column that holds it; default: every personal one.
    #[arg(long, value_name = "COLUMN")]
    column: Option<String>,
    /// Erase; without it the person is only looked for.
    #[arg(long)]
    apply: bool,
}

impl Retention {
    pub(crate) fn execute(self) -> Result<Exit> {
        match self {
            Self::Plan(plan) => plan.execute(),
            Self::Apply(apply) => apply.execute(),
            Self::Hold(hold) => hold.execute(),
            Self::Release(release) => release.execute(),
        }
    }
}

impl Plan {
    fn execute(self) -> Result<Exit> {
        let whose = &self.whose;
        let (name, outcome) = match whose.name() {
            Some(name) => (name.to_owned(), of_cluster::plan(&whose.reach, name)?),
            None => {
                let opened = whose.open()?;
                let planning = plan(&opened.pipeline, &opened.lake);
                let outcome = lakes::runtime(lakes::cores())?.block_on(planning)?;
                (opened.pipeline.name.to_string(), outcome)
            }
        };
        show::outcome(&name, &outcome, show::Tense::Would, self.told.output)?;
        Ok(Exit::Done)
    }
}

impl Apply {
    fn execute(self) -> Result<Exit> {
        let whose = &self.whose;
        let (name, outcome) = match whose.name() {
            Some(name) => (name.to_owned(), of_cluster::apply(&whose.reach, name)?),
            None => {
                let opened = whose.open()?;
                let _lock = lock(&opened)?;
                let (pipeline, lake) = (Arc::clone(&opened.pipeline), opened.lake.clone());
                let hook = crash_hook(std::env::var("MILLRACE_CRASH_AT").ok());
                let applying = apply(pipeline, lake, &self.who.by, Utc::now().timestamp_micros(), hook);
                let outcome = lakes::runtime(lakes::cores())?.block_on(applying)?;
                audit("ApplyRetention", opened.pipeline.name.as_str(), &self.who.by, "");
                (opened.pipeline.name.to_string(), outcome)
            }
        };
        show::outcome(&name, &outcome, show::Tense::Did, self.told.output)?;
        Ok(Exit::Done)
    }
}

impl Hold {
    fn execute(self) -> Result<Exit> {
        let asked = Asked {
            from_us: self.from.timestamp_micros(),
            to_us: self.to.timestamp_micros(),
            reason: self.reason,
            by: self.who.by,
        };
        let whose = &self.whose;
        let hold = match whose.name() {
            Some(name) => of_cluster::hold(&whose.reach, name, &asked)?,
            None => {
                let opened = whose.open()?;
                let _lock = lock(&opened)?;
                let (pipeline, lake) = (Arc::clone(&opened.pipeline), opened.lake.clone());
                let hold = lakes::runtime(1)?.block_on(place_hold(pipeline, lake, asked))?;
                audit("PlaceHold", opened.pipeline.name.as_str(), &hold.by, &hold.reason);
                hold
            }
        };
        print_hold(&hold, self.told.output)
    }
}

impl Release {
    fn execute(self) -> Result<Exit> {
        let whose = &self.whose;
        let hold = match whose.name() {
            Some(name) => of_cluster::release(&whose.reach, name, &self.hold, &self.reason)?,
            None => {
                let opened = whose.open()?;
                let _lock = lock(&opened)?;
                let (pipeline, lake) = (Arc::clone(&opened.pipeline), opened.lake.clone());
                let releasing = release_hold(pipeline, lake, &self.hold, &self.who.by, &self.reason);
                let hold = lakes::runtime(1)?.block_on(releasing)?;
                audit(
                    "ReleaseHold",
                    opened.pipeline.name.as_str(),
                    &self.who.by,
                    &self.reason,
                );
                hold
            }
        };
        print_hold(&hold, self.told.output)
    }
}

fn print_hold(hold: &LegalHold, output: Output) -> Result<Exit> {
    match output {
        Output::Json => output::result(&show::hold_json(hold).to_string())?,
        Output::Table => output::result(&show::hold_text(hold))?,
    }
    Ok(Exit::Done)
}

impl Erase {
    pub(crate) fn execute(self) -> Result<Exit> {
        let whose = &self.whose;
        let value = self.value()?;
        let column = self.column.as_deref();
        let (name, outcome) = match whose.name() {
            Some(name) => {
                let outcome = of_cluster::erase(&whose.reach, name, &value, column, self.apply)?;
                (name.to_owned(), outcome)
            }
            None => {
                let opened = whose.open()?;
                let subject = Subject::new(&opened.pipeline, &value, column)?;
                let name = opened.pipeline.name.to_string();
                let runtime = lakes::runtime(lakes::cores())?;
                let outcome = if self.apply {
                    let _lock = lock(&opened)?;
                    let (pipeline, lake) = (Arc::clone(&opened.pipeline), opened.lake.clone());
                    let hook = crash_hook(std::env::var("MILLRACE_CRASH_AT").ok());
                    let erasing = erase_embedded(pipeline, lake, &subject, &self.who.by, hook);
                    let outcome = runtime.block_on(erasing)?;
                    audit(
                        "EraseSubject",
                        &format!("{name}/{}", subject.id()),
                        &self.who.by,
                        "",
                    );
                    outcome
                } else {
                    runtime.block_on(look_embedded(&opened.pipeline, &opened.lake, &subject))?
                };
                (name, outcome)
            }
        };
        show::erasure(&name, &outcome, self.told.output)?;
        let proved = outcome.remaining.is_none_or(|remaining| remaining == 0);
        Ok(if proved { Exit::Done } else { Exit::Failed })
    }

    fn value(&self) -> Result<String> {
        if self.pii_id != "-" {
            return Ok(self.pii_id.clone());
        }
        let mut line = String::new();
        std::io::stdin()
            .read_line(&mut line)
            .context("the person's value could not be read from standard input")?;
        let value = line.trim_end_matches(['\r', '\n']);
        if value.is_empty() {
            bail!("standard input has no value: its first line is the person's");
        }
        Ok(value.to_owned())
    }
}

/// The audit line of what was done here; a cluster writes its own.
fn audit(method: &str, pipeline: &str, who: &str, reason: &str) {
    let resource = format!("pipelines/{pipeline}");
    tracing::info!(target: "audit", who, method, resource, reason, outcome = "done");
}
