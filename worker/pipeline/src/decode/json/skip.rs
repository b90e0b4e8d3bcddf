//! Walking over what nobody wants, and checking it.
//!
//! In: the payload and the position of a value. Out: the position behind it, or where it stops being JSON.
//!
//! Skipped text is checked as strictly as wanted text: RFC 8259 in full, and no lone surrogate in an
//! escape, so that a `json` column can be handed to any warehouse. A line feed is no white space here: it
//! ends the record. The walk has no recursion, so no record can exhaust the stack.

use super::simd::Scan;

/// How deep a walk may go, and how deep it went.
#[derive(Debug, Clone, Copy)]
pub(super) struct Depth {
    /// Containers that may be open at once.
    pub max: u32,
    /// The most that were open at once.
    pub deepest: u32,
}

impl Depth {
    pub(super) fn at_most(max: u32) -> Self {
        Self { max, deepest: 0 }
    }
}

/// The byte at a position; 0, which no JSON text holds, behind the end.
#[inline(always)]
pub(super) fn byte(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

/// The first position that is no white space.
#[inline(always)]
pub(super) fn space(bytes: &[u8], mut at: usize) -> usize {
    while matches!(byte(bytes, at), b' ' | b'\t' | b'\r') {
        at += 1;
    }
    at
}

/// Which containers are open, innermost in the lowest bit: 1 is an object, 0 an array.
#[derive(Default)]
struct Open {
    bits: u64,
    depth: u32,
    outer: Vec<u64>,
}

impl Open {
    #[inline(always)]
    fn push(&mut self, is_object: bool) {
        if self.depth.is_multiple_of(64) && self.depth > 0 {
            self.outer.push(self.bits);
        }
        self.bits = self.bits << 1 | u64::from(is_object);
        self.depth += 1;
    }

    #[inline(always)]
    fn pop(&mut self) {
        self.bits >>= 1;
        self.depth -= 1;
        if self.depth.is_multiple_of(64) {
            self.bits = self.outer.pop().unwrap_or(0);
        }
    }

    #[inline(always)]
    fn is_object(&self) -> bool {
        self.bits & 1 == 1
    }
}

/// Walks over the value at `at`.
///
/// # Errors
/// The position where it stops being JSON or gets too deep: the line's end when it is cut off.
#[inline(always)]
pub(super) fn value(scan: impl Scan, bytes: &[u8], mut at: usize, depth: &mut Depth) -> Result<usize, usize> {
    let mut open = Open::default();
    loop {
        let first = byte(bytes, at);
        match first {
            b'"' => at = string(scan, bytes, at + 1)?,
            b'{' | b'[' => {
                let is_object = first == b'{';
                open.push(is_object);
                depth.deepest = depth.deepest.max(open.depth);
                if open.depth > depth.max {
                    return Err(at);
                }
                at = space(bytes, at + 1);
                if byte(bytes, at) == first + 2 {
                    // `}` and `]` stand two behind their opening in ASCII: an empty container.
                    at += 1;
                    open.pop();
                } else {
                    if is_object {
                        at = key(scan, bytes, at)?;
                    }
                    continue;
                }
            }
            b'-' | b'0'..=b'9' => at = number(bytes, at)?,
            _ => at = literal(bytes, at)?,
        }
        loop {
            if open.depth == 0 {
                return Ok(at);
            }
            at = space(bytes, at);
            match (byte(bytes, at), open.is_object()) {
                (b',', true) => {
                    at = space(bytes, at + 1);
                    at = key(scan, bytes, at)?;
                    break;
                }
                (b',', false) => {
                    at = space(bytes, at + 1);
                    break;
                }
                (b'}', true) | (b']', false) => {
                    at += 1;
                    open.pop();
                }
                _ => return Err(at),
            }
        }
    }
}

/// Walks over `"key" :` and the white space around the colon.
#[inline(always)]
fn key(scan: impl Scan, bytes: &[u8], at: usize) -> Result<usize, usize> {
    if byte(bytes, at) != b'"' {
        return Err(at);
    }
    let at = space(bytes, string(scan, bytes, at + 1)?);
    if byte(bytes, at) != b':' {
        return Err(at);
    }
    Ok(space(bytes, at + 1))
}

/// Walks over a string, from behind its opening quote to behind its closing one.
#[inline(always)]
pub(super) fn string(scan: impl Scan, bytes: &[u8], mut at: usize) -> Result<usize, usize> {
    loop {
        at = scan.stop(bytes, at);
        match byte(bytes, at) {
            b'"' => return Ok(at + 1),
            b'\\' => at = escape(bytes, at)?.1,
            _ => return Err(at),
        }
    }
}

/// Reads the escape at a backslash: its character and the position behind it.
pub(super) fn escape(bytes: &[u8], at: usize) -> Result<(char, usize), usize> {
    let character = match byte(bytes, at + 1) {
        plain @ (b'"' | b'\\' | b'/') => char::from(plain),
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => return unicode(bytes, at + 2),
        _ => return Err(at + 1),
    };
    Ok((character, at + 2))
}

fn unicode(bytes: &[u8], at: usize) -> Result<(char, usize), usize> {
    let first = hex(bytes, at)?;
    if let Some(character) = char::from_u32(first) {
        return Ok((character, at + 4));
    }
    // Only surrogates are no characters of their own: a high one needs a low one behind it.
    if first >= 0xDC00 {
        return Err(at);
    }
    for (i, expected) in [b'\\', b'u'].into_iter().enumerate() {
        if byte(bytes, at + 4 + i) != expected {
            return Err(at + 4 + i);
        }
    }
    let second = hex(bytes, at + 6)?;
    if !(0xDC00..0xE000).contains(&second) {
        return Err(at + 6);
    }
    let joined = 0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00);
    char::from_u32(joined)
        .map(|character| (character, at + 10))
        .ok_or(at)
}

fn hex(bytes: &[u8], at: usize) -> Result<u32, usize> {
    let mut value = 0;
    for i in at..at + 4 {
        let digit = char::from(byte(bytes, i)).to_digit(16).ok_or(i)?;
        value = value << 4 | digit;
    }
    Ok(value)
}

/// Walks over a number.
#[inline(always)]
pub(super) fn number(bytes: &[u8], mut at: usize) -> Result<usize, usize> {
    if byte(bytes, at) == b'-' {
        at += 1;
    }
    if byte(bytes, at) == b'0' {
        at += 1;
    } else {
        at = digits(bytes, at)?;
    }
    if byte(bytes, at) == b'.' {
        at = digits(bytes, at + 1)?;
    }
    if matches!(byte(bytes, at), b'e' | b'E') {
        at += 1;
        if matches!(byte(bytes, at), b'+' | b'-') {
            at += 1;
        }
        at = digits(bytes, at)?;
    }
    Ok(at)
}

/// Walks over one digit or more.
#[inline(always)]
fn digits(bytes: &[u8], mut at: usize) -> Result<usize, usize> {
    if !byte(bytes, at).is_ascii_digit() {
        return Err(at);
    }
    while byte(bytes, at).is_ascii_digit() {
        at += 1;
    }
    Ok(at)
}

/// Walks over `true`, `false` or `null`.
#[inline(always)]
pub(super) fn literal(bytes: &[u8], at: usize) -> Result<usize, usize> {
    let word: &[u8] = match byte(bytes, at) {
        b't' => b"true",
        b'f' => b"false",
        b'n' => b"null",
        _ => return Err(at),
    };
    if bytes[at..].starts_with(word) {
        return Ok(at + word.len());
    }
    let agreeing = word
        .iter()
        .zip(&bytes[at..])
        .take_while(|(expected, found)| expected == found)
        .count();
    Err(at + agreeing)
}
