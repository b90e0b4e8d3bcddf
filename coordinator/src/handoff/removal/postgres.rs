//! Rows leave PostgreSQL.
//!
//! ```text
//! BEGIN
//! SAVEPOINT days                                of an expiry, where the table is cut by day
//! LOCK TABLE ONLY table IN EXCLUSIVE MODE       loads wait, readers go on
//! SELECT count(*) FROM each day that is too old
//! DROP TABLE each such day                      readers wait for this one, until the commit
//! WITH gone AS (DELETE FROM table WHERE ... RETURNING 1) SELECT count(*) FROM gone
//! INSERT INTO millrace_removals ...
//! COMMIT
//! ```
//!
//! Between the count and the drop nobody writes, so the rows noted are those that are gone. A day that cannot be dropped
//! (its readers do not end, a view hangs on it, it is another role's) is left, and its rows are deleted as others are. An empty
//! day is left too: a load that is about to fill it may have made it.

use std::collections::BTreeMap;

use millrace_pipeline::catalog::identifier::qualified;

use super::{Removal, exists, number};
use crate::handoff::HandoffError;
use crate::handoff::ask::Ask;
use crate::handoff::connection::Connection;
use crate::handoff::days::{self, DAY_US, Layout};
use crate::ledger::LegalHold;
use crate::lifecycle::{Hook, Moment};

/// How long loads and readers are waited for before days are deleted row by row.
const PATIENCE: &str = "5s";
/// Days that are dropped in one transaction: each is a lock.
const DAYS_MAX: usize = 500;

/// Deletes rows and notes it, or changes nothing; how many.
pub(super) async fn remove(
    connection: &Connection,
    removal: &Removal<'_>,
    hook: &Hook,
) -> Result<u64, HandoffError> {
    if !exists(connection, removal.table).await? {
        return Ok(0);
    }
    removal.make_notes(connection).await?;
    let removed = transaction(connection, removal, hook).await;
    connection.settle(removed).await
}

async fn transaction(
    connection: &Connection,
    removal: &Removal<'_>,
    hook: &Hook,
) -> Result<u64, HandoffError> {
    connection.run("begin a transaction", "BEGIN").await?;
    let dropped = whole_days(connection, removal).await?;
    let delete = format!(
        "WITH gone AS ({} RETURNING 1) SELECT count(*) FROM gone",
        removal.delete()
    );
    let deleted = number(&connection.rows("delete rows", &delete).await?);
    let rows = dropped + deleted;
    if rows > 0 {
        let note = removal.note(&rows.to_string());
        connection.run("note the removal", &note).await?;
        hook(Moment::Deleted);
    }
    connection.run("commit the removal", "COMMIT").await?;
    Ok(rows)
}

/// Drops the days of which every row is too old, if it can be done soon; how many rows that were.
async fn whole_days(connection: &Connection, removal: &Removal<'_>) -> Result<u64, HandoffError> {
    let Some((before_us, holds)) = removal.expiry else {
        return Ok(0);
    };
    let time = removal.pipeline.partition.time.as_str();
    if let Layout::Foreign = days::look(connection, removal.table, time).await? {
        return Ok(0);
    }
    connection.run("set a savepoint", "SAVEPOINT days").await?;
    match drop_days(connection, removal.table, time, before_us, holds).await {
        Ok(rows) => Ok(rows),
        Err(error) if connection.is_closed() => Err(error),
        Err(error) => {
            tracing::info!(
                table = removal.table,
                error = error.text(),
                "expired days cannot be dropped now: their rows are deleted"
            );
            let back = "ROLLBACK TO SAVEPOINT days";
            connection.run("go back to a savepoint", back).await?;
            Ok(0)
        }
    }
}

async fn drop_days(
    connection: &Connection,
    table: &str,
    time: &str,
    before_us: i64,
    holds: &[LegalHold],
) -> Result<u64, HandoffError> {
    let lock = format!(
        "SET LOCAL lock_timeout = '{PATIENCE}'; LOCK TABLE ONLY {} IN EXCLUSIVE MODE",
        qualified(table)
    );
    connection.run("lock its table", &lock).await?;
    let Layout::Days(there) = days::look(connection, table, time).await? else {
        return Ok(0);
    };
    let (mut rows, mut full) = (0, Vec::new());
    for partition in expired(&there.days, before_us, holds) {
        let sql = format!("SELECT count(*) FROM {partition}");
        let found = number(&connection.rows("count rows that leave", &sql).await?);
        if found > 0 {
            full.push(partition);
        }
        rows += found;
    }
    if !full.is_empty() {
        let sql = format!("DROP TABLE {}", full.join(", "));
        connection.run("drop expired days", &sql).await?;
        tracing::info!(table, days = full.len(), rows, "expired days are dropped");
    }
    let patient = "SET LOCAL lock_timeout TO DEFAULT";
    connection.run("take session settings", patient).await?;
    Ok(rows)
}

/// The partitions of which every instant is before a time, and none is held.
fn expired(days: &BTreeMap<i64, String>, before_us: i64, holds: &[LegalHold]) -> Vec<String> {
    let is_expired = |day: &i64| {
        let (from, to) = (day.saturating_mul(DAY_US), (day + 1).saturating_mul(DAY_US));
        to <= before_us && !holds.iter().any(|hold| hold.from_us < to && from < hold.to_us)
    };
    let expired = days.iter().filter(|(day, _)| is_expired(day));
    expired.map(|(_, name)| name.clone()).take(DAYS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_goes_whole_when_all_of_it_is_too_old_and_nothing_is_held() {
        let days: BTreeMap<i64, String> = (10..15).map(|day| (day, format!("d{day}"))).collect();
        let held = |from_us, to_us| LegalHold {
            id: "h".to_owned(),
            from_us,
            to_us,
            reason: String::new(),
            by: String::new(),
            at_us: 0,
            released: None,
        };
        assert_eq!(expired(&days, 12 * DAY_US + 1, &[]), ["d10", "d11"]);
        // The hold begins with the last microsecond of a day, and ends with the first instant of another.
        let hold = held(12 * DAY_US - 1, 13 * DAY_US);
        assert_eq!(expired(&days, 14 * DAY_US, &[hold]), ["d10", "d13"]);
    }
}
