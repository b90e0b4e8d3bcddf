//! What a process tells of itself while it works: lines on stderr, and traces where somebody collects them.
//!
//! In: what the command line says, then what a node's file says, then the standard environment. Out: one subscriber for
//! the whole process.
//!
//! | told by                       | lines                                | traces                                   |
//! |-------------------------------|--------------------------------------|------------------------------------------|
//! | the command line              | `--log`, `--log-format`              |                                          |
//! | the file of a node            | `log_format`                         | `otlp_endpoint`                          |
//! | the environment               | `MILLRACE_LOG`, `MILLRACE_LOG_FORMAT` | `OTEL_EXPORTER_OTLP_ENDPOINT` and its kin |
//!
//! The first that says something counts. Text has colours on a terminal only.

mod json;
mod spawned;

use std::io::IsTerminal;

use anyhow::{Context, Result};
use clap::ValueEnum;
use datafusion::common::runtime::set_join_set_tracer;
use millrace_pipeline::settings::{self, Telling};
use tracing_subscriber::fmt::format::JsonFields;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// How lines on stderr look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line: `time`, `level`, `target`, `message`, and fields such as `job`, `batch`, `attempt`, `epoch`.
    Json,
}

impl From<settings::LogFormat> for LogFormat {
    fn from(format: settings::LogFormat) -> Self {
        match format {
            settings::LogFormat::Text => Self::Text,
            settings::LogFormat::Json => Self::Json,
        }
    }
}

/// What the command line says of it.
#[derive(Debug, Clone)]
pub(crate) struct Telemetry {
    /// `warn`, `millrace_pipeline=debug`, ...
    pub(crate) filter: String,
    /// None where it says nothing.
    pub(crate) format: Option<LogFormat>,
}

impl Telemetry {
    /// Begins to tell, for as long as the process lives. `of_file` is what a node's file says.
    ///
    /// # Errors
    /// When it has begun before.
    pub(crate) fn begin(self, of_file: &Telling) -> Result<()> {
        let format = self.format.or(of_file.log_format.map(LogFormat::from));
        let format = format.unwrap_or(LogFormat::Text);
        // Without it the spans of a task would end where the engine spawns; nobody else sets one.
        let _ = set_join_set_tracer(&spawned::InSpan);
        tracing_subscriber::registry()
            .with(lines(format, EnvFilter::new(self.filter)))
            .try_init()
            .context("what is logged is decided already")
    }
}

/// Lines on stderr.
fn lines<S>(format: LogFormat, filter: EnvFilter) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match format {
        LogFormat::Text => {
            let has_colours = std::io::stderr().is_terminal()
                && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
            layer.with_ansi(has_colours).with_filter(filter).boxed()
        }
        LogFormat::Json => layer
            .with_ansi(false)
            .fmt_fields(JsonFields::new())
            .event_format(json::OneObject)
            .with_filter(filter)
            .boxed(),
    }
}
