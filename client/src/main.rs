//! `millrace`: from raw events to a clean, deduplicated, masked lake, in one command.
//!
//! Exit codes: 0 done, 1 failed, 2 usage or a bad file, 3 quality breach.

mod allocator;
mod applied;
mod cli;
mod cluster;
mod compact;
mod handoff;
mod jobs;
mod lakes;
mod models;
mod node;
mod output;
mod pipeline;
mod progress;
mod quarantine;
mod query;
mod reach;
mod retention;
mod run;
mod scrape;
mod telemetry;
mod verify;
mod warehouse;

use std::process::ExitCode;

use clap::Parser;
use millrace_client::ClientError;
use millrace_coordinator::job::RunError;
use millrace_coordinator::quarantine::QuarantineError;
use millrace_pipeline::settings::ConfigError;
use millrace_pipeline::source::SourceError;
use millrace_pipeline::spec::Report;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match cli.execute() {
        Ok(exit) => exit.into(),
        Err(error) => {
            output::error(&error);
            exit_of(&error).into()
        }
    }
}

/// Which of the promised exit codes an error is.
fn exit_of(error: &anyhow::Error) -> output::Exit {
    let exit = |cause: &(dyn std::error::Error + 'static)| {
        // A redrive's error is transparent: the run's error inside it stands in no chain.
        let run = match cause.downcast_ref() {
            Some(QuarantineError::Run(run)) => Some(run.as_ref()),
            _ => cause.downcast_ref(),
        };
        if matches!(run, Some(RunError::Breach { .. })) {
            return Some(output::Exit::Breach);
        }
        let needs_services = matches!(run, Some(RunError::Source(SourceError::Kafka { .. })));
        let refused = cause.downcast_ref::<ClientError>().is_some_and(is_usage);
        let bad_file = cause.is::<ConfigError>();
        (needs_services || refused || bad_file || cause.is::<Report>()).then_some(output::Exit::Usage)
    };
    error.chain().find_map(exit).unwrap_or(output::Exit::Failed)
}

/// Whether the caller asked for something that cannot be, rather than something that went wrong.
fn is_usage(error: &ClientError) -> bool {
    match error {
        ClientError::NoAddress | ClientError::Address { .. } | ClientError::Token => true,
        ClientError::Refused(refusal) => !refusal.violations.is_empty(),
        ClientError::Unreachable { .. } | ClientError::Incomplete { .. } => false,
    }
}
