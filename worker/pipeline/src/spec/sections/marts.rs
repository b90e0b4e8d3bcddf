//! `models`: tables that SQL makes of complete hours. What the queries say is for [`crate::spec::marts`] to judge.

use std::collections::BTreeMap;
use std::path::Path;

use super::outlet::table_name;
use super::table::name_faults;
use super::{ReadFile, absolute};
use crate::spec::draft::DraftMart;
use crate::spec::fields::{Field, Section};
use crate::spec::marts::Every;
use crate::spec::reader::Reader;
use crate::spec::units;

pub(in crate::spec) const MODEL: &[&str] = &[
    "name",
    "every",
    "look_back",
    "timeout",
    "sql",
    "file",
    "description",
    "columns",
    "warehouse",
];
pub(in crate::spec) const MODEL_WAREHOUSE: &[&str] = &["table"];

const HOUR_SECONDS: u64 = 3_600;
/// Longest look back, in hours: each period would read so much again.
const LOOK_BACK_HOURS_MAX: u64 = 24 * 400;
/// How long a query may take where nothing is said: the two hours that a daily load may take.
const TIMEOUT_SECONDS: u64 = 7_200;

/// All models.
pub(in crate::spec) fn models(
    field: &Field<'_>,
    base_dir: &Path,
    read: ReadFile<'_>,
    reader: &mut Reader<'_>,
) -> Vec<DraftMart> {
    let right = "a list: [{name: daily_orders, every: day, sql: \"SELECT count(*) AS orders FROM events\"}]";
    let Some(items) = field.list(reader, right) else {
        return Vec::new();
    };
    items
        .iter()
        .map(|item| model(item, base_dir, read, reader))
        .collect()
}

fn model(field: &Field<'_>, base_dir: &Path, read: ReadFile<'_>, reader: &mut Reader<'_>) -> DraftMart {
    let mut draft = DraftMart {
        key: field.key.clone(),
        name: None,
        every: None,
        look_back_hours: 0,
        timeout_seconds: TIMEOUT_SECONDS,
        sql: None,
        file: None,
        description: None,
        columns: BTreeMap::new(),
        table: None,
    };
    let Some(section) = field.section(reader, MODEL) else {
        return draft;
    };
    draft.name = section
        .required(reader, "name", "daily_orders")
        .and_then(|field| {
            let name = field.text(reader, "a table's name")?;
            name_faults(&field.key, &name, reader);
            Some(name)
        });
    let periods = [("hour", Every::Hour), ("day", Every::Day)];
    draft.every = section
        .required(reader, "every", "day")
        .and_then(|field| field.choice(reader, &periods));
    if let Some(field) = section.optional("look_back") {
        draft.look_back_hours = look_back(&field, reader);
    }
    if let Some(field) = section.optional("timeout") {
        draft.timeout_seconds = timeout(&field, reader);
    }
    query(&section, &mut draft, base_dir, read, reader);
    draft.description = section
        .optional("description")
        .and_then(|field| field.text(reader, "what a row is"));
    if let Some(field) = section.optional("columns") {
        let described = field.entries(reader, "{column: \"what it means\"}");
        for (name, field) in described.unwrap_or_default() {
            if let Some(text) = field.text(reader, "what the column means") {
                draft.columns.insert(name, text);
            }
        }
    }
    draft.table = section.optional("warehouse").and_then(|field| {
        let section = field.section(reader, MODEL_WAREHOUSE)?;
        let table = section.required(reader, "table", "analytics.daily_orders")?;
        table_name(&table, true, reader)
    });
    draft
}

fn query(
    section: &Section<'_>,
    draft: &mut DraftMart,
    base_dir: &Path,
    read: ReadFile<'_>,
    reader: &mut Reader<'_>,
) {
    let Some((kind, field)) = section.exactly_one(reader, &["sql", "file"]) else {
        return;
    };
    if kind == "sql" {
        draft.sql = field
            .text(reader, "a query: `SELECT ... FROM events`")
            .map(|sql| (sql, field.key.clone()));
        return;
    }
    let right = "a file with one query: `models/daily_orders.sql`; the path is relative to the pipeline file";
    let Some(file) = field.text(reader, right) else {
        return;
    };
    match read(&absolute(base_dir, &file)) {
        Ok(sql) => draft.sql = Some((sql, field.key.clone())),
        Err(error) => {
            let wrong = format!("`{}` cannot be read: {error}", reader.shown(&field.key));
            reader.fault(&field.key, wrong, right);
        }
    }
    draft.file = Some(file);
}

fn timeout(field: &Field<'_>, reader: &mut Reader<'_>) -> u64 {
    let seconds = field.parsed(reader, units::duration);
    if seconds == Some(0) {
        let wrong = format!("`{}` ends every query before it begins", reader.shown(&field.key));
        reader.fault(
            &field.key,
            wrong,
            "the longest that a query may take: `30m`, `2h`",
        );
    }
    seconds.unwrap_or(TIMEOUT_SECONDS)
}

fn look_back(field: &Field<'_>, reader: &mut Reader<'_>) -> i64 {
    let Some(seconds) = field.parsed(reader, units::duration) else {
        return 0;
    };
    let hours = seconds / HOUR_SECONDS;
    if seconds % HOUR_SECONDS != 0 || hours > LOOK_BACK_HOURS_MAX {
        let wrong = format!(
            "`{}` is no number of whole hours up to 400 days",
            reader.shown(&field.key)
        );
        reader.fault(&field.key, wrong, "whole hours or days: `12h`, `1d`");
        return 0;
    }
    i64::try_from(hours).unwrap_or(0)
}
