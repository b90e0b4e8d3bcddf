//! One person's rows in models' tables, whose columns the pipeline does not declare.
//!
//! In: what stands for the person ([`Marks`]). Out: rows counted, or deleted and noted as those of the pipeline's own table are.
//!
//! The rule is that of the results in the lake, in the words of a warehouse. A word ends where no letter or digit follows; which
//! letters there are besides ASCII's, PostgreSQL knows and Redshift does not: it may take one row more. A list that is longer than
//! a VARCHAR is not looked through in Redshift; what is loaded of the rewritten result has lost them all the same.

use millrace_pipeline::catalog::identifier::{identifier, literal};
use millrace_pipeline::privacy::{Marks, Subject};
use millrace_pipeline::spec::marts::Mart;
use millrace_pipeline::spec::model::{ColumnType, Pipeline};

use super::condition::{one_of, serialized};
use super::{Place, erased};
use crate::handoff::HandoffError;
use crate::lake::Lake;
use crate::lifecycle::Hook;

/// How many rows of models' tables hold a person; none where there are no such tables.
///
/// # Errors
/// When the warehouse cannot be asked.
pub async fn count_in_models(
    pipeline: &Pipeline,
    lake: &Lake,
    subject: &Subject,
) -> Result<Option<u64>, HandoffError> {
    let marks = Marks::of(subject);
    let mut found = None;
    for (place, condition) in places(pipeline, lake, &marks) {
        *found.get_or_insert(0) += place.count(&condition).await?;
    }
    Ok(found)
}

/// Deletes them, whatever the version that was loaded: a later one replaces its whole period.
///
/// # Errors
/// As [`super::expire`].
pub async fn erase_in_models(
    pipeline: &Pipeline,
    lake: &Lake,
    subject: &Subject,
    by: &str,
    hook: &Hook,
) -> Result<(), HandoffError> {
    let marks = Marks::of(subject);
    for (place, condition) in places(pipeline, lake, &marks) {
        place
            .remove(&place.removal(condition, erased(subject, by)), hook)
            .await?;
    }
    Ok(())
}

/// The models' tables, each with the condition of rows that hold a person.
fn places<'a>(pipeline: &'a Pipeline, lake: &'a Lake, marks: &Marks) -> Vec<(Place<'a>, String)> {
    let tables = pipeline
        .marts
        .iter()
        .filter_map(|mart| Some((mart, mart.table.as_deref()?)));
    let place = |(mart, table): (&Mart, &'a str)| {
        let place = Place {
            table,
            ..Place::of(pipeline, lake)?
        };
        let condition = condition(place.is_postgres(), mart, marks)?;
        Some((place, condition))
    };
    tables.filter_map(place).collect()
}

/// None for a model without a column that may hold anybody.
fn condition(is_postgres: bool, mart: &Mart, marks: &Marks) -> Option<String> {
    let each: Vec<String> = mart
        .columns
        .iter()
        .flat_map(|column| in_column(is_postgres, &column.name, &column.kind, marks))
        .collect();
    (!each.is_empty()).then(|| each.join(" OR "))
}

/// The conditions of a column, of which one suffices.
fn in_column(is_postgres: bool, name: &str, kind: &ColumnType, marks: &Marks) -> Vec<String> {
    let column = identifier(name);
    let item = if let ColumnType::List(item) = kind {
        item
    } else {
        kind
    };
    let mut each = Vec::new();
    match item {
        ColumnType::Int32 | ColumnType::Int64 => {
            let numbers: Vec<String> = marks.numbers(name).map(|number| number.to_string()).collect();
            if !numbers.is_empty() {
                each.push(one_of(is_postgres, &column, kind, &numbers));
            }
        }
        ColumnType::String | ColumnType::Json => {
            let (words, short): (Vec<String>, Vec<String>) = marks
                .texts()
                .map(str::to_owned)
                .partition(|text| Marks::is_word(text));
            if !short.is_empty() {
                each.push(one_of(is_postgres, &column, kind, &short));
            }
            if !words.is_empty() {
                let text = match (kind, is_postgres) {
                    (ColumnType::String, _) => column,
                    (_, true) => format!("CAST({column} AS text)"),
                    (_, false) => serialized(&column),
                };
                each.push(format!("{text} ~ {}", literal(&as_words(&words))));
            }
        }
        ColumnType::Bool
        | ColumnType::Float64
        | ColumnType::Decimal(..)
        | ColumnType::Date
        | ColumnType::Timestamp
        | ColumnType::List(_) => {}
    }
    each.retain(|condition| !condition.is_empty());
    each
}

/// A POSIX expression for one of some texts with no letter or digit beside it.
fn as_words(texts: &[String]) -> String {
    let each: Vec<String> = texts.iter().map(|text| text.chars().map(one).collect()).collect();
    format!("(^|[^[:alnum:]])({})([^[:alnum:]]|$)", each.join("|"))
}

/// A character as itself. No backslash stands in it: Redshift takes one in a literal for a sign of its own, PostgreSQL does not.
fn one(c: char) -> String {
    match c {
        '^' | '\\' => ".".to_owned(),
        _ if c.is_ascii() && !c.is_ascii_alphanumeric() => format!("[{c}]"),
        _ => c.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_asked_for_as_a_word() {
        let words = ["a.b@c".to_owned(), r"d\e^]".to_owned()];
        assert_eq!(
            as_words(&words),
            "(^|[^[:alnum:]])(a[.]b[@]c|d.e.[]])([^[:alnum:]]|$)"
        );
    }
}
