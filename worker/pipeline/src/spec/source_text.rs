//! The file's text as it may be shown: one line at a time, secrets masked, fit for a terminal.
//!
//! | what stands in the file                                    | what is shown                      |
//! |------------------------------------------------------------|------------------------------------|
//! | the value of a key like `dsn`, `hash_key`, `...password`    | `[secret]`                         |
//! | `${env:NAME}` as such a value                               | as it stands: it is only a name    |
//! | `scheme://user:password@host` anywhere, comments included   | the password is masked             |
//! | any of these where the text is no YAML                      | the rest of the line is masked     |
//! | control characters                                          | a space                            |
//! | a long line                                                 | the part around the fault          |

use std::ops::Range;

use super::nearest::distance;
use super::report::Excerpt;
use super::tree::{Node, Place, Value};

const MASK: &str = "[secret]";
/// Longest excerpt, in characters.
const WIDTH_MAX: usize = 140;
/// Longest quoted text, in characters.
const QUOTE_MAX: usize = 80;

/// The text of a file, and where its secrets stand.
pub(super) struct SourceText<'a> {
    text: &'a str,
    secrets: Vec<Range<usize>>,
}

impl<'a> SourceText<'a> {
    /// With the secrets that the tree shows; without a tree, those that the text itself betrays.
    pub(super) fn new(text: &'a str, root: Option<&Node>) -> Self {
        let mut secrets = passwords_in_urls(text);
        match root {
            Some(root) => find_secrets(root, text, &mut secrets),
            None => secrets.extend(secrets_without_tree(text)),
        }
        secrets.sort_by_key(|range| range.start);
        Self { text, secrets }
    }

    /// What stands at a place: its first line, quotes taken off, clipped.
    pub(super) fn quote(&self, place: &Place) -> String {
        let line = self.rest_of_line(&place.bytes);
        let shown = self.shown(line);
        let bare = shown.trim();
        let unquoted = [("\"", "\""), ("'", "'")]
            .iter()
            .find_map(|(open, close)| bare.strip_prefix(open)?.strip_suffix(close))
            .unwrap_or(bare);
        clip(unquoted, QUOTE_MAX)
    }

    /// The line that a place starts in, with the place underlined up to the line's end.
    pub(super) fn excerpt(&self, place: &Place) -> Excerpt {
        let start = floor(self.text, place.bytes.start);
        let line_start = self.text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = self.text[start..]
            .find('\n')
            .map_or(self.text.len(), |at| start + at);
        let marked = self.rest_of_line(&place.bytes);
        let after = marked.end.max(start)..line_end.max(marked.end);
        let (before, mark, after) = (
            self.shown(line_start..start),
            self.shown(marked),
            self.shown(after),
        );
        window(&before, mark.trim_end(), after.trim_end())
    }

    /// The bytes of the range up to the end of its first line.
    fn rest_of_line(&self, bytes: &Range<usize>) -> Range<usize> {
        let start = floor(self.text, bytes.start);
        let end = floor(self.text, bytes.end).max(start);
        let slice = &self.text[start..end];
        start..start + slice.find('\n').unwrap_or(slice.len())
    }

    /// The text of a range within one line, masked and fit for a terminal.
    fn shown(&self, range: Range<usize>) -> String {
        let mut shown = String::new();
        let mut at = range.start;
        for secret in &self.secrets {
            let (start, end) = (floor(self.text, secret.start), floor(self.text, secret.end));
            if end <= at || start >= range.end {
                continue;
            }
            shown.push_str(&self.text[at..start.max(at)]);
            shown.push_str(MASK);
            at = end.min(range.end);
        }
        shown.push_str(&self.text[at..range.end.max(at)]);
        shown
            .chars()
            .map(|c| if is_unsafe(c) { ' ' } else { c })
            .collect()
    }
}

/// Control characters and those that turn the direction of text.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn clip(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width - 1).chain(['…']).collect()
}

/// A line around its mark, not wider than a terminal.
fn window(before: &str, mark: &str, after: &str) -> Excerpt {
    let before_width = before.chars().count();
    let keep = WIDTH_MAX / 2;
    let (before, before_width) = if before_width > keep && before_width + mark.chars().count() > WIDTH_MAX {
        let tail: String = before.chars().skip(before_width - keep + 1).collect();
        (format!("…{tail}"), keep)
    } else {
        (before.to_owned(), before_width)
    };
    let mark = clip(mark, (WIDTH_MAX - before_width.min(WIDTH_MAX - 20)).max(20));
    let width = mark.chars().count();
    let line = format!("{before}{mark}");
    let room = WIDTH_MAX.saturating_sub(before_width + width).max(2);
    let line = line + &clip(after, room);
    Excerpt {
        line,
        before: before_width,
        width,
    }
}

/// Whether a key's value is a secret, also when the key is misspelt.
pub(super) fn is_secret_key(key: &str) -> bool {
    let key = key.to_lowercase().replace(['-', '.', ' '], "_");
    let telling = [
        "password",
        "passwd",
        "secret",
        "token",
        "credential",
        "private_key",
        "key_pem",
        "jaas",
        "dsn",
    ];
    telling.iter().any(|word| key.contains(word))
        || (key.len() >= 3
            && key.len() <= 32
            && (distance(&key, "hash_key") <= 2 || distance(&key, "dsn") <= 1))
}

fn find_secrets(node: &Node, text: &str, found: &mut Vec<Range<usize>>) {
    match &node.value {
        Value::Scalar { .. } => {}
        Value::List(list) => list.iter().for_each(|item| find_secrets(item, text, found)),
        Value::Map(entries) => {
            for entry in entries {
                let bytes = &entry.value.place.bytes;
                if is_secret_key(&entry.key) && !is_reference(text.get(bytes.clone()).unwrap_or_default()) {
                    found.push(bytes.clone());
                } else {
                    find_secrets(&entry.value, text, found);
                }
            }
        }
    }
}

/// Whether the text is one `${env:NAME}` and nothing else, quotes aside.
fn is_reference(text: &str) -> bool {
    let bare = text.trim().trim_matches(['"', '\'']);
    bare.strip_prefix("${env:")
        .and_then(|rest| rest.strip_suffix('}'))
        .is_some_and(|name| {
            !name.is_empty()
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        })
}

/// `://user:password@`: the password's bytes.
fn passwords_in_urls(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("://") {
        let start = at + 3;
        let end = text[start..]
            .find(|c: char| c.is_whitespace() || "'\"/,}]".contains(c))
            .map_or(text.len(), |i| start + i);
        let authority = &text[start..end];
        if let (Some(colon), Some(host)) = (authority.find(':'), authority.rfind('@'))
            && colon < host
            && !is_reference(&authority[colon + 1..host])
        {
            found.push(start + colon + 1..start + host);
        }
    }
    found
}

/// Where no tree tells keys from values, every line that names a secret is masked behind the name, and
/// so are the deeper lines below it.
fn secrets_without_tree(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0;
    let mut masked_below: Option<usize> = None;
    for line in text.split_inclusive('\n') {
        let end = at + line.trim_end().len();
        let indent = line.len() - line.trim_start().len();
        if masked_below.is_some_and(|above| indent > above) && end > at + indent {
            found.push(at + indent..end);
        } else if !line.trim().is_empty() {
            masked_below = None;
            if let Some(colon) = secret_colon(line) {
                masked_below = Some(indent);
                if at + colon < end && !is_reference(line[colon..].trim_end_matches(['}', ',', ' ', '\n'])) {
                    found.push(at + colon..end);
                }
            }
        }
        at += line.len();
    }
    found
}

/// The byte behind the colon of the first key in the line that names a secret.
fn secret_colon(line: &str) -> Option<usize> {
    line.match_indices(':').map(|(at, _)| at).find_map(|at| {
        let key = line[..at].trim_end().trim_end_matches(['"', '\'']);
        let key = key
            .rsplit(|c: char| !(c.is_alphanumeric() || "_-.".contains(c)))
            .next()
            .unwrap_or_default();
        is_secret_key(key).then_some(at + 1)
    })
}
