//! Loading a batch into PostgreSQL: one transaction with its row in the load ledger (invariant 5).
//!
//! ```text
//! BEGIN
//! INSERT INTO millrace_loads (...) ON CONFLICT DO NOTHING      the fence: a second loader waits here, then finds it done
//! COPY table (columns) FROM STDIN (FORMAT binary)              the batch's files, one after the other
//! COMMIT
//! ```
//!
//! The day partitions that the rows go into are made before ([`super::days`]).
//!
//! Where whole jobs are handed off, a transaction holds a job's batches: all their rows of the load ledger, then all files.
//!
//! | what happens                            | then                                                                |
//! |------------------------------------------|---------------------------------------------------------------------|
//! | two loaders have the same batch          | the second waits for the first: loaded, or the first's turn is over |
//! | the connection is lost before the commit | PostgreSQL rolls back                                               |
//! | the answer to the commit is lost         | the load ledger tells, on the next connection                       |
//! | a loader froze inside its transaction    | whoever waits for it for 10 s ends its session; else PostgreSQL does after a minute |

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::SinkExt;
use millrace_pipeline::catalog::ddl;
use millrace_pipeline::catalog::identifier::{identifier, literal, qualified};
use millrace_pipeline::spec::model::{Pipeline, Secret};
use millrace_proto::ids::BatchId;
use millrace_proto::manifest::Manifest;
use tokio_postgres::CopyInSink;

use super::HandoffError;
use super::ask::{Ask, field};
use super::catalogue;
use super::connection::Connection;
use super::days;
use super::decide::{Candidate, Loaded};
use super::read::{self, Piece};
use super::session::{Load, Outcome};
use super::table::compare;
use crate::lake::Lake;
use crate::lifecycle::{Hook, Moment};

/// Bounds how long a frozen loader can keep others waiting.
pub(super) const SESSION: &str = "SET idle_in_transaction_session_timeout = '60s'; SET lock_timeout = '10s'; \
                       SET statement_timeout = 0; SET client_min_messages = warning";

/// A session with the warehouse, its table checked.
pub(super) struct Session {
    connection: Connection,
    table: String,
    ledger: String,
}

impl Session {
    /// Connects, and makes, widens or refuses the table.
    pub(super) async fn open(dsn: &Secret, pipeline: &Pipeline) -> Result<Self, HandoffError> {
        let connection = Connection::open(dsn).await?;
        let settings = format!("{SESSION}; SET application_name = {}", application(pipeline));
        connection.run("take session settings", &settings).await?;
        let session = Self {
            connection,
            table: ddl::table(pipeline).to_owned(),
            ledger: ddl::ledger(pipeline),
        };
        session.settle_table(pipeline).await?;
        Ok(session)
    }

    /// What the load ledger holds of this pipeline.
    pub(super) async fn loaded(&self, pipeline: &Pipeline) -> Result<Loaded, HandoffError> {
        catalogue::loaded(&self.connection, &self.ledger, pipeline).await
    }

    /// Creates what is missing, widens what is narrow; two leaders take turns.
    async fn settle_table(&self, pipeline: &Pipeline) -> Result<(), HandoffError> {
        // First what was loaded, then the table: another loader may make both meanwhile, and the table comes before its rows.
        let ledger = catalogue::columns(&self.connection, &catalogue::ledger_of(&self.table)).await?;
        let ledger_exists = !ledger.is_empty();
        let was_loaded = ledger_exists && !self.loaded(pipeline).await?.is_empty();
        let found = catalogue::columns(&self.connection, &self.table).await?;
        let wanted = ddl::postgres_columns(pipeline);
        if found.is_empty() && was_loaded {
            return Err(catalogue::dropped(&self.table, &self.ledger, pipeline));
        }
        let comparison = compare(&self.table, &wanted, &found);
        if !found.is_empty() && !comparison.faults.is_empty() {
            return Err(HandoffError::Table {
                table: self.table.clone(),
                faults: comparison.faults,
            });
        }
        if !found.is_empty() && ledger_exists && comparison.missing.is_empty() {
            return Ok(());
        }
        let mut sql = format!(
            "BEGIN; SELECT pg_advisory_xact_lock(hashtext({}));",
            literal(&format!("millrace {}", self.table))
        );
        if let Some((schema, _)) = self.table.split_once('.')
            && !self.schema_exists(schema).await?
        {
            sql.push_str(&format!("CREATE SCHEMA IF NOT EXISTS {};", qualified(schema)));
        }
        if !found.is_empty() {
            for column in &comparison.missing {
                sql.push_str(&format!(
                    "ALTER TABLE {} ADD COLUMN IF NOT EXISTS {};",
                    qualified(&self.table),
                    column.definition()
                ));
                tracing::info!(
                    table = self.table,
                    column = column.name,
                    kind = column.kind,
                    "the table is widened"
                );
            }
        }
        sql.push_str(&ddl::postgres(pipeline));
        sql.push_str("COMMIT");
        let made = self
            .connection
            .run(&format!("make table `{}`", self.table), &sql)
            .await;
        self.connection.settle(made).await
    }

    async fn schema_exists(&self, schema: &str) -> Result<bool, HandoffError> {
        let sql = format!("SELECT 1 FROM pg_namespace WHERE nspname = {}", literal(schema));
        Ok(!self.connection.rows("look for a schema", &sql).await?.is_empty())
    }

    /// Loads batches, all or none.
    pub(super) async fn load(
        &self,
        pipeline: &Pipeline,
        lake: &Lake,
        loads: &[Load],
        hook: &Hook,
    ) -> Result<Outcome, HandoffError> {
        let mut outcome = self.attempt(pipeline, lake, loads, hook).await;
        if matches!(&outcome, Err(HandoffError::Refused { refusal, .. }) if refusal.is_of_no_partition()) {
            // Between the look and the rows an expiry dropped a day. One that is made anew is empty, and no expiry drops those.
            outcome = self.attempt(pipeline, lake, loads, hook).await;
        }
        if outcome.as_ref().is_err_and(HandoffError::is_lock_timeout) {
            let application = application(pipeline);
            end_frozen(&self.connection, &self.ledger, &application).await?;
        }
        outcome
    }

    /// The partitions first, then the load.
    async fn attempt(
        &self,
        pipeline: &Pipeline,
        lake: &Lake,
        loads: &[Load],
        hook: &Hook,
    ) -> Result<Outcome, HandoffError> {
        let files = loads.iter().flat_map(|load| &load.manifest.files);
        days::prepare(&self.connection, pipeline, &days::Wanted::of(files)).await?;
        let outcome = self.transaction(pipeline, lake, loads, hook).await;
        self.connection.settle(outcome).await
    }

    async fn transaction(
        &self,
        pipeline: &Pipeline,
        lake: &Lake,
        loads: &[Load],
        hook: &Hook,
    ) -> Result<Outcome, HandoffError> {
        hook(Moment::Loading);
        self.connection.run("begin a transaction", "BEGIN").await?;
        for load in loads {
            if !self.claim(pipeline, &load.candidate).await? {
                self.connection.run("roll back", "ROLLBACK").await?;
                return Ok(Outcome::WasThere);
            }
        }
        hook(Moment::Claimed);
        for load in loads {
            self.copy(pipeline, lake, &load.manifest).await?;
        }
        hook(Moment::Copied);
        let last = loads.last().map(|load| load.candidate.batch.to_string());
        let what = format!("commit batch {}", last.unwrap_or_default());
        self.connection.run(&what, "COMMIT").await?;
        hook(Moment::Loaded);
        Ok(Outcome::Loaded)
    }

    /// Puts the batch's row into the load ledger; whether it was not there.
    async fn claim(&self, pipeline: &Pipeline, candidate: &Candidate) -> Result<bool, HandoffError> {
        let sql = format!(
            "INSERT INTO {} (pipeline, batch, attempt, manifest_digest, \"rows\") VALUES ({}, {}, {}, {}, {})
             ON CONFLICT DO NOTHING RETURNING batch",
            self.ledger,
            literal(pipeline.name.as_str()),
            literal(candidate.batch.as_str()),
            literal(&candidate.attempt.to_string()),
            literal(&candidate.digest),
            candidate.rows,
        );
        let what = format!("note the load of batch {}", candidate.batch);
        let claimed = self.connection.rows(&what, &sql).await?;
        Ok(!claimed.is_empty())
    }

    async fn copy(&self, pipeline: &Pipeline, lake: &Lake, manifest: &Manifest) -> Result<(), HandoffError> {
        let mut pieces = read::pieces(pipeline, lake, manifest);
        let mut open: Option<Copy<'_>> = None;
        while let Some(piece) = pieces.recv().await {
            match piece? {
                Piece::File { key, rows, columns } => {
                    if let Some(copy) = open.take_if(|copy| copy.columns != columns) {
                        copy.finish().await?;
                    }
                    let copy = match open.take() {
                        Some(copy) => copy,
                        None => Copy::begin(self, &manifest.batch, columns).await?,
                    };
                    open.insert(copy).files.push((key, rows));
                }
                Piece::Rows(bytes) => {
                    if let Some(copy) = &mut open {
                        copy.send(bytes).await?;
                    }
                }
            }
        }
        match open {
            Some(copy) => copy.finish().await,
            None => Ok(()),
        }
    }
}

/// A COPY under way.
struct Copy<'a> {
    session: &'a Session,
    batch: &'a BatchId,
    columns: Vec<String>,
    sink: std::pin::Pin<Box<CopyInSink<Bytes>>>,
    /// Keys of the files, and their rows by the manifest.
    files: Vec<(String, u64)>,
}

impl<'a> Copy<'a> {
    async fn begin(
        session: &'a Session,
        batch: &'a BatchId,
        columns: Vec<String>,
    ) -> Result<Self, HandoffError> {
        let names: BTreeSet<&String> = columns.iter().collect();
        debug_assert_eq!(names.len(), columns.len());
        let list: Vec<String> = columns.iter().map(|column| identifier(column)).collect();
        let sql = format!(
            "COPY {} ({}) FROM STDIN (FORMAT binary)",
            qualified(&session.table),
            list.join(", ")
        );
        let what = format!("take batch {batch} into `{}`", session.table);
        let sink = session.connection.client.copy_in(sql.as_str()).await;
        let mut copy = Self {
            session,
            batch,
            columns,
            sink: Box::pin(sink.map_err(|error| HandoffError::of(what, error))?),
            files: Vec::new(),
        };
        copy.send(Bytes::from_static(super::copy::HEADER)).await?;
        Ok(copy)
    }

    async fn send(&mut self, bytes: Bytes) -> Result<(), HandoffError> {
        let sent = self.sink.send(bytes).await;
        sent.map_err(|error| HandoffError::of("take rows", error))
    }

    async fn finish(mut self) -> Result<(), HandoffError> {
        self.send(Bytes::copy_from_slice(&super::copy::TRAILER)).await?;
        let expected: u64 = self.files.iter().map(|(_, rows)| rows).sum();
        match self.sink.as_mut().finish().await {
            Ok(found) if found == expected => Ok(()),
            Ok(found) => Err(HandoffError::Rows {
                batch: self.batch.clone(),
                file: self.files.last().map(|(key, _)| key.clone()).unwrap_or_default(),
                found,
                expected,
            }),
            Err(error) => {
                let line = error.as_db_error().and_then(|answer| copy_line(answer.where_()?));
                let place = match line.and_then(|line| self.file_of(line)) {
                    Some(file) => format!("file `{file}` of batch {}", self.batch),
                    None => format!("batch {}", self.batch),
                };
                let what = format!("take {place} into `{}`", self.session.table);
                Err(HandoffError::of(what, error))
            }
        }
    }

    /// The file in which a row, counted from 1 over the whole COPY, stands.
    fn file_of(&self, row: u64) -> Option<&str> {
        let mut before = 0;
        for (key, rows) in &self.files {
            before += rows;
            if row <= before {
                return Some(key);
            }
        }
        None
    }
}

/// Ends the sessions of a pipeline's loaders that hold a load ledger and say nothing. While rows are being sent
/// PostgreSQL's own timeouts do not count, so a loader that froze there would block the others for ever. One that was
/// only slow begins its load again. `application` is what they call themselves, as a literal.
pub(super) async fn end_frozen(
    connection: &Connection,
    ledger: &str,
    application: &str,
) -> Result<(), HandoffError> {
    let sql = format!(
        "SELECT pid FROM (
            SELECT DISTINCT a.pid FROM pg_stat_activity a JOIN pg_locks l ON l.pid = a.pid
            WHERE l.relation = {}::regclass AND l.mode = 'RowExclusiveLock' AND l.granted
              AND a.datname = current_database() AND a.usename = current_user AND a.pid <> pg_backend_pid()
              AND a.application_name = {application} AND a.wait_event = 'ClientRead') frozen
         WHERE pg_terminate_backend(pid)",
        literal(ledger),
    );
    let ended = connection.rows("end a frozen session", &sql).await?;
    for row in &ended {
        let session = field(row, 0);
        tracing::warn!(
            application,
            session,
            "a loader that said nothing for long is ended"
        );
    }
    Ok(())
}

/// How a loader of this pipeline calls itself, as a literal: PostgreSQL keeps 63 bytes of it.
pub(super) fn application(pipeline: &Pipeline) -> String {
    let mut name = format!("millrace {}", pipeline.name);
    name.truncate(63);
    literal(&name)
}

/// The row that PostgreSQL names in `COPY events, line 7, column price`.
fn copy_line(context: &str) -> Option<u64> {
    let (_, rest) = context.strip_prefix("COPY ")?.split_once(", line ")?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_row_of_a_refusal_is_found_in_its_context() {
        assert_eq!(copy_line("COPY events, line 7, column price"), Some(7));
        assert_eq!(copy_line("COPY events, line 12"), Some(12));
        assert_eq!(copy_line("PL/pgSQL function f() line 3"), None);
    }
}
