//! Which rows leave, as SQL.
//!
//! In: a cutoff and what is held, or a person. Out: a condition that a warehouse of its kind understands.

use std::collections::BTreeSet;

use chrono::DateTime;
use millrace_pipeline::catalog::identifier::{identifier, literal, redshift_literal};
use millrace_pipeline::privacy::Subject;
use millrace_pipeline::spec::model::{ColumnType, Pipeline};

use crate::ledger::LegalHold;

/// Bytes of Redshift's longest text.
const VARCHAR_MAX: usize = 65_535;

/// Event times before one, outside the ranges that are held.
pub(super) fn too_old(pipeline: &Pipeline, before_us: i64, holds: &[LegalHold]) -> String {
    let time = identifier(&pipeline.partition.time);
    let mut condition = format!("{time} < {}", instant(before_us));
    for hold in holds {
        let (from, to) = (instant(hold.from_us), instant(hold.to_us));
        condition.push_str(&format!(" AND NOT ({time} >= {from} AND {time} < {to})"));
    }
    condition
}

/// A time as a literal; one beyond the calendar is its end.
pub(super) fn instant(at_us: i64) -> String {
    let at =
        DateTime::from_timestamp_micros(at_us).filter(|at| (0..=9999).contains(&chrono::Datelike::year(at)));
    match at {
        Some(at) => literal(&at.format("%Y-%m-%d %H:%M:%S%.6f+00").to_string()),
        None if at_us < 0 => literal("0001-01-01 00:00:00+00"),
        None => literal("9999-12-31 00:00:00+00"),
    }
}

/// Rows of which one column holds the person.
pub(super) fn is_theirs(is_postgres: bool, subject: &Subject) -> String {
    let each: Vec<String> = subject
        .texts()
        .map(|(column, kind, texts)| one_of(is_postgres, &identifier(column), kind, &texts))
        .filter(|condition| !condition.is_empty())
        .collect();
    if each.is_empty() {
        "1 = 0".to_owned()
    } else {
        each.join(" OR ")
    }
}

/// A text as a literal.
pub(super) fn quoted(is_postgres: bool, text: &str) -> String {
    if is_postgres {
        literal(text)
    } else {
        redshift_literal(text)
    }
}

/// Whether a column is one of some values, or a list has one of them; nothing where it cannot be.
pub(super) fn one_of(is_postgres: bool, column: &str, kind: &ColumnType, texts: &[String]) -> String {
    let listed = |literals: Vec<String>| format!("{column} IN ({})", literals.join(", "));
    match kind {
        ColumnType::Json if !is_postgres => json_in_redshift(column, texts),
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
                (_, false) => {
                    let items = format!("',' || trim(both '[]' from {}) || ','", serialized(column));
                    format!("strpos({items}, {}) > 0", redshift_literal(&format!(",{text},")))
                }
            });
            each.collect::<Vec<_>>().join(" OR ")
        }
        ColumnType::Int32 | ColumnType::Int64 => listed(texts.to_vec()),
        ColumnType::String
        | ColumnType::Bool
        | ColumnType::Float64
        | ColumnType::Decimal(..)
        | ColumnType::Date
        | ColumnType::Timestamp => listed(texts.iter().map(|text| quoted(is_postgres, text)).collect()),
    }
}

/// COPY makes a scalar of a text, and who loads by other ways parses it: either is theirs. What is longer than a VARCHAR is
/// neither, and cannot be serialized; what is null is serialized as `null`.
fn json_in_redshift(column: &str, texts: &[String]) -> String {
    let parsed = texts.iter().filter_map(|text| as_json(&ColumnType::Json, text));
    let scalars = texts
        .iter()
        .map(|text| serde_json::Value::from(text.as_str()).to_string());
    let all: BTreeSet<String> = parsed
        .chain(scalars)
        .map(|text| redshift_literal(&text))
        .collect();
    let all: Vec<String> = all.into_iter().collect();
    format!(
        "({column} IS NOT NULL AND {} IN ({}))",
        serialized(column),
        all.join(", ")
    )
}

/// A SUPER as a text; nothing of one that is longer than a VARCHAR.
pub(super) fn serialized(column: &str) -> String {
    format!("CASE WHEN json_size({column}) <= {VARCHAR_MAX} THEN json_serialize({column}) ELSE '' END")
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
        let json = one_of(false, "c", &ColumnType::Json, &["x\\".to_owned()]);
        assert!(json.ends_with("IN ('\"x\\\\\\\\\"'))"), "{json}");
        let list = one_of(false, "c", &list, &["a\"".to_owned()]);
        assert!(list.ends_with(", ',\"a\\\\\"\",') > 0"), "{list}");
    }
}
