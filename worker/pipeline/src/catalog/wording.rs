//! Declarations in plain words: types, durations, and the expectations of a suite.
//!
//! Suites of Great Expectations 1.x and 0.x read alike here: `type` or `expectation_type`. An expectation without words
//! of its own is named with its arguments, never left out.

use serde_json::{Map, Value};

use crate::spec::model::{ColumnType, Quality};

/// A rule in plain words.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(super) struct Rule {
    /// The columns it concerns; none means the table.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) columns: Vec<String>,
    /// `must not be empty`.
    pub(super) text: String,
    /// `critical`, `warning` or `info`.
    pub(super) severity: String,
}

/// The suite's expectations; a text that is no suite has none.
pub(super) fn rules(quality: &Quality) -> Vec<Rule> {
    let Ok(Value::Object(suite)) = serde_json::from_str(&quality.suite_text) else {
        return Vec::new();
    };
    let mut parameters = match suite
        .get("suite_parameters")
        .or_else(|| suite.get("evaluation_parameters"))
    {
        Some(Value::Object(parameters)) => parameters.clone(),
        _ => Map::new(),
    };
    parameters.extend(quality.parameters.clone());
    let expectations = suite.get("expectations").and_then(Value::as_array);
    expectations
        .into_iter()
        .flatten()
        .map(|expectation| rule(expectation, &parameters))
        .collect()
}

fn rule(expectation: &Value, parameters: &Map<String, Value>) -> Rule {
    let name = ["type", "expectation_type"]
        .iter()
        .find_map(|key| expectation.get(key)?.as_str());
    let name = name.unwrap_or("an expectation without a type");
    let arguments = match expectation.get("kwargs") {
        Some(Value::Object(arguments)) => arguments.clone(),
        _ => Map::new(),
    };
    let arguments: Map<String, Value> = arguments
        .into_iter()
        .map(|(key, value)| (key, resolve(value, parameters)))
        .collect();
    let severity = expectation
        .get("severity")
        .or_else(|| expectation.get("meta")?.get("severity"));
    Rule {
        columns: columns(&arguments),
        text: words(name, &arguments),
        severity: severity.and_then(Value::as_str).unwrap_or("critical").to_owned(),
    }
}

fn resolve(value: Value, parameters: &Map<String, Value>) -> Value {
    let name = value.get("$PARAMETER").and_then(Value::as_str);
    match name.and_then(|name| parameters.get(name)) {
        Some(known) => known.clone(),
        None => value,
    }
}

fn columns(arguments: &Map<String, Value>) -> Vec<String> {
    let single = ["column", "column_A", "column_B"]
        .iter()
        .filter_map(|key| arguments.get(*key));
    let lists = ["column_list", "columns"]
        .iter()
        .filter_map(|key| arguments.get(*key)?.as_array())
        .flatten();
    single
        .chain(lists)
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

fn words(name: &str, arguments: &Map<String, Value>) -> String {
    let short = name.strip_prefix("expect_").unwrap_or(name);
    let about = short
        .strip_prefix("column_values_to_")
        .or_else(|| short.strip_prefix("column_values_"));
    let sentence = about
        .and_then(|about| value_words(about, arguments))
        .or_else(|| table_words(short, arguments))
        .or_else(|| figure_words(short, arguments))
        .unwrap_or_else(|| fallback(short, arguments));
    let mut sentence = sentence;
    if let Some(mostly) = arguments
        .get("mostly")
        .and_then(Value::as_f64)
        .filter(|mostly| *mostly < 1.0)
    {
        sentence.push_str(&format!(", in at least {} of rows", percent(mostly)));
    }
    if let Some(condition) = arguments.get("row_condition").and_then(Value::as_str) {
        sentence.push_str(&format!(", where {condition}"));
    }
    sentence
}

/// Rules of single values.
fn value_words(about: &str, arguments: &Map<String, Value>) -> Option<String> {
    let text = |key: &str| arguments.get(key).map(shown).unwrap_or_default();
    Some(match about {
        "not_be_null" => "must not be empty".to_owned(),
        "be_null" => "must be empty".to_owned(),
        "be_unique" => "must not repeat".to_owned(),
        "be_in_set" => format!("must be one of {}", text("value_set")),
        "not_be_in_set" => format!("must not be one of {}", text("value_set")),
        "be_between" => format!("must be {}", range(arguments, "min_value", "max_value")),
        "match_regex" => format!("must match the pattern {}", text("regex")),
        "not_match_regex" => format!("must not match the pattern {}", text("regex")),
        "match_regex_list" => format!("must match the patterns {}", text("regex_list")),
        "not_match_regex_list" => format!("must match none of the patterns {}", text("regex_list")),
        "match_like_pattern" => format!("must look like {}", text("like_pattern")),
        "not_match_like_pattern" => format!("must not look like {}", text("like_pattern")),
        "match_strftime_format" => format!("must be a time written as {}", text("strftime_format")),
        "be_of_type" => format!("must be of type {}", text("type_")),
        "be_in_type_list" => format!("must be of one of the types {}", text("type_list")),
        "be_increasing" => "must not fall from row to row".to_owned(),
        "be_decreasing" => "must not rise from row to row".to_owned(),
        "be_json_parseable" => "must be JSON".to_owned(),
        // Of `expect_column_value_lengths_to_...` the prefix leaves these.
        _ => return None,
    })
}

/// Rules of columns together and of the table.
fn table_words(short: &str, arguments: &Map<String, Value>) -> Option<String> {
    let text = |key: &str| arguments.get(key).map(shown).unwrap_or_default();
    Some(match short {
        "column_to_exist" => "must be a column of the table".to_owned(),
        "column_value_lengths_to_be_between" => {
            format!(
                "must have a length {}",
                range(arguments, "min_value", "max_value")
            )
        }
        "column_value_lengths_to_equal" => format!("must be {} characters long", text("value")),
        "table_row_count_to_be_between" => {
            format!(
                "the number of rows must be {}",
                range(arguments, "min_value", "max_value")
            )
        }
        "table_row_count_to_equal" => format!("the number of rows must be {}", text("value")),
        "table_column_count_to_equal" => format!("the table must have {} columns", text("value")),
        "table_columns_to_match_set" => format!("the table's columns must be {}", text("column_set")),
        "table_columns_to_match_ordered_list" => {
            format!(
                "the table's columns must be {}, in this order",
                text("column_list")
            )
        }
        "compound_columns_to_be_unique" => format!("{} together must not repeat", text("column_list")),
        "select_column_values_to_be_unique_within_record" => {
            format!("{} must differ within a row", text("column_list"))
        }
        "multicolumn_sum_to_equal" => format!("{} must add up to {}", text("column_list"), text("sum_total")),
        "column_pair_values_a_to_be_greater_than_b" | "column_pair_values_A_to_be_greater_than_B" => {
            let or_equal = arguments
                .get("or_equal")
                .and_then(Value::as_bool)
                .unwrap_or_default();
            let greater = if or_equal {
                "must be at least"
            } else {
                "must be greater than"
            };
            format!("{} {greater} {}", text("column_A"), text("column_B"))
        }
        "column_pair_values_to_be_equal" => format!("{} must equal {}", text("column_A"), text("column_B")),
        "column_pair_values_to_be_in_set" => {
            format!(
                "{} and {} must be one of the pairs {}",
                text("column_A"),
                text("column_B"),
                text("value_pairs_set")
            )
        }
        "unexpected_rows" | "unexpected_rows_expectation" => {
            format!("no row may be found by {}", text("unexpected_rows_query"))
        }
        _ => return None,
    })
}

/// Rules of a figure over all values of a column.
fn figure_words(short: &str, arguments: &Map<String, Value>) -> Option<String> {
    let text = |key: &str| arguments.get(key).map(shown).unwrap_or_default();
    let short = short.strip_prefix("column_")?;
    if let Some(figure) = short.strip_suffix("_to_be_between") {
        let figure = match figure {
            "min" => "the smallest value",
            "max" => "the greatest value",
            "mean" => "the mean",
            "median" => "the median",
            "sum" => "the sum",
            "stdev" => "the standard deviation",
            "unique_value_count" => "the number of different values",
            "proportion_of_unique_values" => "the share of different values",
            "proportion_of_non_null_values" => "the share of rows that have a value",
            _ => return None,
        };
        return Some(format!(
            "{figure} must be {}",
            range(arguments, "min_value", "max_value")
        ));
    }
    Some(match short {
        "distinct_values_to_be_in_set" => format!("every value must be one of {}", text("value_set")),
        "distinct_values_to_contain_set" => format!("each of {} must occur", text("value_set")),
        "distinct_values_to_equal_set" => {
            format!("the different values must be exactly {}", text("value_set"))
        }
        "most_common_value_to_be_in_set" => {
            format!("the most common value must be one of {}", text("value_set"))
        }
        "quantile_values_to_be_between" => {
            format!("the quantiles must be within {}", text("quantile_ranges"))
        }
        _ => return None,
    })
}

fn fallback(short: &str, arguments: &Map<String, Value>) -> String {
    let rest: Vec<String> = arguments
        .iter()
        .filter(|(key, _)| {
            !matches!(
                key.as_str(),
                "column" | "mostly" | "row_condition" | "condition_parser"
            )
        })
        .map(|(key, value)| format!("{} {}", key.replace('_', " "), shown(value)))
        .collect();
    let name = short.replace('_', " ");
    if rest.is_empty() {
        name
    } else {
        format!("{name} ({})", rest.join(", "))
    }
}

fn range(arguments: &Map<String, Value>, least: &str, most: &str) -> String {
    let bound = |key: &str| arguments.get(key).filter(|value| !value.is_null()).map(shown);
    let strict = |key: &str| arguments.get(key).and_then(Value::as_bool).unwrap_or_default();
    let least = bound(least).map(|value| match strict("strict_min") {
        true => format!("more than {value}"),
        false => format!("at least {value}"),
    });
    let most = bound(most).map(|value| match strict("strict_max") {
        true => format!("less than {value}"),
        false => format!("at most {value}"),
    });
    match (least, most) {
        (Some(least), Some(most)) => format!("{least} and {most}"),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => "of any size".to_owned(),
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(shown).collect::<Vec<_>>().join(", "),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.to_string(),
    }
}

/// A share as a percentage.
pub(super) fn percent(share: f64) -> String {
    let text = format!("{:.4}", share * 100.0);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

/// A type in a reader's words.
pub(super) fn type_words(kind: &ColumnType) -> String {
    match kind {
        ColumnType::String => "text".to_owned(),
        ColumnType::Bool => "yes or no".to_owned(),
        ColumnType::Int32 => "whole number, up to about 2 billion".to_owned(),
        ColumnType::Int64 => "whole number".to_owned(),
        ColumnType::Float64 => "number with a fraction, approximate".to_owned(),
        ColumnType::Decimal(precision, scale) => {
            format!("exact number, up to {precision} digits, {scale} of them after the point")
        }
        ColumnType::Date => "calendar day".to_owned(),
        ColumnType::Timestamp => "moment in time, UTC, to the microsecond".to_owned(),
        ColumnType::Json => "JSON document".to_owned(),
        ColumnType::List(item) => format!("list, each item: {}", type_words(item)),
    }
}

/// A duration in the largest unit that divides it.
pub(super) fn duration(seconds: u64) -> String {
    let units = [(86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")];
    let (unit, name) = units
        .into_iter()
        .find(|(unit, _)| seconds.is_multiple_of(*unit))
        .unwrap_or((1, "second"));
    let count = seconds / unit;
    if count == 1 {
        format!("1 {name}")
    } else {
        format!("{count} {name}s")
    }
}
