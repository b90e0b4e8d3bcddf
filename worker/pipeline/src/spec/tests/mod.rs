//! Whole files.

use std::io;
use std::path::Path;

use super::model::Pipeline;
use super::{Report, load};

mod accepted;
mod models;
mod refused;
mod reports;

/// A file with every section of the design.
const DESIGN: &str = include_str!("design.yaml");

/// The least that a file holds.
const SMALLEST: &str = "\
version: 1
pipeline: small
source:
  files: {path: events/, format: json}
schema:
  - {name: event_time, type: timestamp, required: true}
partition: {time: event_time}
lake: {url: ./lake}
";

const BASE: &str = "/pipelines";

/// The environment of these tests.
fn env(name: &str) -> Option<String> {
    let value = match name {
        "HASH_KEY" | "MILLRACE_HASH_KEY" => "clear-hash-key-0123456789",
        "DSN" | "CUSTOMERS_DSN" | "WAREHOUSE_DSN" => "postgres://user:clear-password@db:5432/shop",
        "NOT_A_DSN" => "clear-nonsense",
        "SHORT" => "clear-short",
        "COLUMN" => "clear_column",
        "EMPTY" => "",
        _ => return None,
    };
    Some(value.to_owned())
}

/// The files of these tests.
fn read(path: &Path) -> io::Result<String> {
    match path.to_str() {
        Some("/pipelines/suites/github.json" | "/pipelines/suite.json") => {
            Ok(r#"{"name": "s", "expectations": [{"type": "expect_column_to_exist", "kwargs": {"column": "event_id"}}]}"#.into())
        }
        Some("/pipelines/old.json") => Ok(
            r#"{"expectation_suite_name": "s", "expectations": [{"expectation_type": "expect_x", "kwargs": {}}]}"#.into(),
        ),
        Some("/pipelines/not.json") => Ok("nonsense".into()),
        Some("/pipelines/no-suite.json") => Ok("{\"a\": 1}".into()),
        Some("/pipelines/no-type.json") => Ok(r#"{"expectations": [{"type": "a", "kwargs": {}}, {"kwargs": {}}]}"#.into()),
        _ => Err(io::Error::new(io::ErrorKind::NotFound, "no such file")),
    }
}

fn check(text: &str) -> Result<Pipeline, Report> {
    load(text, "pipeline.yaml", Path::new(BASE), &env, &read)
}

/// The faults of a file after a change: `line: key: wrong | right`.
#[track_caller]
fn faults_of_change(file: &str, from: &str, to: &str) -> Vec<String> {
    assert!(file.contains(from), "{from}");
    let report = check(&file.replacen(from, to, 1)).unwrap_err();
    let line = |fault: &super::SpecFault| {
        format!("{}: {}: {} | {}", fault.line, fault.key, fault.wrong, fault.right)
    };
    report.faults.iter().map(line).collect()
}
