//! What every reader of a key shares: where each key stands, what the environment says, the faults so far.
//!
//! Faults are placed by key: `reader.fault("schema[3].type", ...)` finds the line. Messages quote the
//! file's text, never a value that came out of `${env:...}`.

use std::collections::BTreeMap;

use super::report::SpecFault;
use super::source_text::SourceText;
use super::tree::{Entry, Node, Place, Value, start_of_file};

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
    pub(super) fn resolve(&mut self, key: &str, text: &str) -> Option<String> {
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

impl Reader<'_> {
    /// A key as it stands in the file.
    pub(super) fn key_shown(&self, entry: &Entry) -> String {
        self.source.quote(&entry.key_place)
    }
}
