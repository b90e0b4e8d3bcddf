//! The JSON Schema of a pipeline file: what editors complete and check, and the reference of every key.
//!
//! Built by hand rather than from the model: the file has shorthands and alternatives that the model
//! has resolved. A test holds its keys against those that the readers know.
//!
//! A schema cannot say all that [`super::load`] checks (that a column exists, that a suite can be read):
//! a file that the schema accepts may still be refused, not the other way round.

mod models;
mod places;
mod table;

use serde_json::{Value, json};

/// The JSON Schema (draft 2020-12) of a pipeline file.
#[must_use]
pub fn json_schema() -> Value {
    let required = ["version", "pipeline", "source", "schema", "partition", "lake"];
    let properties = [
        (
            "version",
            described("Format of this file.", json!({ "const": 1 })),
        ),
        ("pipeline", name()),
        ("source", places::source()),
        ("schema", table::schema()),
        ("versions", table::versions()),
        ("enrich", table::enrich()),
        ("quality", table::quality()),
        ("dedup", table::dedup()),
        ("privacy", table::privacy()),
        ("partition", places::partition()),
        ("lake", places::lake()),
        ("warehouse", places::warehouse()),
        ("handoff", places::handoff()),
        ("models", models::models()),
        ("retention", places::retention()),
        ("limits", places::limits()),
    ];
    let text = "A Millrace pipeline: one stream of events to one clean table. `${env:NAME}` in any value stands for the \
                environment variable NAME; relative paths start at this file's folder.";
    let mut root = object(text, &required, properties);
    root["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    root["title"] = json!("Millrace pipeline");
    root
}

fn name() -> Value {
    let text = "The pipeline's name: part of object keys, job names and metrics. Must not change once events are committed.";
    with_examples(
        pattern(text, "^(\\$\\{env:\\w+\\}|[a-z0-9][a-z0-9_-]{0,62})$"),
        json!(["github"]),
    )
}

/// A map with these keys and no others.
fn object<const N: usize>(text: &str, required: &[&str], properties: [(&str, Value); N]) -> Value {
    let properties: serde_json::Map<String, Value> = properties
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    let mut object = json!({
        "description": text,
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
    });
    if !required.is_empty() {
        object["required"] = json!(required);
    }
    object
}

/// A map with exactly one of these keys.
fn one_of<const N: usize>(text: &str, properties: [(&str, Value); N]) -> Value {
    let mut object = object(text, &[], properties);
    object["minProperties"] = json!(1);
    object["maxProperties"] = json!(1);
    object
}

/// A map whose keys the user chooses.
fn map_of(text: &str, value: Value) -> Value {
    described(text, json!({ "type": "object", "additionalProperties": value }))
}

fn list_of(text: &str, item: Value) -> Value {
    described(text, json!({ "type": "array", "items": item }))
}

/// One text or a list of texts.
fn texts(text: &str) -> Value {
    described(
        text,
        json!({ "type": ["string", "array"], "items": { "type": "string" } }),
    )
}

fn described(text: &str, mut schema: Value) -> Value {
    schema["description"] = json!(text);
    schema
}

fn with_default(mut schema: Value, default: Value) -> Value {
    schema["default"] = default;
    schema
}

fn with_examples(mut schema: Value, examples: Value) -> Value {
    schema["examples"] = examples;
    schema
}

fn text(text: &str) -> Value {
    described(text, json!({ "type": "string" }))
}

fn words(text: &str, words: &[&str]) -> Value {
    described(text, json!({ "enum": words }))
}

fn pattern(text: &str, pattern: &str) -> Value {
    described(text, json!({ "type": "string", "pattern": pattern }))
}

fn duration(text: &str) -> Value {
    with_examples(
        pattern(text, "^(\\$\\{env:\\w+\\}|[0-9]+ *[dhms])$"),
        json!(["400d", "1h", "30m", "10s"]),
    )
}

fn size(text: &str) -> Value {
    let schema = json!({ "type": ["string", "integer"], "pattern": "^(\\$\\{env:\\w+\\}|[0-9]+ *([kKmMgGtT][iI]?[bB]|[bB])?)$" });
    with_examples(described(text, schema), json!(["256MiB", "10MB", 4096]))
}

fn dsn() -> Value {
    let text = "Connection string of the database. It is a secret: best taken from the environment, and never shown.";
    with_examples(
        self::text(text),
        json!(["${env:WAREHOUSE_DSN}", "postgres://user@host:5432/database"]),
    )
}

#[cfg(test)]
mod tests;
