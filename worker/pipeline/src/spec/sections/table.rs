//! `schema` and `versions`: the table and where its values come from.

use std::collections::BTreeMap;

use crate::spec::draft::{DraftColumn, DraftVersion};
use crate::spec::fields::{Field, Section};
use crate::spec::model::{ColumnType, ColumnValue, PiiClass, When};
use crate::spec::reader::Reader;
use crate::spec::units;

pub(in crate::spec) const COLUMN: &[&str] =
    &["name", "type", "from", "sql", "required", "pii", "description"];
pub(in crate::spec) const VERSION: &[&str] = &["name", "when", "columns"];
pub(in crate::spec) const WHEN: &[&str] = &["missing", "sql"];
pub(in crate::spec) const OVERRIDE: &[&str] = &["from", "sql"];

/// The words for classes of personal data.
pub(in crate::spec) const CLASSES: [(&str, PiiClass); 6] = [
    ("email", PiiClass::Email),
    ("name", PiiClass::Name),
    ("ip", PiiClass::Ip),
    ("phone", PiiClass::Phone),
    ("id", PiiClass::Id),
    ("free_text", PiiClass::FreeText),
];

/// The table's columns, in order.
pub(in crate::spec) fn schema(field: &Field<'_>, reader: &mut Reader<'_>) -> Vec<DraftColumn> {
    let right = "a list of columns: [{name: event_id, type: string, required: true}, ...]";
    let Some(items) = field.list(reader, right) else {
        return Vec::new();
    };
    if items.is_empty() {
        reader.fault(&field.key, "a table without columns", right);
    }
    items.iter().map(|item| column(item, reader)).collect()
}

fn column(field: &Field<'_>, reader: &mut Reader<'_>) -> DraftColumn {
    let key = field.key.clone();
    let shown = reader.shown(&format!("{key}.name"));
    let mut column = DraftColumn {
        key,
        name: None,
        shown,
        kind: None,
        value: None,
        value_faulty: false,
        required: false,
        pii: None,
        description: None,
    };
    let Some(section) = field.section(reader, COLUMN) else {
        return column;
    };
    column.name = section
        .required(reader, "name", "event_id")
        .and_then(|field| column_name(&field, reader));
    column.kind = section
        .required(reader, "type", "string")
        .and_then(|field| column_type(&field, reader));
    if section.optional("from").is_some() || section.optional("sql").is_some() {
        column.value = value(&section, reader);
        column.value_faulty = column.value.is_none();
    }
    column.required = section
        .optional("required")
        .and_then(|field| field.flag(reader))
        .unwrap_or(false);
    column.pii = section
        .optional("pii")
        .and_then(|field| field.choice(reader, &CLASSES));
    column.description = section
        .optional("description")
        .and_then(|field| field.scalar(reader, "text"));
    column
}

/// A name is checked here and kept all the same: what refers to it is not at fault.
fn column_name(field: &Field<'_>, reader: &mut Reader<'_>) -> Option<String> {
    let right = "1 to 63 of a-z, 0-9 and `_`, starting with a letter: warehouses fold the case of others";
    let name = field.text(reader, right)?;
    name_faults(&field.key, &name, reader);
    Some(name)
}

/// Reports a name that no warehouse takes as it is, or that the data path keeps for itself.
pub(in crate::spec) fn name_faults(key: &str, name: &str, reader: &mut Reader<'_>) {
    let right = "1 to 63 of a-z, 0-9 and `_`, starting with a letter: warehouses fold the case of others";
    let shown = reader.shown(key);
    if name.starts_with("__") {
        reader.fault(
            key,
            format!("`{shown}` starts with `__`, which marks hidden columns"),
            right,
        );
    } else if !is_plain_name(name) {
        let hint = if shown == name { snake_case(name) } else { None };
        let hint = hint.map_or_else(String::new, |hint| {
            format!("`{hint}`, with `from` naming the field as it is; ")
        });
        reader.fault(
            key,
            format!("`{shown}` is not a column name"),
            format!("{hint}{right}"),
        );
    }
}

fn is_plain_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

/// `eventId` as `event_id`, if that gives a name.
fn snake_case(name: &str) -> Option<String> {
    let mut snake = String::new();
    for c in name.chars() {
        if c.is_uppercase() && snake.ends_with(|before: char| before.is_lowercase() || before.is_numeric()) {
            snake.push('_');
        }
        snake.extend(if c.is_alphanumeric() {
            c.to_lowercase().next()
        } else {
            Some('_')
        });
    }
    let snake = snake.trim_matches('_').to_owned();
    is_plain_name(&snake).then_some(snake)
}

fn column_type(field: &Field<'_>, reader: &mut Reader<'_>) -> Option<ColumnType> {
    let text = field.scalar(reader, "string")?;
    match units::column_type(&text) {
        Ok(kind) => Some(kind),
        Err(refused) => {
            let shown = reader.shown(&field.key);
            let hint = units::type_meant(&shown).filter(|_| refused.problem == "is not a type");
            let hint = hint.map_or_else(String::new, |kind| format!("did you mean `{kind}`? "));
            reader.fault(
                &field.key,
                format!("`{shown}` {}", refused.problem),
                format!("{hint}{}", refused.right),
            );
            None
        }
    }
}

/// Exactly one of `from` and `sql`.
fn value(section: &Section<'_>, reader: &mut Reader<'_>) -> Option<ColumnValue> {
    match section.exactly_one(reader, &["from", "sql"])? {
        ("from", field) => field.parsed(reader, units::path).map(ColumnValue::From),
        (_, field) => field.text(reader, "an SQL expression").map(ColumnValue::Sql),
    }
}

/// Old formats.
pub(in crate::spec) fn versions(field: &Field<'_>, reader: &mut Reader<'_>) -> Vec<DraftVersion> {
    let right = "a list: [{name: old, when: {missing: id}, columns: {event_id: {from: uid}}}]";
    let Some(items) = field.list(reader, right) else {
        return Vec::new();
    };
    items.iter().map(|item| version(item, reader)).collect()
}

fn version(field: &Field<'_>, reader: &mut Reader<'_>) -> DraftVersion {
    let mut version = DraftVersion {
        key: field.key.clone(),
        name: None,
        when: None,
        columns: BTreeMap::new(),
    };
    let Some(section) = field.section(reader, VERSION) else {
        return version;
    };
    version.name = section
        .required(reader, "name", "timeline-2013")
        .and_then(|field| field.text(reader, "a name"));
    version.when = section
        .required(reader, "when", "{missing: id}")
        .and_then(|field| when(&field, reader));
    let right = "{event_id: {from: uid}}";
    let overrides = section.required(reader, "columns", right).and_then(|field| {
        let entries = field.entries(reader, right)?;
        if entries.is_empty() {
            reader.fault(&field.key, "a version in which nothing differs", right);
        }
        Some(entries)
    });
    for (name, field) in overrides.unwrap_or_default() {
        let value = field
            .section(reader, OVERRIDE)
            .and_then(|section| value(&section, reader));
        version.columns.insert(name, value);
    }
    version
}

fn when(field: &Field<'_>, reader: &mut Reader<'_>) -> Option<When> {
    let section = field.section(reader, WHEN)?;
    match section.exactly_one(reader, &["missing", "sql"])? {
        ("missing", field) => field.parsed(reader, units::path).map(When::Missing),
        (_, field) => field.text(reader, "a boolean SQL expression").map(When::Sql),
    }
}
