//! Text that PostgreSQL stores: it has no U+0000, in text or in `jsonb`, and `jsonb` has no half surrogate pairs.
//!
//! In: text as events bring it. Out: the same, with the replacement character where PostgreSQL would refuse the whole
//! load. Nearly all text is passed on without a copy.
//!
//! | in the event                     | in the warehouse |
//! |----------------------------------|------------------|
//! | U+0000 in a string column        | U+FFFD           |
//! | the escape `\u0000` in JSON      | `\ufffd`         |
//! | one half of a surrogate pair     | `\ufffd`         |

use std::borrow::Cow;

use memchr::{memchr, memmem};

/// What stands where a character cannot.
const REPLACEMENT: &str = "\\ufffd";

/// A text as PostgreSQL's `text` takes it.
pub(super) fn text(value: &str) -> Cow<'_, str> {
    match memchr(0, value.as_bytes()) {
        None => Cow::Borrowed(value),
        Some(_) => Cow::Owned(value.replace('\0', "\u{fffd}")),
    }
}

/// A JSON text as PostgreSQL's `jsonb` takes it.
pub(super) fn json(value: &str) -> Cow<'_, str> {
    if memmem::find(value.as_bytes(), b"\\u").is_none() {
        return text(value);
    }
    let mut safe = String::with_capacity(value.len());
    let mut rest = value;
    while let Some(at) = memchr(b'\\', rest.as_bytes()) {
        safe.push_str(&rest[..at]);
        rest = &rest[at..];
        let (kept, taken) = match (unit(rest), rest.get(6..).and_then(unit)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => (&rest[..12], 12),
            (Some(0 | 0xd800..=0xdfff), _) => (REPLACEMENT, 6),
            (Some(_), _) => (&rest[..6], 6),
            (None, _) => {
                // The backslash and what it escapes, which may be longer than a byte where the JSON is broken.
                let taken = rest.chars().take(2).map(char::len_utf8).sum();
                (&rest[..taken], taken)
            }
        };
        safe.push_str(kept);
        rest = &rest[taken..];
    }
    safe.push_str(rest);
    Cow::Owned(text(&safe).into_owned())
}

/// The code unit of a leading `\uXXXX`.
fn unit(text: &str) -> Option<u32> {
    let hex = text.strip_prefix("\\u")?.get(..4)?;
    let all_hex = hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    all_hex.then(|| u32::from_str_radix(hex, 16).ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_postgresql_refuses_is_replaced() {
        let cases = [
            (r#"{"a": "b"}"#, r#"{"a": "b"}"#),
            (r#""a\u0041""#, r#""a\u0041""#),
            (r#""\u0000x""#, r#""\ufffdx""#),
            (r#""\ud83d\ude00""#, r#""\ud83d\ude00""#),
            (r#""\ud83d""#, r#""\ufffd""#),
            (r#""\ude00\ud83d\u0041""#, r#""\ufffd\ufffd\u0041""#),
            (r#""\\u0000""#, r#""\\u0000""#),
            (r#""\\\u0000""#, r#""\\\ufffd""#),
        ];
        for (given, expected) in cases {
            assert_eq!(json(given), expected);
        }
        assert_eq!(text("a\0b"), "a\u{fffd}b");
    }

    proptest! {
        /// Whatever the text: no panic, nothing left that is refused, and doing it twice changes nothing.
        #[test]
        fn the_result_is_stable(value in r#"([\\u0-9a-fdD"é\x00]|\\u0000|\\ud8[0-9a-f]{2}|\\ude00){0,24}"#) {
            let safe = json(&value).into_owned();
            prop_assert_eq!(json(&safe).into_owned(), safe.clone());
            prop_assert!(!safe.contains('\0'));
        }
    }
}
