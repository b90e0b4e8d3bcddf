//! What a warehouse says of itself: the columns of a table, the batches in the load ledger.
//!
//! The queries use the catalogue that PostgreSQL and Redshift have alike.

use millrace_pipeline::catalog::ddl;
use millrace_pipeline::catalog::identifier::literal;
use millrace_pipeline::spec::model::{Pipeline, Warehouse};
use millrace_proto::ids::BatchId;

use super::HandoffError;
use super::ask::{Ask, field};
use super::connection::Connection;
use super::decide::Loaded;
use super::redshift::Way;
use super::session::Remembered;
use super::table::{FoundColumn, TableFault};
use crate::lake::Lake;

/// A table's columns, in their order; none where there is no table. `table` is `schema.table`, unquoted.
pub(super) async fn columns(connection: &impl Ask, table: &str) -> Result<Vec<FoundColumn>, HandoffError> {
    let (schema, table) = table.split_once('.').unwrap_or(("public", table));
    let sql = format!(
        "SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.atthasdef
         FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = {} AND c.relname = {} AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
        literal(schema),
        literal(table)
    );
    let rows = connection.rows("describe its table", &sql).await?;
    let found = |row| FoundColumn {
        name: field(row, 0).to_owned(),
        kind: field(row, 1).to_owned(),
        not_null: field(row, 2) == "t",
        has_default: field(row, 3) == "t",
    };
    Ok(rows.iter().map(found).collect())
}

/// The load ledger's name as the catalogue has it, beside a table.
pub(super) fn ledger_of(table: &str) -> String {
    beside(table, "millrace_loads")
}

/// The same of the table that notes removals.
pub(super) fn removals_of(table: &str) -> String {
    beside(table, "millrace_removals")
}

fn beside(table: &str, name: &str) -> String {
    let (schema, _) = table.split_once('.').unwrap_or(("public", table));
    format!("{schema}.{name}")
}

/// What the load ledger holds of a pipeline.
pub(super) async fn loaded(
    connection: &impl Ask,
    ledger: &str,
    pipeline: &Pipeline,
) -> Result<Loaded, HandoffError> {
    let sql = format!(
        "SELECT batch, manifest_digest FROM {ledger} WHERE pipeline = {}",
        literal(pipeline.name.as_str())
    );
    let rows = connection.rows("show its load ledger", &sql).await?;
    let entry = |row| {
        let batch = BatchId::try_from(field(row, 0).to_owned()).ok()?;
        Some((batch, field(row, 1).to_owned()))
    };
    Ok(rows.iter().filter_map(entry).collect())
}

/// The same from a connection of its own: a look that makes nothing. Where there is no load ledger, nothing is loaded.
pub(super) async fn look(pipeline: &Pipeline, lake: &Lake) -> Result<Loaded, HandoffError> {
    match &pipeline.warehouse {
        Some(Warehouse::Postgres { dsn, .. }) => look_by(&Connection::open(dsn).await?, pipeline).await,
        Some(Warehouse::Redshift { access, .. }) => {
            let way = Way::open(access, lake, &Remembered::default()).await?;
            look_by(&way, pipeline).await
        }
        None => Err(HandoffError::Dsn),
    }
}

async fn look_by(connection: &impl Ask, pipeline: &Pipeline) -> Result<Loaded, HandoffError> {
    let ledger = columns(connection, &ledger_of(ddl::table(pipeline))).await?;
    if ledger.is_empty() {
        return Ok(Loaded::new());
    }
    loaded(connection, &ddl::ledger(pipeline), pipeline).await
}

/// The table is gone and its load ledger is not: loading on would leave the older batches out.
pub(super) fn dropped(table: &str, ledger: &str, pipeline: &Pipeline) -> HandoffError {
    HandoffError::Table {
        table: table.to_owned(),
        faults: vec![TableFault {
            what: "the table".to_owned(),
            problem: "it is gone, and the load ledger says that batches were loaded into it".to_owned(),
            statement: format!(
                "DELETE FROM {ledger} WHERE pipeline = {}; -- to load every batch again",
                literal(pipeline.name.as_str())
            ),
        }],
    }
}
