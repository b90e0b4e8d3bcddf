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

mod export;
mod json;
mod spans;
mod spawned;
mod wire;

use std::io::IsTerminal;

use anyhow::{Context, Result};
use clap::ValueEnum;
use datafusion::common::runtime::set_join_set_tracer;
use millrace_pipeline::settings::{self, Telling};
use millrace_pipeline::trace;
use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::JsonFields;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

pub(crate) use export::Exporter;
use export::Target;
use spans::Spans;

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

/// Which process traces come from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Whose<'a> {
    /// `millrace-worker`, ...
    pub(crate) service: &'a str,
    /// Its name in the cluster; empty for none.
    pub(crate) instance: &'a str,
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
    /// Begins to tell. `of_file` is what a node's file says. What is given back sends the last spans when it is dropped.
    ///
    /// # Errors
    /// When the endpoint of traces cannot be one, or when it has begun before.
    pub(crate) fn begin(self, whose: Whose<'_>, of_file: &Telling) -> Result<Option<Exporter>> {
        let format = self.format.or(of_file.log_format.map(LogFormat::from));
        let format = format.unwrap_or(LogFormat::Text);
        // Without it the spans of a task would end where the engine spawns; nobody else sets one.
        let _ = set_join_set_tracer(&spawned::InSpan);
        let (exporter, spans) = match target(whose, of_file)? {
            None => (None, None),
            Some(target) => {
                let (exporter, closed) = export::start(target)?;
                trace::link(trace::Links {
                    context_of: spans::context_of,
                    continue_from: spans::continue_from,
                });
                // Ours only, whatever is logged: the exporter's own calls are no work of anybody's.
                let ours = Targets::new()
                    .with_target("millrace", Level::INFO)
                    .with_target("millrace::telemetry", LevelFilter::OFF);
                (Some(exporter), Some(Spans { closed }.with_filter(ours)))
            }
        };
        tracing_subscriber::registry()
            .with(lines(format, EnvFilter::new(self.filter)))
            .with(spans)
            .try_init()
            .context("what is logged is decided already")?;
        Ok(exporter)
    }
}

/// Where traces go, if anywhere.
fn target(whose: Whose<'_>, of_file: &Telling) -> Result<Option<Target>> {
    let var = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let endpoint = of_file
        .otlp_endpoint
        .clone()
        .or_else(|| var("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"))
        .or_else(|| var("OTEL_EXPORTER_OTLP_ENDPOINT"));
    let Some(endpoint) = endpoint else {
        return Ok(None);
    };
    let ca = var("OTEL_EXPORTER_OTLP_CERTIFICATE")
        .map(|file| std::fs::read(&file).with_context(|| format!("the certificate `{file}` cannot be read")));
    Ok(Some(Target {
        endpoint,
        ca: ca.transpose()?,
        headers: var("OTEL_EXPORTER_OTLP_HEADERS").unwrap_or_default(),
        service: var("OTEL_SERVICE_NAME").unwrap_or_else(|| whose.service.to_owned()),
        instance: whose.instance.to_owned(),
    }))
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
