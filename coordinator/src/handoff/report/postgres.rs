//! PostgreSQL's part: partitions, dead rows, statistics.

use millrace_pipeline::catalog::identifier::{literal, qualified};
use millrace_pipeline::spec::model::Pipeline;

use super::{Finding, Report};
use crate::handoff::HandoffError;
use crate::handoff::ask::{Ask, field};
use crate::handoff::connection::Connection;
use crate::handoff::days::{self, Layout, Partitions, calendar};

/// Dead rows of a hundred that are worth a vacuum.
const DEAD_PERCENT: u64 = 20;
/// Fewer dead rows than this are worth nothing.
const DEAD_MIN: u64 = 1_000;

/// Looks at a table that is there.
pub(super) async fn look(
    connection: &Connection,
    pipeline: &Pipeline,
    report: &mut Report,
) -> Result<(), HandoffError> {
    let table = report.table.clone();
    match days::look(connection, &table, &pipeline.partition.time).await? {
        Layout::Days(partitions) => cut(connection, &partitions, report).await?,
        Layout::Foreign => report.findings.push(Finding::advice(
            "partitions",
            "the table is not cut by day, or is another role's",
            "one for each day, as `millrace pipeline ddl` describes it; loads go on without",
            "",
        )),
    }
    statistics(connection, &table, report).await
}

/// Of a table that is cut by day: how many there are, how many are ahead, what is in none.
async fn cut(connection: &Connection, there: &Partitions, report: &mut Report) -> Result<(), HandoffError> {
    let mut ahead = 0;
    for partition in there.days.values().rev() {
        if has_rows(connection, partition).await? {
            break;
        }
        ahead += 1;
    }
    let span = match (there.days.first_key_value(), there.days.last_key_value()) {
        (Some((first, _)), Some((last, _))) => format!(
            "{} days, {} to {}",
            there.days.len(),
            calendar(*first),
            calendar(*last)
        ),
        (None, _) | (_, None) => "none yet".to_owned(),
    };
    report.facts.push(("partitions".to_owned(), span));
    report.facts.push(("days ahead".to_owned(), ahead.to_string()));
    if ahead == 0 && !there.days.is_empty() {
        let wanted = "some days after the newest rows: the next load makes them";
        report
            .findings
            .push(Finding::advice("days ahead", "none", wanted, ""));
    }
    if let Some(default) = &there.default
        && has_rows(connection, default).await?
    {
        let sql = format!("SELECT count(*) FROM {default}");
        let rows = connection.rows("count rows of no day", &sql).await?;
        let found = format!(
            "{} rows in {default}",
            rows.first().map_or("0", |row| field(row, 0))
        );
        let wanted =
            "none: their time is before 1990, far ahead or missing, or their day could not be made yet";
        report
            .findings
            .push(Finding::advice("rows of no day", found, wanted, ""));
    }
    Ok(())
}

async fn has_rows(connection: &Connection, partition: &str) -> Result<bool, HandoffError> {
    let sql = format!("SELECT 1 FROM {partition} LIMIT 1");
    Ok(!connection.rows("look for rows", &sql).await?.is_empty())
}

async fn statistics(connection: &Connection, table: &str, report: &mut Report) -> Result<(), HandoffError> {
    let name = qualified(table);
    let oid = format!("{}::regclass", literal(&name));
    let sql = format!(
        "SELECT coalesce(sum(n_live_tup), 0), coalesce(sum(n_dead_tup), 0), coalesce(sum(n_mod_since_analyze), 0),
           max(greatest(last_analyze, last_autoanalyze)) FILTER (WHERE relid = {oid})
         FROM pg_stat_user_tables WHERE relid = {oid} OR relid IN (SELECT relid FROM pg_partition_tree({oid}))"
    );
    let rows = connection.rows("show its statistics", &sql).await?;
    let Some(row) = rows.first() else { return Ok(()) };
    let number = |at| field(row, at).parse::<u64>().unwrap_or(0);
    let (live, dead, changed) = (number(0), number(1), number(2));
    report.facts.push(("rows, about".to_owned(), live.to_string()));
    if dead >= DEAD_MIN && dead * 100 >= (live + dead) * DEAD_PERCENT {
        let found = format!("{dead} dead rows beside {live}");
        let wanted = "autovacuum keeps up, or a vacuum by hand";
        let statement = format!("VACUUM {name};");
        report
            .findings
            .push(Finding::advice("dead rows", found, wanted, statement));
    }
    let analyzed = field(row, 3);
    let is_stale = analyzed.is_empty() || changed * 5 > live;
    if live > 0 && is_stale {
        let found = match analyzed {
            "" => "never gathered for the table as a whole".to_owned(),
            at => format!("of {at}, and {changed} rows changed since"),
        };
        let wanted = "newer ones: autovacuum gathers none for a partitioned table as a whole";
        let statement = format!("ANALYZE {name};");
        report
            .findings
            .push(Finding::advice("statistics", found, wanted, statement));
    }
    Ok(())
}
