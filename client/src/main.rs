//! `millrace`: from raw events to a clean, deduplicated, masked lake, in one command.
//!
//! Exit codes: 0 done, 1 failed, 2 usage or a bad file, 3 quality breach.

mod cli;
mod lakes;
mod output;
mod pipeline;
mod progress;
mod quarantine;
mod query;
mod run;
mod verify;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(tracing_subscriber::EnvFilter::new(cli.log.clone()))
        .init();
    match cli.execute() {
        Ok(exit) => exit.into(),
        Err(error) => {
            output::error(&error);
            let bad_file = error
                .chain()
                .any(|cause| cause.is::<millrace_pipeline::spec::Report>());
            if bad_file {
                output::Exit::Usage.into()
            } else {
                output::Exit::Failed.into()
            }
        }
    }
}
