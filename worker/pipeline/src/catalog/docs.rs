//! The data dictionary that a stakeholder reads: HTML, Markdown, JSON.
//!
//! In: the pipeline, and the environment whose reader is meant. Out: one self-contained text. The HTML asks for no
//! other file, so that it can be sent, printed and opened anywhere.

use std::fmt::Write as _;

use super::dictionary::{Dictionary, Entry, Lineage, Model};
use crate::spec::model::Pipeline;

/// One HTML page.
#[must_use]
pub fn html(pipeline: &Pipeline, environment: Option<&str>) -> String {
    super::html::page(&Dictionary::new(pipeline, environment))
}

/// Markdown, as GitHub and wikis read it.
#[must_use]
pub fn markdown(pipeline: &Pipeline, environment: Option<&str>) -> String {
    let dictionary = Dictionary::new(pipeline, environment);
    let mut text = format!(
        "# {}\n\n{}\n\n",
        cell(&dictionary.pipeline),
        visibility(&dictionary)
    );
    for fact in &dictionary.facts {
        let _ = writeln!(text, "- **{}:** {}", fact.label, cell(&fact.text));
    }
    text.push_str("\n| column | type | meaning | required | personal data |\n|---|---|---|---|---|\n");
    for entry in &dictionary.columns {
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} | {} |",
            cell(&entry.name),
            cell(&entry.kind),
            cell(entry.meaning.as_deref().unwrap_or("")),
            if entry.required { "yes" } else { "" },
            entry.personal_data.as_ref().map_or("", |personal| personal.class),
        );
    }
    for entry in &dictionary.columns {
        markdown_entry(&mut text, entry);
    }
    if !dictionary.table_rules.is_empty() {
        text.push_str("\n## Rules of the table\n\n");
        for rule in &dictionary.table_rules {
            let _ = writeln!(text, "- {} ({})", cell(&rule.text), cell(&rule.severity));
        }
    }
    if !dictionary.versions.is_empty() {
        text.push_str("\n## Older formats\n\n");
        for version in &dictionary.versions {
            let _ = writeln!(
                text,
                "- **{}**, when {}",
                cell(&version.name),
                code(&version.recognised_by)
            );
        }
    }
    if !dictionary.models.is_empty() {
        text.push_str("\n## Models\n");
        for model in &dictionary.models {
            markdown_model(&mut text, model);
        }
    }
    text
}

/// JSON, for catalogs and programs.
#[must_use]
pub fn json(pipeline: &Pipeline, environment: Option<&str>) -> String {
    // A value of strings, numbers and lists always serializes.
    let mut text = serde_json::to_string_pretty(&Dictionary::new(pipeline, environment)).unwrap_or_default();
    text.push('\n');
    text
}

/// Which values the reader sees.
pub(super) fn visibility(dictionary: &Dictionary) -> String {
    let place = match &dictionary.environment {
        Some(environment) => format!("In the environment {environment}"),
        None => "Where no environment is named".to_owned(),
    };
    let has_personal_data = dictionary
        .columns
        .iter()
        .any(|entry| entry.personal_data.is_some());
    match (has_personal_data, dictionary.masked) {
        (false, _) => "No column is declared as personal data.".to_owned(),
        (true, true) => format!("{place}, personal data is masked."),
        (true, false) => format!("{place}, personal data is clear: handle with care."),
    }
}

/// Where a column's value comes from, in words.
pub(super) fn origin(lineage: &Lineage) -> String {
    match &lineage.version {
        None => lineage.origin.to_owned(),
        Some(version) => format!("{} in {version}", lineage.origin),
    }
}

fn markdown_entry(text: &mut String, entry: &Entry) {
    let _ = writeln!(text, "\n## `{}`\n", cell(&entry.name));
    if let Some(meaning) = &entry.meaning {
        let _ = writeln!(text, "{}\n", cell(meaning));
    }
    let required = if entry.required { ", never empty" } else { "" };
    let _ = writeln!(text, "- Type: {}{required}", entry.type_in_words);
    if let Some(personal) = &entry.personal_data {
        let _ = write!(
            text,
            "- Personal data: {}; masked, it is {}",
            personal.class, personal.masking
        );
        match &personal.example {
            Some(example) => {
                let _ = writeln!(
                    text,
                    ": {} becomes {}",
                    code(&example.clear),
                    code(&example.masked)
                );
            }
            None => text.push('\n'),
        }
    }
    for lineage in &entry.lineage {
        let _ = writeln!(
            text,
            "- From {}: {}",
            cell(&origin(lineage)),
            code(&lineage.value)
        );
    }
    for rule in &entry.rules {
        let _ = writeln!(text, "- Rule: {} ({})", cell(&rule.text), cell(&rule.severity));
    }
}

fn markdown_model(text: &mut String, model: &Model) {
    let _ = writeln!(text, "\n### `{}`\n", cell(&model.name));
    if let Some(meaning) = &model.meaning {
        let _ = writeln!(text, "{}\n", cell(meaning));
    }
    for (label, value) in model_facts(model) {
        let _ = writeln!(text, "- **{label}:** {}", cell(&value));
    }
    text.push_str("\n| column | type | meaning |\n|---|---|---|\n");
    for column in &model.columns {
        let meaning = column.meaning.as_deref().unwrap_or("");
        let (name, kind) = (cell(&column.name), cell(&column.kind));
        let _ = writeln!(text, "| `{name}` | {kind} | {} |", cell(meaning));
    }
    // A fence that no line of the query can close.
    let fence = "`".repeat(3.max(1 + longest_run(&model.sql)));
    let _ = writeln!(text, "\n{fence}sql\n{}\n{fence}", model.sql);
}

/// What holds for a model, as label and text.
pub(super) fn model_facts(model: &Model) -> Vec<(&'static str, String)> {
    let when = match &model.look_back {
        Some(before) => format!(
            "by {}, over complete hours; its query sees {before} before the period too",
            model.every
        ),
        None => format!("by {}, over complete hours", model.every),
    };
    let table = model.table.clone().map(|table| ("In the warehouse", table));
    [("Computed", when), ("Made of", model.reads.join(", "))]
        .into_iter()
        .chain(table)
        .collect()
}

/// Text that stays text in Markdown, tables included.
fn cell(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\n' | '\r' => safe.push(' '),
            '<' => safe.push_str("&lt;"),
            '&' => safe.push_str("&amp;"),
            '|' | '*' | '[' | ']' | '`' | '\\' => {
                safe.push('\\');
                safe.push(letter);
            }
            other => safe.push(other),
        }
    }
    safe
}

/// The longest run of backticks.
fn longest_run(text: &str) -> usize {
    let runs = text.split(|letter| letter != '`').map(str::len);
    runs.max().unwrap_or(0)
}

/// An inline code span, however many backticks the text holds.
fn code(text: &str) -> String {
    let fence = "`".repeat(longest_run(text) + 1);
    let pad = if text.starts_with('`') || text.ends_with('`') {
        " "
    } else {
        ""
    };
    format!("{fence}{pad}{}{pad}{fence}", text.replace(['\n', '\r'], " "))
}
