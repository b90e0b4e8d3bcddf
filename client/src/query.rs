//! `millrace query`: SQL over a lake.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use datafusion::arrow::json::ArrayWriter;
use datafusion::arrow::util::pretty::pretty_format_batches;

use crate::cli::Output;
use crate::lakes;
use crate::output::{self, Exit};

/// Arguments of `query`.
#[derive(Debug, Args)]
pub(crate) struct Query {
    /// One SQL statement, such as `SELECT kind, count(*) FROM events GROUP BY kind`.
    sql: String,
    /// The lake: a folder or `s3://bucket/prefix`.
    #[arg(
        long,
        value_name = "URL",
        default_value = "./lake",
        conflicts_with = "pipeline"
    )]
    lake: String,
    /// A pipeline file whose lake is meant.
    #[arg(long, value_name = "FILE")]
    pipeline: Option<PathBuf>,
    /// How rows are printed.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

impl Query {
    pub(crate) fn execute(self) -> Result<Exit> {
        let lake = match &self.pipeline {
            Some(file) => {
                let lake = lakes::pipeline(file)?.lake;
                lakes::lake(&lake.url, lake.endpoint, lake.region)?
            }
            None => lakes::lake(&self.lake, None, None)?,
        };
        let cores = lakes::cores();
        let found = millrace_coordinator::query::query(&lake, &self.sql, cores);
        let batches = lakes::runtime(cores)?.block_on(found)?;
        match self.output {
            Output::Table => output::result(&pretty_format_batches(&batches)?.to_string())?,
            Output::Json => {
                let mut writer = ArrayWriter::new(Vec::new());
                writer.write_batches(&batches.iter().collect::<Vec<_>>())?;
                writer.finish()?;
                output::result(&String::from_utf8(writer.into_inner())?)?;
            }
        }
        Ok(Exit::Done)
    }
}
