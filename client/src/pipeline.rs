//! `millrace pipeline`: pipeline files, without running them.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use millrace_coordinator::handoff::statistics;
use millrace_coordinator::ledger::Ledger;
use millrace_coordinator::ledger::embedded::EmbeddedLedger;
use millrace_pipeline::catalog::encodings::Statistics;
use millrace_pipeline::catalog::{ddl, docs, mart_ddl};
use millrace_pipeline::{quality, spec};

use crate::applied;
use crate::cli::{Output, PipelineFile};
use crate::lakes;
use crate::output::{self, Exit};

/// Subcommands of `pipeline`.
#[derive(Debug, Subcommand)]
pub(crate) enum Pipeline {
    /// Check a pipeline file; every fault is named with its line. Exit code 2 when there are any.
    Check(Check),
    /// Print the JSON Schema of pipeline files, for editors.
    Schema,
    /// Print the statements of the warehouse's tables.
    Ddl(Ddl),
    /// Print the data dictionary.
    Docs(Docs),
    /// Store a pipeline in the cluster as the next version of its name.
    Apply(applied::Apply),
    /// The cluster's pipelines.
    List(applied::List),
    /// One of the cluster's pipelines.
    Show(applied::Show),
    /// Remove a pipeline that no job runs from the cluster. Its lake stays.
    Delete(applied::Delete),
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The pipeline file.
    file: PathBuf,
    /// How faults are printed.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Ddl {
    /// The pipeline file.
    file: PathBuf,
    /// For which warehouse; default: the one that the file names, else PostgreSQL.
    #[arg(long, value_enum)]
    dialect: Option<Dialect>,
    /// Choose Redshift's encodings by what the files of this lake say of the values: a folder or `s3://bucket/prefix`.
    #[arg(long, value_name = "URL")]
    lake: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Dialect {
    Postgres,
    Redshift,
}

#[derive(Debug, Args)]
pub(crate) struct Docs {
    /// The pipeline file.
    file: PathBuf,
    /// In which form.
    #[arg(long, value_enum, default_value_t = Form::Html)]
    format: Form,
    /// The environment whose masking is described.
    #[arg(long, env = "MILLRACE_ENVIRONMENT")]
    environment: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    Html,
    Markdown,
    Json,
}

impl Pipeline {
    pub(crate) fn execute(self) -> Result<Exit> {
        match self {
            Self::Check(check) => check.execute(),
            Self::Schema => {
                output::result(&serde_json::to_string_pretty(&spec::json_schema())?)?;
                Ok(Exit::Done)
            }
            Self::Ddl(ddl) => ddl.execute(),
            Self::Docs(docs) => docs.execute(),
            Self::Apply(apply) => apply.execute(),
            Self::List(list) => list.execute(),
            Self::Show(show) => show.execute(),
            Self::Delete(delete) => delete.execute(),
        }
    }
}

impl Check {
    fn execute(self) -> Result<Exit> {
        let judged = lakes::pipeline(&self.file).and_then(|pipeline| {
            quality::check(&pipeline)?;
            Ok(pipeline)
        });
        let error = match judged {
            Ok(pipeline) => {
                let text = match self.output {
                    Output::Json => serde_json::json!({"pipeline": pipeline.name, "faults": []}).to_string(),
                    Output::Table => {
                        format!("{}: pipeline `{}` is sound", self.file.display(), pipeline.name)
                    }
                };
                output::result(&text)?;
                return Ok(Exit::Done);
            }
            Err(error) => error,
        };
        match (error.downcast::<spec::Report>(), self.output) {
            (Ok(report), Output::Json) => output::result(&report.to_json().to_string())?,
            (Ok(report), Output::Table) => output::result(&report.to_string())?,
            (Err(unread), _) => {
                output::error(&unread);
            }
        }
        Ok(Exit::Usage)
    }
}

impl Ddl {
    fn execute(self) -> Result<Exit> {
        let pipeline = lakes::pipeline(&self.file)?;
        let named = match &pipeline.warehouse {
            Some(spec::model::Warehouse::Redshift { .. }) => Dialect::Redshift,
            Some(spec::model::Warehouse::Postgres { .. }) | None => Dialect::Postgres,
        };
        let (events, of_mart): (_, fn(&_) -> String) = match self.dialect.unwrap_or(named) {
            Dialect::Postgres => (ddl::postgres(&pipeline), mart_ddl::postgres),
            Dialect::Redshift => (ddl::redshift(&pipeline, &self.known()?), mart_ddl::redshift),
        };
        let marts = pipeline.marts.iter().map(of_mart).filter(|sql| !sql.is_empty());
        let all: Vec<String> = std::iter::once(events).chain(marts).collect();
        output::result(&all.join("\n"))?;
        Ok(Exit::Done)
    }

    /// What the lake says of the columns, where it is to.
    fn known(&self) -> Result<Statistics> {
        if self.lake.is_none() {
            return Ok(Statistics::default());
        }
        let opened = lakes::open(&PipelineFile {
            file: self.file.clone(),
            lake: self.lake.clone(),
            environment: None,
        })?;
        lakes::runtime(1)?.block_on(async {
            let ledger = EmbeddedLedger::read(&opened.lake).await?;
            Ok(statistics::look(&opened.lake, ledger.state()).await)
        })
    }
}

impl Docs {
    fn execute(self) -> Result<Exit> {
        let pipeline = lakes::pipeline(&self.file)?;
        let environment = self.environment.as_deref();
        let text = match self.format {
            Form::Html => docs::html(&pipeline, environment),
            Form::Markdown => docs::markdown(&pipeline, environment),
            Form::Json => docs::json(&pipeline, environment),
        };
        output::result(&text)?;
        Ok(Exit::Done)
    }
}
