//! SQL over what is committed: the tables `events` (also under the pipeline's name) and `quarantine`, and every model under its
//! name and as `models.<name>`.
//!
//! The files come from the manifests, not from a listing: what no manifest names does not exist, and what was
//! replaced is not read.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::{ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl};
use datafusion::error::DataFusionError;
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::FutureExt;
use futures::future::BoxFuture;
use millrace_pipeline::spec::marts::plan;
use millrace_proto::manifest::{Manifest, WrittenObject};
use url::Url;

use crate::commit::{CommitError, live};
use crate::lake::Lake;
use crate::ledger::embedded::EmbeddedLedger;
use crate::ledger::{Ledger, LedgerError, State};

/// Why a query could not be answered.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A manifest.
    #[error(transparent)]
    Manifest(#[from] CommitError),
    /// Nothing is committed.
    #[error("the lake `{url}` holds no committed events; run a pipeline into it first")]
    Empty {
        /// The lake.
        url: String,
    },
    /// The lake's address.
    #[error("`{url}` is not a lake's address")]
    Address {
        /// As given.
        url: String,
        /// What is wrong with it.
        #[source]
        source: url::ParseError,
    },
    /// The query itself.
    #[error("the query failed")]
    Query(#[from] DataFusionError),
}

/// All committed manifests of a lake that keeps its own ledger, in order.
///
/// # Errors
/// When the ledger or a manifest cannot be read.
pub async fn manifests(lake: &Lake) -> Result<Vec<Manifest>, QueryError> {
    manifests_of(lake, EmbeddedLedger::read(lake).await?.state()).await
}

/// All manifests that a ledger's state commits, in order.
///
/// # Errors
/// When a manifest cannot be read.
pub async fn manifests_of(lake: &Lake, state: &State) -> Result<Vec<Manifest>, QueryError> {
    let read = live::manifests(lake, state).await;
    read.map_err(|unread| unread.1.into())
}

/// A model as readers of the lake see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelObjects {
    /// Its name.
    pub name: String,
    /// Keys of the results that count.
    pub keys: Vec<String>,
}

/// The models of a ledger's state.
#[must_use]
pub fn models_of(state: &State) -> Vec<ModelObjects> {
    let objects = |name: &str| ModelObjects {
        name: name.to_owned(),
        keys: state.marts.of(name).map(|run| run.object.key.clone()).collect(),
    };
    state.marts.names().map(objects).collect()
}

/// Runs one SQL statement over the lake.
///
/// # Errors
/// When the lake is empty or unreadable, or the statement is wrong.
pub async fn query(lake: &Lake, sql: &str, threads: usize) -> Result<Vec<RecordBatch>, QueryError> {
    let ledger = EmbeddedLedger::read(lake).await?;
    let manifests = manifests_of(lake, ledger.state()).await?;
    query_of(lake, &manifests, &models_of(ledger.state()), sql, threads).await
}

/// Runs one SQL statement over the files of these manifests and the results of these models.
///
/// # Errors
/// When there are none, the lake is unreadable or the statement is wrong.
pub fn query_of<'a>(
    lake: &'a Lake,
    manifests: &'a [Manifest],
    models: &'a [ModelObjects],
    sql: &'a str,
    threads: usize,
) -> BoxFuture<'a, Result<Vec<RecordBatch>, QueryError>> {
    async move {
        let name = manifests
            .first()
            .map(|manifest| manifest.pipeline.clone())
            .ok_or_else(|| QueryError::Empty {
                url: lake.url.clone(),
            })?;
        let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(threads));
        let base = store_url(&lake.url)?;
        context.register_object_store(&base, Arc::clone(&lake.store));
        let key = |object: &WrittenObject| object.key.clone();
        let data: Vec<String> = live::files(manifests)
            .into_iter()
            .map(|(_, file)| key(&file.object))
            .collect();
        let rejected = live::quarantine(manifests).into_iter();
        let rejected: Vec<String> = rejected.map(|(_, object)| key(object)).collect();
        if !data.is_empty() {
            let events = table(&context, lake, &base, &data).await?;
            context.register_table(name.as_str(), Arc::clone(&events) as _)?;
            if name.as_str() != "events" {
                context.register_table("events", events)?;
            }
        }
        if !rejected.is_empty() {
            context.register_table("quarantine", table(&context, lake, &base, &rejected).await?)?;
        }
        plan::prepare(&context)?;
        for model in models.iter().filter(|model| !model.keys.is_empty()) {
            let objects = table(&context, lake, &base, &model.keys).await?;
            plan::register(&context, &model.name, objects)?;
        }
        Ok(context.sql(sql).await?.collect().await?)
    }
    .boxed()
}

async fn table(
    context: &SessionContext,
    lake: &Lake,
    base: &Url,
    keys: &[String],
) -> Result<Arc<ListingTable>, QueryError> {
    let urls = urls(lake, base, keys.iter().map(String::as_str))?;
    let options = ListingOptions::new(Arc::new(ParquetFormat::default()));
    let schema = options
        .infer_schema(&context.state(), &urls[urls.len() - 1])
        .await?;
    listed(urls, schema)
}

/// A table of these files, of which there is at least one, with the columns of `schema`: what a file lacks of them is null.
pub(crate) fn files_table(
    lake: &Lake,
    keys: &[&str],
    schema: SchemaRef,
) -> Result<Arc<dyn TableProvider>, QueryError> {
    let urls = urls(lake, &store_url(&lake.url)?, keys.iter().copied())?;
    Ok(listed(urls, schema)?)
}

fn urls<'a>(
    lake: &Lake,
    base: &Url,
    keys: impl Iterator<Item = &'a str>,
) -> Result<Vec<ListingTableUrl>, QueryError> {
    let url = |key: &str| {
        let mut url = base.clone();
        url.set_path(&lake.path(key).as_ref().replace('%', "%25"));
        ListingTableUrl::parse(url.as_str())
    };
    Ok(keys.map(url).collect::<Result<Vec<_>, _>>()?)
}

fn listed(urls: Vec<ListingTableUrl>, schema: SchemaRef) -> Result<Arc<ListingTable>, QueryError> {
    // Partition columns stand in the files too, so the path is only a path.
    let options = ListingOptions::new(Arc::new(ParquetFormat::default()));
    let config = ListingTableConfig::new_with_multi_paths(urls)
        .with_listing_options(options)
        .with_schema(schema);
    Ok(Arc::new(ListingTable::try_new(config)?))
}

pub(crate) fn store_url(url: &str) -> Result<Url, QueryError> {
    let parsed = Url::parse(url).map_err(|source| QueryError::Address {
        url: url.to_owned(),
        source,
    })?;
    let mut base = parsed.clone();
    base.set_path("");
    Ok(base)
}
