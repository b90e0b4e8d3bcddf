//! Rows leave Redshift, by either way to it.
//!
//! ```text
//! BEGIN
//! LOCK millrace_removals                     removals take turns, so that what is noted is what is deleted
//! INSERT INTO millrace_removals SELECT ..., count(*) FROM table WHERE ... HAVING count(*) > 0
//! DELETE FROM table WHERE ...
//! COMMIT
//! ```
//!
//! The lock comes first, before anything takes the transaction's snapshot. Over the Data API they are one batch of statements.
//! How many rows it was, the note says.

use millrace_pipeline::catalog::ddl;
use millrace_pipeline::catalog::identifier::{literal, qualified};

use super::{Removal, exists, number};
use crate::handoff::HandoffError;
use crate::handoff::ask::Ask;
use crate::handoff::connection::Connection;
use crate::handoff::redshift::Way;
use crate::lifecycle::{Hook, Moment};

/// Deletes rows and notes it, or changes nothing; how many.
pub(super) async fn remove(way: &Way, removal: &Removal<'_>, hook: &Hook) -> Result<u64, HandoffError> {
    if !exists(way, removal.table).await? {
        return Ok(0);
    }
    removal.make_notes(way).await?;
    let note = format!(
        "{} FROM {} WHERE {} HAVING count(*) > 0",
        removal.note("count(*)"),
        qualified(removal.table),
        removal.condition
    );
    let lock = format!("LOCK TABLE {}", ddl::removals_table(removal.pipeline));
    let statements = [lock, note, removal.delete()];
    match way {
        Way::Postgres(connection) => {
            let removed = transaction(connection, &statements, hook).await;
            connection.settle(removed).await?;
        }
        Way::DataApi(client, _) => {
            client.transaction("delete rows", statements.to_vec()).await?;
            hook(Moment::Deleted);
        }
    }
    let noted = format!(
        "SELECT \"rows\" FROM {} WHERE pipeline = {} AND removed_at = {} AND asked_by = {}",
        ddl::removals_table(removal.pipeline),
        literal(removal.pipeline.name.as_str()),
        removal.at(),
        removal.by()
    );
    let rows = way.rows("show what was removed", &noted).await?;
    Ok(number(&rows))
}

async fn transaction(
    connection: &Connection,
    statements: &[String],
    hook: &Hook,
) -> Result<(), HandoffError> {
    connection.run("begin a transaction", "BEGIN").await?;
    for sql in statements {
        connection.run("delete rows", sql).await?;
    }
    hook(Moment::Deleted);
    connection.run("commit the removal", "COMMIT").await
}
