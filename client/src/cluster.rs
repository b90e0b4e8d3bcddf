//! `millrace cluster`: who leads, who works.

use anyhow::Result;
use clap::{Args, Subcommand};
use millrace_client::v1::{Worker, WorkerState};
use serde_json::{Value, json};

use crate::cli::Output;
use crate::jobs::time;
use crate::output::{self, Exit};
use crate::reach::Reach;

/// Subcommands of `cluster`.
#[derive(Debug, Subcommand)]
pub(crate) enum Cluster {
    /// The leader, the workers, their slots.
    Show(Show),
    /// Ask a worker to take no new task and to leave when it is done.
    Drain(Drain),
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    #[command(flatten)]
    reach: Reach,
    /// How it is printed.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Drain {
    /// The worker's name.
    worker: String,
    #[command(flatten)]
    reach: Reach,
    /// How it is printed.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

impl Cluster {
    pub(crate) fn execute(self) -> Result<Exit> {
        match self {
            Self::Show(show) => show.execute(),
            Self::Drain(drain) => drain.execute(),
        }
    }
}

impl Show {
    fn execute(self) -> Result<Exit> {
        let cluster = self.reach.with(async |client| Ok(client.cluster().await?))?;
        let leader = cluster.leader.unwrap_or_default();
        match self.output {
            Output::Json => {
                let all = json!({
                    "leader": if leader.name.is_empty() { Value::Null } else { json!(leader.name) },
                    "address": leader.address,
                    "scheduler_address": leader.scheduler_address,
                    "epoch": leader.epoch,
                    "workers": cluster.workers.iter().map(worker_json).collect::<Vec<_>>(),
                    "slots": cluster.slots,
                    "slots_busy": cluster.slots_busy,
                });
                output::result(&all.to_string())?;
            }
            Output::Table => {
                let mut table =
                    output::table(&["worker", "state", "slots", "busy", "zone", "address", "since"]);
                for worker in &cluster.workers {
                    table.add_row([
                        worker.name.clone(),
                        shown_state(worker),
                        worker.slots.to_string(),
                        worker.slots_busy.to_string(),
                        worker.zone.clone(),
                        worker.address.clone(),
                        time(worker.start_time.as_ref()).unwrap_or_default(),
                    ]);
                }
                let leads = format!(
                    "leader: {} at {}, epoch {}",
                    leader.name, leader.address, leader.epoch
                );
                output::result(&format!("{leads}\n{table}"))?;
            }
        }
        Ok(Exit::Done)
    }
}

impl Drain {
    fn execute(self) -> Result<Exit> {
        let worker = self
            .reach
            .with(async |client| Ok(client.drain_worker(&self.worker).await?))?;
        match self.output {
            Output::Json => output::result(&worker_json(&worker).to_string())?,
            Output::Table => output::result(&format!("{} drains: it takes no new task", worker.name))?,
        }
        Ok(Exit::Done)
    }
}

fn state(worker: &Worker) -> &'static str {
    match worker.state() {
        WorkerState::Unspecified => "unspecified",
        WorkerState::Ready => "ready",
        WorkerState::Draining => "draining",
    }
}

/// With why it takes no tasks, where it says so.
fn shown_state(worker: &Worker) -> String {
    if worker.trouble.is_empty() {
        return state(worker).to_owned();
    }
    format!("{}: {}", state(worker), worker.trouble)
}

fn worker_json(worker: &Worker) -> Value {
    json!({
        "name": worker.name,
        "executor_id": worker.executor_id,
        "address": worker.address,
        "slots": worker.slots,
        "slots_busy": worker.slots_busy,
        "zone": worker.zone,
        "state": state(worker),
        "trouble": worker.trouble,
        "start_time": time(worker.start_time.as_ref()),
        "seen_time": time(worker.seen_time.as_ref()),
    })
}
