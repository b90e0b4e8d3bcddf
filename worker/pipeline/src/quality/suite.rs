//! Reads a Great Expectations suite, of the 1.x and of the 0.x files.
//!
//! In: the file's JSON text and the pipeline's own parameters. Out: a list of expectations whose
//! `$PARAMETER`s are resolved. What a type means is decided in [`super::plan`]: a type that nobody knows is
//! kept here and reported there, so that it never passes in silence.
//!
//! | 1.x                | 0.x                      |
//! |--------------------|--------------------------|
//! | `name`             | `expectation_suite_name` |
//! | `type`             | `expectation_type`       |
//! | `suite_parameters` | `evaluation_parameters`  |
//! | `severity`         | (absent: critical)       |

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Why a suite is not one.
#[derive(Debug, thiserror::Error)]
pub enum SuiteError {
    /// Not JSON.
    #[error("the suite is not JSON")]
    Json(#[from] serde_json::Error),
    /// Not an object, or without expectations.
    #[error("the suite has no `{0}`: it must be an object as Great Expectations writes it")]
    Missing(&'static str),
    /// A key of another type than it must have.
    #[error("expectation {index}: `{key}` must be {expected}")]
    Key {
        /// Position in the suite, from 0.
        index: usize,
        /// Which key.
        key: &'static str,
        /// What would be right.
        expected: &'static str,
    },
    /// A parameter without a value.
    #[error(
        "expectation {index} ({kind}): parameter `{name}` has no value; give it in the suite's \
         `suite_parameters` or in the pipeline's `quality.parameters`"
    )]
    Parameter {
        /// Position in the suite, from 0.
        index: usize,
        /// The expectation's type.
        kind: String,
        /// The parameter.
        name: String,
    },
}

/// How much a failure matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// A failing row goes to quarantine.
    #[default]
    Critical,
    /// A failing row stays and is counted.
    Warning,
    /// A failing row stays and is counted.
    Info,
}

/// One expectation as declared.
#[derive(Debug, Clone, PartialEq)]
pub struct Expectation {
    /// `expect_column_values_to_not_be_null`.
    pub kind: String,
    /// Its arguments, parameters resolved.
    pub kwargs: Map<String, Value>,
    /// For people.
    pub meta: Value,
    /// Great Expectations' own id, where it has one.
    pub id: Option<String>,
    /// What a failure does.
    pub severity: Severity,
}

/// A suite as declared.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Suite {
    /// Its name.
    pub name: String,
    /// In the order of the file.
    pub expectations: Vec<Expectation>,
    /// For people.
    pub meta: Map<String, Value>,
    /// The values that parameters have, for the result.
    pub parameters: Map<String, Value>,
}

impl Suite {
    /// Reads a suite; `parameters` override the suite's own.
    ///
    /// # Errors
    /// When the text is no suite or a parameter has no value.
    pub fn parse(text: &str, parameters: &Map<String, Value>) -> Result<Self, SuiteError> {
        let root: Value = serde_json::from_str(text)?;
        let root = root.as_object().ok_or(SuiteError::Missing("expectations"))?;
        let listed = root
            .get("expectations")
            .and_then(Value::as_array)
            .ok_or(SuiteError::Missing("expectations"))?;
        let mut values = Map::new();
        for key in ["evaluation_parameters", "suite_parameters"] {
            if let Some(own) = root.get(key).and_then(Value::as_object) {
                values.extend(own.clone());
            }
        }
        values.extend(parameters.clone());
        let expectations = listed
            .iter()
            .enumerate()
            .map(|(index, declared)| expectation(index, declared, &values))
            .collect::<Result<Vec<_>, _>>()?;
        let name = ["name", "expectation_suite_name"]
            .iter()
            .find_map(|key| root.get(*key).and_then(Value::as_str))
            .unwrap_or("default");
        Ok(Self {
            name: name.to_owned(),
            expectations,
            meta: root
                .get("meta")
                .and_then(Value::as_object)
                .cloned()
                .unwrap_or_default(),
            parameters: values,
        })
    }
}

fn expectation(
    index: usize,
    declared: &Value,
    parameters: &Map<String, Value>,
) -> Result<Expectation, SuiteError> {
    let wrong = |key, expected| SuiteError::Key { index, key, expected };
    let declared = declared
        .as_object()
        .ok_or_else(|| wrong("expectations", "a list of objects"))?;
    let kind = ["type", "expectation_type"]
        .iter()
        .find_map(|key| declared.get(*key))
        .and_then(Value::as_str)
        .ok_or_else(|| wrong("type", "a text such as `expect_column_values_to_not_be_null`"))?
        .to_owned();
    let kwargs = match declared.get("kwargs") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(kwargs)) => kwargs.clone(),
        Some(_) => return Err(wrong("kwargs", "an object")),
    };
    let severity = match declared.get("severity") {
        None | Some(Value::Null) => Severity::default(),
        Some(severity) => serde_json::from_value(severity.clone())
            .map_err(|_| wrong("severity", "`critical`, `warning` or `info`"))?,
    };
    let kwargs = kwargs
        .into_iter()
        // Names the batch of the run in which the suite was made: nothing that we could look up.
        .filter(|(key, _)| key != "batch_id")
        .map(|(key, value)| {
            let value = resolve(value, parameters).map_err(|name| SuiteError::Parameter {
                index,
                kind: kind.clone(),
                name,
            })?;
            Ok((key, value))
        })
        .collect::<Result<_, SuiteError>>()?;
    Ok(Expectation {
        kind,
        kwargs,
        meta: declared
            .get("meta")
            .cloned()
            .unwrap_or_else(|| Value::Object(Map::new())),
        id: declared.get("id").and_then(Value::as_str).map(str::to_owned),
        severity,
    })
}

/// Replaces `{"$PARAMETER": name}` at any depth; the error is the name that has no value.
fn resolve(value: Value, parameters: &Map<String, Value>) -> Result<Value, String> {
    match value {
        Value::Object(object) => {
            if let Some(name) = object.get("$PARAMETER") {
                let name = name.as_str().unwrap_or_default();
                return parameters.get(name).cloned().ok_or_else(|| name.to_owned());
            }
            let resolved: Result<Map<String, Value>, String> = object
                .into_iter()
                .filter(|(key, _)| !key.starts_with("$PARAMETER."))
                .map(|(key, value)| Ok((key, resolve(value, parameters)?)))
                .collect();
            resolved.map(Value::Object)
        }
        Value::Array(items) => items
            .into_iter()
            .map(|item| resolve(item, parameters))
            .collect::<Result<Vec<_>, _>>()
            .map(Value::Array),
        other => Ok(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_generations_of_files_read_the_same() {
        let new = json!({"name": "s", "suite_parameters": {"top": 9}, "expectations": [
            {"type": "expect_x", "kwargs": {"column": "a", "max_value": {"$PARAMETER": "top"}}, "severity": "warning"}]});
        let old = json!({"expectation_suite_name": "s", "evaluation_parameters": {"top": 9}, "expectations": [
            {"expectation_type": "expect_x", "kwargs": {"column": "a", "max_value": {"$PARAMETER": "top"}}}]});
        let new = Suite::parse(&new.to_string(), &Map::new()).unwrap();
        let old = Suite::parse(&old.to_string(), &Map::new()).unwrap();
        assert_eq!(new.name, old.name);
        assert_eq!(new.expectations[0].kwargs, old.expectations[0].kwargs);
        assert_eq!(new.expectations[0].kwargs["max_value"], json!(9));
        assert_eq!(new.expectations[0].severity, Severity::Warning);
        assert_eq!(old.expectations[0].severity, Severity::Critical);
    }

    #[test]
    fn the_pipelines_parameters_win_and_a_missing_one_is_named() {
        let suite = json!({"name": "s", "suite_parameters": {"a": 1}, "expectations": [
            {"type": "t", "kwargs": {"x": [{"$PARAMETER": "a"}]}}]})
        .to_string();
        let own = json!({"a": 2}).as_object().unwrap().clone();
        assert_eq!(
            Suite::parse(&suite, &own).unwrap().expectations[0].kwargs["x"],
            json!([2])
        );
        let unknown = suite.replace("\"a\":1", "\"b\":1");
        let error = Suite::parse(&unknown, &Map::new()).unwrap_err().to_string();
        assert!(error.contains("parameter `a`"), "{error}");
    }
}
