//! Loading batches into Redshift: one transaction with their rows in the load ledger (invariant 5).
//!
//! ```text
//! BEGIN
//! LOCK millrace_loads                            the fence: Redshift does not enforce keys, so loaders take turns
//! SELECT ... FROM millrace_loads WHERE batch IN  what another loader was faster with
//! COPY table (columns) FROM 's3://.../loads/<digest>.manifest' IAM_ROLE ... FORMAT AS PARQUET MANIFEST
//! SELECT pg_last_copy_count()                    as many rows as the manifests say
//! INSERT INTO millrace_loads ...
//! COMMIT
//! ```
//!
//! The lock comes first, before anything takes the transaction's snapshot, so that what is read behind it is what the
//! loader before committed. Several waiting batches share a COPY: a warehouse that fell behind catches up in few large steps.
//!
//! The list of files is an object of the lake, named by its digest. Each entry is `mandatory` and has its length, which COPY
//! wants for Parquet: a file that is gone or another one fails the whole load.

use bytes::Bytes;
use millrace_pipeline::catalog::ddl::{self, TableColumn};
use millrace_pipeline::catalog::identifier::{identifier, literal, qualified};
use millrace_pipeline::spec::model::{ColumnType, Pipeline, RedshiftAccess};
use millrace_proto::keys;
use millrace_proto::manifest::WrittenObject;
use serde::Serialize;

use super::ask::{Ask, Row, field};
use super::catalogue;
use super::connection::Connection;
use super::data_api::{self, DataApiClient, Salt};
use super::decide::{Candidate, Loaded};
use super::preflight::preflight;
use super::session::{Load, Outcome, Remembered};
use super::table::compare;
use super::{HandoffError, login, read, statistics};
use crate::lake::{Lake, LakeError};
use crate::ledger::State;
use crate::lifecycle::{Hook, Moment};

/// Most batches of one COPY.
pub(super) const BATCHES_MAX: usize = 64;
/// Bytes of one COPY, about: enough for every slice, little enough to be tried again.
const BYTES_MAX: u64 = 16 << 30;

/// Files that are looked into after a refusal.
const EXPLAINED_FILES: usize = 256;

/// A session with the warehouse, its table checked.
pub(super) struct Session {
    way: Way,
    table: String,
    ledger: String,
    role: Option<String>,
}

/// How statements get there.
pub(super) enum Way {
    Postgres(Connection),
    DataApi(DataApiClient, Salt),
}

impl Way {
    pub(super) async fn open(
        access: &RedshiftAccess,
        lake: &Lake,
        remembered: &Remembered,
    ) -> Result<Self, HandoffError> {
        match access {
            RedshiftAccess::Dsn(dsn) => Ok(Self::Postgres(Connection::open(dsn).await?)),
            RedshiftAccess::Iam { dsn, iam } => {
                let connection = login::connect(dsn, iam, &lake.s3, &remembered.login).await?;
                Ok(Self::Postgres(connection))
            }
            RedshiftAccess::DataApi(api) => {
                let client = DataApiClient::open(api, lake)?;
                Ok(Self::DataApi(client, Salt::clone(&remembered.salt)))
            }
        }
    }
}

impl Way {
    /// The rows of a query, in a session in which another statement ran before it.
    pub(super) async fn rows_after(
        &self,
        what: &str,
        first: &str,
        sql: &str,
    ) -> Result<Vec<Row>, HandoffError> {
        match self {
            Self::Postgres(connection) => {
                connection.run(what, first).await?;
                connection.rows(what, sql).await
            }
            Self::DataApi(client, _) => client.rows_after(what, first, sql).await,
        }
    }
}

impl Ask for Way {
    async fn rows(&self, what: &str, sql: &str) -> Result<Vec<Row>, HandoffError> {
        match self {
            Self::Postgres(connection) => connection.rows(what, sql).await,
            Self::DataApi(client, _) => client.rows(what, sql).await,
        }
    }

    async fn run(&self, what: &str, sql: &str) -> Result<(), HandoffError> {
        match self {
            Self::Postgres(connection) => connection.run(what, sql).await,
            Self::DataApi(client, _) => client.run(what, sql).await,
        }
    }
}

/// The list of files that COPY reads.
#[derive(Debug, Serialize)]
struct LoadManifest {
    entries: Vec<LoadEntry>,
}

#[derive(Debug, Serialize)]
struct LoadEntry {
    url: String,
    mandatory: bool,
    meta: LoadMeta,
}

#[derive(Debug, Serialize)]
struct LoadMeta {
    content_length: u64,
}

impl Session {
    /// Makes, widens or refuses the table.
    pub(super) async fn open(
        way: Way,
        role: Option<&str>,
        pipeline: &Pipeline,
        stored: (&Lake, &State),
    ) -> Result<Self, HandoffError> {
        let session = Self {
            way,
            table: ddl::table(pipeline).to_owned(),
            ledger: ddl::ledger(pipeline),
            role: role.map(str::to_owned),
        };
        session.settle_table(pipeline, stored).await?;
        Ok(session)
    }

    /// What the load ledger holds of this pipeline.
    pub(super) async fn loaded(&self, pipeline: &Pipeline) -> Result<Loaded, HandoffError> {
        catalogue::loaded(&self.way, &self.ledger, pipeline).await
    }

    async fn settle_table(
        &self,
        pipeline: &Pipeline,
        (lake, state): (&Lake, &State),
    ) -> Result<(), HandoffError> {
        // First what was loaded, then the table: another loader may make both meanwhile, and the table comes before its rows.
        let ledger = catalogue::columns(&self.way, &catalogue::ledger_of(&self.table)).await?;
        let was_loaded = !ledger.is_empty() && !self.loaded(pipeline).await?.is_empty();
        let found = catalogue::columns(&self.way, &self.table).await?;
        if found.is_empty() && was_loaded {
            return Err(catalogue::dropped(&self.table, &self.ledger, pipeline));
        }
        let what = format!("make table `{}`", self.table);
        if found.is_empty() || ledger.is_empty() {
            if let Some((schema, _)) = self.table.split_once('.') {
                let sql = format!("CREATE SCHEMA IF NOT EXISTS {}", qualified(schema));
                self.way.run(&what, &sql).await?;
            }
            let known = statistics::look(lake, state).await;
            self.way.run(&what, &ddl::redshift(pipeline, &known)).await?;
        }
        if found.is_empty() {
            return Ok(());
        }
        let comparison = compare(&self.table, &ddl::redshift_columns(pipeline), &found);
        if !comparison.faults.is_empty() {
            return Err(HandoffError::Table {
                table: self.table.clone(),
                faults: comparison.faults,
            });
        }
        for column in &comparison.missing {
            let (table, column) = (qualified(&self.table), column.definition());
            tracing::info!(table, column, "the table is widened");
            let sql = format!("ALTER TABLE {table} ADD COLUMN {column}");
            self.way.run(&what, &sql).await?;
        }
        Ok(())
    }

    /// Loads the first of these batches, and as many after it as fit into one COPY. Gives how many.
    pub(super) async fn load(
        &self,
        pipeline: &Pipeline,
        lake: &Lake,
        loads: &[Load],
        hook: &Hook,
    ) -> Result<(Outcome, usize), HandoffError> {
        let columns = first_columns(lake, loads).await?;
        let count = group(loads, &columns);
        let group = &loads[..count];
        let columns = columns.into_iter().flatten().next().unwrap_or_default();
        let outcome = match &self.way {
            Way::Postgres(connection) => {
                let outcome = self
                    .transaction(connection, pipeline, lake, group, &columns, hook)
                    .await;
                connection.settle(outcome).await
            }
            Way::DataApi(client, salt) => {
                let loader = data_api::Loader {
                    client,
                    salt,
                    table: &self.table,
                    ledger: &self.ledger,
                    role: self.role.as_deref(),
                };
                data_api::load(&loader, pipeline, lake, group, &columns, hook).await
            }
        };
        match outcome {
            Ok(outcome) => Ok((outcome, count)),
            Err(error) => Err(self.explain(error, pipeline, lake, group, &columns).await),
        }
    }

    /// Redshift seldom names the file and the column: where our own rules find them, they are told.
    async fn explain(
        &self,
        error: HandoffError,
        pipeline: &Pipeline,
        lake: &Lake,
        group: &[Load],
        columns: &[String],
    ) -> HandoffError {
        if error.is_retryable() || !matches!(error, HandoffError::Refused { .. }) {
            return error;
        }
        let all = ddl::redshift_columns(pipeline);
        let of = |name: &String| all.iter().find(|column| column.name == *name).cloned();
        let table: Vec<TableColumn> = columns.iter().filter_map(of).collect();
        let files = group.iter().flat_map(|load| &load.manifest.files);
        for file in files.take(EXPLAINED_FILES) {
            let Ok(bytes) = lake.get(&file.object.key).await else {
                continue;
            };
            if let Some(fault) = preflight(&bytes, Some(&table)).into_iter().next() {
                return HandoffError::Copy {
                    table: self.table.clone(),
                    file: file.object.key.clone(),
                    fault: Box::new(fault),
                    refused: Box::new(error),
                };
            }
        }
        error
    }

    async fn transaction(
        &self,
        connection: &Connection,
        pipeline: &Pipeline,
        lake: &Lake,
        group: &[Load],
        columns: &[String],
        hook: &Hook,
    ) -> Result<Outcome, HandoffError> {
        hook(Moment::Loading);
        let source = put_manifest(lake, group).await?;
        connection.run("begin a transaction", "BEGIN").await?;
        let lock = format!("LOCK TABLE {}", self.ledger);
        connection.run("lock the load ledger", &lock).await?;
        let there = format!("SELECT batch {}", there(&self.ledger, pipeline, group));
        if !connection.rows("show its load ledger", &there).await?.is_empty() {
            connection.run("roll back", "ROLLBACK").await?;
            return Ok(Outcome::WasThere);
        }
        hook(Moment::Claimed);
        if let Some(url) = source {
            let role = self.role.as_deref();
            let sql = copy_statement(&self.table, columns, &url, role, has_lists(pipeline));
            connection.run(&what(&self.table, group), &sql).await?;
            check_count(connection, group).await?;
        }
        hook(Moment::Copied);
        let note = note(&self.ledger, pipeline, group);
        connection.run("note the load", &note).await?;
        connection.run("commit the load", "COMMIT").await?;
        hook(Moment::Loaded);
        Ok(Outcome::Loaded)
    }
}

async fn check_count(connection: &Connection, group: &[Load]) -> Result<(), HandoffError> {
    let rows = connection
        .rows("count the load", "SELECT pg_last_copy_count()")
        .await?;
    let found = rows
        .first()
        .and_then(|row| field(row, 0).parse().ok())
        .unwrap_or(0);
    let expected: u64 = group.iter().map(|load| load.candidate.rows).sum();
    match group.last() {
        Some(last) if found != expected => Err(HandoffError::Rows {
            batch: last.candidate.batch.clone(),
            file: last
                .manifest
                .files
                .last()
                .map(|file| file.object.key.clone())
                .unwrap_or_default(),
            found,
            expected,
        }),
        Some(_) | None => Ok(()),
    }
}

/// `FROM` and `WHERE` of the group's rows in the load ledger.
pub(super) fn there(ledger: &str, pipeline: &Pipeline, group: &[Load]) -> String {
    let batches = group.iter().map(|load| literal(load.candidate.batch.as_str()));
    let batches: Vec<String> = batches.collect();
    format!(
        "FROM {ledger} WHERE pipeline = {} AND batch IN ({})",
        literal(pipeline.name.as_str()),
        batches.join(", ")
    )
}

/// The statement that notes the group in the load ledger.
pub(super) fn note(ledger: &str, pipeline: &Pipeline, group: &[Load]) -> String {
    let rows = group.iter().map(|load| ledger_row(pipeline, &load.candidate));
    let rows: Vec<String> = rows.collect();
    format!(
        "INSERT INTO {ledger} (pipeline, batch, attempt, manifest_digest, \"rows\") VALUES {}",
        rows.join(", ")
    )
}

pub(super) fn what(table: &str, group: &[Load]) -> String {
    match group {
        [one] => format!("take batch {} into `{table}`", one.candidate.batch),
        [first, .., last] => format!(
            "take batches {} to {} into `{table}`",
            first.candidate.batch, last.candidate.batch
        ),
        [] => format!("take nothing into `{table}`"),
    }
}

/// The columns of each batch's files; none for a batch without files.
async fn first_columns(lake: &Lake, loads: &[Load]) -> Result<Vec<Option<Vec<String>>>, HandoffError> {
    let mut all = Vec::new();
    for load in loads.iter().take(BATCHES_MAX) {
        all.push(match load.manifest.files.first() {
            Some(file) => Some(read::columns(lake, &load.manifest.batch, file).await?),
            None => None,
        });
    }
    Ok(all)
}

/// How many of the first batches share a COPY: files of one COPY have the same columns.
fn group(loads: &[Load], columns: &[Option<Vec<String>>]) -> usize {
    let first = columns.iter().flatten().next();
    let mut bytes = 0;
    let fits = loads.iter().zip(columns).take_while(|(load, columns)| {
        bytes += load
            .manifest
            .files
            .iter()
            .map(|file| file.object.bytes)
            .sum::<u64>();
        (columns.is_none() || columns.as_ref() == first) && bytes <= BYTES_MAX
    });
    // One batch alone may be as large as it is.
    fits.count().max(1).min(loads.len())
}

fn ledger_row(pipeline: &Pipeline, candidate: &Candidate) -> String {
    format!(
        "({}, {}, {}, {}, {})",
        literal(pipeline.name.as_str()),
        literal(candidate.batch.as_str()),
        literal(&candidate.attempt.to_string()),
        literal(&candidate.digest),
        candidate.rows
    )
}

pub(super) fn has_lists(pipeline: &Pipeline) -> bool {
    let is_list = |kind: &ColumnType| matches!(kind, ColumnType::List(_));
    pipeline.columns.iter().any(|column| is_list(&column.kind))
}

/// The statement. Redshift refuses every text option, REGION and MAXERROR for Parquet, so there are none.
pub(super) fn copy_statement(
    table: &str,
    columns: &[String],
    url: &str,
    role: Option<&str>,
    nested: bool,
) -> String {
    let columns: Vec<String> = columns.iter().map(|column| identifier(column)).collect();
    let role = match role {
        Some(role) if role != "default" => literal(role),
        Some(_) | None => "default".to_owned(),
    };
    let nested = if nested { " SERIALIZETOJSON" } else { "" };
    format!(
        "COPY {} ({}) FROM {} IAM_ROLE {role} FORMAT AS PARQUET{nested} MANIFEST",
        qualified(table),
        columns.join(", "),
        literal(url)
    )
}

/// Puts the list of files into the lake and gives its address; none where there are no files.
pub(super) async fn put_manifest(lake: &Lake, group: &[Load]) -> Result<Option<String>, HandoffError> {
    let files = group.iter().flat_map(|load| &load.manifest.files);
    put_list(lake, files.map(|file| &file.object)).await
}

/// The same for any objects of the lake.
pub(super) async fn put_list(
    lake: &Lake,
    objects: impl Iterator<Item = &WrittenObject>,
) -> Result<Option<String>, HandoffError> {
    let entries: Vec<LoadEntry> = objects
        .map(|object| LoadEntry {
            url: address(lake, &object.key),
            mandatory: true,
            meta: LoadMeta {
                content_length: object.bytes,
            },
        })
        .collect();
    if entries.is_empty() {
        return Ok(None);
    }
    let bytes = serde_json::to_vec(&LoadManifest { entries }).map_err(|source| HandoffError::Decision {
        key: "loads".to_owned(),
        source,
    })?;
    let key = keys::load(blake3::hash(&bytes).to_hex().as_str());
    match lake.create(&key, Bytes::from(bytes)).await {
        // Its name is its content: one that is there is the same.
        Ok(()) | Err(LakeError::Exists { .. }) => Ok(Some(address(lake, &key))),
        Err(error) => Err(error.into()),
    }
}

/// `s3://bucket/key` of an object of the lake.
fn address(lake: &Lake, key: &str) -> String {
    let rest = lake.url.strip_prefix("s3://").unwrap_or(&lake.url);
    let bucket = rest.split('/').next().unwrap_or_default();
    format!("s3://{bucket}/{}", lake.path(key))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;
    use object_store::path::Path;

    use super::*;

    #[test]
    fn a_copy_has_the_options_that_parquet_allows_and_no_other() {
        let columns = ["id".to_owned(), "user".to_owned()];
        let role = "arn:aws:iam::123456789012:role/load";
        assert_eq!(
            copy_statement(
                "analytics.events",
                &columns,
                "s3://b/l/loads/d.manifest",
                Some(role),
                false
            ),
            "COPY analytics.events (id, \"user\") FROM 's3://b/l/loads/d.manifest' \
             IAM_ROLE 'arn:aws:iam::123456789012:role/load' FORMAT AS PARQUET MANIFEST"
        );
        assert_eq!(
            copy_statement("t", &columns[..1], "s3://b/m", None, true),
            "COPY t (id) FROM 's3://b/m' IAM_ROLE default FORMAT AS PARQUET SERIALIZETOJSON MANIFEST"
        );
    }

    #[test]
    fn an_object_is_addressed_below_the_lakes_prefix() {
        let lake = Lake {
            s3: millrace_pipeline::source::S3Options::default(),
            url: "s3://bucket/some/prefix".to_owned(),
            store: Arc::new(InMemory::new()),
            root: Path::from("some/prefix"),
        };
        assert_eq!(
            address(&lake, "data/date=2026-01-01/source=a%20b/f.parquet"),
            "s3://bucket/some/prefix/data/date=2026-01-01/source=a%20b/f.parquet"
        );
    }
}
