//! A period of a mart into Redshift.
//!
//! ```text
//! BEGIN
//! LOCK millrace_models                       the fence: keys are not enforced there, so loaders take turns
//! SELECT version ...                         what another loader was faster with
//! DELETE FROM table WHERE period is this one
//! COPY table (columns) FROM 's3://.../loads/<digest>.manifest' ... FORMAT AS PARQUET MANIFEST
//! DELETE FROM millrace_models, INSERT INTO millrace_models
//! COMMIT
//! ```

use millrace_pipeline::catalog::identifier::literal;
use millrace_pipeline::spec::marts::PERIOD;
use millrace_pipeline::spec::model::{ColumnType, Pipeline};

use super::Load;
use crate::handoff::HandoffError;
use crate::handoff::ask::{Ask, field};
use crate::handoff::connection::Connection;
use crate::handoff::redshift::{copy_statement, put_list};
use crate::handoff::session::Outcome;
use crate::lake::Lake;
use crate::lifecycle::{Hook, Moment};

/// Replaces a period, or changes nothing.
pub(super) async fn load(
    connection: &Connection,
    pipeline: &Pipeline,
    lake: &Lake,
    role: Option<&str>,
    load: &Load<'_>,
    hook: &Hook,
) -> Result<Outcome, HandoffError> {
    let outcome = transaction(connection, pipeline, lake, role, load, hook).await;
    connection.settle(outcome).await
}

async fn transaction(
    connection: &Connection,
    pipeline: &Pipeline,
    lake: &Lake,
    role: Option<&str>,
    load: &Load<'_>,
    hook: &Hook,
) -> Result<Outcome, HandoffError> {
    hook(Moment::Loading);
    let run = load.run;
    // A COPY of no rows is refused by some clusters, and says nothing.
    let objects = (run.object.rows > 0).then_some(&run.object);
    let source = put_list(lake, objects.into_iter()).await?;
    connection.run("begin a transaction", "BEGIN").await?;
    let lock = format!("LOCK TABLE {}", load.ledger);
    connection.run("lock the load ledger", &lock).await?;
    let key = load.key(pipeline);
    let known = format!("SELECT version FROM {} WHERE {key}", load.ledger);
    let known = connection.rows("show its load ledger", &known).await?;
    let newest = known
        .iter()
        .filter_map(|row| field(row, 0).parse::<u64>().ok())
        .max();
    if newest.is_some_and(|version| version >= run.version) {
        connection.run("roll back", "ROLLBACK").await?;
        return Ok(Outcome::WasThere);
    }
    hook(Moment::Claimed);
    connection.run("forget the period", &load.delete()).await?;
    if let Some(url) = source {
        let columns = load.mart.columns.iter().map(|column| column.name.clone());
        let columns: Vec<String> = columns.chain([PERIOD.to_owned()]).collect();
        let is_list = |kind: &ColumnType| matches!(kind, ColumnType::List(_));
        let nested = load.mart.columns.iter().any(|column| is_list(&column.kind));
        let sql = copy_statement(load.table, &columns, &url, role, nested);
        connection.run(&load.what(), &sql).await?;
        check_count(connection, load).await?;
    }
    hook(Moment::Copied);
    let forget = format!("DELETE FROM {} WHERE {key}", load.ledger);
    connection.run("note the load", &forget).await?;
    let note = format!(
        "INSERT INTO {} (pipeline, model, period, version, digest, \"rows\") VALUES ({}, {}, {}, {}, {}, {})",
        load.ledger,
        literal(pipeline.name.as_str()),
        literal(&load.mart.name),
        load.bounds().0,
        run.version,
        literal(&run.object.digest),
        run.object.rows
    );
    connection.run("note the load", &note).await?;
    connection.run("commit the load", "COMMIT").await?;
    hook(Moment::Loaded);
    Ok(Outcome::Loaded)
}

async fn check_count(connection: &Connection, load: &Load<'_>) -> Result<(), HandoffError> {
    let rows = connection
        .rows("count the load", "SELECT pg_last_copy_count()")
        .await?;
    let found = rows
        .first()
        .and_then(|row| field(row, 0).parse().ok())
        .unwrap_or(0);
    let expected = load.run.object.rows;
    if found == expected {
        return Ok(());
    }
    Err(HandoffError::ModelRows {
        model: load.mart.name.clone(),
        key: load.run.object.key.clone(),
        found,
        expected,
    })
}
