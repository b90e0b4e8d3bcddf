//! A model's table in the warehouse, and the ledger of what was loaded into such tables.
//!
//! In: the pipeline and a mart of it. Out: statements that can be run again. The columns stand in the order of the mart's
//! objects, for COPY maps Parquet by position; dashboards ask by period, so that is the index and the sort key.

use std::fmt::Write as _;

use super::ddl::{TableColumn, encoding, postgres_type, redshift_type};
use super::identifier::{identifier, literal, qualified, redshift_literal};
use crate::spec::marts::{Every, Mart, PERIOD};
use crate::spec::model::ColumnType;

/// What the column of the period means.
pub(super) const PERIOD_MEANING: &str = "Start of the hour or day that the row is about, UTC";

/// The columns of a mart's table in PostgreSQL.
#[must_use]
pub fn postgres_columns(mart: &Mart) -> Vec<TableColumn> {
    columns(mart, &postgres_type)
}

/// The columns of a mart's table in Redshift.
#[must_use]
pub fn redshift_columns(mart: &Mart) -> Vec<TableColumn> {
    columns(mart, &redshift_type)
}

fn columns(mart: &Mart, kind: &dyn Fn(&ColumnType) -> String) -> Vec<TableColumn> {
    let given = mart.columns.iter().map(|column| TableColumn {
        name: column.name.clone(),
        kind: kind(&column.kind),
        not_null: false,
    });
    let period = TableColumn {
        name: PERIOD.to_owned(),
        kind: kind(&ColumnType::Timestamp),
        not_null: true,
    };
    given.chain([period]).collect()
}

/// The load ledger of marts beside a table, as SQL takes it.
#[must_use]
pub fn ledger(table: &str) -> String {
    match table.rsplit_once('.') {
        Some((schema, _)) => format!("{}.millrace_models", qualified(schema)),
        None => "millrace_models".to_owned(),
    }
}

/// Statements for PostgreSQL; nothing for a mart without a table.
#[must_use]
pub fn postgres(mart: &Mart) -> String {
    let Some(table) = &mart.table else {
        return String::new();
    };
    let columns = definitions(&postgres_columns(mart));
    let name = table.rsplit_once('.').map_or(table.as_str(), |(_, name)| name);
    let index = identifier(&format!("{name}_{PERIOD}"));
    let (ledger, table) = (ledger(table), qualified(table));
    let mut sql = format!(
        "CREATE TABLE IF NOT EXISTS {table} (\n    {columns}\n);\n\n\
         CREATE INDEX IF NOT EXISTS {index} ON {table} ({PERIOD});\n\n"
    );
    comments(&mut sql, mart, &table, literal);
    let _ = write!(
        sql,
        "
CREATE TABLE IF NOT EXISTS {ledger} (
    pipeline text NOT NULL,
    model text NOT NULL,
    period timestamptz NOT NULL,
    version bigint NOT NULL,
    digest text NOT NULL,
    \"rows\" bigint NOT NULL,
    loaded_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (pipeline, model, period)
);
"
    );
    sql
}

/// Statements for Redshift; nothing for a mart without a table.
#[must_use]
pub fn redshift(mart: &Mart) -> String {
    let Some(table) = &mart.table else {
        return String::new();
    };
    let mut definitions: Vec<String> = mart
        .columns
        .iter()
        .map(|column| {
            let kind = redshift_type(&column.kind);
            format!(
                "{} {kind} ENCODE {}",
                identifier(&column.name),
                encoding(&column.kind)
            )
        })
        .collect();
    definitions.push(format!("{PERIOD} TIMESTAMPTZ ENCODE raw NOT NULL"));
    let (ledger, table) = (ledger(table), qualified(table));
    let mut sql = format!(
        "CREATE TABLE IF NOT EXISTS {table} (\n    {}\n)\nDISTSTYLE AUTO\nCOMPOUND SORTKEY ({PERIOD});\n\n",
        definitions.join(",\n    ")
    );
    comments(&mut sql, mart, &table, redshift_literal);
    let _ = write!(
        sql,
        "
CREATE TABLE IF NOT EXISTS {ledger} (
    pipeline VARCHAR(63) NOT NULL ENCODE zstd,
    model VARCHAR(63) NOT NULL ENCODE raw,
    period TIMESTAMPTZ NOT NULL ENCODE az64,
    version BIGINT NOT NULL ENCODE az64,
    digest VARCHAR(64) NOT NULL ENCODE zstd,
    \"rows\" BIGINT NOT NULL ENCODE az64,
    loaded_at TIMESTAMPTZ NOT NULL DEFAULT SYSDATE ENCODE az64,
    PRIMARY KEY (pipeline, model, period)
)
DISTSTYLE ALL
COMPOUND SORTKEY (model);
"
    );
    sql
}

fn definitions(columns: &[TableColumn]) -> String {
    let definitions: Vec<String> = columns.iter().map(TableColumn::definition).collect();
    definitions.join(",\n    ")
}

/// In a word.
pub(super) fn every_word(every: Every) -> &'static str {
    match every {
        Every::Hour => "hour",
        Every::Day => "day",
    }
}

fn comments(sql: &mut String, mart: &Mart, table: &str, literal: fn(&str) -> String) {
    let every = every_word(mart.every);
    let text = match &mart.description {
        Some(text) => format!("{text}. Computed by {every}"),
        None => format!("Computed by {every}"),
    };
    let _ = writeln!(sql, "COMMENT ON TABLE {table} IS {};", literal(&text));
    let described = mart
        .columns
        .iter()
        .filter_map(|column| Some((column.name.as_str(), column.description.as_deref()?)));
    for (name, text) in described.chain([(PERIOD, PERIOD_MEANING)]) {
        let _ = writeln!(
            sql,
            "COMMENT ON COLUMN {table}.{} IS {};",
            identifier(name),
            literal(text)
        );
    }
}
