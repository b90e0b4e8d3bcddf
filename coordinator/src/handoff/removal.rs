//! Rows that leave the warehouse: what is too old, what is one person's.
//!
//! In: a cutoff and the ranges that are held, or a person. Out: rows deleted, and a row in `millrace_removals` beside the load
//! ledger that says why and how many, in one transaction:
//!
//! ```text
//! BEGIN
//! SELECT count(*) FROM table WHERE ...
//! DELETE FROM table WHERE ...
//! INSERT INTO millrace_removals ...
//! COMMIT
//! ```
//!
//! A connection that is lost rolls back, or leaves it done: the same deletion again finds nothing more. Rows of batches that are
//! not loaded yet are not there; whoever plans a removal looks at those (see [`crate::erasure`]).

use chrono::DateTime;
use millrace_pipeline::catalog::ddl;
use millrace_pipeline::catalog::identifier::{identifier, literal, qualified};
use millrace_pipeline::privacy::Subject;
use millrace_pipeline::spec::model::{ColumnType, Pipeline, RedshiftAccess, Secret, Warehouse};

use super::HandoffError;
use super::ask::{Ask, field};
use super::catalogue;
use super::connection::Connection;
use crate::ledger::{LegalHold, Why};
use crate::lifecycle::{Hook, Moment, now_us};

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

/// How many rows are older than a time and not held; none where there is no warehouse.
///
/// # Errors
/// When the warehouse cannot be asked.
pub async fn count_expired(
    pipeline: &Pipeline,
    before_us: i64,
    holds: &[LegalHold],
) -> Result<Option<u64>, HandoffError> {
    let Some(place) = Place::of(pipeline) else {
        return Ok(None);
    };
    place.count(&too_old(pipeline, before_us, holds)).await.map(Some)
}

/// Deletes them; how many.
///
/// # Errors
/// When the warehouse refuses, or the connection is lost: all of it is done then or nothing.
pub async fn expire(
    pipeline: &Pipeline,
    before_us: i64,
    holds: &[LegalHold],
    by: &str,
    hook: &Hook,
) -> Result<Option<u64>, HandoffError> {
    let Some(place) = Place::of(pipeline) else {
        return Ok(None);
    };
    let reason = Reason {
        why: Why::Expired,
        by,
        subject: None,
    };
    let condition = too_old(pipeline, before_us, holds);
    place.delete(pipeline, &condition, reason, hook).await.map(Some)
}

/// How many rows are a person's; none where there is no warehouse.
///
/// # Errors
/// When the warehouse cannot be asked.
pub async fn count_subject(pipeline: &Pipeline, subject: &Subject) -> Result<Option<u64>, HandoffError> {
    let Some(place) = Place::of(pipeline) else {
        return Ok(None);
    };
    place.count(&is_theirs(&place, subject)).await.map(Some)
}

/// Deletes them; how many.
///
/// # Errors
/// As [`expire`].
pub async fn erase_subject(
    pipeline: &Pipeline,
    subject: &Subject,
    by: &str,
    hook: &Hook,
) -> Result<Option<u64>, HandoffError> {
    let Some(place) = Place::of(pipeline) else {
        return Ok(None);
    };
    let reason = Reason {
        why: Why::Erased,
        by,
        subject: Some(subject.id()),
    };
    let condition = is_theirs(&place, subject);
    place.delete(pipeline, &condition, reason, hook).await.map(Some)
}

/// A pipeline's table.
struct Place<'a> {
    dsn: Option<&'a Secret>,
    is_postgres: bool,
    table: &'a str,
}

impl<'a> Place<'a> {
    fn of(pipeline: &'a Pipeline) -> Option<Self> {
        let (dsn, is_postgres) = match pipeline.warehouse.as_ref()? {
            Warehouse::Postgres { dsn, .. } => (Some(dsn), true),
            Warehouse::Redshift { access, .. } => match access {
                RedshiftAccess::Dsn(dsn) => (Some(dsn), false),
                RedshiftAccess::DataApi(_) => (None, false),
            },
        };
        let table = ddl::table(pipeline);
        Some(Self {
            dsn,
            is_postgres,
            table,
        })
    }

    /// A connection; none where there is no table yet.
    async fn open(&self) -> Result<Option<Connection>, HandoffError> {
        let dsn = self.dsn.ok_or(HandoffError::NoConnection)?;
        let connection = Connection::open(dsn).await?;
        let columns = catalogue::columns(&connection, self.table).await?;
        Ok((!columns.is_empty()).then_some(connection))
    }

    async fn count(&self, condition: &str) -> Result<u64, HandoffError> {
        match self.open().await? {
            Some(connection) => self.count_on(&connection, condition).await,
            None => Ok(0),
        }
    }

    async fn count_on(&self, connection: &Connection, condition: &str) -> Result<u64, HandoffError> {
        let sql = format!("SELECT count(*) FROM {} WHERE {condition}", qualified(self.table));
        let rows = connection.rows("count rows that leave", &sql).await?;
        Ok(rows
            .first()
            .and_then(|row| field(row, 0).parse().ok())
            .unwrap_or(0))
    }

    async fn delete(
        &self,
        pipeline: &Pipeline,
        condition: &str,
        reason: Reason<'_>,
        hook: &Hook,
    ) -> Result<u64, HandoffError> {
        let Some(connection) = self.open().await? else {
            return Ok(0);
        };
        let made = ddl::removals(pipeline);
        connection.run("make `millrace_removals`", &made).await?;
        let deleted = self
            .transaction(&connection, pipeline, condition, reason, hook)
            .await;
        connection.settle(deleted).await
    }

    async fn transaction(
        &self,
        connection: &Connection,
        pipeline: &Pipeline,
        condition: &str,
        reason: Reason<'_>,
        hook: &Hook,
    ) -> Result<u64, HandoffError> {
        connection.run("begin a transaction", "BEGIN").await?;
        let rows = self.count_on(connection, condition).await?;
        if rows == 0 {
            connection.run("roll back", "ROLLBACK").await?;
            return Ok(0);
        }
        let delete = format!("DELETE FROM {} WHERE {condition}", qualified(self.table));
        connection.run("delete rows", &delete).await?;
        let note = format!(
            "INSERT INTO {} (pipeline, why, subject, asked_by, \"rows\", removed_at) VALUES ({}, {}, {}, {}, {rows}, {})",
            ddl::removals_table(pipeline),
            literal(pipeline.name.as_str()),
            literal(reason.why.name()),
            reason.subject.map_or_else(|| "NULL".to_owned(), literal),
            literal(reason.by),
            instant(now_us()),
        );
        connection.run("note the removal", &note).await?;
        hook(Moment::Deleted);
        connection.run("commit the removal", "COMMIT").await?;
        tracing::info!(
            pipeline = %pipeline.name, table = self.table, rows, why = reason.why.name(), by = reason.by,
            "rows are deleted in the warehouse"
        );
        Ok(rows)
    }
}

/// Event times before one, outside the ranges that are held.
fn too_old(pipeline: &Pipeline, before_us: i64, holds: &[LegalHold]) -> String {
    let time = identifier(&pipeline.partition.time);
    let mut condition = format!("{time} < {}", instant(before_us));
    for hold in holds {
        let (from, to) = (instant(hold.from_us), instant(hold.to_us));
        condition.push_str(&format!(" AND NOT ({time} >= {from} AND {time} < {to})"));
    }
    condition
}

/// A time as a literal; one beyond the calendar is its end.
fn instant(at_us: i64) -> String {
    let at =
        DateTime::from_timestamp_micros(at_us).filter(|at| (0..=9999).contains(&chrono::Datelike::year(at)));
    match at {
        Some(at) => literal(&at.format("%Y-%m-%d %H:%M:%S%.6f+00").to_string()),
        None if at_us < 0 => literal("0001-01-01 00:00:00+00"),
        None => literal("9999-12-31 00:00:00+00"),
    }
}

/// Rows of which one column holds the person.
fn is_theirs(place: &Place<'_>, subject: &Subject) -> String {
    let each: Vec<String> = subject
        .texts()
        .map(|(column, kind, texts)| one_of(place.is_postgres, &identifier(column), kind, &texts))
        .filter(|condition| !condition.is_empty())
        .collect();
    if each.is_empty() {
        "1 = 0".to_owned()
    } else {
        each.join(" OR ")
    }
}

fn one_of(is_postgres: bool, column: &str, kind: &ColumnType, texts: &[String]) -> String {
    let listed = |literals: Vec<String>| format!("{column} IN ({})", literals.join(", "));
    match kind {
        ColumnType::Json | ColumnType::List(_) => {
            let item = if let ColumnType::List(item) = kind {
                item
            } else {
                kind
            };
            let texts = texts.iter().filter_map(|text| as_json(item, text));
            let each = texts.map(|text| match (kind, is_postgres) {
                (ColumnType::List(_), true) => {
                    format!("{column} @> {}::jsonb", literal(&format!("[{text}]")))
                }
                (_, true) => format!("{column} = {}::jsonb", literal(&text)),
                (ColumnType::List(_), false) => {
                    let items = format!("',' || trim(both '[]' from json_serialize({column})) || ','");
                    format!("strpos({items}, {}) > 0", literal(&format!(",{text},")))
                }
                (_, false) => format!("json_serialize({column}) = {}", literal(&text)),
            });
            each.collect::<Vec<_>>().join(" OR ")
        }
        ColumnType::Int32 | ColumnType::Int64 => listed(texts.to_vec()),
        ColumnType::String
        | ColumnType::Bool
        | ColumnType::Float64
        | ColumnType::Decimal(..)
        | ColumnType::Date
        | ColumnType::Timestamp => listed(texts.iter().map(|text| literal(text)).collect()),
    }
}

/// A value as it stands in JSON; none where it cannot.
fn as_json(kind: &ColumnType, text: &str) -> Option<String> {
    match kind {
        ColumnType::Int32 | ColumnType::Int64 => Some(text.to_owned()),
        ColumnType::Json => serde_json::from_str::<serde_json::Value>(text)
            .ok()
            .map(|value| value.to_string()),
        ColumnType::String
        | ColumnType::Bool
        | ColumnType::Float64
        | ColumnType::Decimal(..)
        | ColumnType::Date
        | ColumnType::Timestamp
        | ColumnType::List(_) => Some(serde_json::Value::from(text).to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hours::HOUR_US;

    #[test]
    fn times_are_literals_that_both_warehouses_read() {
        assert_eq!(instant(0), "'1970-01-01 00:00:00.000000+00'");
        assert_eq!(instant(HOUR_US + 1), "'1970-01-01 01:00:00.000001+00'");
        assert_eq!(instant(i64::MAX), "'9999-12-31 00:00:00+00'");
    }

    #[test]
    fn every_kind_of_column_is_asked_in_its_own_words() {
        let texts = ["a'b".to_owned(), "0f".to_owned()];
        assert_eq!(
            one_of(true, "c", &ColumnType::String, &texts),
            "c IN ('a''b', '0f')"
        );
        assert_eq!(
            one_of(false, "c", &ColumnType::Int64, &["7".to_owned()]),
            "c IN (7)"
        );
        let list = ColumnType::List(Box::new(ColumnType::String));
        assert_eq!(one_of(true, "c", &list, &texts[1..]), "c @> '[\"0f\"]'::jsonb");
        let json = one_of(
            true,
            "c",
            &ColumnType::Json,
            &["\"x\"".to_owned(), "x y".to_owned()],
        );
        assert_eq!(json, "c = '\"x\"'::jsonb");
    }
}
