//! What would make a table of Redshift faster, by its own figures.
//!
//! In: the design that the pipeline asks for, the columns as they are, the table's figures. Out: advice.
//!
//! | finding                                                     | advice                                             |
//! |-------------------------------------------------------------|----------------------------------------------------|
//! | other columns are the sort key                              | `ALTER COMPOUND SORTKEY`; not where Redshift chooses and the pipeline says nothing |
//! | another column is the declared distribution key             | `ALTER DISTKEY`                                    |
//! | another encoding than type and stored values call for       | `ALTER COLUMN ... ENCODE`; not where Redshift chooses |
//! | a fifth of the rows is unsorted                             | `VACUUM SORT ONLY`                                 |
//! | a tenth of the rows is deleted and still there              | `VACUUM DELETE ONLY`; with the one above `VACUUM FULL` |
//! | statistics are off by a tenth                               | `ANALYZE`                                          |
//! | a slice holds four times the rows of another                | another distribution                               |

use millrace_pipeline::catalog::ddl::Design;
use millrace_pipeline::catalog::encodings::Encoding;
use millrace_pipeline::catalog::identifier::{identifier, qualified};

use super::Finding;

const UNSORTED_PERCENT: f64 = 20.0;
const DELETED_SHARE: f64 = 0.1;
const STATS_OFF_PERCENT: f64 = 10.0;
const SKEW: f64 = 4.0;

/// A column as `pg_table_def` describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Described {
    pub(super) name: String,
    pub(super) encoding: String,
    pub(super) is_dist_key: bool,
    /// Its place in the sort key, from 1; negative ones are of an interleaved key, 0 is none.
    pub(super) sort_key: i32,
}

/// A table's row of `svv_table_info`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Info {
    pub(super) encoded: String,
    pub(super) dist_style: String,
    pub(super) sort_key: String,
    pub(super) rows: f64,
    pub(super) unsorted: f64,
    pub(super) stats_off: f64,
    pub(super) skew: f64,
    pub(super) visible: f64,
}

/// Everything that could be better.
pub(super) fn advise(
    table: &str,
    design: &Design,
    columns: &[Described],
    info: Option<&Info>,
) -> Vec<Finding> {
    let table = qualified(table);
    let mut findings = Vec::new();
    let is_auto = |what: &str, text: &str| text.to_uppercase().contains(&format!("AUTO({what}"));
    let auto_sort = info.is_some_and(|info| is_auto("SORTKEY", &info.sort_key));
    if design.is_sort_key_declared || !auto_sort {
        findings.extend(sort_key(&table, design, columns));
    }
    findings.extend(dist_key(&table, design, columns));
    if !info.is_some_and(|info| is_auto("ENCODE", &info.encoded)) {
        findings.extend(encodings(&table, design, columns));
    }
    if let Some(info) = info {
        findings.extend(upkeep(&table, info));
    }
    findings
}

fn sort_key(table: &str, design: &Design, columns: &[Described]) -> Option<Finding> {
    let mut found: Vec<&Described> = columns.iter().filter(|column| column.sort_key != 0).collect();
    found.sort_by_key(|column| column.sort_key.abs());
    let is_interleaved = found.iter().any(|column| column.sort_key < 0);
    let names: Vec<&str> = found.iter().map(|column| column.name.as_str()).collect();
    if !is_interleaved && names == design.sort_key {
        return None;
    }
    let found = match (names.is_empty(), is_interleaved) {
        (true, _) => "none".to_owned(),
        (false, true) => format!("interleaved: {}", names.join(", ")),
        (false, false) => names.join(", "),
    };
    let key: Vec<String> = design.sort_key.iter().map(|name| identifier(name)).collect();
    let key = key.join(", ");
    let wanted = format!("{key}: blocks outside of a query's time are skipped");
    let statement = format!("ALTER TABLE {table} ALTER COMPOUND SORTKEY ({key});");
    Some(Finding::advice("sort key", found, wanted, statement))
}

fn dist_key(table: &str, design: &Design, columns: &[Described]) -> Option<Finding> {
    let wanted = design.dist_key.as_deref()?;
    let found = columns.iter().find(|column| column.is_dist_key);
    if found.is_some_and(|column| column.name == wanted) {
        return None;
    }
    let found = found.map_or("none", |column| &column.name);
    let key = identifier(wanted);
    let statement = format!("ALTER TABLE {table} ALTER DISTKEY {key};");
    let wanted = format!("{key}: rows that are joined by it lie together");
    Some(Finding::advice("distribution key", found, wanted, statement))
}

fn encodings(table: &str, design: &Design, columns: &[Described]) -> Vec<Finding> {
    let named = |encoding: &str| match encoding.to_lowercase().as_str() {
        "none" | "" => "raw".to_owned(),
        other => other.to_owned(),
    };
    let differing = columns.iter().filter_map(|column| {
        let Encoding {
            name: wanted, why, ..
        } = design
            .encodings
            .iter()
            .find(|encoding| encoding.column == column.name)?;
        let found = named(&column.encoding);
        if found == *wanted {
            return None;
        }
        let name = identifier(&column.name);
        let statement = format!("ALTER TABLE {table} ALTER COLUMN {name} ENCODE {wanted};");
        let why = if why.is_empty() {
            String::new()
        } else {
            format!(": {why}")
        };
        Some(Finding::advice(
            format!("encoding of {name}"),
            found,
            format!("{wanted}{why}"),
            statement,
        ))
    });
    differing.collect()
}

fn upkeep(table: &str, info: &Info) -> Vec<Finding> {
    let mut findings = Vec::new();
    let is_unsorted = info.unsorted >= UNSORTED_PERCENT;
    let deleted = (info.rows - info.visible).max(0.0);
    // A view that does not know the visible rows says 0.
    let is_deleted = info.visible > 0.0 && deleted >= info.rows * DELETED_SHARE;
    let unsorted = format!("{} % of the rows are unsorted", info.unsorted);
    let deleted = format!(
        "{deleted:.0} of {:.0} rows are deleted and still there",
        info.rows
    );
    let (found, how) = match (is_unsorted, is_deleted) {
        (true, true) => (format!("{unsorted}; {deleted}"), "FULL"),
        (true, false) => (unsorted, "SORT ONLY"),
        (false, true) => (deleted, "DELETE ONLY"),
        (false, false) => (String::new(), ""),
    };
    if !how.is_empty() {
        let wanted = "sorted rows and no others";
        let statement = format!("VACUUM {how} {table};");
        findings.push(Finding::advice("vacuum", found, wanted, statement));
    }
    if info.stats_off >= STATS_OFF_PERCENT {
        let found = format!("off by {} %", info.stats_off);
        let statement = format!("ANALYZE {table};");
        findings.push(Finding::advice("statistics", found, "newer ones", statement));
    }
    if info.skew >= SKEW {
        let found = format!("a slice holds {} times the rows of another", info.skew);
        let wanted = "a distribution key of many values, or `dist_key` left to Redshift";
        let statement = format!("ALTER TABLE {table} ALTER DISTSTYLE AUTO;");
        findings.push(Finding::advice("distribution", found, wanted, statement));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoding((column, name): (&str, &'static str)) -> Encoding {
        Encoding {
            column: column.to_owned(),
            name,
            why: String::new(),
        }
    }

    fn design() -> Design {
        Design {
            sort_key: vec!["at".to_owned()],
            is_sort_key_declared: false,
            dist_key: Some("who".to_owned()),
            encodings: [("at", "raw"), ("who", "zstd")].map(encoding).to_vec(),
        }
    }

    fn columns(at: (&str, i32), who: (&str, bool)) -> Vec<Described> {
        let described = |name: &str, encoding: &str, is_dist_key, sort_key| Described {
            name: name.to_owned(),
            encoding: encoding.to_owned(),
            is_dist_key,
            sort_key,
        };
        vec![
            described("at", at.0, false, at.1),
            described("who", who.0, who.1, 0),
        ]
    }

    fn info() -> Info {
        Info {
            encoded: "Y".to_owned(),
            dist_style: "KEY(who)".to_owned(),
            sort_key: "at".to_owned(),
            rows: 1000.0,
            unsorted: 3.0,
            stats_off: 0.0,
            skew: 1.1,
            visible: 1000.0,
        }
    }

    fn statements(columns: &[Described], info: &Info) -> Vec<String> {
        let advice = advise("a.t", &design(), columns, Some(info));
        advice.into_iter().map(|finding| finding.statement).collect()
    }

    #[test]
    fn a_table_as_it_is_asked_for_needs_nothing() {
        let columns = columns(("none", 1), ("zstd", true));
        assert!(statements(&columns, &info()).is_empty());
    }

    #[test]
    fn keys_and_encodings_that_differ_come_with_their_statements() {
        let found = columns(("az64", -1), ("none", false));
        assert_eq!(
            statements(&found, &info()),
            [
                "ALTER TABLE a.t ALTER COMPOUND SORTKEY (at);",
                "ALTER TABLE a.t ALTER DISTKEY who;",
                "ALTER TABLE a.t ALTER COLUMN at ENCODE raw;",
                "ALTER TABLE a.t ALTER COLUMN who ENCODE zstd;",
            ]
        );
        // What Redshift chooses by itself, and the pipeline leaves open, is left to it.
        let auto = Info {
            encoded: "Y, AUTO(ENCODE)".to_owned(),
            sort_key: "AUTO(SORTKEY)".to_owned(),
            ..info()
        };
        let found = columns(("az64", 0), ("none", true));
        assert!(statements(&found, &auto).is_empty());
    }

    #[test]
    fn unsorted_deleted_and_unknown_rows_are_worth_an_upkeep() {
        let columns = columns(("none", 1), ("zstd", true));
        let unsorted = Info {
            unsorted: 20.0,
            ..info()
        };
        assert_eq!(statements(&columns, &unsorted), ["VACUUM SORT ONLY a.t;"]);
        let deleted = Info {
            visible: 900.0,
            ..info()
        };
        assert_eq!(statements(&columns, &deleted), ["VACUUM DELETE ONLY a.t;"]);
        let all = Info {
            unsorted: 50.0,
            visible: 500.0,
            stats_off: 12.0,
            skew: 4.5,
            ..info()
        };
        let expected = [
            "VACUUM FULL a.t;",
            "ANALYZE a.t;",
            "ALTER TABLE a.t ALTER DISTSTYLE AUTO;",
        ];
        assert_eq!(statements(&columns, &all), expected);
    }
}
