//! `millrace quarantine`: rejected events.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use millrace_coordinator::quarantine::{Record, absolute_lines, by_reason, open, records};
use millrace_pipeline::decode::container::stored::readable;
use millrace_pipeline::privacy::Sealer;
use millrace_pipeline::spec::model::Format;
use serde_json::{Value, json};

use crate::cli::{Output, PipelineFile};
use crate::lakes::{self, Opened};
use crate::output::{self, Exit, grouped};
use crate::run::{How, Summary, watched};

/// Subcommands of `quarantine`.
#[derive(Debug, Subcommand)]
pub(crate) enum Quarantine {
    /// Rejected events and their reasons.
    List(List),
    /// One rejected event whole; its bytes only in an environment of `privacy.clear_in`.
    Show(Show),
    /// Read rejected events again with the pipeline as it is now; what passes is written, once.
    Redrive(Redrive),
}

#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    pipeline: PipelineFile,
    /// At most so many events.
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// How they are printed.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    #[command(flatten)]
    pipeline: PipelineFile,
    /// Its number in `quarantine list`, from 1.
    number: usize,
    /// How it is printed.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Redrive {
    #[command(flatten)]
    pipeline: PipelineFile,
    #[command(flatten)]
    how: How,
}

impl Quarantine {
    pub(crate) fn execute(self) -> Result<Exit> {
        match self {
            Self::List(list) => list.execute(),
            Self::Show(show) => show.execute(),
            Self::Redrive(redrive) => redrive.execute(),
        }
    }
}

impl List {
    fn execute(self) -> Result<Exit> {
        let opened = lakes::open(&self.pipeline)?;
        let runtime = lakes::runtime(lakes::cores())?;
        let (all, lines) = runtime.block_on(async {
            let all = records(&opened.lake, usize::MAX).await?;
            let lines = lines(&opened, &all[..all.len().min(self.limit)]).await;
            Ok::<_, anyhow::Error>((all, lines))
        })?;
        let shown = all.iter().take(self.limit).enumerate();
        match self.output {
            Output::Json => {
                let rows: Vec<Value> = shown.map(|(i, record)| row(i, record, &lines)).collect();
                output::result(&json!({"quarantined": all.len(), "events": rows}).to_string())?;
            }
            Output::Table => {
                let mut table = output::table(&["#", "object", "line", "byte", "reasons"]);
                for (i, record) in shown {
                    let (line, exact) = line(record, &lines);
                    let line = if exact {
                        line.to_string()
                    } else {
                        format!("split {} + {line}", record.split)
                    };
                    let reasons: Vec<String> = record.reasons.iter().map(reason).collect();
                    table.add_row([
                        (i + 1).to_string(),
                        record.object.clone(),
                        line,
                        record.offset.to_string(),
                        reasons.join("\n"),
                    ]);
                }
                let mut counts = output::table(&["reason", "column", "events"]);
                for (kind, column, count) in by_reason(&all) {
                    counts.add_row([kind, column.unwrap_or_default(), grouped(count)]);
                }
                let more = all.len().saturating_sub(self.limit);
                let more = if more > 0 {
                    format!("\n{} more", grouped(more as u64))
                } else {
                    String::new()
                };
                output::result(&format!(
                    "{table}{more}\n{counts}\n{} in quarantine",
                    grouped(all.len() as u64)
                ))?;
            }
        }
        Ok(Exit::Done)
    }
}

impl Show {
    fn execute(self) -> Result<Exit> {
        let opened = lakes::open(&self.pipeline)?;
        let runtime = lakes::runtime(lakes::cores())?;
        let (all, lines) = runtime.block_on(async {
            let all = records(&opened.lake, self.number).await?;
            let lines = lines(&opened, &all[self.number.saturating_sub(1).min(all.len())..]).await;
            Ok::<_, anyhow::Error>((all, lines))
        })?;
        let Some(record) = self.number.checked_sub(1).and_then(|i| all.get(i)) else {
            bail!(
                "there is no event {} in quarantine; `millrace quarantine list` numbers them",
                self.number
            );
        };
        let clear = opened
            .pipeline
            .privacy
            .is_clear(self.pipeline.environment.as_deref());
        let payload = if clear || !record.sealed {
            let bytes = open(record, Sealer::of(&opened.pipeline).ok().as_ref())?;
            let bytes = readable(opened.pipeline.source.format(), bytes);
            Some(String::from_utf8_lossy(&bytes).into_owned())
        } else {
            None
        };
        let text = match self.output {
            Output::Json => {
                let mut row = row(self.number - 1, record, &lines);
                row["payload"] = json!(payload);
                row.to_string()
            }
            Output::Table => {
                let (line, _) = line(record, &lines);
                let mut text = format!("{}, line {line}, byte {}\n", record.object, record.offset);
                for fault in &record.reasons {
                    text.push_str(&format!("- {}\n", reason(fault)));
                }
                text.push_str(&payload.unwrap_or_else(|| {
                    "sealed: its bytes are shown in the environments of `privacy.clear_in` (--environment)".to_owned()
                }));
                text
            }
        };
        output::result(&text)?;
        Ok(Exit::Done)
    }
}

impl Redrive {
    fn execute(self) -> Result<Exit> {
        let opened = lakes::open(&self.pipeline)?;
        let options = self.how.options(self.pipeline.environment.clone(), Vec::new());
        let started = Instant::now();
        let lake = opened.lake.url.clone();
        let name = opened.pipeline.name.to_string();
        let outcome =
            lakes::runtime(self.how.threads())?.block_on(watched(opened, options, |runner, progress| {
                Box::pin(async move { Ok(runner.redrive(&progress).await?) })
            }))?;
        let seconds = started.elapsed().as_secs_f64();
        Summary {
            name,
            lake,
            outcome,
            minimum: None,
            seconds,
        }
        .print(self.how.output)
    }
}

type Lines = HashMap<(String, u64), u64>;

async fn lines(opened: &Opened, records: &[Record]) -> Lines {
    let mut offsets: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    // Records of these are numbered in their object: there are no lines to count.
    if matches!(opened.pipeline.source.format(), Format::Avro | Format::Parquet) {
        return records
            .iter()
            .map(|record| ((record.object.clone(), record.offset), record.line))
            .collect();
    }
    for record in records {
        offsets.entry(&record.object).or_default().push(record.offset);
    }
    let mut lines = Lines::new();
    for (object, offsets) in offsets {
        for (offset, line) in absolute_lines(&opened.stores, object, &offsets).await {
            lines.insert((object.to_owned(), offset), line);
        }
    }
    lines
}

/// The record's line, and whether it counts from the object's start.
fn line(record: &Record, lines: &Lines) -> (u64, bool) {
    match lines.get(&(record.object.clone(), record.offset)) {
        Some(line) => (*line, true),
        None => (record.line, record.split == 0),
    }
}

fn row(i: usize, record: &Record, lines: &Lines) -> Value {
    let (line, exact) = line(record, lines);
    json!({
        "number": i + 1,
        "batch": record.batch,
        "object": record.object,
        "line": if exact { Some(line) } else { None },
        "offset": record.offset,
        "reasons": record.reasons,
        "sealed": record.sealed,
    })
}

fn reason(fault: &millrace_pipeline::rows::Fault) -> String {
    match &fault.column {
        Some(column) => format!("{column}: {}", fault.detail),
        None => fault.detail.clone(),
    }
}
