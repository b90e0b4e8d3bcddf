//! Reads the tree key by key and collects every fault.
//!
//! A [`Field`] is a key with its value; its methods read the value as what the key needs. Each of them
//! either gives the value, or reports what is wrong and gives nothing: a section with a fault in it is
//! read on, so that one report holds them all.
//!
//! Faults are placed by key: `reader.fault("schema[3].type", ...)` finds the line. Messages quote the
//! file's text, never a value that came out of `${env:...}`.

use std::collections::BTreeMap;

use super::model::Secret;
use super::nearest::hint;
use super::report::SpecFault;
use super::source_text::SourceText;
use super::tree::{Entry, Node, Place, Value, start_of_file};
use super::units::Refused;

/// What the process environment says about a name.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Where a key and its value stand.
struct Spot {
    key: Option<Place>,
    value: Place,
}

/// The file that is read, and the faults found so far.
pub(super) struct Reader<'a> {
    source: SourceText<'a>,
    environment: Environment<'a>,
    spots: BTreeMap<String, Spot>,
    faults: Vec<SpecFault>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(source: SourceText<'a>, root: Option<&Node>, environment: Environment<'a>) -> Self {
        let mut spots = BTreeMap::new();
        if let Some(root) = root {
            index(root, None, String::new(), &mut spots);
        }
        Self {
            source,
            environment,
            spots,
            faults: Vec::new(),
        }
    }

    /// Reports a fault of a key's value; of the map around it where the key is not in the file.
    pub(super) fn fault(&mut self, key: &str, wrong: impl Into<String>, right: impl Into<String>) {
        let place = self.place(key);
        self.fault_at(place, key, wrong, right);
    }

    /// Reports a fault of a key itself.
    pub(super) fn fault_of_key(&mut self, key: &str, wrong: impl Into<String>, right: impl Into<String>) {
        let place = self.spots.get(key).and_then(|spot| spot.key.clone());
        let place = place.unwrap_or_else(|| self.place(key));
        self.fault_at(place, key, wrong, right);
    }

    pub(super) fn fault_at(
        &mut self,
        place: Place,
        key: &str,
        wrong: impl Into<String>,
        right: impl Into<String>,
    ) {
        self.faults.push(SpecFault {
            line: place.line,
            column: place.column,
            key: key.to_owned(),
            text: self.source.quote(&place),
            wrong: wrong.into(),
            right: right.into(),
            excerpt: self.source.excerpt(&place),
        });
    }

    /// A key's value as it stands in the file.
    pub(super) fn shown(&self, key: &str) -> String {
        self.source.quote(&self.place(key))
    }

    /// Whether anything was wrong so far.
    pub(super) fn has_faults(&self) -> bool {
        !self.faults.is_empty()
    }

    /// The key that stands at a place, or the innermost whose value does.
    pub(super) fn key_at(&self, place: &Place) -> String {
        let at = place.bytes.start;
        let holds = |spot: &Spot| {
            spot.key.as_ref().is_some_and(|key| key.bytes.contains(&at)) || spot.value.bytes.contains(&at)
        };
        let holding = self.spots.iter().filter(|(_, spot)| holds(spot));
        let innermost = holding.min_by_key(|(_, spot)| spot.value.bytes.len());
        innermost.map(|(key, _)| key.clone()).unwrap_or_default()
    }

    /// Whether the file has the key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.spots.contains_key(key)
    }

    /// Every fault in the order of the file.
    pub(super) fn into_faults(mut self) -> Vec<SpecFault> {
        self.faults
            .sort_by(|a, b| (a.line, a.column, &a.key).cmp(&(b.line, b.column, &b.key)));
        self.faults.dedup();
        self.faults
    }

    fn place(&self, key: &str) -> Place {
        let mut key = key;
        loop {
            if let Some(spot) = self.spots.get(key) {
                return spot.value.clone();
            }
            match key.rfind(['.', '[']) {
                Some(end) => key = &key[..end],
                None if key.is_empty() => return start_of_file(),
                None => key = "",
            }
        }
    }

    /// The text with each `${env:NAME}` replaced. What cannot be resolved is a fault.
    fn resolve(&mut self, key: &str, text: &str) -> Option<String> {
        let mut resolved = String::with_capacity(text.len());
        let mut rest = text;
        let mut sound = true;
        while let Some(start) = rest.find("${") {
            resolved.push_str(&rest[..start]);
            let inner = &rest[start + 2..];
            let Some((name, after)) = inner.split_once('}') else {
                resolved.push_str(&rest[start..]);
                rest = "";
                if inner.starts_with("env:") {
                    self.fault(key, "`${env:` is not closed", "`${env:NAME}`");
                    sound = false;
                }
                break;
            };
            sound &= self.resolve_one(key, name, &mut resolved);
            rest = after;
        }
        resolved.push_str(rest);
        sound.then_some(resolved)
    }

    fn resolve_one(&mut self, key: &str, inner: &str, resolved: &mut String) -> bool {
        let is_name = |name: &str| {
            !name.is_empty()
                && !name.starts_with(|c: char| c.is_ascii_digit())
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        };
        match inner.strip_prefix("env:") {
            Some(name) if is_name(name) => match (self.environment)(name) {
                Some(value) => {
                    resolved.push_str(&value);
                    return true;
                }
                None => self.fault(
                    key,
                    format!("the environment variable `{name}` is not set"),
                    format!("set it where millrace runs: `export {name}=...`"),
                ),
            },
            Some(_) => self.fault(
                key,
                "a reference to the environment without a proper name",
                "`${env:NAME}` with a name of letters, digits and `_`",
            ),
            None if is_name(inner) => self.fault(
                key,
                format!("`${{{inner}}}` would stay as it is"),
                format!("`${{env:{inner}}}` for the environment variable"),
            ),
            None => {
                resolved.push_str("${");
                resolved.push_str(inner);
                resolved.push('}');
                return true;
            }
        }
        false
    }
}

/// Every key of the tree and where it stands.
fn index(node: &Node, key_place: Option<Place>, key: String, spots: &mut BTreeMap<String, Spot>) {
    match &node.value {
        Value::Scalar { .. } => {}
        Value::List(items) => {
            for (i, item) in items.iter().enumerate() {
                index(item, None, format!("{key}[{i}]"), spots);
            }
        }
        Value::Map(entries) => {
            for entry in entries {
                index(
                    &entry.value,
                    Some(entry.key_place.clone()),
                    join(&key, &entry.key),
                    spots,
                );
            }
        }
    }
    let value = node.place.clone();
    spots.insert(
        key,
        Spot {
            key: key_place,
            value,
        },
    );
}

/// A key below another.
pub(super) fn join(above: &str, key: &str) -> String {
    if above.is_empty() {
        key.to_owned()
    } else {
        format!("{above}.{key}")
    }
}

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

impl Reader<'_> {
    fn key_shown(&self, entry: &Entry) -> String {
        self.source.quote(&entry.key_place)
    }
}
