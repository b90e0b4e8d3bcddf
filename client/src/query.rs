//! `millrace query`: SQL over a lake.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::json::ArrayWriter;
use datafusion::arrow::util::pretty::pretty_format_batches;
use millrace_client::v1::{Period, PeriodState};
use millrace_coordinator::commit::committed;
use millrace_coordinator::query::{ModelObjects, query, query_of};
use millrace_proto::ids::BatchId;

use crate::cli::{Output, name_of};
use crate::lakes;
use crate::output::{self, Exit};
use crate::reach::Reach;

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
    /// A pipeline whose lake is meant: a file; its name where a cluster runs it.
    #[arg(long, value_name = "PIPELINE")]
    pipeline: Option<PathBuf>,
    #[command(flatten)]
    reach: Reach,
    /// How rows are printed.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

impl Query {
    fn found(&self) -> Result<Vec<RecordBatch>> {
        let cores = lakes::cores();
        if let Some(name) = self.pipeline.as_deref().and_then(name_of) {
            let (known, periods) = self.reach.with(async |client| {
                let periods = client.list_periods(name, "", PeriodState::Unspecified).await?;
                Ok((client.list_batches(name).await?, periods))
            })?;
            let models = models(periods);
            let given = |text: String| (!text.is_empty()).then_some(text);
            let lake = lakes::lake(
                &known.lake_url,
                given(known.lake_endpoint),
                given(known.lake_region),
            )?;
            return lakes::runtime(cores)?.block_on(async {
                let mut manifests = Vec::with_capacity(known.batches.len());
                for batch in known.batches {
                    let id = BatchId::try_from(batch.batch_id)?;
                    manifests.push(committed(&lake, &id, &batch.manifest_digest).await?);
                }
                Ok(query_of(&lake, &manifests, &models, &self.sql, cores).await?)
            });
        }
        let lake = match &self.pipeline {
            Some(file) => {
                let lake = lakes::pipeline(file)?.lake;
                lakes::lake(&lake.url, lake.endpoint, lake.region)?
            }
            None => lakes::lake(&self.lake, None, None)?,
        };
        Ok(lakes::runtime(cores)?.block_on(query(&lake, &self.sql, cores))?)
    }

    pub(crate) fn execute(self) -> Result<Exit> {
        let batches = self.found()?;
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

/// The results that count, by model.
fn models(periods: Vec<Period>) -> Vec<ModelObjects> {
    let mut models: Vec<ModelObjects> = Vec::new();
    for period in periods {
        let Some(result) = period.result else { continue };
        match models.iter_mut().find(|model| model.name == period.model) {
            Some(model) => model.keys.push(result.key),
            None => models.push(ModelObjects {
                name: period.model,
                keys: vec![result.key],
            }),
        }
    }
    models
}
