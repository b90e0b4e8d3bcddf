//! Text patterns: regular expressions and SQL's LIKE.
//!
//! A regular expression is searched for anywhere in the value, as Great Expectations does: anchors are the
//! suite's business, and `$` is, as in Python, the end of the text or the line feed before it. Look-around and back references are refused: the
//! expectation is then reported as an exception.
//!
//! Most patterns of suites are plain: literals, classes, `{n}` and `+`, with or without anchors. Those become a
//! [`Shape`], which steps through the bytes with one table look-up each; all others, and values that are not
//! ASCII, go to the `regex` crate.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::DataType;
use regex::Regex;

/// A compiled pattern.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    shape: Option<Shape>,
    regex: Regex,
}

impl Pattern {
    /// Compiles a Python regular expression.
    pub(crate) fn regex(text: &str) -> Result<Self, String> {
        let regex = Regex::new(&to_rust(text)).map_err(|error| {
            let reason = error.to_string();
            let last = reason.lines().last().unwrap_or_default().trim().to_owned();
            format!("the regular expression cannot be used: {last}")
        })?;
        Ok(Self {
            shape: Shape::parse(text),
            regex,
        })
    }

    /// Compiles a LIKE pattern: `%` is any text, `_` one character, `\` takes the next one literally.
    pub(crate) fn like(text: &str) -> Result<Self, String> {
        let mut rust = String::from("(?s)^");
        let mut plain = String::from("^");
        let mut chars = text.chars();
        while let Some(next) = chars.next() {
            let (next, is_literal) = if next == '\\' {
                (chars.next().unwrap_or('\\'), true)
            } else {
                (next, false)
            };
            match next {
                '%' if !is_literal => rust.push_str(".*"),
                '_' if !is_literal => rust.push('.'),
                other => rust.push_str(&regex::escape(other.encode_utf8(&mut [0; 4]))),
            }
        }
        rust.push_str(r"\z");
        // `abc%`, `%abc` and `%abc%` are searches with fewer anchors.
        let inner = text.trim_matches('%');
        let shape = if inner.contains(['%', '_', '\\']) || inner.is_empty() {
            None
        } else {
            if text.starts_with('%') {
                plain.clear();
            }
            plain.push_str(&regex::escape(inner));
            if !text.ends_with('%') {
                plain.push_str(r"\Z");
            }
            Shape::parse(&plain)
        };
        let regex = Regex::new(&rust).map_err(|error| format!("the LIKE pattern cannot be used: {error}"))?;
        Ok(Self { shape, regex })
    }

    /// The rows that match. The column must be text.
    pub(crate) fn judge(&self, array: &ArrayRef) -> BooleanBuffer {
        if array.data_type() != &DataType::Utf8View {
            return BooleanBuffer::new_unset(array.len());
        }
        let texts = array.as_string_view();
        match &self.shape {
            None => BooleanBuffer::collect_bool(texts.len(), |row| self.regex.is_match(texts.value(row))),
            Some(shape) => BooleanBuffer::collect_bool(texts.len(), |row| {
                let text = texts.value(row);
                if text.is_ascii() {
                    shape.is_match(text.as_bytes())
                } else {
                    self.regex.is_match(text)
                }
            }),
        }
    }
}

/// Python's ends of text in Rust's words.
fn to_rust(python: &str) -> String {
    let mut rust = String::with_capacity(python.len());
    let mut chars = python.chars().peekable();
    let mut is_class = false;
    while let Some(next) = chars.next() {
        match next {
            '\\' => match chars.next() {
                Some('Z') => rust.push_str(r"\z"),
                Some(escaped) => rust.extend(['\\', escaped]),
                None => rust.push('\\'),
            },
            '$' if !is_class && matches!(chars.peek(), None | Some(')' | '|')) => rust.push_str(r"(?:\n?\z)"),
            other => {
                is_class = other == '[' || (is_class && other != ']');
                rust.push(other);
            }
        }
    }
    rust
}

/// Up to 63 byte classes in a row, each once or (`+`) repeated, run as one word of bits.
#[derive(Debug, Clone)]
struct Shape {
    /// For each byte: at which positions it may stand.
    at: Box<[u64; 256]>,
    /// Positions that may repeat.
    repeats: u64,
    positions: u32,
    from_start: bool,
    to_end: bool,
    /// Whether a line feed may follow the end.
    to_line: bool,
}

impl Shape {
    fn is_match(&self, text: &[u8]) -> bool {
        self.runs(text) || (self.to_line && text.last() == Some(&b'\n') && self.runs(&text[..text.len() - 1]))
    }

    fn runs(&self, text: &[u8]) -> bool {
        let last = 1_u64 << (self.positions - 1);
        if self.repeats == 0 && self.from_start {
            let wanted = self.positions as usize;
            if text.len() < wanted || (self.to_end && text.len() > wanted) {
                return false;
            }
            return text[..wanted].iter().enumerate().fold(true, |all, (i, byte)| {
                all & (self.at[usize::from(*byte)] >> i & 1 == 1)
            });
        }
        let mut alive = 0_u64;
        for (i, byte) in text.iter().enumerate() {
            let fresh = u64::from(i == 0 || !self.from_start);
            alive = ((alive << 1) | (alive & self.repeats) | fresh) & self.at[usize::from(*byte)];
            if !self.to_end && alive & last != 0 {
                return true;
            }
            if alive == 0 && self.from_start {
                return false;
            }
        }
        alive & last != 0
    }

    /// None when the pattern is anything but plain.
    fn parse(pattern: &str) -> Option<Self> {
        let mut rest = pattern.as_bytes();
        if !pattern.is_ascii() {
            return None;
        }
        let from_start = rest.first() == Some(&b'^');
        if from_start {
            rest = &rest[1..];
        }
        let mut shape = Self {
            at: Box::new([0; 256]),
            repeats: 0,
            positions: 0,
            from_start,
            to_end: false,
            to_line: false,
        };
        while !rest.is_empty() {
            if rest == b"$" || rest == br"\Z" {
                shape.to_end = true;
                shape.to_line = rest == b"$";
                break;
            }
            let (class, after) = class(rest)?;
            let (low, is_open, after) = repetition(after)?;
            rest = after;
            for i in 0..low {
                if shape.positions == 63 {
                    return None;
                }
                (0..128)
                    .filter(|byte| class[*byte])
                    .for_each(|byte| shape.at[byte] |= 1 << shape.positions);
                if is_open && i + 1 == low {
                    shape.repeats |= 1 << shape.positions;
                }
                shape.positions += 1;
            }
        }
        (shape.positions > 0).then_some(shape)
    }
}

/// One class at the start of a pattern, ASCII only, and what follows it.
fn class(pattern: &[u8]) -> Option<([bool; 128], &[u8])> {
    let one = |byte: u8| {
        let mut class = [false; 128];
        class[usize::from(byte)] = true;
        class
    };
    match *pattern.first()? {
        b'[' => bracket(&pattern[1..]),
        b'\\' => {
            let escaped = *pattern.get(1)?;
            let class = escape(escaped).or_else(|| escaped.is_ascii_punctuation().then(|| one(escaped)))?;
            Some((class, &pattern[2..]))
        }
        b'.' => {
            let mut class = [true; 128];
            class[usize::from(b'\n')] = false;
            Some((class, &pattern[1..]))
        }
        b'^' | b'$' | b'*' | b'+' | b'?' | b'(' | b')' | b'{' | b'}' | b'|' | b']' => None,
        literal => Some((one(literal), &pattern[1..])),
    }
}

fn escape(letter: u8) -> Option<[bool; 128]> {
    let is_space = |byte: u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c);
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let test: &dyn Fn(u8) -> bool = match letter {
        b'd' => &|byte| byte.is_ascii_digit(),
        b'D' => &|byte| !byte.is_ascii_digit(),
        b's' => &is_space,
        b'S' => &|byte| !is_space(byte),
        b'w' => &is_word,
        b'W' => &|byte| !is_word(byte),
        _ => return None,
    };
    let mut class = [false; 128];
    (0_u8..128).for_each(|byte| class[usize::from(byte)] = test(byte));
    Some(class)
}

/// The rest of `[...]` after its opening; none for nested classes and set operations.
fn bracket(pattern: &[u8]) -> Option<([bool; 128], &[u8])> {
    let negated = pattern.first() == Some(&b'^');
    let mut rest = if negated { &pattern[1..] } else { pattern };
    let mut class = [false; 128];
    if rest.first() == Some(&b']') {
        return None;
    }
    loop {
        let byte = *rest.first()?;
        match byte {
            b']' => break,
            b'[' | b'&' | b'~' => return None,
            b'\\' => {
                let escaped = *rest.get(1)?;
                match escape(escaped) {
                    Some(inner) => class.iter_mut().zip(inner).for_each(|(have, add)| *have |= add),
                    None if escaped.is_ascii_punctuation() => class[usize::from(escaped)] = true,
                    None => return None,
                }
                // `[\d-x]` and the like mean different things to different engines.
                if rest.get(2) == Some(&b'-') && rest.get(3) != Some(&b']') {
                    return None;
                }
                rest = &rest[2..];
            }
            low => match (rest.get(1), rest.get(2)) {
                (Some(b'-'), Some(high)) if *high != b']' => {
                    if *high == b'\\' || *high == b'[' || *high < low {
                        return None;
                    }
                    (low..=*high).for_each(|byte| class[usize::from(byte)] = true);
                    rest = &rest[3..];
                }
                _ => {
                    class[usize::from(low)] = true;
                    rest = &rest[1..];
                }
            },
        }
    }
    if negated {
        class.iter_mut().for_each(|bit| *bit = !*bit);
    }
    Some((class, &rest[1..]))
}

/// How often: the least count, whether it may be more, and what follows; none for optional parts.
fn repetition(pattern: &[u8]) -> Option<(u32, bool, &[u8])> {
    match pattern.first() {
        Some(b'+') if !matches!(pattern.get(1), Some(b'?' | b'+')) => Some((1, true, &pattern[1..])),
        Some(b'+' | b'*' | b'?') => None,
        Some(b'{') => {
            let end = pattern.iter().position(|byte| *byte == b'}')?;
            let counts = std::str::from_utf8(&pattern[1..end]).ok()?;
            let (low, is_open) = match counts.split_once(',') {
                None => (counts, false),
                Some((low, "")) => (low, true),
                Some((low, high)) if low == high => (low, false),
                Some(_) => return None,
            };
            let low: u32 = low.parse().ok().filter(|low| (1..64).contains(low))?;
            let after = &pattern[end + 1..];
            (!matches!(after.first(), Some(b'?' | b'+' | b'*' | b'{'))).then_some((low, is_open, after))
        }
        _ => Some((1, false, pattern)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLAIN: [&str; 14] = [
        "^e[0-9]{8}$",
        r"^\S+@\S+$",
        r"^\S+@\S+\.\S+$",
        "^[0-9a-f]{4}$",
        "abc",
        "^abc",
        "abc$",
        r"^[a-z_]+-\d+$",
        r"^[^@]+@[^@]+$",
        r"^a{2,}b$",
        r"\d{3}",
        r"^.+$",
        r"^[a\-b]+$",
        "a+b+$",
    ];

    #[test]
    fn plain_patterns_need_no_regex_engine() {
        for pattern in PLAIN {
            assert!(Pattern::regex(pattern).unwrap().shape.is_some(), "{pattern}");
        }
        for pattern in ["a|b", "(ab)+", "a*", "^$", "a?", "[[:alpha:]]", "a+?"] {
            assert!(Pattern::regex(pattern).unwrap().shape.is_none(), "{pattern}");
        }
    }

    #[test]
    fn look_around_is_refused_with_a_reason() {
        let error = Pattern::regex("(?=a)b").unwrap_err();
        assert!(error.contains("look-around"), "{error}");
    }

    #[test]
    fn like_patterns_follow_sql() {
        for (pattern, text, expected) in [
            ("abc%", "abcdef", true),
            ("%def", "abcdef", true),
            ("%cd%", "abcdef", true),
            ("a_c", "abc", true),
            ("a_c", "abbc", false),
            ("a\\_c", "abc", false),
            ("a.c", "abc", false),
            ("%", "", true),
            ("ABC", "abc", false),
            ("a%c", "a\nc", true),
        ] {
            let like = Pattern::like(pattern).unwrap();
            let array: ArrayRef = std::sync::Arc::new(arrow::array::StringViewArray::from(vec![text]));
            assert_eq!(like.judge(&array).value(0), expected, "{pattern} {text}");
        }
    }

    proptest! {
        #[test]
        fn a_shape_decides_as_the_regex_engine_does(
            texts in prop::collection::vec("[abce@.0-9 _-]{0,12}\n?|e[0-9]{7,9}|[a-c]+@[a-c]+\\.[a-c]+|\\PC{0,6}", 1..20),
        ) {
            for pattern in PLAIN {
                let pattern = Pattern::regex(pattern).unwrap();
                for text in texts.iter().filter(|text| text.is_ascii()) {
                    let shape = pattern.shape.as_ref().unwrap();
                    prop_assert_eq!(
                        shape.is_match(text.as_bytes()),
                        pattern.regex.is_match(text),
                        "{} {:?}", pattern.regex.as_str(), text
                    );
                }
            }
        }
    }
}
