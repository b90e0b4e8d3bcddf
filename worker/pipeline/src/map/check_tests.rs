//! Every way in which an expression can be wrong, and what the one who wrote it is told.

use super::made_up::{column, from, pipeline, sql, version};
use super::{ExpressionPlace, MapPlan, expression_faults};
use crate::spec::model::*;

/// The faults of one expression for column `x` of a table `a int64, Name string, x int64, below int64 (sql)`.
fn fault_of(text: &str) -> (String, String) {
    let columns = vec![
        column("a", ColumnType::Int64, from("a")),
        column("Name", ColumnType::String, from("name")),
        column("x", ColumnType::Int64, sql(text)),
        column("below", ColumnType::Int64, sql("1")),
    ];
    let mut faults = expression_faults(&pipeline(columns, Vec::new()));
    assert_eq!(faults.len(), 1, "{text}: {faults:?}");
    let fault = faults.remove(0);
    assert_eq!(fault.place, ExpressionPlace::Column(2));
    (fault.wrong, fault.right)
}

#[test]
fn every_fault_of_an_expression_says_what_is_wrong_and_what_would_be_right() {
    let cases = [
        ("aa + 1", "no column is named `aa`", "did you mean `a`?"),
        (
            "length(name)",
            "no column is named `name`",
            "did you mean `Name`?",
        ),
        (
            "zzzzzzz",
            "no column is named `zzzzzzz`",
            "the expression sees these columns: a, Name",
        ),
        ("below + 1", "stands below", "move that column above"),
        ("x + 1", "stands below", "move"),
        (
            "lenght(Name)",
            "no function is named `lenght`",
            "did you mean `length`?",
        ),
        ("a +", "this is no SQL expression", "write one expression"),
        ("a b c", "this is no SQL expression", "write one expression"),
        (
            "now()",
            "`now()` gives another value at every run",
            "use columns of the event",
        ),
        ("random()", "`random()` gives another value", "use columns"),
        ("length(uuid())", "`uuid()` gives another value", "use columns"),
        ("sum(a)", "`sum()` looks at many rows", "quality suite"),
        ("(SELECT 1)", "a subquery looks at many rows", "`enrich`"),
        ("$1", "parameter", "write the value"),
        ("make_array(a)", "cannot become int64", "declare another type"),
        (
            "abs(Name, a)",
            "the expression does not plan",
            "compare the arguments' types",
        ),
    ];
    for (text, wrong, right) in cases {
        let found = fault_of(text);
        assert!(
            found.0.contains(wrong) && found.1.contains(right),
            "{text}: {found:?}"
        );
    }
}

#[test]
fn faults_in_versions_name_the_version_and_the_column() {
    let columns = vec![
        column("a", ColumnType::Int64, from("a")),
        column("b", ColumnType::Int64, sql("a + 1")),
    ];
    let versions = vec![
        version("one", When::Sql("a".to_owned()), &[("b", sql("nope"))]),
        version("two", When::Sql("a > 1".to_owned()), &[("a", sql("1"))]),
    ];
    let pipeline = pipeline(columns, versions);
    let places: Vec<_> = expression_faults(&pipeline)
        .into_iter()
        .map(|fault| fault.place)
        .collect();
    assert_eq!(
        places,
        [
            ExpressionPlace::VersionWhen(0),
            ExpressionPlace::VersionColumn(0, "b".to_owned())
        ]
    );
    let error = MapPlan::new(&pipeline).unwrap_err().to_string();
    assert!(
        error.contains("version `one`, column `b`: no column is named `nope`"),
        "{error}"
    );
}

#[test]
fn a_sound_pipeline_has_no_faults() {
    let columns = vec![
        column("at", ColumnType::Timestamp, sql("to_timestamp(text)")),
        column("text", ColumnType::String, from("text")),
        column("day", ColumnType::Date, sql("at")),
        column(
            "price",
            ColumnType::Decimal(10, 2),
            sql("cast(text as double) / 3"),
        ),
        column(
            "tags",
            ColumnType::List(Box::new(ColumnType::String)),
            sql("make_array(text, 'x')"),
        ),
        column("hash", ColumnType::String, sql("encode(sha256(text), 'hex')")),
        column(
            "host",
            ColumnType::String,
            sql("regexp_replace(text, '^https?://([^/]+).*', '\\1')"),
        ),
    ];
    assert_eq!(expression_faults(&pipeline(columns, Vec::new())), []);
}
