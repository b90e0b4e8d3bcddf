//! The warehouse's table, as statements that can be run again.
//!
//! In: the pipeline. Out: `CREATE TABLE` for the events and for the load ledger, with comments on every column.
//!
//! The columns stand in the order of the data files: the table's, then the partition columns, for COPY maps Parquet
//! by position. The load ledger's row and a batch's load are one transaction (invariant 5).
//!
//! | type         | PostgreSQL       | Redshift         | encoding there |
//! |--------------|------------------|------------------|----------------|
//! | string       | text             | VARCHAR(65535)   | zstd           |
//! | bool         | boolean          | BOOLEAN          | zstd           |
//! | int32, int64 | integer, bigint  | INTEGER, BIGINT  | az64           |
//! | float64      | double precision | DOUBLE PRECISION | zstd           |
//! | decimal(p,s) | numeric(p,s)     | DECIMAL(p,s)     | az64           |
//! | date         | date             | DATE             | az64           |
//! | timestamp    | timestamptz      | TIMESTAMPTZ      | az64           |
//! | json, list   | jsonb            | SUPER            | zstd           |
//!
//! PostgreSQL's table is cut by day, in UTC ([`super::days`]); one that was made without partitions stays as it is.
//!
//! Where the lake's files are known, encodings go by what they say too ([`super::encodings`]). A required column is NOT NULL,
//! unless masking turns its values into null.

use std::fmt::Write as _;

use super::encodings::{self, Encoding, Statistics};
use super::identifier::{identifier, literal, qualified, redshift_literal};
use super::masking;
use crate::spec::model::{Column, ColumnType, PartitionLevel, Pipeline, Warehouse};

/// A column of the warehouse's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableColumn {
    /// Its name, unquoted.
    pub name: String,
    /// Its type, as the statements name it.
    pub kind: String,
    /// Whether it is `NOT NULL`.
    pub not_null: bool,
}

impl TableColumn {
    /// `name type NOT NULL`, as `CREATE TABLE` takes it.
    #[must_use]
    pub fn definition(&self) -> String {
        format!(
            "{} {}{}",
            identifier(&self.name),
            self.kind,
            not_null(self.not_null)
        )
    }
}

/// The columns of the table in PostgreSQL, in the order of the data files.
#[must_use]
pub fn postgres_columns(pipeline: &Pipeline) -> Vec<TableColumn> {
    table_columns(pipeline, &postgres_type, &|level| match level {
        PartitionLevel::Date => "date",
        PartitionLevel::Hour => "integer",
        PartitionLevel::Source => "text",
    })
}

/// The columns of the table in Redshift, in the order of the data files.
#[must_use]
pub fn redshift_columns(pipeline: &Pipeline) -> Vec<TableColumn> {
    table_columns(pipeline, &redshift_type, &|level| match level {
        PartitionLevel::Date => "DATE",
        PartitionLevel::Hour => "INTEGER",
        PartitionLevel::Source => "VARCHAR(65535)",
    })
}

fn table_columns(
    pipeline: &Pipeline,
    kind: &dyn Fn(&ColumnType) -> String,
    level_kind: &dyn Fn(PartitionLevel) -> &'static str,
) -> Vec<TableColumn> {
    let declared = pipeline.columns.iter().map(|column| TableColumn {
        name: column.name.clone(),
        kind: kind(&column.kind),
        not_null: is_not_null(column, pipeline),
    });
    let levels = pipeline.partition.by.iter().map(|level| TableColumn {
        name: partition_column(*level).0.to_owned(),
        kind: level_kind(*level).to_owned(),
        not_null: level_is_set(*level),
    });
    declared.chain(levels).collect()
}

/// Statements for PostgreSQL.
#[must_use]
pub fn postgres(pipeline: &Pipeline) -> String {
    let table = qualified(table(pipeline));
    let columns: Vec<String> = postgres_columns(pipeline)
        .iter()
        .map(TableColumn::definition)
        .collect();
    let index = index_name(pipeline);
    let time = identifier(&pipeline.partition.time);
    let mut sql = format!(
        "-- Loads make the partitions: one for each day (UTC) of their events, and some days ahead.\n\
         CREATE TABLE IF NOT EXISTS {table} (\n    {}\n)\nPARTITION BY RANGE ({time});\n\n",
        columns.join(",\n    ")
    );
    // Events arrive nearly in the order of their time: a BRIN index of some pages prunes within a day too.
    let _ = writeln!(
        sql,
        "CREATE INDEX IF NOT EXISTS {index} ON {table} USING brin ({time});\n"
    );
    comments(&mut sql, pipeline, &table, literal);
    let _ = write!(
        sql,
        "
CREATE TABLE IF NOT EXISTS {} (
    pipeline text NOT NULL,
    batch text NOT NULL,
    attempt text NOT NULL,
    manifest_digest text NOT NULL,
    \"rows\" bigint NOT NULL,
    loaded_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (pipeline, batch)
);
",
        ledger(pipeline)
    );
    sql
}

/// Statements for Redshift.
#[must_use]
pub fn redshift(pipeline: &Pipeline, known: &Statistics) -> String {
    let table = qualified(table(pipeline));
    let design = redshift_design(pipeline, known);
    let columns: Vec<String> = redshift_columns(pipeline)
        .iter()
        .zip(&design.encodings)
        .map(|(column, encoding)| {
            let (name, null) = (identifier(&column.name), not_null(column.not_null));
            format!("{name} {} ENCODE {}{null}", column.kind, encoding.name)
        })
        .collect();
    let distribution = match &design.dist_key {
        Some(column) => format!("DISTSTYLE KEY\nDISTKEY ({})", identifier(column)),
        None => "DISTSTYLE AUTO".to_owned(),
    };
    let sort_key: Vec<String> = design.sort_key.iter().map(|column| identifier(column)).collect();
    let mut sql = format!(
        "{}CREATE TABLE IF NOT EXISTS {table} (\n    {}\n)\n{distribution}\nCOMPOUND SORTKEY ({});\n\n",
        advice(pipeline, &design),
        columns.join(",\n    "),
        sort_key.join(", ")
    );
    comments(&mut sql, pipeline, &table, redshift_literal);
    let _ = write!(
        sql,
        "
CREATE TABLE IF NOT EXISTS {} (
    pipeline VARCHAR(63) NOT NULL ENCODE zstd,
    batch VARCHAR(63) NOT NULL ENCODE raw,
    attempt VARCHAR(63) NOT NULL ENCODE zstd,
    manifest_digest VARCHAR(64) NOT NULL ENCODE zstd,
    \"rows\" BIGINT NOT NULL ENCODE az64,
    loaded_at TIMESTAMPTZ NOT NULL DEFAULT SYSDATE ENCODE az64,
    PRIMARY KEY (pipeline, batch)
)
DISTSTYLE ALL
COMPOUND SORTKEY (batch);
",
        ledger(pipeline)
    );
    sql
}

/// A partition column's name and meaning.
pub(super) fn partition_column(level: PartitionLevel) -> (&'static str, &'static str) {
    match level {
        PartitionLevel::Date => ("date", "Day of the event time, UTC"),
        PartitionLevel::Hour => ("hour", "Hour of the event time, UTC, 0 to 23"),
        PartitionLevel::Source => (
            "source",
            "Where the event comes from, as the lake's folders are named",
        ),
    }
}

/// `schema.table` of the warehouse, or the pipeline's name.
#[must_use]
pub fn table(pipeline: &Pipeline) -> &str {
    match &pipeline.warehouse {
        Some(Warehouse::Postgres { table, .. } | Warehouse::Redshift { table, .. }) => table,
        None => pipeline.name.as_str(),
    }
}

/// The load ledger's table, as SQL takes it.
#[must_use]
pub fn ledger(pipeline: &Pipeline) -> String {
    beside(pipeline, "millrace_loads")
}

/// A table of ours in the schema of the events' table.
fn beside(pipeline: &Pipeline, name: &str) -> String {
    match table(pipeline).rsplit_once('.') {
        Some((schema, _)) => format!("{}.{name}", qualified(schema)),
        None => name.to_owned(),
    }
}

/// The table that says which rows were deleted and why, as SQL takes it: beside the load ledger.
#[must_use]
pub fn removals_table(pipeline: &Pipeline) -> String {
    beside(pipeline, "millrace_removals")
}

/// The statement that makes it, in words that PostgreSQL and Redshift have alike.
#[must_use]
pub fn removals(pipeline: &Pipeline) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {} (
    pipeline VARCHAR(63) NOT NULL,
    why VARCHAR(63) NOT NULL,
    subject VARCHAR(63),
    asked_by VARCHAR(255) NOT NULL,
    \"rows\" BIGINT NOT NULL,
    removed_at TIMESTAMPTZ NOT NULL
);
",
        removals_table(pipeline)
    )
}

fn index_name(pipeline: &Pipeline) -> String {
    let table = table(pipeline);
    let table = table.rsplit_once('.').map_or(table, |(_, table)| table);
    identifier(&format!("{table}_{}", pipeline.partition.time))
}

/// How Redshift is to keep the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Design {
    /// What the pipeline says, else the event time.
    pub sort_key: Vec<String>,
    /// Whether the pipeline says it.
    pub is_sort_key_declared: bool,
    /// What the pipeline says; none: Redshift chooses.
    pub dist_key: Option<String>,
    /// Each column's encoding, in their order.
    pub encodings: Vec<Encoding>,
}

/// How Redshift is to keep the table: by what the pipeline says, the columns' types, what they are used for, and what is known
/// of their values.
#[must_use]
pub fn redshift_design(pipeline: &Pipeline, known: &Statistics) -> Design {
    let (sort_key, dist_key) = match &pipeline.warehouse {
        Some(Warehouse::Redshift {
            sort_key, dist_key, ..
        }) => (sort_key.clone(), dist_key.clone()),
        Some(Warehouse::Postgres { .. }) | None => (Vec::new(), None),
    };
    let is_sort_key_declared = !sort_key.is_empty();
    let sort_key = if is_sort_key_declared {
        sort_key
    } else {
        vec![pipeline.partition.time.clone()]
    };
    let encodings = encodings::choose(pipeline, &sort_key, known);
    Design {
        sort_key,
        is_sort_key_declared,
        dist_key,
        encodings,
    }
}

/// Why the keys are as they are, as comments; names that would need quotes are left out of it.
fn advice(pipeline: &Pipeline, design: &Design) -> String {
    let shown = |name: &str| (identifier(name) == name).then(|| format!(" {name}"));
    let first = design
        .sort_key
        .first()
        .and_then(|name| shown(name))
        .unwrap_or_default();
    let by = if design.is_sort_key_declared {
        "declared"
    } else {
        "the event time"
    };
    let mut text = format!(
        "-- Sort key{first}: {by}. Blocks outside of a query range are skipped, so its first column stays raw.\n"
    );
    let key = pipeline.dedup.as_ref().map(|dedup| dedup.key.as_slice());
    text.push_str(&match (&design.dist_key, key) {
        (Some(name), _) => format!(
            "-- Distribution key{}: declared. Rows that are joined by it lie together.\n",
            shown(name).unwrap_or_default()
        ),
        (None, Some([only])) if shown(only).is_some() => format!(
            "-- No dist_key is declared: Redshift chooses. The dedup key {only} would spread rows evenly, \
             a column that joins go by would keep them together.\n"
        ),
        (None, _) => {
            "-- No dist_key is declared: Redshift chooses. A column that joins go by would keep rows together.\n".to_owned()
        }
    });
    let dictionaries = design
        .encodings
        .iter()
        .filter(|encoding| encoding.name == "bytedict");
    for Encoding { column, why, .. } in dictionaries.filter(|encoding| encoding.column != "hour") {
        if let Some(name) = shown(column) {
            let _ = writeln!(text, "-- Encoding of{name}: bytedict, {why}.");
        }
    }
    text
}

fn is_not_null(column: &Column, pipeline: &Pipeline) -> bool {
    // The event time is required by the partitioning.
    let required = column.required || column.name == pipeline.partition.time;
    required && !masking::gives_null(column, &pipeline.privacy)
}

fn not_null(is_set: bool) -> &'static str {
    if is_set { " NOT NULL" } else { "" }
}

fn level_is_set(level: PartitionLevel) -> bool {
    match level {
        PartitionLevel::Date | PartitionLevel::Hour => true,
        PartitionLevel::Source => false,
    }
}

pub(super) fn postgres_type(kind: &ColumnType) -> String {
    match kind {
        ColumnType::String => "text".to_owned(),
        ColumnType::Bool => "boolean".to_owned(),
        ColumnType::Int32 => "integer".to_owned(),
        ColumnType::Int64 => "bigint".to_owned(),
        ColumnType::Float64 => "double precision".to_owned(),
        ColumnType::Decimal(precision, scale) => format!("numeric({precision},{scale})"),
        ColumnType::Date => "date".to_owned(),
        ColumnType::Timestamp => "timestamptz".to_owned(),
        ColumnType::Json | ColumnType::List(_) => "jsonb".to_owned(),
    }
}

pub(super) fn redshift_type(kind: &ColumnType) -> String {
    match kind {
        ColumnType::String => "VARCHAR(65535)".to_owned(),
        ColumnType::Bool => "BOOLEAN".to_owned(),
        ColumnType::Int32 => "INTEGER".to_owned(),
        ColumnType::Int64 => "BIGINT".to_owned(),
        ColumnType::Float64 => "DOUBLE PRECISION".to_owned(),
        ColumnType::Decimal(precision, scale) => format!("DECIMAL({precision},{scale})"),
        ColumnType::Date => "DATE".to_owned(),
        ColumnType::Timestamp => "TIMESTAMPTZ".to_owned(),
        ColumnType::Json | ColumnType::List(_) => "SUPER".to_owned(),
    }
}

pub(super) fn encoding(kind: &ColumnType) -> &'static str {
    match kind {
        ColumnType::Int32
        | ColumnType::Int64
        | ColumnType::Decimal(..)
        | ColumnType::Date
        | ColumnType::Timestamp => "az64",
        ColumnType::String
        | ColumnType::Json
        | ColumnType::Bool
        | ColumnType::Float64
        | ColumnType::List(_) => "zstd",
    }
}

fn comments(sql: &mut String, pipeline: &Pipeline, table: &str, literal: fn(&str) -> String) {
    for column in &pipeline.columns {
        let personal = masking::sentence(column, &pipeline.privacy);
        let parts: Vec<&str> = column
            .description
            .as_deref()
            .into_iter()
            .chain(personal.as_deref())
            .collect();
        if !parts.is_empty() {
            let text = literal(&parts.join(". "));
            let _ = writeln!(
                sql,
                "COMMENT ON COLUMN {table}.{} IS {text};",
                identifier(&column.name)
            );
        }
    }
    for level in &pipeline.partition.by {
        let (name, meaning) = partition_column(*level);
        let _ = writeln!(
            sql,
            "COMMENT ON COLUMN {table}.{} IS {};",
            identifier(name),
            literal(meaning)
        );
    }
}
