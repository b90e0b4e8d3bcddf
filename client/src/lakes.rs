//! Opens what a command line names: pipeline files, lakes, stores, and the run-time around them.
//!
//! The one place that reads the environment: `${env:NAME}` of pipeline files and the usual `AWS_*`
//! variables. The libraries get values.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use millrace_coordinator::lake::Lake;
use millrace_pipeline::source::{S3Options, Stores};
use millrace_pipeline::spec;
use millrace_pipeline::spec::model::{Pipeline, Secret, Source};

use crate::cli::{PipelineFile, name_of};
use crate::reach::Reach;

/// A pipeline and its lake, opened.
pub(crate) struct Opened {
    /// The pipeline.
    pub(crate) pipeline: Arc<Pipeline>,
    /// Its lake.
    pub(crate) lake: Lake,
    /// Stores of its input.
    pub(crate) stores: Arc<Stores>,
}

/// The pipeline that is meant: a file and its lake, or the name of an applied one.
#[derive(Debug, Args)]
pub(crate) struct Whose {
    /// A pipeline file; its name where a cluster runs it.
    #[arg(value_name = "PIPELINE")]
    pipeline: PathBuf,
    /// Where the file's lake is, instead of its `lake.url`: a folder or `s3://bucket/prefix`.
    #[arg(long, value_name = "URL")]
    lake: Option<String>,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

impl Whose {
    /// The applied pipeline's name, where it is none of a file.
    pub(crate) fn name(&self) -> Option<&str> {
        name_of(&self.pipeline)
    }

    /// The file and its lake.
    pub(crate) fn open(&self) -> Result<Opened> {
        self.open_in(None)
    }

    /// The same in an environment.
    pub(crate) fn open_in(&self, environment: Option<&str>) -> Result<Opened> {
        open(&PipelineFile {
            file: self.pipeline.clone(),
            lake: self.lake.clone(),
            environment: environment.map(str::to_owned),
        })
    }
}

/// Reads and checks a pipeline file.
pub(crate) fn pipeline(file: &Path) -> Result<Pipeline> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("the pipeline file `{}` cannot be read", file.display()))?;
    let folder = std::path::absolute(file)?
        .parent()
        .map(Path::to_path_buf)
        .unwrap_or_default();
    let env = |name: &str| std::env::var(name).ok();
    let read = |path: &Path| std::fs::read_to_string(path);
    Ok(spec::load(
        &text,
        &file.display().to_string(),
        &folder,
        &env,
        &read,
    )?)
}

/// Opens a pipeline file with its lake and stores.
pub(crate) fn open(given: &PipelineFile) -> Result<Opened> {
    let mut pipeline = pipeline(&given.file)?;
    if let Some(url) = &given.lake {
        pipeline.lake.url = lake_url(url)?;
    }
    let (endpoint, region) = match &pipeline.source {
        Source::S3 { endpoint, region, .. } => (endpoint.clone(), region.clone()),
        Source::Files { .. } | Source::Kafka { .. } => (None, None),
    };
    let stores = Arc::new(Stores::new(s3_options(endpoint, region)));
    let lake = lake(
        &pipeline.lake.url,
        pipeline.lake.endpoint.clone(),
        pipeline.lake.region.clone(),
    )?;
    Ok(Opened {
        pipeline: Arc::new(pipeline),
        lake,
        stores,
    })
}

/// Opens a lake by its address.
pub(crate) fn lake(url: &str, endpoint: Option<String>, region: Option<String>) -> Result<Lake> {
    let url = lake_url(url)?;
    if let Some(folder) = url.strip_prefix("file://") {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("the lake's folder `{folder}` cannot be made"))?;
    }
    let s3 = s3_options(endpoint, region);
    let (store, root) = Stores::new(s3.clone()).open(&url)?;
    Ok(Lake { url, store, root, s3 })
}

/// A folder as a `file://` address; other addresses as they are.
pub(crate) fn lake_url(text: &str) -> Result<String> {
    let text = text.trim_end_matches('/');
    if text.contains("://") {
        return Ok(text.to_owned());
    }
    let path: PathBuf = std::path::absolute(text)?;
    let path = path
        .to_str()
        .ok_or_else(|| anyhow!("the lake's path `{}` is not UTF-8", path.display()))?;
    Ok(format!("file://{path}"))
}

/// S3 access from the pipeline file first, then from the environment variables that AWS tools use.
pub(crate) fn s3_options(endpoint: Option<String>, region: Option<String>) -> S3Options {
    let var = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let endpoint = endpoint
        .or_else(|| var("AWS_ENDPOINT_URL_S3"))
        .or_else(|| var("AWS_ENDPOINT_URL"));
    S3Options {
        endpoint,
        region: region
            .or_else(|| var("AWS_REGION"))
            .or_else(|| var("AWS_DEFAULT_REGION")),
        access_key_id: var("AWS_ACCESS_KEY_ID"),
        secret_access_key: var("AWS_SECRET_ACCESS_KEY").map(Secret::new),
        session_token: var("AWS_SESSION_TOKEN").map(Secret::new),
        ..S3Options::default()
    }
}

/// A run-time with that many compute threads.
pub(crate) fn runtime(threads: usize) -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()?)
}

/// Cores of this machine.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
