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
//!
//! Over the Data API it is one batch of the same statements.

use millrace_pipeline::catalog::identifier::literal;
use millrace_pipeline::spec::marts::PERIOD;
use millrace_pipeline::spec::model::{ColumnType, Pipeline};

use super::{Load, versions};
use crate::handoff::HandoffError;
use crate::handoff::ask::{Ask, field};
use crate::handoff::connection::Connection;
use crate::handoff::data_api::{Loaded, Step, Transaction};
use crate::handoff::redshift::{Way, copy_statement, put_list};
use crate::handoff::session::Outcome;
use crate::lake::Lake;
use crate::lifecycle::{Hook, Moment};
use crate::marts::start_of;

/// Replaces a period, or changes nothing.
pub(super) async fn load(
    way: &Way,
    pipeline: &Pipeline,
    lake: &Lake,
    role: Option<&str>,
    load: &Load<'_>,
    hook: &Hook,
) -> Result<Outcome, HandoffError> {
    hook(Moment::Loading);
    let copy = copy(lake, role, load).await?;
    match way {
        Way::Postgres(connection) => {
            let outcome = transaction(connection, pipeline, copy, load, hook).await;
            connection.settle(outcome).await
        }
        Way::DataApi(client, salt) => {
            let transaction = Transaction {
                client,
                salt,
                table: load.table,
                what: load.what(),
                steps: steps(pipeline, copy, load),
            };
            transaction.run(|| loaded(way, pipeline, load), hook).await
        }
    }
}

/// The statement that brings the rows; none for a period without rows.
async fn copy(lake: &Lake, role: Option<&str>, load: &Load<'_>) -> Result<Option<String>, HandoffError> {
    // A COPY of no rows is refused by some clusters, and says nothing.
    let objects = (load.run.object.rows > 0).then_some(&load.run.object);
    let Some(url) = put_list(lake, objects.into_iter()).await? else {
        return Ok(None);
    };
    let columns = load.mart.columns.iter().map(|column| column.name.clone());
    let columns: Vec<String> = columns.chain([PERIOD.to_owned()]).collect();
    let is_list = |kind: &ColumnType| matches!(kind, ColumnType::List(_));
    let nested = load.mart.columns.iter().any(|column| is_list(&column.kind));
    Ok(Some(copy_statement(load.table, &columns, &url, role, nested)))
}

/// The statements that note the period in the load ledger.
fn notes(pipeline: &Pipeline, load: &Load<'_>) -> [String; 2] {
    let run = load.run;
    let forget = format!("DELETE FROM {} WHERE {}", load.ledger, load.key(pipeline));
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
    [forget, note]
}

/// Over the Data API: a batch whose conditions are statements that fail.
fn steps(pipeline: &Pipeline, copy: Option<String>, load: &Load<'_>) -> Vec<Step> {
    let newer = format!(
        "FROM {} WHERE {} AND version >= {}",
        load.ledger,
        load.key(pipeline),
        load.run.version
    );
    let mut steps = vec![
        Step::plain(format!("LOCK TABLE {}", load.ledger)),
        Step::claim(&newer),
        Step::plain(load.delete()),
    ];
    if let Some(copy) = copy {
        steps.push(Step::plain(copy));
        steps.push(Step::count(load.run.object.rows));
    }
    steps.extend(notes(pipeline, load).map(Step::plain));
    steps
}

async fn loaded(way: &Way, pipeline: &Pipeline, load: &Load<'_>) -> Result<Loaded, HandoffError> {
    let versions = versions(way, pipeline, load.mart, load.table).await?;
    let found = versions.get(&start_of(load.run.from_hour)).copied();
    Ok(match found {
        Some(version) if version == load.run.version => Loaded::All,
        Some(version) if version > load.run.version => Loaded::Some,
        Some(_) | None => Loaded::None,
    })
}

async fn transaction(
    connection: &Connection,
    pipeline: &Pipeline,
    copy: Option<String>,
    load: &Load<'_>,
    hook: &Hook,
) -> Result<Outcome, HandoffError> {
    let run = load.run;
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
    if let Some(sql) = copy {
        connection.run(&load.what(), &sql).await?;
        check_count(connection, load).await?;
    }
    hook(Moment::Copied);
    for sql in notes(pipeline, load) {
        connection.run("note the load", &sql).await?;
    }
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
