//! `millrace run`: the whole data path in this process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use chrono::{DateTime, SecondsFormat, Utc};
use clap::Args;
use millrace_coordinator::job::{Outcome, Progress, RunOptions, Runner, clean_ratio};
use millrace_coordinator::lifecycle::{Hook, Moment};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::cli::{Output, PipelineFile};
use crate::handoff;
use crate::lakes::{self, Opened};
use crate::output::{self, Exit, bytes, grouped};
use crate::progress;

/// Arguments of `run`.
#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pipeline: PipelineFile,
    #[command(flatten)]
    how: How,
    /// Files, folders, globs or `s3://` prefixes to read instead of the pipeline's own; may be repeated.
    #[arg(long, value_name = "PATH")]
    input: Vec<String>,
    /// Leave the warehouse alone; a later run, or `millrace handoff load`, loads what is committed.
    #[arg(long)]
    no_handoff: bool,
}

/// What `run` and `quarantine redrive` share.
#[derive(Debug, Args)]
pub(crate) struct How {
    /// Compute threads. Default: all cores.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Memory for keys and for rows that wait to be written, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 1280, value_parser = clap::value_parser!(u32).range(64..))]
    memory: u32,
    /// Input that is committed at once, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// How the summary is printed.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

impl How {
    /// Compute threads.
    pub(crate) fn threads(&self) -> usize {
        self.threads.map_or_else(lakes::cores, usize::from)
    }

    /// The job's options.
    pub(crate) fn options(&self, environment: Option<String>, inputs: Vec<String>) -> RunOptions {
        RunOptions {
            environment,
            inputs,
            threads: self.threads(),
            batch_bytes: u64::from(self.batch) << 20,
            memory_bytes: (self.memory as usize) << 20,
            hook: crash_hook(std::env::var("MILLRACE_CRASH_AT").ok()),
        }
    }
}

impl Run {
    pub(crate) fn execute(self) -> Result<Exit> {
        let opened = lakes::open(&self.pipeline)?;
        let options = self.how.options(self.pipeline.environment.clone(), self.input);
        let started = Instant::now();
        let lake = opened.lake.url.clone();
        let name = opened.pipeline.name.to_string();
        let minimum = opened
            .pipeline
            .quality
            .as_ref()
            .map(|quality| quality.minimum_clean);
        let runtime = lakes::runtime(self.how.threads())?;
        let place = (
            Arc::clone(&opened.pipeline),
            opened.lake.clone(),
            Arc::clone(&options.hook),
        );
        let outcome = runtime.block_on(watched(opened, options, |runner, progress| {
            Box::pin(async move { Ok(runner.run(&progress).await?) })
        }))?;
        let summary = Summary {
            name,
            lake,
            outcome,
            minimum,
            seconds: started.elapsed().as_secs_f64(),
        };
        let exit = summary.print(self.how.output)?;
        if !self.no_handoff {
            let (pipeline, lake, hook) = place;
            runtime.block_on(handoff::load(pipeline, lake, hook))?;
        }
        Ok(exit)
    }
}

type Running = std::pin::Pin<Box<dyn Future<Output = Result<Outcome>> + Send>>;

/// Runs a job with progress shown, and stops it cleanly on Ctrl-C.
pub(crate) async fn watched(
    opened: Opened,
    options: RunOptions,
    job: impl FnOnce(Runner, Arc<Progress>) -> Running,
) -> Result<Outcome> {
    let (ask, stop) = watch::channel(false);
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            output::note("stopping; committed batches stay, the same command goes on from there");
            // The job may be over already.
            let _ = ask.send(true);
        }
        std::future::pending::<()>().await;
    });
    let _lock = lock(&opened)?;
    let progress = Arc::new(Progress::default());
    let shown = tokio::spawn(progress::show(Arc::clone(&progress)));
    let runner = Runner::open(opened.pipeline, opened.lake, opened.stores, options, stop).await?;
    let outcome = job(runner, progress).await;
    shown.abort();
    outcome
}

/// A courtesy to people who start two runs at once on one machine: fencing, not this, keeps them correct.
pub(crate) fn lock(opened: &Opened) -> Result<Option<std::fs::File>> {
    let Some(folder) = opened.lake.local() else {
        return Ok(None);
    };
    let file = std::fs::File::create(folder.join(".lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(std::fs::TryLockError::WouldBlock) => {
            anyhow::bail!(
                "another run is at work on the lake `{}`; wait until it is done",
                opened.lake.url
            )
        }
        Err(std::fs::TryLockError::Error(_)) => Ok(None), // a file system without locks
    }
}

/// For fault tests: `MILLRACE_CRASH_AT=published` kills this process, as `kill -9` would, at that moment;
/// `published:2` at its second time, `published:2:STOP` freezes it then, as `kill -STOP` would.
pub(crate) fn crash_hook(at: Option<String>) -> Hook {
    let Some(at) = at else { return Arc::new(|_| {}) };
    let mut parts = at.split(':').map(str::to_owned);
    let name = parts.next().unwrap_or_default();
    let times = parts.next().and_then(|times| times.parse().ok()).unwrap_or(1);
    let signal = parts.next().unwrap_or_else(|| "KILL".to_owned());
    let left = std::sync::atomic::AtomicU32::new(times);
    Arc::new(move |moment: Moment| {
        let here = moment.name() == name;
        if here && left.fetch_sub(1, std::sync::atomic::Ordering::SeqCst) == 1 {
            let me = std::process::id().to_string();
            let _ = std::process::Command::new("kill")
                .args(["-s", &signal, &me])
                .status();
            if signal == "KILL" {
                // If even that fails, aborting is as abrupt.
                std::process::abort();
            }
            // A signal takes a moment to stop every thread: this one goes no further until it has.
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
    })
}

/// What a run came to.
pub(crate) struct Summary {
    pub(crate) name: String,
    pub(crate) lake: String,
    pub(crate) outcome: Outcome,
    pub(crate) minimum: Option<f64>,
    pub(crate) seconds: f64,
}

impl Summary {
    pub(crate) fn print(&self, output: Output) -> Result<Exit> {
        match output {
            Output::Json => output::result(&self.json().to_string())?,
            Output::Table => output::result(&self.text())?,
        }
        Ok(if self.outcome.breached.is_empty() {
            Exit::Done
        } else {
            Exit::Breach
        })
    }

    fn json(&self) -> Value {
        let counts = &self.outcome.counts;
        let mut summary = json!({
            "pipeline": self.name,
            "job": self.outcome.job,
            "events_read": counts.read,
            "events_written": counts.written,
            "duplicates": counts.duplicates,
            "quarantined": counts.quarantined,
            "late": counts.late,
            "clean_ratio": clean_ratio(counts),
            "files": self.files(),
            "bytes_read": self.bytes_read(),
            "bytes_written": self.bytes_written(),
            "seconds": self.seconds,
            "events_per_second": self.rate(),
            "lake": self.lake,
            "quality": self.quality(),
        });
        let lookups = self.lookups();
        if !lookups.is_empty() {
            summary["enrich"] = json!(lookups);
        }
        summary
    }

    /// By lookup: the newest snapshot that was used, and how many events had a key that was not in theirs.
    fn lookups(&self) -> BTreeMap<&str, Value> {
        let mut lookups = BTreeMap::new();
        let manifests = &self.outcome.manifests;
        for snapshot in manifests.iter().flat_map(|manifest| &manifest.enrich) {
            let name = snapshot.lookup.as_str();
            let unmatched: u64 = manifests
                .iter()
                .filter_map(|manifest| manifest.unmatched.get(name))
                .sum();
            let taken = DateTime::<Utc>::from_timestamp_micros(snapshot.taken_us);
            let taken = taken.map(|taken| taken.to_rfc3339_opts(SecondsFormat::Secs, true));
            let shown = json!({
                "snapshot": snapshot.object.key, "taken": taken, "rows": snapshot.object.rows, "unmatched": unmatched,
            });
            lookups.insert(name, shown);
        }
        lookups
    }

    fn quality(&self) -> Value {
        match &self.outcome.quality {
            None => Value::Null,
            Some(result) => json!({
                "success": result["success"],
                "statistics": result["statistics"],
                "minimum_clean": self.minimum,
                "breached": self.outcome.breached,
                "result": self.outcome.quality_key.as_ref().map(|key| format!("{}/{key}", self.lake)),
            }),
        }
    }

    fn text(&self) -> String {
        let counts = &self.outcome.counts;
        if counts.read == 0 && self.outcome.manifests.is_empty() {
            return format!("{}: nothing new to read; the lake is {}", self.name, self.lake);
        }
        let mut table = output::table(&["", "events"]);
        for (what, count) in [
            ("read", counts.read),
            ("written", counts.written),
            ("  of these late", counts.late),
            ("duplicates", counts.duplicates),
            ("quarantined", counts.quarantined),
        ] {
            table.add_row([what.to_owned(), grouped(count)]);
        }
        if let Some(column) = table.column_mut(1) {
            column.set_cell_alignment(comfy_table::CellAlignment::Right);
        }
        let mut text = format!("{table}\n");
        text.push_str(&format!(
            "{} read, {} written in {} files, {:.1} s, {} events/s\n",
            bytes(self.bytes_read()),
            bytes(self.bytes_written()),
            grouped(self.files() as u64),
            self.seconds,
            grouped(self.rate()),
        ));
        text.push_str(&format!("clean: {:.3}%", clean_ratio(counts) * 100.0));
        if let Some(minimum) = self.minimum {
            text.push_str(&format!(" (minimum {:.3}%)", minimum * 100.0));
        }
        if let Some(result) = &self.outcome.quality {
            let statistics = &result["statistics"];
            let (met, all) = (
                &statistics["successful_expectations"],
                &statistics["evaluated_expectations"],
            );
            text.push_str(&format!(", expectations met: {met} of {all}"));
        }
        text.push('\n');
        for (name, lookup) in self.lookups() {
            text.push_str(&format!(
                "lookup {name}: {} events without a match in {} rows, taken {}\n",
                lookup["unmatched"],
                lookup["rows"],
                lookup["taken"].as_str().unwrap_or_default()
            ));
        }
        for batch in &self.outcome.breached {
            text.push_str(&format!(
                "batch {batch} is under the minimum: see `millrace quarantine list`\n"
            ));
        }
        if let Some(key) = &self.outcome.quality_key {
            text.push_str(&format!("quality: {}/{key}\n", self.lake));
        }
        text.push_str(&format!("lake:    {}", self.lake));
        text
    }

    fn files(&self) -> usize {
        self.outcome
            .manifests
            .iter()
            .map(|manifest| manifest.files.len())
            .sum()
    }

    fn bytes_read(&self) -> u64 {
        let splits = self
            .outcome
            .manifests
            .iter()
            .flat_map(|manifest| &manifest.splits);
        splits.map(|split| split.end - split.start).sum()
    }

    fn bytes_written(&self) -> u64 {
        let files = self.outcome.manifests.iter().flat_map(|manifest| &manifest.files);
        files.map(|file| file.object.bytes).sum()
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a rate for people"
    )]
    fn rate(&self) -> u64 {
        (self.outcome.counts.read as f64 / self.seconds.max(1e-9)) as u64
    }
}
