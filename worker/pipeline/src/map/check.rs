//! What is wrong with a pipeline's expressions, all of it, in words for the one who wrote them.
//!
//! In: the pipeline. Out: one fault per expression that does not plan: an unknown column or function, a syntax
//! error, a type that cannot become the declared one, a function that is not of the row.

use datafusion::common::{DataFusionError, SchemaError};

use super::expression::{ExpressionError, Planner};
use super::layout::{value_in, visible_to};
use crate::spec::model::{Column, ColumnValue, Pipeline, When};

/// An expression that does not plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpressionFault {
    /// Where it stands.
    pub place: ExpressionPlace,
    /// What is wrong.
    pub wrong: String,
    /// What would be right.
    pub right: String,
}

/// Where an expression stands in the pipeline.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ExpressionPlace {
    /// `sql` of a column, by position.
    Column(usize),
    /// `when` of a version, by position.
    VersionWhen(usize),
    /// `sql` of a version's column, by the version's position and the column's name.
    VersionColumn(usize, String),
}

/// Every SQL expression of the pipeline that does not plan.
#[must_use]
pub fn expression_faults(pipeline: &Pipeline) -> Vec<ExpressionFault> {
    let planner = Planner::new();
    let mut faults = Vec::new();
    let mut note = |place: ExpressionPlace, planned: Result<_, ExpressionError>| {
        if let Err(ExpressionError { wrong, right }) = planned {
            faults.push(ExpressionFault { place, wrong, right });
        }
    };
    let plan = |version: Option<usize>, i: usize, sql: &str| {
        let visible = visible_to(pipeline, version, i);
        planner.value(sql, &pipeline.columns, &visible, &pipeline.columns[i].kind)
    };
    for (i, column) in pipeline.columns.iter().enumerate() {
        if let ColumnValue::Sql(sql) = &column.value {
            note(ExpressionPlace::Column(i), plan(None, i, sql));
        }
    }
    for (v, version) in pipeline.versions.iter().enumerate() {
        if let When::Sql(sql) = &version.when {
            note(
                ExpressionPlace::VersionWhen(v),
                planner.condition(sql, &pipeline.columns),
            );
        }
        for (i, column) in pipeline.columns.iter().enumerate() {
            if let ColumnValue::Sql(sql) = value_in(pipeline, Some(v), column) {
                let own = version.columns.contains_key(&column.name);
                let place = if own {
                    ExpressionPlace::VersionColumn(v, column.name.clone())
                } else {
                    // The column's own expression sees less here: the version made an input of it an expression.
                    ExpressionPlace::Column(i)
                };
                note(place, plan(Some(v), i, sql));
            }
        }
    }
    let mut seen = std::collections::HashSet::new();
    faults.retain(|fault| seen.insert(format!("{fault:?}")));
    faults
}

/// The fault of a column that is not in the table, if the error is that.
pub(super) fn unknown_column(
    error: &DataFusionError,
    columns: &[Column],
    visible: &[bool],
) -> Option<ExpressionError> {
    let DataFusionError::SchemaError(cause, _) = error.find_root() else {
        return None;
    };
    let SchemaError::FieldNotFound { field, .. } = cause.as_ref() else {
        return None;
    };
    let seen = columns.iter().zip(visible).filter(|(_, visible)| **visible);
    let names: Vec<&str> = seen.map(|(column, _)| column.name.as_str()).collect();
    let right = match nearest(&field.name, &names) {
        Some(name) => format!("did you mean `{name}`?"),
        None if names.is_empty() => "no column stands above this one".to_owned(),
        None => format!("the expression sees these columns: {}", names.join(", ")),
    };
    Some(ExpressionError {
        wrong: format!("no column is named `{}`", field.flat_name()),
        right,
    })
}

/// Any other reason why an expression does not plan.
pub(super) fn explain(error: &DataFusionError, functions: &[String]) -> ExpressionError {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "all other causes speak for themselves"
    )]
    match error.find_root() {
        DataFusionError::SQL(cause, _) => ExpressionError {
            wrong: format!("this is no SQL expression: {}", strip(&cause.to_string())),
            right: "write one expression, as after SELECT: `lower(kind)`, `a + b`, `name LIKE '%[bot]'`"
                .to_owned(),
        },
        DataFusionError::Plan(text) if text.starts_with("Invalid function '") => {
            let name = text.split('\'').nth(1).unwrap_or_default();
            let names: Vec<&str> = functions.iter().map(String::as_str).collect();
            ExpressionError {
                wrong: format!("no function is named `{name}`"),
                right: match nearest(name, &names) {
                    Some(name) => format!("did you mean `{name}`?"),
                    None => "use one of DataFusion's scalar functions".to_owned(),
                },
            }
        }
        cause => ExpressionError {
            wrong: format!(
                "the expression does not plan: {}",
                first_line(&cause.strip_backtrace())
            ),
            right: "compare the arguments' types with what the functions take".to_owned(),
        },
    }
}

fn strip(text: &str) -> &str {
    text.trim_start_matches("sql parser error: ")
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// The name that a typing error would have come from.
fn nearest<'a>(name: &str, names: &[&'a str]) -> Option<&'a str> {
    let name = name.to_lowercase();
    names
        .iter()
        .map(|candidate| (edits(&name, &candidate.to_lowercase()), *candidate))
        .filter(|(edits, _)| *edits <= 1 + name.chars().count() / 4)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
