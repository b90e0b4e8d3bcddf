//! `millrace quarantine`: rejected events, of a pipeline file's lake or of a pipeline that a cluster runs.

mod of_cluster;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use millrace_coordinator::quarantine::{Record, absolute_lines, by_reason, open, records};
use millrace_pipeline::decode::container::stored::readable;
use millrace_pipeline::privacy::Sealer;
use millrace_pipeline::spec::model::{Format, Pipeline};
use serde_json::{Value, json};

use crate::cli::Output;
use crate::lakes::{self, Opened, Whose};
use crate::output::{self, Exit, grouped};
use crate::reach::Reach;
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

/// Whose quarantine.
#[derive(Debug, Args)]
pub(crate) struct QuarantineOf {
    #[command(flatten)]
    whose: Whose,
    /// The environment this runs in; personal data stays clear only in those of `privacy.clear_in`.
    #[arg(long, value_name = "NAME", env = "MILLRACE_ENVIRONMENT")]
    environment: Option<String>,
}

impl QuarantineOf {
    /// The name of an applied pipeline, where it is one.
    fn name(&self) -> Option<&str> {
        self.whose.name()
    }

    fn reach(&self) -> &Reach {
        &self.whose.reach
    }

    /// The file, opened.
    fn open(&self) -> Result<Opened> {
        self.whose.open_in(self.environment.as_deref())
    }
}

/// A part of what is in quarantine.
struct Listed {
    /// All events there.
    total: u64,
    /// The first ones, without their content where a cluster told of them.
    records: Vec<Record>,
    lines: Lines,
    /// Kinds, columns, events.
    counts: Vec<(String, Option<String>, u64)>,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    whose: QuarantineOf,
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
    whose: QuarantineOf,
    /// Its number in `quarantine list`, from 1.
    number: usize,
    /// How it is printed.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Redrive {
    #[command(flatten)]
    whose: QuarantineOf,
    /// In a cluster: wait until the job has ended.
    #[arg(long)]
    wait: bool,
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
    fn listed(&self) -> Result<Listed> {
        if let Some(name) = self.whose.name() {
            return of_cluster::list(self.whose.reach(), name, self.limit);
        }
        let opened = self.whose.open()?;
        let runtime = lakes::runtime(lakes::cores())?;
        let mut records = runtime.block_on(records(&opened.lake, usize::MAX))?;
        let (total, counts) = (records.len() as u64, by_reason(&records));
        records.truncate(self.limit);
        let lines = runtime.block_on(lines(&opened, &records));
        Ok(Listed {
            total,
            records,
            lines,
            counts,
        })
    }

    fn execute(self) -> Result<Exit> {
        let listed = self.listed()?;
        let shown = listed.records.iter().enumerate();
        match self.output {
            Output::Json => {
                let rows: Vec<Value> = shown.map(|(i, record)| row(i, record, &listed.lines)).collect();
                output::result(&json!({"quarantined": listed.total, "events": rows}).to_string())?;
            }
            Output::Table => {
                let mut table = output::table(&["#", "object", "line", "byte", "reasons"]);
                for (i, record) in shown {
                    let reasons: Vec<String> = record.reasons.iter().map(reason).collect();
                    table.add_row([
                        (i + 1).to_string(),
                        record.object.clone(),
                        line_text(record, &listed.lines),
                        record.offset.to_string(),
                        reasons.join("\n"),
                    ]);
                }
                let mut counts = output::table(&["reason", "column", "events"]);
                for (kind, column, count) in listed.counts {
                    counts.add_row([kind, column.unwrap_or_default(), grouped(count)]);
                }
                let more = match listed.total.saturating_sub(listed.records.len() as u64) {
                    0 => String::new(),
                    more => format!("\n{} more", grouped(more)),
                };
                let total = grouped(listed.total);
                output::result(&format!("{table}{more}\n{counts}\n{total} in quarantine"))?;
            }
        }
        Ok(Exit::Done)
    }
}

impl Show {
    /// The event and its pipeline.
    fn found(&self) -> Result<(Option<Record>, Lines, Arc<Pipeline>)> {
        let at = self.number.checked_sub(1);
        if let Some(name) = self.whose.name() {
            let pipeline = of_cluster::pipeline(self.whose.reach(), name)?;
            let record = match at {
                Some(at) => of_cluster::show(self.whose.reach(), name, &pipeline, at)?,
                None => None,
            };
            let lines = record.iter().flat_map(of_cluster::line).collect();
            return Ok((record, lines, Arc::new(pipeline)));
        }
        let opened = self.whose.open()?;
        let runtime = lakes::runtime(lakes::cores())?;
        let all = runtime.block_on(records(&opened.lake, self.number))?;
        let record = at.and_then(|at| all.into_iter().nth(at));
        let lines = runtime.block_on(lines(&opened, record.as_slice()));
        Ok((record, lines, opened.pipeline))
    }

    fn execute(self) -> Result<Exit> {
        let (record, lines, pipeline) = self.found()?;
        let Some(record) = record else {
            bail!(
                "there is no event {} in quarantine; `millrace quarantine list` numbers them",
                self.number
            );
        };
        let clear = pipeline.privacy.is_clear(self.whose.environment.as_deref());
        let payload = if clear || !record.sealed {
            let bytes = open(&record, Sealer::of(&pipeline).ok().as_ref())?;
            let bytes = readable(pipeline.source.format(), bytes);
            Some(String::from_utf8_lossy(&bytes).into_owned())
        } else {
            None
        };
        let text = match self.output {
            Output::Json => {
                let mut row = row(self.number - 1, &record, &lines);
                row["payload"] = json!(payload);
                row.to_string()
            }
            Output::Table => {
                let line = line_text(&record, &lines);
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
        if let Some(name) = self.whose.name() {
            let environment = self.whose.environment.as_deref().unwrap_or_default();
            return of_cluster::redrive(self.whose.reach(), name, environment, self.wait, self.how.output);
        }
        let opened = self.whose.open()?;
        let options = self.how.options(self.whose.environment.clone(), Vec::new());
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

fn line_text(record: &Record, lines: &Lines) -> String {
    match line(record, lines) {
        (line, true) => line.to_string(),
        (line, false) => format!("split {} + {line}", record.split),
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
