//! The ways in which a line can be broken.
//!
//! Each takes a sound line and spoils it so that any strict reader must refuse it. No damage adds a
//! newline: one record stays one line.

use super::random::Random;

/// A way to be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Damage {
    /// The line ends early, as after a crash of the producer.
    CutOff = 1,
    /// A byte sequence that is not UTF-8 inside a string.
    Encoding,
    /// A value of another type than the column's.
    WrongType,
    /// No event id: absent or null.
    MissingId,
    /// Sound JSON, but the price is negative.
    OutOfRange,
    /// No JSON at all: a log line, a page of HTML, a statsd line.
    NotJson,
    /// A raw zero byte inside a string.
    ZeroByte,
    /// Nested several hundred levels deep.
    TooDeep,
}

impl Damage {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::CutOff,
        Self::Encoding,
        Self::WrongType,
        Self::MissingId,
        Self::OutOfRange,
        Self::NotJson,
        Self::ZeroByte,
        Self::TooDeep,
    ];

    /// One of the kinds, cut-off lines and wrong values more often than freaks.
    #[must_use]
    pub fn pick(bits: u64) -> Self {
        match bits % 32 {
            0..=6 => Self::CutOff,
            7..=9 => Self::Encoding,
            10..=15 => Self::WrongType,
            16..=19 => Self::MissingId,
            20..=25 => Self::OutOfRange,
            26..=28 => Self::NotJson,
            29..=30 => Self::ZeroByte,
            _ => Self::TooDeep,
        }
    }

    /// The kind of this code.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|damage| *damage as u8 == code)
    }

    /// What the kind is called in counts.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::CutOff => "cut_off",
            Self::Encoding => "encoding",
            Self::WrongType => "wrong_type",
            Self::MissingId => "missing_id",
            Self::OutOfRange => "out_of_range",
            Self::NotJson => "not_json",
            Self::ZeroByte => "zero_byte",
            Self::TooDeep => "too_deep",
        }
    }

    /// Spoils the line that starts at `start` of `out` (no newline yet).
    pub fn spoil(self, out: &mut Vec<u8>, start: usize, random: &mut Random) {
        match self {
            Self::CutOff => {
                let length = (out.len() - start) as u64;
                out.truncate(start + 1 + random.below(length - 1) as usize);
            }
            Self::Encoding => {
                let bad: [&[u8]; 3] = [b"\xff", b"\xc3(", b"\xed\xa0\x80"];
                put_into_url(out, start, bad[random.below(3) as usize]);
            }
            Self::ZeroByte => put_into_url(out, start, b"\0"),
            Self::WrongType => {
                let swaps: [(&[u8], &[u8]); 4] = [
                    (b"user_id", b"\"guest\""),
                    (b"user_id", b"{\"id\":7}"),
                    (b"event_time", b"true"),
                    (b"country", b"[\"DE\",\"AT\"]"),
                ];
                let (column, value) = swaps[random.below(4) as usize];
                replace_value(out, start, column, value);
            }
            Self::MissingId if random.below(2) == 0 => replace_value(out, start, b"event_id", b"null"),
            Self::MissingId => {
                // {"event_id":"<36>","event_time"... -> {"event_time"...
                out.drain(start + 1..start + 1 + br#""event_id":"","#.len() + 36);
            }
            Self::OutOfRange => {
                let price = format!("-{}.{:02}", 1 + random.below(500), random.below(100));
                replace_value(out, start, b"price", price.as_bytes());
            }
            Self::NotJson => {
                let texts: [&[u8]; 3] = [
                    b"2026-01-01 04:11:09,113 ERROR [http-nio-8080-exec-4] upstream timed out after 30000 ms",
                    b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>",
                    b"shop.checkout.latency:320|ms|#env:prod,channel:web",
                ];
                out.truncate(start);
                out.extend_from_slice(texts[random.below(3) as usize]);
            }
            Self::TooDeep => {
                let depth = 200 + random.below(800) as usize;
                out.pop();
                out.extend_from_slice(br#","extra":"#);
                out.resize(out.len() + depth, b'[');
                out.resize(out.len() + depth, b']');
                out.push(b'}');
            }
        }
    }
}

fn position(line: &[u8], needle: &[u8]) -> Option<usize> {
    line.windows(needle.len()).position(|window| window == needle)
}

fn put_into_url(out: &mut Vec<u8>, start: usize, bytes: &[u8]) {
    if let Some(at) = position(&out[start..], b"?utm_source") {
        out.splice(start + at..start + at, bytes.iter().copied());
    }
}

/// Replaces a top-level value; values of our lines hold no escaped quotes, commas only between fields or
/// inside strings.
fn replace_value(out: &mut Vec<u8>, start: usize, column: &[u8], value: &[u8]) {
    let name = [b"\"", column, b"\":"].concat();
    let Some(at) = position(&out[start..], &name) else {
        return;
    };
    let from = start + at + name.len();
    let mut is_text = false;
    let length = out[from..]
        .iter()
        .position(|&byte| {
            is_text ^= byte == b'"';
            !is_text && matches!(byte, b',' | b'}')
        })
        .unwrap_or(out.len() - from);
    out.splice(from..from + length, value.iter().copied());
}
