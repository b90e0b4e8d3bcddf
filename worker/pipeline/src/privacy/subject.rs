//! One person, as they stand in what was written: their value, clear and as it is masked, column by column.
//!
//! In: a pipeline, the person's value. Out: which rows of a data file are theirs, and whether a rejected record's bytes are.
//!
//! | a column...                                    | holds the person where                                        |
//! |------------------------------------------------|---------------------------------------------------------------|
//! | of text, JSON or integers, hashed or kept       | its value is theirs, clear or masked                          |
//! | a list of these                                | one item is                                                   |
//! | cut down or redacted                           | its value is theirs, clear; masked, nobody can be told from others: it is named as blind |
//! | of another type                                | never: it is named as blind                                   |
//!
//! A rejected record is theirs when a value of its JSON is, or when its text holds their value as a word of its own: what
//! did not fit the schema may hold them anywhere.

use std::fmt;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, ListArray, RecordBatch, StringViewArray,
};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{cast, or};
use arrow::datatypes::{DataType, Field, Int64Type};

use super::{Policy, PrivacyError};
use crate::spec::model::{Column, ColumnType, Pipeline, Strategy};

/// Bytes from which on a value is looked for inside longer texts too: a short one stands in many by chance.
pub(super) const WORD_BYTES_MIN: usize = 5;

/// Why nobody can be looked for.
#[derive(Debug, thiserror::Error)]
pub enum SubjectError {
    /// The empty text is nobody.
    #[error("the person's value is empty")]
    Empty,
    /// No such column, or it is not personal.
    #[error("column `{column}` is not a personal column of pipeline `{pipeline}`; personal are: {}", .personal.join(", "))]
    Column {
        /// As asked for.
        column: String,
        /// The pipeline.
        pipeline: String,
        /// The personal ones.
        personal: Vec<String>,
    },
    /// No column is personal.
    #[error("pipeline `{pipeline}` has no personal columns (`pii`): it cannot tell whose a row is")]
    Impersonal {
        /// The pipeline.
        pipeline: String,
    },
    /// No secret, or a value that cannot be masked.
    #[error(transparent)]
    Privacy(#[from] PrivacyError),
}

/// A person. Shows no value of theirs.
#[derive(Clone)]
pub struct Subject {
    id: String,
    value: String,
    columns: Vec<Wanted>,
    blind: Vec<String>,
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Subject({})", self.id)
    }
}

/// The person's values in one column.
#[derive(Clone)]
struct Wanted {
    column: String,
    kind: ColumnType,
    values: Values,
}

#[derive(Clone)]
enum Values {
    Texts(Vec<String>),
    Numbers(Vec<i64>),
}

impl Subject {
    /// Somebody, looked for in one column or in every personal one.
    ///
    /// # Errors
    /// When the pipeline cannot tell whose a row is, or has no secret.
    pub fn new(pipeline: &Pipeline, value: &str, column: Option<&str>) -> Result<Self, SubjectError> {
        if value.is_empty() {
            return Err(SubjectError::Empty);
        }
        let personal: Vec<&Column> = pipeline
            .columns
            .iter()
            .filter(|column| column.pii.is_some())
            .collect();
        if personal.is_empty() {
            let pipeline = pipeline.name.to_string();
            return Err(SubjectError::Impersonal { pipeline });
        }
        if let Some(asked) = column
            && !personal.iter().any(|column| column.name == asked)
        {
            return Err(SubjectError::Column {
                column: asked.to_owned(),
                pipeline: pipeline.name.to_string(),
                personal: personal.iter().map(|column| column.name.clone()).collect(),
            });
        }
        let policy = Policy::new(pipeline, None)?;
        let mut subject = Self {
            id: id(pipeline, value)?,
            value: value.to_owned(),
            columns: Vec::new(),
            blind: Vec::new(),
        };
        for (at, found) in pipeline.columns.iter().enumerate() {
            let is_asked = column.is_none_or(|asked| asked == found.name);
            if found.pii.is_some() && is_asked {
                subject.add(pipeline, &policy, at, found)?;
            }
        }
        Ok(subject)
    }

    fn add(
        &mut self,
        pipeline: &Pipeline,
        policy: &Policy,
        at: usize,
        column: &Column,
    ) -> Result<(), SubjectError> {
        let strategy = column.pii.map(|class| pipeline.privacy.strategy(class));
        let is_telling = matches!(
            strategy,
            Some(Strategy::Keep | Strategy::Hash | Strategy::HashKeepDomain)
        );
        let values = values(policy, at, &column.kind, &self.value, is_telling)?;
        if values.is_none() || !is_telling {
            self.blind.push(column.name.clone());
        }
        if let Some(values) = values {
            self.columns.push(Wanted {
                column: column.name.clone(),
                kind: column.kind.clone(),
                values,
            });
        }
        Ok(())
    }

    /// A keyed hash of the value: what logs and ledgers call the person.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Columns in which they can be found.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|wanted| wanted.column.as_str())
    }

    /// Columns whose masks keep too little to tell who it is.
    #[must_use]
    pub fn blind(&self) -> &[String] {
        &self.blind
    }

    /// By column: their values as texts, clear or masked, and whether the column is a list or JSON.
    pub fn texts(&self) -> impl Iterator<Item = (&str, &ColumnType, Vec<String>)> {
        self.columns.iter().map(|wanted| {
            let texts = match &wanted.values {
                Values::Texts(texts) => texts.clone(),
                Values::Numbers(numbers) => numbers.iter().map(ToString::to_string).collect(),
            };
            (wanted.column.as_str(), &wanted.kind, texts)
        })
    }

    /// Which rows are theirs. A column that the rows lack holds nobody.
    ///
    /// # Errors
    /// When a column is of a type that cannot be read as the pipeline's.
    pub fn in_rows(&self, rows: &RecordBatch) -> Result<BooleanArray, PrivacyError> {
        let mut theirs = BooleanArray::new(BooleanBuffer::new_unset(rows.num_rows()), None);
        for wanted in &self.columns {
            if let Some(column) = rows.column_by_name(&wanted.column) {
                theirs = or(&theirs, &wanted.values.in_column(column)?)?;
            }
        }
        Ok(theirs)
    }

    /// Whether a rejected record is theirs.
    #[must_use]
    pub fn in_record(&self, record: &[u8]) -> bool {
        let json: Result<serde_json::Value, _> = serde_json::from_slice(record);
        match (json, std::str::from_utf8(record)) {
            (Ok(json), _) => self.in_json(&json),
            (Err(_), Ok(text)) => self.in_text(text),
            // Lengths and tags stand between the values: no byte tells where a word ends.
            (Err(_), Err(_)) => memchr::memmem::find(record, self.value.as_bytes()).is_some(),
        }
    }

    fn in_json(&self, json: &serde_json::Value) -> bool {
        use serde_json::Value as Json;
        match json {
            Json::Null | Json::Bool(_) => false,
            Json::Number(number) => number.to_string() == self.value,
            Json::String(text) => {
                *text == self.value || (self.value.len() >= WORD_BYTES_MIN && self.in_text(text))
            }
            Json::Array(items) => items.iter().any(|item| self.in_json(item)),
            Json::Object(fields) => fields
                .iter()
                .any(|(name, field)| *name == self.value || self.in_json(field)),
        }
    }

    /// Whether the value stands in a text with no letter or digit beside it.
    fn in_text(&self, text: &str) -> bool {
        is_word_in(text, &self.value)
    }
}

/// Whether a value stands in a text with no letter or digit beside it.
pub(super) fn is_word_in(text: &str, value: &str) -> bool {
    let is_part = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    text.match_indices(value).any(|(at, found)| {
        let before = text[..at].chars().next_back();
        let after = text[at + found.len()..].chars().next();
        !is_part(before) && !is_part(after)
    })
}

impl Values {
    fn in_column(&self, column: &ArrayRef) -> Result<BooleanArray, PrivacyError> {
        if let DataType::List(_) = column.data_type() {
            return self.in_lists(column.as_list());
        }
        Ok(match self {
            Self::Texts(wanted) => {
                let texts = cast(column, &DataType::Utf8View)?;
                let texts = texts.as_string_view().iter();
                let is_theirs =
                    |text: Option<&str>| text.is_some_and(|text| wanted.iter().any(|one| one == text));
                texts.map(|text| Some(is_theirs(text))).collect()
            }
            Self::Numbers(wanted) => {
                let numbers = cast(column, &DataType::Int64)?;
                let numbers = numbers.as_primitive::<Int64Type>().iter();
                numbers
                    .map(|number| Some(number.is_some_and(|number| wanted.contains(&number))))
                    .collect()
            }
        })
    }

    fn in_lists(&self, lists: &ListArray) -> Result<BooleanArray, PrivacyError> {
        let items = self.in_column(lists.values())?;
        let offsets = lists.offsets();
        let is_theirs = |row: usize| {
            let (start, end) = (offsets[row] as usize, offsets[row + 1] as usize);
            lists.is_valid(row) && (start..end).any(|item| items.value(item))
        };
        Ok((0..lists.len()).map(|row| Some(is_theirs(row))).collect())
    }
}

/// The value as a column of this kind holds it, clear and, where the mask tells, masked; none where it never can.
fn values(
    policy: &Policy,
    at: usize,
    kind: &ColumnType,
    value: &str,
    is_telling: bool,
) -> Result<Option<Values>, PrivacyError> {
    let Some(clear) = clear(kind, value) else {
        return Ok(None);
    };
    let mut found = vec![Arc::clone(&clear)];
    if is_telling {
        found.push(policy.mask_values(at, &clear)?);
    }
    let item = if let ColumnType::List(item) = kind {
        item
    } else {
        kind
    };
    let inner = |array: &ArrayRef| match array.as_list_opt::<i32>() {
        Some(lists) => Arc::clone(lists.values()),
        None => Arc::clone(array),
    };
    let found = found.iter().map(inner);
    if matches!(item, ColumnType::Int32 | ColumnType::Int64) {
        let mut numbers = Vec::new();
        for array in found {
            let array = cast(&array, &DataType::Int64)?;
            numbers.extend(array.as_primitive::<Int64Type>().iter().flatten());
        }
        return Ok(Some(Values::Numbers(numbers)));
    }
    let mut texts = Vec::new();
    for array in found {
        let array = cast(&array, &DataType::Utf8View)?;
        texts.extend(array.as_string_view().iter().flatten().map(str::to_owned));
    }
    if *item == ColumnType::Json {
        texts.push(value.to_owned()); // a number, or a name among them
    }
    Ok(Some(Values::Texts(texts)))
}

/// One row of a column of this kind that holds the value.
fn clear(kind: &ColumnType, value: &str) -> Option<ArrayRef> {
    Some(match kind {
        ColumnType::String => Arc::new(StringViewArray::from(vec![value])),
        // As it stands in a JSON text: a string, a number.
        ColumnType::Json => {
            let text = serde_json::Value::from(value).to_string();
            Arc::new(StringViewArray::from(vec![text.as_str()]))
        }
        ColumnType::Int32 => Arc::new(Int32Array::from(vec![value.parse::<i32>().ok()?])),
        ColumnType::Int64 => Arc::new(Int64Array::from(vec![value.parse::<i64>().ok()?])),
        ColumnType::List(item) => {
            let items = clear(item, value)?;
            let field = Arc::new(Field::new("item", item.arrow(), true));
            let offsets = arrow::buffer::OffsetBuffer::from_lengths([items.len()]);
            Arc::new(ListArray::try_new(field, offsets, items, None).ok()?)
        }
        ColumnType::Bool
        | ColumnType::Float64
        | ColumnType::Decimal(..)
        | ColumnType::Date
        | ColumnType::Timestamp => return None,
    })
}

/// Keyed, so that nobody can try values against it; the same value is the same person in every pipeline of one secret.
fn id(pipeline: &Pipeline, value: &str) -> Result<String, PrivacyError> {
    let secret = super::policy::secret(&pipeline.privacy).ok_or_else(|| PrivacyError::MissingKey {
        what: "an erased person is told by a keyed hash of their value".to_owned(),
        environment: "whichever it is".to_owned(),
    })?;
    let key = blake3::derive_key("millrace 2026-11-24 erased subject", secret.reveal().as_bytes());
    let hash = blake3::keyed_hash(&key, value.as_bytes()).to_hex();
    Ok(hash.as_str()[..32].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec;

    fn pipeline() -> Pipeline {
        let text = "version: 1
pipeline: people
source: {files: {path: in, format: json}}
schema:
  - {name: at, type: timestamp, required: true}
  - {name: email, type: string, pii: email}
  - {name: number, type: int64, pii: id}
  - {name: friend, type: string, pii: name}
  - {name: others, type: list<string>, pii: free_text}
  - {name: extra, type: json, pii: free_text}
  - {name: ip, type: string, pii: ip}
  - {name: kind, type: string}
privacy: {clear_in: [prod], hash_key: a-key-for-tests-only}
partition: {time: at}
lake: {url: ./lake}
";
        let none = |_: &str| None;
        let read = |_: &std::path::Path| Err(std::io::Error::other("no file"));
        spec::load(text, "people.yaml", std::path::Path::new("/"), &none, &read).unwrap()
    }

    fn rows(pipeline: &Pipeline, policy: Option<&Policy>, of: &[&str]) -> RecordBatch {
        let texts = || Arc::new(StringViewArray::from_iter_values(of)) as ArrayRef;
        let columns: Vec<(&str, ArrayRef)> = vec![("email", texts()), ("friend", texts()), ("kind", texts())];
        let masked = columns.into_iter().map(|(name, values)| {
            let at = pipeline
                .columns
                .iter()
                .position(|column| column.name == name)
                .unwrap();
            (
                name,
                policy.map_or_else(
                    || Arc::clone(&values),
                    |policy| policy.mask_values(at, &values).unwrap(),
                ),
            )
        });
        RecordBatch::try_from_iter(masked).unwrap()
    }

    #[test]
    fn a_person_is_found_clear_and_masked_and_nobody_else_is() {
        let pipeline = pipeline();
        let policy = Policy::new(&pipeline, None).unwrap();
        let of = ["bob@example.com", "ada@example.com", "ada@example.org"];
        let subject = Subject::new(&pipeline, "ada@example.com", None).unwrap();
        for policy in [None, Some(&policy)] {
            let rows = rows(&pipeline, policy, &of);
            let found: Vec<bool> = subject.in_rows(&rows).unwrap().iter().flatten().collect();
            assert_eq!(found, [false, true, false]);
        }
        let columns: Vec<&str> = subject.columns().collect();
        assert_eq!(
            columns,
            ["email", "friend", "others", "extra", "ip"],
            "a text is no number"
        );
        assert_eq!(subject.blind(), ["number", "others", "extra", "ip"]);
        let number = Subject::new(&pipeline, "77", Some("number")).unwrap();
        assert_eq!(number.columns().collect::<Vec<_>>(), ["number"]);
        assert!(number.blind().is_empty());
    }

    #[test]
    fn one_item_of_a_list_suffices() {
        let lists = |of: &[&[&str]]| {
            let items = of.iter().flat_map(|list| list.iter().copied());
            let items = Arc::new(StringViewArray::from_iter_values(items)) as ArrayRef;
            let field = Arc::new(Field::new("item", DataType::Utf8View, true));
            let offsets = arrow::buffer::OffsetBuffer::from_lengths(of.iter().map(|list| list.len()));
            Arc::new(ListArray::try_new(field, offsets, items, None).unwrap()) as ArrayRef
        };
        let lists = lists(&[&["bob", "ada@example.com"], &[], &["bob"]]);
        let rows = RecordBatch::try_from_iter([("others", lists)]).unwrap();
        let subject = Subject::new(&pipeline(), "ada@example.com", None).unwrap();
        let found: Vec<bool> = subject.in_rows(&rows).unwrap().iter().flatten().collect();
        assert_eq!(found, [true, false, false]);
    }

    #[test]
    fn a_column_that_is_not_personal_is_refused_with_those_that_are() {
        let pipeline = pipeline();
        let refused = Subject::new(&pipeline, "x", Some("kind"))
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains("`kind`") && refused.contains("email"),
            "{refused}"
        );
        assert!(matches!(
            Subject::new(&pipeline, "", None),
            Err(SubjectError::Empty)
        ));
    }

    #[test]
    fn a_person_shows_no_value_and_has_one_name() {
        let pipeline = pipeline();
        let one = Subject::new(&pipeline, "ada@example.com", None).unwrap();
        let other = Subject::new(&pipeline, "bob@example.com", None).unwrap();
        assert_eq!(
            one.id(),
            Subject::new(&pipeline, "ada@example.com", Some("email"))
                .unwrap()
                .id()
        );
        assert_ne!(one.id(), other.id());
        assert!(!format!("{one:?}").contains("ada"));
    }

    #[test]
    fn a_rejected_record_is_theirs_wherever_it_holds_them() {
        let subject = Subject::new(&pipeline(), "ada@example.com", None).unwrap();
        for theirs in [
            r#"{"email": "ada\u0040example.com"}"#,
            r#"{"a": [{"note": "write to ada@example.com."}]}"#,
            r#"{"email": "ada@example.com", "broken"#,
            "1,ada@example.com,x",
        ] {
            assert!(subject.in_record(theirs.as_bytes()), "{theirs}");
        }
        for another in [
            r#"{"email": "xada@example.com"}"#,
            r#"{"email": "ada@example.community"}"#,
            "1,ada@example.comx,x",
        ] {
            assert!(!subject.in_record(another.as_bytes()), "{another}");
        }
        assert!(subject.in_record(b"\xff\x0fada@example.com\xfe"));
        let short = Subject::new(&pipeline(), "77", None).unwrap();
        assert!(short.in_record(br#"{"number": 77}"#) && short.in_record(br#"{"number": "77"}"#));
        assert!(!short.in_record(br#"{"number": 771, "at": "2026-01-01T77"}"#));
    }
}
