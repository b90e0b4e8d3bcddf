//! The day partitions of a table in PostgreSQL: there before a load needs them.
//!
//! In: the days of the batches about to be loaded. Out: a partition for each of them and for some days after the newest.
//!
//! They are made in transactions of their own, before the load's, so that two loads never wait for each other's rows. Makers
//! take turns by a lock of the parent that readers and loads do not meet, look again behind it, and go on without what is there.
//!
//! | the table, or the day...                         | then                                                                 |
//! |--------------------------------------------------|----------------------------------------------------------------------|
//! | was made without partitions, or cut in another way, or is another owner's | it is left as it is: its owner cuts it      |
//! | has no partition                                 | it is made before the load                                           |
//! | is ahead of the newest one                       | made too, [`AHEAD`] at a time; if somebody is in the way, another time |
//! | is before 1990, more than a year ahead, or one too many | its rows go into the default partition, which is made for them |
//! | has rows in the default partition                | they move, and the day is attached, in one transaction               |
//! | cannot be made as readers hold the default partition | the rows go there too, and move when the day is made             |
//! | is dropped between our look and the load         | the load is refused, and begun again with another look               |
//!
//! Without a default partition nobody waits for a new day; with one, attaching reads it and waits for its readers. So it is
//! made when the first row needs it, and not before.

use std::collections::{BTreeMap, BTreeSet};

use millrace_pipeline::catalog::days::{self, Partitioned};
use millrace_pipeline::catalog::ddl;
use millrace_pipeline::catalog::identifier::{literal, qualified};
use millrace_pipeline::spec::model::Pipeline;
use millrace_proto::manifest::DataFile;

use super::HandoffError;
use super::ask::{Ask, field};
use super::connection::Connection;
use crate::lifecycle::now_us;

pub(super) const DAY_US: i64 = 86_400_000_000;
/// Days that are made after the newest one: a load at midnight finds its day.
const AHEAD: i64 = 3;
/// 1990-01-01. Events before it are mistakes of clocks, or few.
const FIRST: i64 = 7_305;
/// Events further ahead of today are mistakes of clocks.
const FUTURE: i64 = 366;
/// Most partitions: queries that name no time look at each.
const PARTITIONS_MAX: usize = 4_000;
/// A file of more days has rows of many days or of mistaken clocks: its last days get partitions.
const SPAN_MAX: i64 = 62;
/// Partitions of one transaction: each is a lock.
const TOGETHER: usize = 32;
/// How long a day that could also go into the default partition is waited for.
const PATIENCE: &str = "2s";

/// How a table is cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Layout {
    /// Not by us: not at all, by other bounds than days, by another column, or it is another role's.
    Foreign,
    /// By days in UTC.
    Days(Partitions),
}

/// The partitions of a table that is cut by day.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Partitions {
    /// Days since 1970-01-01, and the partitions as SQL takes them.
    pub(super) days: BTreeMap<i64, String>,
    /// The default partition, as SQL takes it.
    pub(super) default: Option<String>,
    tablespace: Option<String>,
}

/// What is to be made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Missing {
    /// For rows that come now.
    now: Vec<i64>,
    /// For rows to come.
    ahead: Vec<i64>,
    /// A place for rows of no day.
    default: bool,
}

/// How a table is cut. `table` is `schema.table`, unquoted.
pub(super) async fn look(connection: &Connection, table: &str, time: &str) -> Result<Layout, HandoffError> {
    let (schema, name) = table.split_once('.').unwrap_or(("public", table));
    let sql = format!(
        "SELECT c.oid, t.spcname FROM pg_class c
         JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_partitioned_table p ON p.partrelid = c.oid
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = p.partattrs[0]
         LEFT JOIN pg_tablespace t ON t.oid = c.reltablespace
         WHERE n.nspname = {} AND c.relname = {} AND p.partstrat = 'r' AND p.partnatts = 1 AND a.attname = {}
           AND pg_has_role(c.relowner, 'USAGE')",
        literal(schema),
        literal(name),
        literal(time)
    );
    let found = connection.rows("describe its partitions", &sql).await?;
    let Some(parent) = found.first() else {
        return Ok(Layout::Foreign);
    };
    // The bounds are read back by who wrote them, whatever time zone the session has.
    let sql = format!(
        "SELECT n.nspname, c.relname, b.bound = 'DEFAULT', extract(epoch FROM m[1]::timestamptz), extract(epoch FROM m[2]::timestamptz)
         FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace,
           LATERAL (SELECT pg_get_expr(c.relpartbound, c.oid) AS bound) b,
           LATERAL (SELECT regexp_match(bound, 'FROM \\(''([^'']*)''\\) TO \\(''([^'']*)''\\)') AS m) r
         WHERE i.inhparent = {}",
        field(parent, 0)
    );
    let rows = connection.rows("describe its partitions", &sql).await?;
    let mut partitions = Partitions {
        tablespace: Some(field(parent, 1).to_owned()).filter(|name| !name.is_empty()),
        ..Partitions::default()
    };
    for row in &rows {
        let name = qualified(&format!("{}.{}", field(row, 0), field(row, 1)));
        match (field(row, 2), whole_day(field(row, 3), field(row, 4))) {
            ("t", _) => partitions.default = Some(name),
            (_, Some(day)) => {
                partitions.days.insert(day, name);
            }
            (_, None) => return Ok(Layout::Foreign),
        }
    }
    Ok(Layout::Days(partitions))
}

/// The day whose first second and end these are.
fn whole_day(from: &str, to: &str) -> Option<i64> {
    let seconds = |text: &str| {
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        let whole: i64 = whole.parse().ok()?;
        part.bytes().all(|digit| digit == b'0').then_some(whole)
    };
    let (from, to) = (seconds(from)?, seconds(to)?);
    (from.rem_euclid(86_400) == 0 && to == from.saturating_add(86_400)).then(|| from.div_euclid(86_400))
}

/// The days of data files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    days: BTreeSet<i64>,
    /// There are rows of other days too.
    others: bool,
}

impl Wanted {
    pub(super) fn of<'a>(files: impl Iterator<Item = &'a DataFile>) -> Self {
        let mut wanted = Self::default();
        for file in files {
            let (first, last) = (file.time_min.div_euclid(DAY_US), file.time_max.div_euclid(DAY_US));
            // A file of a lake that is cut by date is of one day; of another one it may be of any.
            wanted.others |= last.saturating_sub(first) >= SPAN_MAX;
            wanted.days.insert(first);
            wanted
                .days
                .extend(first.max(last.saturating_sub(SPAN_MAX - 1))..=last);
        }
        wanted
    }
}

/// A day, as the calendar has it.
pub(super) fn calendar(day: i64) -> String {
    let date = chrono::DateTime::from_timestamp(day.saturating_mul(86_400), 0);
    date.map_or_else(|| day.to_string(), |date| date.format("%Y-%m-%d").to_string())
}

fn today() -> i64 {
    now_us().div_euclid(DAY_US)
}

/// What a load of these days needs made.
fn missing(wanted: &Wanted, there: &Partitions, today: i64, has_nulls: bool) -> Missing {
    let Wanted { days: wanted, others } = wanted;
    let is_day = |day: &i64| (FIRST..=today + FUTURE).contains(day);
    let mut room = PARTITIONS_MAX.saturating_sub(there.days.len());
    let mut missing = Missing {
        default: has_nulls || *others || wanted.iter().any(|day| !is_day(day)),
        ..Missing::default()
    };
    let absent = |day: &i64| !there.days.contains_key(day);
    for day in wanted.iter().filter(|day| is_day(day) && absent(day)) {
        if room == 0 {
            missing.default = true;
            break;
        }
        room -= 1;
        missing.now.push(*day);
    }
    missing.default &= there.default.is_none();
    let newest = wanted.iter().filter(|day| is_day(day)).max();
    if let Some(newest) = newest.filter(|newest| absent(&(*newest + 1))) {
        let ahead = (newest + 1..=newest + AHEAD).filter(|day| is_day(day) && absent(day));
        missing.ahead = ahead.take(room).collect();
    }
    missing
}

/// Makes what a load of these days needs, if the table is one that we cut.
pub(super) async fn prepare(
    connection: &Connection,
    pipeline: &Pipeline,
    wanted: &Wanted,
) -> Result<(), HandoffError> {
    let (table, time) = (ddl::table(pipeline), pipeline.partition.time.as_str());
    let Layout::Days(there) = look(connection, table, time).await? else {
        return Ok(());
    };
    let may_be_null = |column: &ddl::TableColumn| column.name == time && !column.not_null;
    let has_nulls = ddl::postgres_columns(pipeline).iter().any(may_be_null);
    let missing = missing(wanted, &there, today(), has_nulls);
    let maker = Maker {
        connection,
        table,
        time,
    };
    if missing.default {
        maker.make(&[], true, None).await?;
    }
    let has_default = missing.default || there.default.is_some();
    for days in missing.now.chunks(TOGETHER) {
        let patience = has_default.then_some(PATIENCE);
        match maker.make(days, false, patience).await {
            Err(error) if has_default && error.is_lock_timeout() => {
                tracing::warn!(
                    table,
                    days = days.len(),
                    "readers hold the default partition: rows of new days go there, and move later"
                );
            }
            made => made?,
        }
    }
    // Not needed yet: who is in the way now may be gone with the next load.
    if !missing.ahead.is_empty()
        && let Err(error) = maker.make(&missing.ahead, false, Some(PATIENCE)).await
    {
        if !error.is_retryable() || connection.is_closed() {
            return Err(error);
        }
        tracing::warn!(table, error = error.text(), "days ahead are made another time");
    }
    Ok(())
}

struct Maker<'a> {
    connection: &'a Connection,
    /// `schema.table`, unquoted.
    table: &'a str,
    time: &'a str,
}

impl Maker<'_> {
    /// Makes partitions that are not there, all or none.
    async fn make(&self, wanted: &[i64], default: bool, patience: Option<&str>) -> Result<(), HandoffError> {
        let made = self.transaction(wanted, default, patience).await;
        self.connection.settle(made).await
    }

    async fn transaction(
        &self,
        wanted: &[i64],
        default: bool,
        patience: Option<&str>,
    ) -> Result<(), HandoffError> {
        let what = format!("make partitions of `{}`", self.table);
        let mut begin = "BEGIN;".to_owned();
        if let Some(patience) = patience {
            begin.push_str(&format!("SET LOCAL lock_timeout = '{patience}';"));
        }
        // The parent first, as everybody does, and then its partitions: so nobody waits in a circle.
        begin.push_str(&format!(
            "LOCK TABLE ONLY {} IN SHARE UPDATE EXCLUSIVE MODE",
            qualified(self.table)
        ));
        self.connection.run(&what, &begin).await?;
        if let Layout::Days(there) = look(self.connection, self.table, self.time).await? {
            let days = wanted.iter().filter(|day| !there.days.contains_key(day));
            let days: Vec<i64> = days.copied().collect();
            let sql = self
                .statements(&there, &days, default && there.default.is_none())
                .await?;
            if !sql.is_empty() {
                self.connection.run(&what, &sql).await?;
                tracing::info!(
                    table = self.table,
                    days = days.len(),
                    default,
                    "partitions are made"
                );
            }
        }
        self.connection.run(&what, "COMMIT").await
    }

    async fn statements(
        &self,
        there: &Partitions,
        wanted: &[i64],
        default: bool,
    ) -> Result<String, HandoffError> {
        let columns = self.columns().await?;
        let parent = Partitioned {
            table: self.table,
            time: self.time,
            columns: &columns,
            tablespace: there.tablespace.as_deref(),
            default: there.default.as_deref(),
        };
        let mut sql = String::new();
        if default {
            let name = self.free(days::default_name(self.table)).await?;
            sql.push_str(&days::make_default(&parent, &name));
        }
        for day in wanted {
            let name = self.free(days::name(self.table, *day)).await?;
            sql.push_str(&days::make_day(&parent, &name, *day));
        }
        Ok(sql)
    }

    /// The columns that hold values of their own: rows that move take them along.
    async fn columns(&self) -> Result<Vec<String>, HandoffError> {
        let sql = format!(
            "SELECT attname FROM pg_attribute WHERE attrelid = {}::regclass AND attnum > 0 AND NOT attisdropped
             AND attgenerated = '' ORDER BY attnum",
            literal(&qualified(self.table))
        );
        let rows = self.connection.rows("describe its table", &sql).await?;
        Ok(rows.iter().map(|row| field(row, 0).to_owned()).collect())
    }

    /// A name that no relation has: a day that was detached and kept does not stand in the way.
    async fn free(&self, name: String) -> Result<String, HandoffError> {
        let mut tried = name.clone();
        for number in 2.. {
            let sql = format!(
                "SELECT to_regclass({})",
                literal(&days::beside(self.table, &tried))
            );
            let rows = self.connection.rows("look for a free name", &sql).await?;
            if rows.first().is_none_or(|row| field(row, 0).is_empty()) {
                break;
            }
            tried = format!("{name}_{number}");
        }
        Ok(tried)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TODAY: i64 = 20_000;

    fn there(days: &[i64], default: bool) -> Partitions {
        Partitions {
            days: days.iter().map(|day| (*day, format!("d{day}"))).collect(),
            default: default.then(|| "d".to_owned()),
            tablespace: None,
        }
    }

    fn wanted(days: &[i64]) -> Wanted {
        Wanted {
            days: days.iter().copied().collect(),
            others: false,
        }
    }

    fn decide(days: &[i64], there: &Partitions) -> Missing {
        missing(&wanted(days), there, TODAY, false)
    }

    #[test]
    fn days_are_made_once_and_some_ahead() {
        let made = decide(&[TODAY - 1, TODAY], &there(&[TODAY - 1], false));
        assert_eq!(made.now, [TODAY]);
        assert_eq!(made.ahead, [TODAY + 1, TODAY + 2, TODAY + 3]);
        assert!(!made.default);
        // While the next day is there, nothing is to be done.
        let all = there(&[TODAY, TODAY + 1], false);
        assert_eq!(decide(&[TODAY], &all), Missing::default());
    }

    #[test]
    fn absurd_days_are_the_defaults() {
        for day in [-719_162, 0, FIRST - 1, TODAY + FUTURE + 1, 2_932_896] {
            let made = decide(&[day], &there(&[], false));
            let expected = Missing {
                default: true,
                ..Missing::default()
            };
            assert_eq!(made, expected, "{day}");
            assert_eq!(decide(&[day], &there(&[], true)), Missing::default(), "{day}");
        }
    }

    #[test]
    fn a_table_of_many_days_gets_no_more() {
        let most = i64::try_from(PARTITIONS_MAX).unwrap();
        let all: Vec<i64> = (FIRST..FIRST + most).collect();
        let made = decide(&[TODAY], &there(&all, false));
        assert_eq!((made.now.len(), made.ahead.len(), made.default), (0, 0, true));
    }

    #[test]
    fn a_time_that_may_be_null_needs_the_default() {
        assert!(missing(&wanted(&[TODAY]), &there(&[TODAY], false), TODAY, true).default);
    }

    #[test]
    fn a_file_of_many_days_has_its_last_ones() {
        let file = DataFile {
            object: millrace_proto::manifest::WrittenObject {
                key: "f".to_owned(),
                bytes: 1,
                rows: 2,
                digest: String::new(),
            },
            partition: Vec::new(),
            time_min: 1,
            time_max: TODAY * DAY_US,
        };
        let wanted = Wanted::of(std::iter::once(&file));
        assert!(wanted.others && wanted.days.len() == 63, "{wanted:?}");
        let one = DataFile {
            time_min: file.time_max,
            ..file
        };
        let of_one = Wanted {
            days: BTreeSet::from([TODAY]),
            others: false,
        };
        assert_eq!(Wanted::of(std::iter::once(&one)), of_one);
    }

    #[test]
    fn bounds_are_of_one_day_in_utc_or_of_somebody_else() {
        assert_eq!(whole_day("1767225600.000000", "1767312000.000000"), Some(20_454));
        assert_eq!(whole_day("-86400", "0"), Some(-1));
        for (from, to) in [
            ("1767229200", "1767315600"),
            ("1767225600", "1769904000"),
            ("-Infinity", "0"),
            ("", ""),
            ("1767225600.5", "1767312000.5"),
        ] {
            assert_eq!(whole_day(from, to), None, "{from} {to}");
        }
    }
}
