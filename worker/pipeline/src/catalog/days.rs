//! Day partitions of PostgreSQL's table, as statements.
//!
//! In: the table, its time column, days (UTC, counted from 1970-01-01). Out: names, bounds, and what makes a partition.
//!
//! A partition is made beside the table and attached: that stops neither readers nor loads, which `CREATE TABLE ... PARTITION
//! OF` would. What the default partition holds of the day moves in first: attaching is refused while rows of the day are there.

use chrono::{DateTime, Days, NaiveDate};

use super::identifier::{identifier, literal, qualified};

/// PostgreSQL cuts names after so many bytes.
const NAME_MAX: usize = 63;

/// A partitioned table, as far as making partitions goes.
#[derive(Debug, Clone, Copy)]
pub struct Partitioned<'a> {
    /// `schema.table`, unquoted.
    pub table: &'a str,
    /// The column that it is cut by, unquoted.
    pub time: &'a str,
    /// Every column that holds a value of its own, unquoted.
    pub columns: &'a [String],
    /// Its tablespace, unquoted, if not the database's.
    pub tablespace: Option<&'a str>,
    /// Its default partition, as SQL takes it.
    pub default: Option<&'a str>,
}

/// The name of a day's partition, unquoted and without schema: `shop_20260131`.
#[must_use]
pub fn name(table: &str, day: i64) -> String {
    let day = date(day).format("%Y%m%d").to_string();
    suffixed(table, &day)
}

/// The name of the default partition, unquoted and without schema.
#[must_use]
pub fn default_name(table: &str) -> String {
    suffixed(table, "default")
}

/// A long name is cut, and stays another one than its neighbour's.
fn suffixed(table: &str, suffix: &str) -> String {
    let table = table.rsplit_once('.').map_or(table, |(_, table)| table);
    let whole = format!("{table}_{suffix}");
    if whole.len() <= NAME_MAX {
        return whole;
    }
    let hash = blake3::hash(table.as_bytes()).to_hex();
    let hash = hash.get(..8).unwrap_or_default();
    let kept = NAME_MAX.saturating_sub(suffix.len() + hash.len() + 2);
    // Tables' names are ASCII.
    let kept = table.get(..kept).unwrap_or_default();
    format!("{kept}_{hash}_{suffix}")
}

/// A day, as the calendar has it; one beyond the calendar is its end.
fn date(day: i64) -> NaiveDate {
    let date = DateTime::from_timestamp(day.saturating_mul(86_400), 0).map(|at| at.date_naive());
    date.unwrap_or(if day < 0 { NaiveDate::MIN } else { NaiveDate::MAX })
}

/// First and last instant of a day as literals; the last is the next day's.
fn bounds(day: i64) -> (String, String) {
    let first = date(day);
    let next = first.checked_add_days(Days::new(1)).unwrap_or(first);
    let instant = |day: NaiveDate| literal(&format!("{} 00:00:00+00", day.format("%Y-%m-%d")));
    (instant(first), instant(next))
}

/// The statements that make a day's partition under a name that is free.
#[must_use]
pub fn make_day(parent: &Partitioned<'_>, name: &str, day: i64) -> String {
    let (table, partition) = (qualified(parent.table), beside(parent.table, name));
    let (from, to) = bounds(day);
    let mut sql = make(parent, &partition);
    if let Some(default) = parent.default {
        let time = identifier(parent.time);
        let columns: Vec<String> = parent.columns.iter().map(|column| identifier(column)).collect();
        let columns = columns.join(", ");
        sql.push_str(&format!(
            "LOCK TABLE {default} IN ACCESS EXCLUSIVE MODE;\n\
             WITH moved AS (DELETE FROM {default} WHERE {time} >= {from} AND {time} < {to} RETURNING {columns})\n    \
             INSERT INTO {partition} ({columns}) SELECT {columns} FROM moved;\n"
        ));
    }
    sql.push_str(&format!(
        "ALTER TABLE {table} ATTACH PARTITION {partition} FOR VALUES FROM ({from}) TO ({to});\n"
    ));
    sql
}

/// The statements that make the default partition under a name that is free.
#[must_use]
pub fn make_default(parent: &Partitioned<'_>, name: &str) -> String {
    let (table, partition) = (qualified(parent.table), beside(parent.table, name));
    let mut sql = make(parent, &partition);
    sql.push_str(&format!(
        "ALTER TABLE {table} ATTACH PARTITION {partition} DEFAULT;\n"
    ));
    sql
}

/// A table like the parent; attaching gives it the parent's indexes and keys.
fn make(parent: &Partitioned<'_>, partition: &str) -> String {
    let tablespace = parent
        .tablespace
        .map(|name| format!(" TABLESPACE {}", identifier(name)));
    format!(
        "CREATE TABLE {partition} (LIKE {} INCLUDING DEFAULTS INCLUDING GENERATED INCLUDING CONSTRAINTS INCLUDING STORAGE){};\n",
        qualified(parent.table),
        tablespace.unwrap_or_default()
    )
}

/// A table in the same schema, as SQL takes it.
#[must_use]
pub fn beside(table: &str, name: &str) -> String {
    match table.rsplit_once('.') {
        Some((schema, _)) => format!("{}.{}", qualified(schema), identifier(name)),
        None => identifier(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-01-31.
    const DAY: i64 = 20_484;

    #[test]
    fn a_partition_is_named_after_its_day() {
        assert_eq!(name("analytics.shop", DAY), "shop_20260131");
        assert_eq!(default_name("shop"), "shop_default");
    }

    #[test]
    fn long_names_stay_apart() {
        let (one, two) = ("a".repeat(62) + "1", "a".repeat(62) + "2");
        let (one, two) = (name(&one, DAY), name(&two, DAY));
        assert!(one.len() <= NAME_MAX && one.ends_with("_20260131"), "{one}");
        assert_ne!(one, two);
    }

    #[test]
    fn what_the_default_holds_of_a_day_moves_before_the_day_is_attached() {
        let columns = ["id".to_owned(), "order".to_owned()];
        let parent = Partitioned {
            table: "a.t",
            time: "at",
            columns: &columns,
            tablespace: None,
            default: Some("a.t_default"),
        };
        let sql = make_day(&parent, "t_20260131", DAY);
        let moved = sql.find("DELETE FROM a.t_default WHERE at >= '2026-01-31 00:00:00+00' AND at < '2026-02-01 00:00:00+00' RETURNING id, \"order\"");
        let attached = sql.find("ATTACH PARTITION a.t_20260131 FOR VALUES FROM ('2026-01-31 00:00:00+00') TO ('2026-02-01 00:00:00+00')");
        assert!(moved.is_some() && moved < attached, "{sql}");
        let plain = make_day(
            &Partitioned {
                default: None,
                ..parent
            },
            "t_20260131",
            DAY,
        );
        assert!(!plain.contains("DELETE") && !plain.contains("LOCK"), "{plain}");
    }
}
