//! `millrace pipeline apply|list|show|delete`: the pipelines that the cluster keeps.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use millrace_client::v1::{self, Pipeline};
use serde_json::{Value, json};

use crate::cli::Output;
use crate::jobs::time;
use crate::output::{self, Exit};
use crate::reach::Reach;

#[derive(Debug, Args)]
pub(crate) struct Apply {
    /// The pipeline file; the suite that it names travels with it.
    file: PathBuf,
    #[command(flatten)]
    reach: Reach,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    reach: Reach,
    /// How they are printed.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// The pipeline's name.
    name: String,
    /// Which version; default: the newest.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    version: u32,
    #[command(flatten)]
    reach: Reach,
    /// How it is printed; `table` prints the file's text.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// The pipeline's name.
    name: String,
    #[command(flatten)]
    reach: Reach,
    /// How the result is printed.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

impl Apply {
    pub(crate) fn execute(self) -> Result<Exit> {
        let file = self.file.display().to_string();
        let text = std::fs::read_to_string(&self.file)
            .with_context(|| format!("the pipeline file `{file}` cannot be read"))?;
        let folder = self.file.parent().unwrap_or(Path::new("."));
        let files = millrace_coordinator::applied::gather(&text, folder);
        let request = v1::ApplyPipelineRequest {
            text,
            files,
            file_name: file,
        };
        let applied = self
            .reach
            .with(async |client| Ok(client.apply_pipeline(request).await?))?;
        let pipeline = applied.pipeline.unwrap_or_default();
        let (name, version) = (&pipeline.name, pipeline.version);
        match self.output {
            Output::Json => {
                let all = json!({"pipeline": name, "version": version, "changed": applied.changed});
                output::result(&all.to_string())?;
            }
            Output::Table if applied.changed => {
                output::result(&format!("{name}: version {version} applied"))?
            }
            Output::Table => output::result(&format!("{name}: version {version} already, nothing changed"))?,
        }
        Ok(Exit::Done)
    }
}

impl List {
    pub(crate) fn execute(self) -> Result<Exit> {
        let pipelines = self
            .reach
            .with(async |client| Ok(client.list_pipelines().await?))?;
        match self.output {
            Output::Json => {
                let all: Vec<Value> = pipelines.iter().map(brief).collect();
                output::result(&json!({ "pipelines": all }).to_string())?;
            }
            Output::Table => {
                let mut table = output::table(&["pipeline", "version", "applied", "by"]);
                for pipeline in &pipelines {
                    table.add_row([
                        pipeline.name.clone(),
                        pipeline.version.to_string(),
                        time(pipeline.apply_time.as_ref()).unwrap_or_default(),
                        pipeline.applier.clone(),
                    ]);
                }
                output::result(&table.to_string())?;
            }
        }
        Ok(Exit::Done)
    }
}

impl Show {
    pub(crate) fn execute(self) -> Result<Exit> {
        let pipeline = self
            .reach
            .with(async |client| Ok(client.get_pipeline(&self.name, self.version).await?))?;
        match self.output {
            Output::Json => {
                let mut all = brief(&pipeline);
                let files = pipeline.files.iter();
                let files: serde_json::Map<String, Value> = files
                    .map(|(name, bytes)| (name.clone(), json!(String::from_utf8_lossy(bytes))))
                    .collect();
                all["text"] = json!(pipeline.text);
                all["files"] = Value::Object(files);
                output::result(&all.to_string())?;
            }
            Output::Table => output::result(&pipeline.text)?,
        }
        Ok(Exit::Done)
    }
}

impl Delete {
    pub(crate) fn execute(self) -> Result<Exit> {
        self.reach
            .with(async |client| Ok(client.delete_pipeline(&self.name).await?))?;
        match self.output {
            Output::Json => output::result(&json!({"pipeline": self.name, "deleted": true}).to_string())?,
            Output::Table => output::result(&format!("{}: deleted; its lake stays", self.name))?,
        }
        Ok(Exit::Done)
    }
}

fn brief(pipeline: &Pipeline) -> Value {
    json!({
        "pipeline": pipeline.name,
        "version": pipeline.version,
        "digest": pipeline.digest,
        "apply_time": time(pipeline.apply_time.as_ref()),
        "applier": pipeline.applier,
    })
}
