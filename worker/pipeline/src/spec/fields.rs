//! Reads the tree key by key.
//!
//! A [`Field`] is a key with its value; its methods read the value as what the key needs. Each of them
//! either gives the value, or reports what is wrong and gives nothing: a section with a fault in it is
//! read on, so that one report holds them all.

use super::model::Secret;
use super::nearest::hint;
use super::reader::{Reader, join};
use super::tree::{Entry, Node, Value};
use super::units::Refused;

/// A key and its value.
#[derive(Clone)]
pub(super) struct Field<'n> {
    pub(super) key: String,
    pub(super) node: &'n Node,
}

/// A map whose keys are known.
pub(super) struct Section<'n> {
    pub(super) key: String,
    entries: &'n [Entry],
}

impl<'n> Section<'n> {
    /// A key that may be left out.
    pub(super) fn optional(&self, key: &str) -> Option<Field<'n>> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        let key = join(&self.key, key);
        Some(Field {
            key,
            node: &entry.value,
        })
    }

    /// A key that must be there.
    pub(super) fn required(&self, reader: &mut Reader<'_>, key: &str, right: &str) -> Option<Field<'n>> {
        let found = self.optional(key);
        if found.is_none() {
            let missing = join(&self.key, key);
            reader.fault(
                &missing,
                format!("`{key}` is missing"),
                format!("`{key}: {right}`"),
            );
        }
        found
    }

    /// The one key of several that must be there: exactly one.
    pub(super) fn exactly_one(
        &self,
        reader: &mut Reader<'_>,
        keys: &[&'static str],
    ) -> Option<(&'static str, Field<'n>)> {
        let mut found = keys.iter().filter_map(|key| Some((*key, self.optional(key)?)));
        let first = found.next();
        let second = found.next();
        let names: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
        let right = format!("exactly one of {}", names.join(", "));
        match (first, second) {
            (Some(one), None) => Some(one),
            (Some((one, _)), Some((two, field))) => {
                reader.fault_of_key(&field.key, format!("both `{one}` and `{two}` are given"), right);
                None
            }
            (None, _) => {
                reader.fault(&self.key, format!("none of {} is given", names.join(", ")), right);
                None
            }
        }
    }
}

impl<'n> Field<'n> {
    /// The root of a file.
    pub(super) fn root(node: &'n Node) -> Self {
        let key = String::new();
        Self { key, node }
    }

    /// A map with these keys and no others.
    pub(super) fn section(&self, reader: &mut Reader<'_>, known: &[&str]) -> Option<Section<'n>> {
        let entries = self.map(reader, &format!("a map with the keys {}", known.join(", ")))?;
        for entry in entries
            .iter()
            .filter(|entry| !known.contains(&entry.key.as_str()))
        {
            let key = join(&self.key, &entry.key);
            let hint = hint(&entry.key, known.iter().copied());
            let right = format!(
                "{hint}{} {}",
                if known.len() == 1 {
                    "the key here is"
                } else {
                    "keys here are"
                },
                known.join(", ")
            );
            reader.fault_of_key(
                &key,
                format!("`{}` is not a key here", reader.key_shown(entry)),
                right,
            );
        }
        let key = self.key.clone();
        Some(Section { key, entries })
    }

    /// A map whose keys the user chooses.
    pub(super) fn entries(&self, reader: &mut Reader<'_>, right: &str) -> Option<Vec<(String, Field<'n>)>> {
        let entries = self.map(reader, right)?;
        let field = |entry: &'n Entry| {
            let key = join(&self.key, &entry.key);
            let node = &entry.value;
            (entry.key.clone(), Field { key, node })
        };
        Some(entries.iter().map(field).collect())
    }

    fn map(&self, reader: &mut Reader<'_>, right: &str) -> Option<&'n [Entry]> {
        match &self.node.value {
            Value::Map(entries) => Some(entries),
            Value::Scalar { .. } | Value::List(_) => self.wrong_kind(reader, "a map", right),
        }
    }

    /// A list.
    pub(super) fn list(&self, reader: &mut Reader<'_>, right: &str) -> Option<Vec<Field<'n>>> {
        match &self.node.value {
            Value::List(items) => Some(self.items(items)),
            Value::Scalar { .. } | Value::Map(_) => self.wrong_kind(reader, "a list", right),
        }
    }

    /// A list of texts, or one text that stands for a list of one.
    pub(super) fn texts(&self, reader: &mut Reader<'_>, right: &str) -> Option<Vec<String>> {
        let items = match &self.node.value {
            Value::List(items) => self.items(items),
            Value::Scalar { .. } => vec![self.clone()],
            Value::Map(_) => return self.wrong_kind(reader, "a list", right),
        };
        let texts: Vec<Option<String>> = items.iter().map(|item| item.text(reader, right)).collect();
        texts.into_iter().collect()
    }

    /// The key of the `i`-th text that [`Field::texts`] gives.
    pub(super) fn key_of_text(&self, i: usize) -> String {
        match self.node.value {
            Value::List(_) => format!("{}[{i}]", self.key),
            Value::Scalar { .. } | Value::Map(_) => self.key.clone(),
        }
    }

    fn items(&self, items: &'n [Node]) -> Vec<Field<'n>> {
        let field = |(i, node)| Field {
            key: format!("{}[{i}]", self.key),
            node,
        };
        items.iter().enumerate().map(field).collect()
    }

    /// A scalar as text, whatever it would be in YAML.
    pub(super) fn scalar(&self, reader: &mut Reader<'_>, right: &str) -> Option<String> {
        match &self.node.value {
            Value::Scalar { text, .. } if !self.node.is_null() => reader.resolve(&self.key, text),
            Value::Scalar { .. } | Value::List(_) | Value::Map(_) => {
                self.wrong_kind(reader, "a value", right)
            }
        }
    }

    /// Text; what YAML reads as a number or a truth value needs quotes.
    pub(super) fn text(&self, reader: &mut Reader<'_>, right: &str) -> Option<String> {
        if let Value::Scalar { text, plain: true } = &self.node.value
            && (matches!(text.as_str(), "true" | "false") || text.parse::<f64>().is_ok_and(f64::is_finite))
        {
            return self.wrong_kind(reader, "text", &format!("text in quotes: \"{text}\""));
        }
        match &self.node.value {
            Value::Scalar { .. } if !self.node.is_null() => {
                let text = self.scalar(reader, right)?;
                if text.trim().is_empty() {
                    reader.fault(&self.key, "the text is empty", right);
                    return None;
                }
                Some(text)
            }
            Value::Scalar { .. } | Value::List(_) | Value::Map(_) => self.wrong_kind(reader, "text", right),
        }
    }

    /// Text that is never shown.
    pub(super) fn secret(&self, reader: &mut Reader<'_>, right: &str) -> Option<Secret> {
        match &self.node.value {
            Value::Scalar { .. } if !self.node.is_null() => {
                let text = self.scalar(reader, right)?;
                if text.is_empty() {
                    reader.fault(&self.key, "the secret is empty", right);
                    return None;
                }
                Some(Secret::new(text))
            }
            Value::Scalar { .. } | Value::List(_) | Value::Map(_) => self.wrong_kind(reader, "text", right),
        }
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, reader: &mut Reader<'_>) -> Option<bool> {
        let text = self.scalar(reader, "`true` or `false`")?;
        match text.as_str() {
            "true" => Some(true),
            "false" => Some(false),
            _ => self.wrong_kind(reader, "a truth value", "`true` or `false`"),
        }
    }

    /// A whole number within bounds.
    pub(super) fn number(&self, reader: &mut Reader<'_>, least: u64, most: u64) -> Option<u64> {
        let right = format!("a whole number from {least} to {most}");
        let number = self.scalar(reader, &right)?.parse::<u64>();
        match number {
            Ok(number) if (least..=most).contains(&number) => Some(number),
            Ok(_) => {
                reader.fault(
                    &self.key,
                    format!("`{}` is out of range", reader.shown(&self.key)),
                    right,
                );
                None
            }
            Err(_) => self.wrong_kind(reader, "a whole number", &right),
        }
    }

    /// A text in one of the shorthands of [`super::units`].
    pub(super) fn parsed<T>(
        &self,
        reader: &mut Reader<'_>,
        parse: fn(&str) -> Result<T, Refused>,
    ) -> Option<T> {
        let right = match parse("") {
            Err(Refused { right, .. }) => right,
            Ok(_) => String::new(),
        };
        let text = self.scalar(reader, &right)?;
        match parse(text.trim()) {
            Ok(value) => Some(value),
            Err(Refused { problem, right }) => {
                reader.fault(
                    &self.key,
                    format!("`{}` {problem}", reader.shown(&self.key)),
                    right,
                );
                None
            }
        }
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(
        &self,
        reader: &mut Reader<'_>,
        choices: &[(&'static str, T)],
    ) -> Option<T> {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let right = format!("one of {}", names.join(", "));
        let text = self.scalar(reader, &right)?;
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
            return Some(*value);
        }
        let shown = reader.shown(&self.key);
        let right = format!("{}{right}", hint(&shown, names));
        reader.fault(&self.key, format!("`{shown}` is not known here"), right);
        None
    }

    /// Any YAML value as JSON.
    pub(super) fn json(&self, reader: &mut Reader<'_>) -> Option<serde_json::Value> {
        use serde_json::Value as Json;
        Some(match &self.node.value {
            Value::Scalar { .. } if self.node.is_null() => Json::Null,
            Value::Scalar { text, plain: true } => match text.parse::<serde_json::Number>() {
                Ok(number) => Json::Number(number),
                Err(_) => match text.as_str() {
                    "true" => Json::Bool(true),
                    "false" => Json::Bool(false),
                    _ => Json::String(reader.resolve(&self.key, text)?),
                },
            },
            Value::Scalar { text, .. } => Json::String(reader.resolve(&self.key, text)?),
            Value::List(items) => Json::Array(
                self.items(items)
                    .iter()
                    .map(|item| item.json(reader))
                    .collect::<Option<_>>()?,
            ),
            Value::Map(_) => {
                let entries = self.entries(reader, "")?;
                let pairs = entries
                    .iter()
                    .map(|(name, field)| Some((name.clone(), field.json(reader)?)));
                Json::Object(pairs.collect::<Option<_>>()?)
            }
        })
    }

    fn wrong_kind<T>(&self, reader: &mut Reader<'_>, wanted: &str, right: &str) -> Option<T> {
        let found = match &self.node.value {
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a map".to_owned(),
            Value::Scalar { .. } if self.node.is_null() => "nothing".to_owned(),
            Value::Scalar { .. } => format!("`{}`", reader.shown(&self.key)),
        };
        if found == "nothing" {
            reader.fault_of_key(&self.key, format!("expected {wanted}, found nothing"), right);
        } else {
            reader.fault(&self.key, format!("expected {wanted}, found {found}"), right);
        }
        None
    }
}
