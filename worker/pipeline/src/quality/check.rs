//! A suite against the table, before any row is read: for `pipeline check`.
//!
//! In: a pipeline. Out: a report on its suite's file with every expectation that nothing could judge: of an unknown
//! type, over a column that the table does not have, with arguments that do not fit. A run goes on without them and
//! says so in its result, as Great Expectations does; whoever checks a file wants to know before.

use super::SuiteError;
use super::plan::fault;
use super::suite::Suite;
use crate::spec::model::Pipeline;
use crate::spec::{self, Report};

/// Arguments that name columns.
const COLUMNS: [&str; 6] = [
    "column",
    "column_A",
    "column_B",
    "column_list",
    "column_set",
    "row_condition",
];

/// Every expectation that cannot be judged.
///
/// # Errors
/// A report on the suite's file, when there are any.
pub fn check(pipeline: &Pipeline) -> Result<(), Report> {
    let Some(quality) = &pipeline.quality else {
        return Ok(());
    };
    let suite = match Suite::parse(&quality.suite_text, &quality.parameters) {
        Ok(suite) => suite,
        Err(error) => {
            let key = match &error {
                SuiteError::Key { index, .. } | SuiteError::Parameter { index, .. } => {
                    format!("expectations[{index}]")
                }
                SuiteError::Json(_) | SuiteError::Missing(_) => String::new(),
            };
            let right = "a suite as Great Expectations writes it, each parameter with a value";
            return Err(spec::report_on_suite(
                quality,
                vec![(key, error.to_string(), right)],
            ));
        }
    };
    let table = pipeline.table();
    let faults: Vec<_> = suite
        .expectations
        .iter()
        .enumerate()
        .filter_map(|(index, declared)| {
            let wrong = fault(declared, &table)?;
            let names_column = |key: &str| {
                let named = declared.kwargs.get(key).and_then(serde_json::Value::as_str);
                named.is_some_and(|name| wrong.contains(&format!("`{name}`")))
            };
            let key = match COLUMNS.iter().find(|key| names_column(key)) {
                Some(key) => format!("expectations[{index}].kwargs.{key}"),
                None => format!("expectations[{index}]"),
            };
            let right =
                "an expectation over the table's columns, of a type and with arguments that the manual lists";
            Some((key, wrong, right))
        })
        .collect();
    if faults.is_empty() {
        return Ok(());
    }
    Err(spec::report_on_suite(quality, faults))
}
