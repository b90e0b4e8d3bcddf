//! `millrace compact`: complete hours of a lake that keeps its own ledger, rewritten to files of full size.

use std::sync::Arc;

use anyhow::{Result, bail};
use clap::Args;
use millrace_coordinator::compaction::{Compacted, compact};
use serde_json::json;

use crate::cli::{Output, PipelineFile, name_of};
use crate::lakes;
use crate::output::{self, Exit, bytes, grouped};
use crate::run::{crash_hook, lock};

/// Arguments of `compact`.
#[derive(Debug, Args)]
pub(crate) struct Compact {
    #[command(flatten)]
    pipeline: PipelineFile,
    /// Memory for rows that wait to be written, in MiB: a file holds no more than fits.
    #[arg(long, value_name = "MIB", default_value_t = 1280, value_parser = clap::value_parser!(u32).range(64..))]
    memory: u32,
    /// How the summary is printed.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

impl Compact {
    pub(crate) fn execute(self) -> Result<Exit> {
        if let Some(name) = name_of(&self.pipeline.file) {
            bail!(
                "`{name}` is a pipeline of the cluster, which compacts complete hours by itself; name a file"
            );
        }
        let opened = lakes::open(&self.pipeline)?;
        let _lock = lock(&opened)?;
        let hook = crash_hook(std::env::var("MILLRACE_CRASH_AT").ok());
        let memory = (self.memory as usize) << 20;
        let name = opened.pipeline.name.to_string();
        let (pipeline, lake) = (Arc::clone(&opened.pipeline), opened.lake.clone());
        let runtime = lakes::runtime(lakes::cores())?;
        let done = runtime.block_on(compact(pipeline, lake, memory, hook))?;
        match self.output {
            Output::Json => output::result(&json(&name, &done).to_string())?,
            Output::Table => output::result(&text(&name, &done))?,
        }
        Ok(Exit::Done)
    }
}

fn json(name: &str, done: &Compacted) -> serde_json::Value {
    json!({
        "pipeline": name, "batches": done.batches, "hours": done.hours, "open_hours": done.open_hours,
        "files_before": done.files_before.0, "bytes_before": done.files_before.1,
        "files_after": done.files_after.0, "bytes_after": done.files_after.1,
        "key_files_before": done.keys_before, "key_files_after": done.keys_after, "deleted": done.deleted,
    })
}

fn text(name: &str, done: &Compacted) -> String {
    let Compacted {
        files_before: (before, bytes_before),
        files_after: (after, bytes_after),
        ..
    } = *done;
    let mut text = if done.hours == 0 && before == 0 {
        format!("{name}: nothing to compact")
    } else {
        format!(
            "{name}: {} hours are compacted: {} data files ({}) are {} ({}) now, {} key files are {}",
            grouped(done.hours),
            grouped(before),
            bytes(bytes_before),
            grouped(after),
            bytes(bytes_after),
            grouped(done.keys_before),
            grouped(done.keys_after),
        )
    };
    if done.open_hours > 0 {
        text.push_str(&format!(
            "\n{} hours are not complete yet",
            grouped(done.open_hours)
        ));
    }
    if done.deleted > 0 {
        text.push_str(&format!("\n{} replaced files are deleted", grouped(done.deleted)));
    }
    text
}
