//! The command line: what can be asked, and which module answers.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use millrace_pipeline::settings::Telling;

use crate::output::{self, Exit};
use crate::telemetry::{LogFormat, Telemetry, Whose};
use crate::{
    cluster, compact, handoff, jobs, models, node, pipeline, quarantine, query, retention, run, verify,
    warehouse,
};

/// Event streams in; clean, deduplicated, privacy-safe tables out.
#[derive(Debug, Parser)]
#[command(name = "millrace", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// What is logged to stderr: `warn`, `info`, `millrace_pipeline=debug`, ...
    #[arg(
        long,
        global = true,
        default_value = "warn",
        env = "MILLRACE_LOG",
        hide_env_values = true
    )]
    log: String,
    /// How it is logged: lines for people, or one JSON object a line. Default: `text`, or what a node's file says.
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        env = "MILLRACE_LOG_FORMAT",
        hide_env_values = true
    )]
    log_format: Option<LogFormat>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a pipeline over files or S3 in this process; run it again to go on or to take what is new.
    Run(run::Run),
    /// Run a coordinator of a cluster: it serves the API, and leads whenever it is elected.
    Coordinator(node::Node),
    /// Run a worker of a cluster: it follows the leader and drains on SIGTERM.
    Worker(node::Node),
    /// Jobs of the cluster: submit, list, show, watch, cancel, retry.
    #[command(subcommand)]
    Job(jobs::Job),
    /// Pipelines: check and describe files; apply, list, show and delete those of the cluster.
    #[command(subcommand)]
    Pipeline(pipeline::Pipeline),
    /// Prove that every event of a lake is accounted for and no file was changed.
    Verify(verify::Verify),
    /// Rewrite the files of complete hours to full size; a cluster does so by itself.
    Compact(compact::Compact),
    /// Ask a lake in SQL: the tables are `events` (also under the pipeline's name), `quarantine`, and the pipeline's models.
    Query(query::Query),
    /// Models: tables that SQL makes of complete hours; compute what is due, list them, compute them again.
    #[command(subcommand)]
    Models(models::Models),
    /// Rejected events: list them, show one, read them again.
    #[command(subcommand)]
    Quarantine(quarantine::Quarantine),
    /// The warehouse: what is loaded and what waits; load, release or discard batches.
    #[command(subcommand)]
    Handoff(handoff::Handoff),
    /// The warehouse beside what the pipeline asks for: columns, keys, encodings, partitions, statistics, waiting loads.
    #[command(subcommand)]
    Warehouse(warehouse::Warehouse),
    /// What is too old: plan what would leave, let it go, place and release legal holds.
    #[command(subcommand)]
    Retention(retention::Retention),
    /// Find one person in the lake, the quarantine and the warehouse, and erase them with `--apply`.
    Erase(Box<retention::Erase>),
    /// The cluster: who leads, who works; drain a worker.
    #[command(subcommand)]
    Cluster(cluster::Cluster),
    /// Print the completions of a shell; for bash: `source <(millrace completions bash)`.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

impl Cli {
    /// Does what was asked.
    pub(crate) fn execute(self) -> Result<Exit> {
        let telemetry = Telemetry {
            filter: self.log,
            format: self.log_format,
        };
        // A node begins when it has read its file, which may say more.
        let is_node = matches!(self.command, Command::Coordinator(_) | Command::Worker(_));
        let whose = Whose {
            service: "millrace",
            instance: "",
        };
        let _until_the_end = if is_node {
            None
        } else {
            telemetry.clone().begin(whose, &Telling::default())?
        };
        match self.command {
            Command::Run(command) => command.execute(),
            Command::Pipeline(command) => command.execute(),
            Command::Verify(command) => command.execute(),
            Command::Compact(command) => command.execute(),
            Command::Query(command) => command.execute(),
            Command::Models(command) => command.execute(),
            Command::Quarantine(command) => command.execute(),
            Command::Coordinator(node) => node.coordinate(telemetry),
            Command::Worker(node) => node.work(telemetry),
            Command::Job(command) => command.execute(),
            Command::Handoff(command) => command.execute(),
            Command::Warehouse(command) => command.execute(),
            Command::Retention(command) => command.execute(),
            Command::Erase(command) => command.execute(),
            Command::Cluster(command) => command.execute(),
            Command::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Self::command(), "millrace", &mut script);
                output::result(&String::from_utf8_lossy(&script))?;
                Ok(Exit::Done)
            }
        }
    }
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// The name of an applied pipeline, where what was given is no file: a file has a folder or an extension, a name neither.
pub(crate) fn name_of(given: &Path) -> Option<&str> {
    let name = given.to_str()?;
    let is_name = !name.contains(['/', '.']) && !given.exists();
    is_name.then_some(name)
}

/// A pipeline file and what of it can be set from outside.
#[derive(Debug, Clone, Args)]
pub(crate) struct PipelineFile {
    /// The pipeline file.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Where the lake is, instead of the file's `lake.url`: a folder or `s3://bucket/prefix`.
    #[arg(long, value_name = "URL")]
    pub(crate) lake: Option<String>,
    /// The environment this runs in; personal data stays clear only in those of `privacy.clear_in`.
    #[arg(long, value_name = "NAME", env = "MILLRACE_ENVIRONMENT")]
    pub(crate) environment: Option<String>,
}
