//! Rows that leave the warehouse: what is too old, what is one person's.
//!
//! In: a cutoff and the ranges that are held, or a person. Out: rows deleted, and a row in `millrace_removals` beside the load
//! ledger that says why and how many, in one transaction. In PostgreSQL a day whose every row is too old goes as a partition.
//!
//! Models' tables lose what is a person's: see [`erase_in_models`].
//!
//! A connection that is lost rolls back, or leaves it done: the same deletion again finds nothing more. Rows of batches that are
//! not loaded yet are not there; whoever plans a removal looks at those (see [`crate::erasure`]).

mod condition;
mod models;
mod postgres;
mod redshift;

use millrace_pipeline::catalog::ddl;
use millrace_pipeline::catalog::identifier::{literal, qualified};
use millrace_pipeline::privacy::Subject;
use millrace_pipeline::spec::model::{Pipeline, Warehouse};

use super::ask::{Ask, field};
use super::connection::Connection;
use super::redshift::Way;
use super::session::Remembered;
use super::{HandoffError, catalogue};
use crate::lake::Lake;
use crate::ledger::{LegalHold, Why};
use crate::lifecycle::{Hook, now_us};
use condition::{instant, is_theirs, quoted, too_old};

pub use models::{count_in_models, erase_in_models};

/// Why rows leave, as `millrace_removals` keeps it.
#[derive(Debug, Clone, Copy)]
pub struct Reason<'a> {
    /// Expired or erased.
    pub why: Why,
    /// Who asked for it.
    pub by: &'a str,
    /// Of an erasure: the person, by a keyed hash.
    pub subject: Option<&'a str>,
}

/// Rows that leave, and why.
struct Removal<'a> {
    pipeline: &'a Pipeline,
    /// `schema.table`, unquoted.
    table: &'a str,
    condition: String,
    reason: Reason<'a>,
    /// Of an expiry: the cutoff, and what is held.
    expiry: Option<(i64, &'a [LegalHold])>,
    at_us: i64,
}

/// How many rows are older than a time and not held; none where there is no warehouse.
///
/// # Errors
/// When the warehouse cannot be asked.
pub async fn count_expired(
    pipeline: &Pipeline,
    lake: &Lake,
    before_us: i64,
    holds: &[LegalHold],
) -> Result<Option<u64>, HandoffError> {
    count_in(pipeline, lake, |_| too_old(pipeline, before_us, holds)).await
}

/// Deletes them; how many.
///
/// # Errors
/// When the warehouse refuses, or the connection is lost: all of it is done then or nothing.
pub async fn expire<'a>(
    pipeline: &'a Pipeline,
    lake: &'a Lake,
    before_us: i64,
    holds: &'a [LegalHold],
    by: &'a str,
    hook: &Hook,
) -> Result<Option<u64>, HandoffError> {
    let reason = Reason {
        why: Why::Expired,
        by,
        subject: None,
    };
    let removal = |place: &Place<'a>| Removal {
        expiry: Some((before_us, holds)),
        ..place.removal(too_old(pipeline, before_us, holds), reason)
    };
    remove_in(pipeline, lake, removal, hook).await
}

/// How many rows are a person's; none where there is no warehouse.
///
/// # Errors
/// When the warehouse cannot be asked.
pub async fn count_subject(
    pipeline: &Pipeline,
    lake: &Lake,
    subject: &Subject,
) -> Result<Option<u64>, HandoffError> {
    count_in(pipeline, lake, |place| is_theirs(place.is_postgres(), subject)).await
}

/// Deletes them; how many.
///
/// # Errors
/// As [`expire`].
pub async fn erase_subject<'a>(
    pipeline: &'a Pipeline,
    lake: &'a Lake,
    subject: &'a Subject,
    by: &'a str,
    hook: &Hook,
) -> Result<Option<u64>, HandoffError> {
    let removal = |place: &Place<'a>| {
        let condition = is_theirs(place.is_postgres(), subject);
        place.removal(condition, erased(subject, by))
    };
    remove_in(pipeline, lake, removal, hook).await
}

fn erased<'a>(subject: &'a Subject, by: &'a str) -> Reason<'a> {
    Reason {
        why: Why::Erased,
        by,
        subject: Some(subject.id()),
    }
}

/// Counts rows of the pipeline's table; none where there is no warehouse.
async fn count_in(
    pipeline: &Pipeline,
    lake: &Lake,
    condition: impl FnOnce(&Place<'_>) -> String,
) -> Result<Option<u64>, HandoffError> {
    let Some(place) = Place::of(pipeline, lake) else {
        return Ok(None);
    };
    place.count(&condition(&place)).await.map(Some)
}

/// Deletes rows of the pipeline's table; none where there is no warehouse.
async fn remove_in<'a>(
    pipeline: &'a Pipeline,
    lake: &'a Lake,
    removal: impl FnOnce(&Place<'a>) -> Removal<'a>,
    hook: &Hook,
) -> Result<Option<u64>, HandoffError> {
    let Some(place) = Place::of(pipeline, lake) else {
        return Ok(None);
    };
    place.remove(&removal(&place), hook).await.map(Some)
}

/// A pipeline's table.
struct Place<'a> {
    pipeline: &'a Pipeline,
    lake: &'a Lake,
    warehouse: &'a Warehouse,
    /// `schema.table`, unquoted.
    table: &'a str,
}

/// A way to it.
enum Open {
    Postgres(Connection),
    Redshift(Way),
}

impl<'a> Place<'a> {
    fn of(pipeline: &'a Pipeline, lake: &'a Lake) -> Option<Self> {
        let warehouse = pipeline.warehouse.as_ref()?;
        let table = ddl::table(pipeline);
        Some(Self {
            pipeline,
            lake,
            warehouse,
            table,
        })
    }

    fn is_postgres(&self) -> bool {
        matches!(self.warehouse, Warehouse::Postgres { .. })
    }

    fn removal(&self, condition: String, reason: Reason<'a>) -> Removal<'a> {
        Removal {
            pipeline: self.pipeline,
            table: self.table,
            condition,
            reason,
            expiry: None,
            at_us: now_us(),
        }
    }

    async fn open(&self) -> Result<Open, HandoffError> {
        match self.warehouse {
            Warehouse::Postgres { dsn, .. } => Ok(Open::Postgres(Connection::open(dsn).await?)),
            Warehouse::Redshift { access, .. } => {
                let way = Way::open(access, self.lake, &Remembered::default()).await?;
                Ok(Open::Redshift(way))
            }
        }
    }

    async fn count(&self, condition: &str) -> Result<u64, HandoffError> {
        match self.open().await? {
            Open::Postgres(connection) => count(&connection, self.table, condition).await,
            Open::Redshift(way) => count(&way, self.table, condition).await,
        }
    }

    async fn remove(&self, removal: &Removal<'_>, hook: &Hook) -> Result<u64, HandoffError> {
        let rows = match self.open().await? {
            Open::Postgres(connection) => postgres::remove(&connection, removal, hook).await?,
            Open::Redshift(way) => redshift::remove(&way, removal, hook).await?,
        };
        if rows > 0 {
            let Reason { why, by, .. } = removal.reason;
            tracing::info!(
                pipeline = %self.pipeline.name, table = self.table, rows, why = why.name(), by,
                "rows are deleted in the warehouse"
            );
        }
        Ok(rows)
    }
}

/// Whether there is a table.
async fn exists(connection: &impl Ask, table: &str) -> Result<bool, HandoffError> {
    Ok(!catalogue::columns(connection, table).await?.is_empty())
}

/// Rows of a condition; of a table that is not there yet, none.
async fn count(connection: &impl Ask, table: &str, condition: &str) -> Result<u64, HandoffError> {
    if !exists(connection, table).await? {
        return Ok(0);
    }
    let sql = format!("SELECT count(*) FROM {} WHERE {condition}", qualified(table));
    let rows = connection.rows("count rows that leave", &sql).await?;
    Ok(number(&rows))
}

/// The number that an answer is.
fn number(rows: &[Vec<String>]) -> u64 {
    rows.first()
        .and_then(|row| field(row, 0).parse().ok())
        .unwrap_or(0)
}

impl Removal<'_> {
    /// Makes the table of notes. Of two who make the first one at once, the catalogue refuses one; by then it is there.
    async fn make_notes(&self, way: &impl Ask) -> Result<(), HandoffError> {
        let sql = ddl::removals(self.pipeline);
        let Err(refused) = way.run("make `millrace_removals`", &sql).await else {
            return Ok(());
        };
        let is_there = exists(way, &catalogue::removals_of(self.table))
            .await
            .unwrap_or(false);
        if is_there { Ok(()) } else { Err(refused) }
    }

    /// The statement that notes it; `rows` is a number, or what counts.
    fn note(&self, rows: &str) -> String {
        format!(
            "INSERT INTO {} (pipeline, why, subject, asked_by, \"rows\", removed_at) SELECT {}, {}, {}, {}, {rows}, {}",
            ddl::removals_table(self.pipeline),
            literal(self.pipeline.name.as_str()),
            literal(self.reason.why.name()),
            self.reason.subject.map_or_else(|| "NULL".to_owned(), literal),
            self.by(),
            self.at(),
        )
    }

    /// Who asked for it, as SQL.
    fn by(&self) -> String {
        let is_postgres = matches!(self.pipeline.warehouse, Some(Warehouse::Postgres { .. }));
        quoted(is_postgres, self.reason.by)
    }

    /// When, as SQL.
    fn at(&self) -> String {
        format!("CAST({} AS TIMESTAMPTZ)", instant(self.at_us))
    }

    fn delete(&self) -> String {
        format!("DELETE FROM {} WHERE {}", qualified(self.table), self.condition)
    }
}
