//! What stands for a person in copies of data whose columns the pipeline does not declare: results of models, snapshots of
//! lookups, examples in quality reports.
//!
//! In: a [`Subject`]. Out: which rows, or which values of a JSON text, hold the person.
//!
//! | a value...                                            | holds the person                                       |
//! |--------------------------------------------------------|--------------------------------------------------------|
//! | is a text, whatever its column is called               | when it is theirs, clear or masked, or has it as a word of at least 5 bytes |
//! | is a number                                            | in a column of the name of a personal one; of 10 digits and more, such as a mask, in any |
//! | is a number of a JSON text                             | with at least 5 digits, and under no name of a count   |
//! | is a list, or JSON                                     | when an item does                                      |
//!
//! Values are looked for everywhere, since a query may give a column any name; but a short number is a sum of something in many.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{cast, or};
use arrow::datatypes::{DataType, Int64Type};
use serde_json::Value;

use super::PrivacyError;
use super::subject::{Subject, WORD_BYTES_MIN, is_word_in};
use crate::spec::model::ColumnType;

/// From here on a number is no sum or count by chance.
const LONG_NUMBER: u64 = 1_000_000_000;
/// What stands where a value was.
const BLANK: &str = "[erased]";

/// See above.
#[derive(Clone, PartialEq, Eq)]
pub struct Marks {
    texts: BTreeSet<String>,
    /// By column.
    numbers: BTreeMap<String, BTreeSet<i64>>,
}

/// Without the values.
impl std::fmt::Debug for Marks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Marks")
            .field("texts", &self.texts.len())
            .field("numbers", &self.numbers.keys())
            .finish()
    }
}

impl Marks {
    /// Those of a person.
    #[must_use]
    pub fn of(subject: &Subject) -> Self {
        let (mut texts, mut numbers) = (BTreeSet::new(), BTreeMap::new());
        for (column, kind, values) in subject.texts() {
            let item = if let ColumnType::List(item) = kind {
                item
            } else {
                kind
            };
            if matches!(item, ColumnType::Int32 | ColumnType::Int64) {
                let of: &mut BTreeSet<i64> = numbers.entry(column.to_owned()).or_default();
                of.extend(values.iter().filter_map(|value| value.parse::<i64>().ok()));
                // A query may make a text of them.
                texts.extend(values.into_iter().filter(|value| Self::is_word(value)));
            } else {
                texts.extend(values);
            }
        }
        Self { texts, numbers }
    }

    /// The texts, clear and masked.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.texts.iter().map(String::as_str)
    }

    /// The numbers that a column of this name may hold.
    pub fn numbers(&self, column: &str) -> impl Iterator<Item = i64> {
        let own = self.numbers.get(column).into_iter().flatten();
        let others = self.numbers.iter().filter(move |(name, _)| *name != column);
        let long = others
            .flat_map(|(_, numbers)| numbers)
            .filter(|number| number.unsigned_abs() >= LONG_NUMBER);
        own.chain(long).copied()
    }

    /// Whether a text counts where it stands among other words.
    #[must_use]
    pub fn is_word(text: &str) -> bool {
        text.len() >= WORD_BYTES_MIN
    }

    /// Which rows hold the person.
    ///
    /// # Errors
    /// When a column cannot be read as what its type says.
    pub fn in_rows(&self, rows: &RecordBatch) -> Result<BooleanArray, PrivacyError> {
        let mut found = BooleanArray::new(BooleanBuffer::new_unset(rows.num_rows()), None);
        for (field, column) in rows.schema_ref().fields().iter().zip(rows.columns()) {
            if let Some(theirs) = self.in_column(field.name(), column)? {
                found = or(&found, &theirs)?;
            }
        }
        Ok(found)
    }

    /// None for a column of a type that can hold nobody.
    fn in_column(&self, name: &str, column: &ArrayRef) -> Result<Option<BooleanArray>, PrivacyError> {
        if let Some(lists) = column.as_list_opt::<i32>() {
            let Some(items) = self.in_column(name, lists.values())? else {
                return Ok(None);
            };
            let offsets = lists.offsets();
            let holds = |row: usize| {
                let items_of = offsets[row] as usize..offsets[row + 1] as usize;
                Some(lists.is_valid(row) && items_of.into_iter().any(|item| items.value(item)))
            };
            return Ok(Some((0..lists.len()).map(holds).collect()));
        }
        if column.data_type().is_integer() {
            let wanted: BTreeSet<i64> = self.numbers(name).collect();
            if wanted.is_empty() {
                return Ok(None);
            }
            let numbers = cast(column, &DataType::Int64)?;
            let numbers = numbers.as_primitive::<Int64Type>().iter();
            let holds = |number: Option<i64>| Some(number.is_some_and(|number| wanted.contains(&number)));
            return Ok(Some(numbers.map(holds).collect()));
        }
        let is_text = matches!(
            column.data_type(),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Dictionary(..)
        );
        if !is_text {
            return Ok(None);
        }
        let texts = cast(column, &DataType::Utf8View)?;
        let texts = texts.as_string_view().iter();
        let holds = |text: Option<&str>| Some(text.is_some_and(|text| self.in_text(text)));
        Ok(Some(texts.map(holds).collect()))
    }

    fn in_text(&self, text: &str) -> bool {
        self.texts.contains(text)
            || self
                .texts
                .iter()
                .any(|mark| Self::is_word(mark) && is_word_in(text, mark))
            || self.in_escaped(text)
    }

    /// Whether a JSON text holds the person where it writes characters as escapes.
    fn in_escaped(&self, text: &str) -> bool {
        text.contains('\\') && serde_json::from_str::<Value>(text).is_ok_and(|inner| self.in_value(&inner))
    }

    /// Whether a value, alone, holds the person.
    #[must_use]
    pub fn in_value(&self, value: &Value) -> bool {
        match value {
            Value::Null | Value::Bool(_) => false,
            Value::Number(number) => {
                let digits = number.to_string();
                let is_long = digits.len() >= WORD_BYTES_MIN;
                let number = number.as_i64();
                let is_theirs =
                    number.is_some_and(|number| self.numbers.values().any(|of| of.contains(&number)));
                is_long && (is_theirs || self.texts.contains(&digits))
            }
            Value::String(text) => self.in_text(text),
            Value::Array(items) => items.iter().any(|item| self.in_value(item)),
            Value::Object(fields) => fields
                .iter()
                .any(|(name, field)| self.in_text(name) || (!is_count(name, field) && self.in_value(field))),
        }
    }

    /// Takes the person out of a report; how many values that were.
    pub fn blank(&self, value: &mut Value) -> u64 {
        match value {
            Value::Null | Value::Bool(_) => 0,
            Value::Number(_) | Value::String(_) => {
                if !self.in_value(value) {
                    return 0;
                }
                *value = BLANK.into();
                1
            }
            Value::Array(items) => items.iter_mut().map(|item| self.blank(item)).sum(),
            Value::Object(fields) => {
                let named: Vec<String> = fields.keys().filter(|name| self.in_text(name)).cloned().collect();
                for name in &named {
                    fields.remove(name);
                }
                let inner = fields.iter_mut().filter(|(name, field)| !is_count(name, field));
                let blanked: u64 = inner.map(|(_, field)| self.blank(field)).sum();
                blanked + named.len() as u64
            }
        }
    }
}

/// Whether a field of a report says how many.
fn is_count(name: &str, field: &Value) -> bool {
    let counts = ["_count", "_percent", "_percent_total", "_percent_nonmissing"];
    field.is_number() && counts.iter().any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, StringArray};
    use serde_json::json;

    use super::*;

    fn marks() -> Marks {
        Marks {
            texts: [
                "ada@example.com".to_owned(),
                "9f3a0c77@example.com".to_owned(),
                "DE".to_owned(),
            ]
            .into(),
            numbers: BTreeMap::from([("user_id".to_owned(), [100_023, 7_234_567_891_234].into())]),
        }
    }

    #[test]
    fn texts_are_found_in_any_column_and_numbers_in_that_of_their_name() {
        let texts = StringArray::from(vec![
            "x",
            "to ada@example.com, bob",
            "xada@example.com",
            "DE",
            r#"{"to": "ada\u0040example.com"}"#,
        ]);
        let numbers = || Arc::new(Int64Array::from(vec![100_023, 1, 2, 3, 4])) as ArrayRef;
        let rows =
            RecordBatch::try_from_iter([("anything", Arc::new(texts) as ArrayRef), ("orders", numbers())]);
        let found = |rows: &RecordBatch| -> Vec<bool> {
            marks()
                .in_rows(rows)
                .unwrap()
                .iter()
                .map(Option::unwrap)
                .collect()
        };
        assert_eq!(found(&rows.unwrap()), [false, true, false, true, true]);
        let rows = RecordBatch::try_from_iter([("user_id", numbers())]).unwrap();
        assert_eq!(found(&rows), [true, false, false, false, false]);
        let masks = Arc::new(Int64Array::from(vec![Some(7_234_567_891_234), None])) as ArrayRef;
        let rows = RecordBatch::try_from_iter([("buyer", masks)]).unwrap();
        assert_eq!(found(&rows), [true, false]);
    }

    #[test]
    fn a_report_loses_the_values_and_keeps_its_counts() {
        let mut report = json!({"results": [{"result": {
            "element_count": 100_023, "observed_value": 100_023,
            "partial_unexpected_list": ["bob", "ada@example.com", "9f3a0c77@example.com"],
            "details": {"value_counts": {"ada@example.com": 2, "bob": 1}},
        }}]});
        assert!(marks().in_value(&report));
        assert_eq!(marks().blank(&mut report), 4);
        let expected = json!({"results": [{"result": {
            "element_count": 100_023, "observed_value": "[erased]",
            "partial_unexpected_list": ["bob", "[erased]", "[erased]"],
            "details": {"value_counts": {"bob": 1}},
        }}]});
        assert_eq!(report, expected);
        assert!(!marks().in_value(&report), "the second look finds nothing");
        assert!(!format!("{:?}", marks()).contains("ada"));
    }
}
