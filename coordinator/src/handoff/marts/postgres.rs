//! A period of a mart into PostgreSQL.
//!
//! ```text
//! BEGIN
//! INSERT INTO millrace_models ... ON CONFLICT DO UPDATE ... WHERE version is lower   the fence: a second loader waits here
//! DELETE FROM table WHERE period is this one
//! COPY table (columns) FROM STDIN (FORMAT binary)
//! COMMIT
//! ```

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use millrace_pipeline::catalog::identifier::{identifier, literal, qualified};
use millrace_pipeline::spec::marts::PERIOD;
use millrace_pipeline::spec::model::{ColumnType, Pipeline};
use millrace_pipeline::stored::StoredObject;
use parquet::errors::ParquetError;
use tokio_postgres::CopyInSink;

use super::Load;
use crate::handoff::ask::Ask;
use crate::handoff::connection::Connection;
use crate::handoff::session::Outcome;
use crate::handoff::{HandoffError, copy, read};
use crate::lake::Lake;
use crate::lifecycle::{Hook, Moment};

/// Replaces a period, or changes nothing.
pub(super) async fn load(
    connection: &Connection,
    pipeline: &Pipeline,
    lake: &Lake,
    load: &Load<'_>,
    hook: &Hook,
) -> Result<Outcome, HandoffError> {
    let outcome = transaction(connection, pipeline, lake, load, hook).await;
    let outcome = connection.settle(outcome).await;
    if let Err(HandoffError::Refused { refusal, .. }) = &outcome
        && refusal.is_lock_timeout()
    {
        let application = crate::handoff::postgres::application(pipeline);
        crate::handoff::postgres::end_frozen(connection, &load.ledger, &application).await?;
    }
    outcome
}

async fn transaction(
    connection: &Connection,
    pipeline: &Pipeline,
    lake: &Lake,
    load: &Load<'_>,
    hook: &Hook,
) -> Result<Outcome, HandoffError> {
    hook(Moment::Loading);
    connection.run("begin a transaction", "BEGIN").await?;
    let run = load.run;
    let claim = format!(
        "INSERT INTO {ledger} AS known (pipeline, model, period, version, digest, \"rows\") VALUES ({}, {}, {}, {}, {}, {})
         ON CONFLICT (pipeline, model, period) DO UPDATE SET version = excluded.version, digest = excluded.digest,
         \"rows\" = excluded.\"rows\", loaded_at = now() WHERE known.version < excluded.version RETURNING version",
        literal(pipeline.name.as_str()),
        literal(&load.mart.name),
        load.bounds().0,
        run.version,
        literal(&run.object.digest),
        run.object.rows,
        ledger = load.ledger,
    );
    if connection.rows("note the load", &claim).await?.is_empty() {
        connection.run("roll back", "ROLLBACK").await?;
        return Ok(Outcome::WasThere);
    }
    hook(Moment::Claimed);
    connection.run("forget the period", &load.delete()).await?;
    copy(connection, lake, load).await?;
    hook(Moment::Copied);
    connection.run("commit the load", "COMMIT").await?;
    hook(Moment::Loaded);
    Ok(Outcome::Loaded)
}

async fn copy(connection: &Connection, lake: &Lake, load: &Load<'_>) -> Result<(), HandoffError> {
    let object = &load.run.object;
    let failed = |source: ParquetError| HandoffError::Model {
        model: load.mart.name.clone(),
        key: object.key.clone(),
        source,
    };
    let stored = StoredObject {
        store: std::sync::Arc::clone(&lake.store),
        path: lake.path(&object.key),
        bytes: object.bytes,
    };
    // By the object's own columns: an older query may have given others, and what is gone has no place in the table.
    let (builder, columns) = read::open(stored).await.map_err(failed)?;
    let kinds = kinds(load, &columns);
    let list: Vec<String> = columns.iter().map(|column| identifier(column)).collect();
    let sql = format!(
        "COPY {} ({}) FROM STDIN (FORMAT binary)",
        qualified(load.table),
        list.join(", ")
    );
    let sink: CopyInSink<Bytes> = connection
        .client
        .copy_in(sql.as_str())
        .await
        .map_err(|error| HandoffError::of(load.what(), error))?;
    let mut sink = Box::pin(sink);
    let mut batches = builder.build().map_err(failed)?;
    let mut buffer = copy::HEADER.to_vec();
    while let Some(batch) = batches.next().await {
        let batch = batch.map_err(failed)?;
        copy::encode(&batch, &kinds, &mut buffer).map_err(|source| HandoffError::ModelCell {
            model: load.mart.name.clone(),
            table: load.table.to_owned(),
            key: object.key.clone(),
            source: Box::new(source),
        })?;
        let full = Bytes::from(std::mem::take(&mut buffer));
        sink.send(full)
            .await
            .map_err(|error| HandoffError::of("take rows", error))?;
    }
    buffer.extend_from_slice(&copy::TRAILER);
    sink.send(Bytes::from(buffer))
        .await
        .map_err(|error| HandoffError::of("take rows", error))?;
    let found = sink
        .as_mut()
        .finish()
        .await
        .map_err(|error| HandoffError::of(load.what(), error))?;
    if found == object.rows {
        return Ok(());
    }
    Err(HandoffError::ModelRows {
        model: load.mart.name.clone(),
        key: object.key.clone(),
        found,
        expected: object.rows,
    })
}

fn kinds(load: &Load<'_>, columns: &[String]) -> Vec<ColumnType> {
    let kind = |name: &String| {
        let declared = load.mart.columns.iter().find(|column| column.name == *name);
        match declared {
            Some(column) => column.kind.clone(),
            None if name == PERIOD => ColumnType::Timestamp,
            None => ColumnType::String,
        }
    };
    columns.iter().map(kind).collect()
}
