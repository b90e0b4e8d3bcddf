//! One value of the record into one row of a column.
//!
//! | column        | takes                                                                              |
//! |---------------|------------------------------------------------------------------------------------|
//! | string        | a string; without escapes it is a view into the payload                             |
//! | json          | anything: its text as it came                                                       |
//! | bool          | `true`, `false`                                                                     |
//! | int32, int64  | a whole number in range, also written `1.0` or `1e3`; never a string                |
//! | float64       | a number of finite size                                                             |
//! | decimal(p,s)  | a number, or a string that holds one as JSON writes it; exact, or a mismatch        |
//! | timestamp     | see [`super::time`]                                                                 |
//! | date          | see [`super::time`]                                                                 |
//! | list of T     | an array of those; null items stay null, one wrong item makes the whole list null   |
//!
//! `null` is null in each. Anything else is null and a [`Mismatch`], which names types, sizes and
//! columns and never the value.

use super::columns::{Column, ListColumn, Values};
use super::number::{self, Misfit, Number};
use super::simd::{Isa, Scan};
use super::skip::{self, Depth, byte, space};
use super::time;
use crate::views::{Home, view};

/// A value that does not fit its column.
#[derive(Debug)]
pub(super) struct Mismatch {
    /// The wanted field.
    pub(super) field: u32,
    /// What was found there: `a string of 7 bytes`.
    pub(super) found: String,
}

/// What reading shares over the batch. A result of `None` means that the record is broken: where and how,
/// [`super::diagnose`] finds out.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) isa: Isa,
    /// Where the batch begins in the payload.
    pub(super) base: usize,
    /// Unescaped texts that the batch's views point to.
    pub(super) side: Vec<u8>,
    /// An unescaped text that is needed only now.
    pub(super) scratch: Vec<u8>,
    /// The field that is being read.
    pub(super) field: u32,
    pub(super) mismatches: Vec<Mismatch>,
}

impl Reading {
    /// Reads the value at `at` into the row; `depth` is how many containers may still be opened.
    #[inline(always)]
    pub(super) fn value(
        &mut self,
        column: &mut Column,
        row: usize,
        bytes: &[u8],
        at: usize,
        depth: u32,
    ) -> Option<usize> {
        let first = byte(bytes, at);
        match &mut column.values {
            Values::Text(views) if first == b'"' => {
                let stop = self.isa.stop(bytes, at + 1);
                let (text, end) = if byte(bytes, stop) == b'"' {
                    let view = view(bytes, at + 1, stop, Home::Payload, at + 1 - self.base)?;
                    (view, stop + 1)
                } else {
                    self.escaped_text(bytes, at)?
                };
                views[row] = text;
                column.valid.set(row);
                Some(end)
            }
            Values::Int64(values) if is_number(first) => {
                let (number, end) = number::read(bytes, at)?;
                match number.integer(i64::MIN, i64::MAX) {
                    Ok(value) => {
                        values[row] = value;
                        column.valid.set(row);
                    }
                    Err(misfit) => self.misfit(misfit),
                }
                Some(end)
            }
            Values::Int32(values) if is_number(first) => {
                let (number, end) = number::read(bytes, at)?;
                match number.integer(i64::from(i32::MIN), i64::from(i32::MAX)) {
                    Ok(value) => {
                        values[row] = value as i32;
                        column.valid.set(row);
                    }
                    Err(misfit) => self.misfit(misfit),
                }
                Some(end)
            }
            Values::Float64(values) if is_number(first) => {
                let (number, end) = number::read(bytes, at)?;
                match number.float() {
                    Ok(value) => {
                        values[row] = value;
                        column.valid.set(row);
                    }
                    Err(misfit) => self.misfit(misfit),
                }
                Some(end)
            }
            Values::Decimal(values, precision, scale) if is_number(first) => {
                let (number, end) = number::read(bytes, at)?;
                match number.decimal(*precision, *scale) {
                    Ok(value) => {
                        values[row] = value;
                        column.valid.set(row);
                    }
                    Err(misfit) => self.misfit(misfit),
                }
                Some(end)
            }
            Values::Decimal(values, precision, scale) if first == b'"' => {
                let (text, end) = text(self.isa, &mut self.scratch, bytes, at)?;
                match number_of_text(text).map(|number| number.decimal(*precision, *scale)) {
                    Some(Ok(value)) => {
                        values[row] = value;
                        column.valid.set(row);
                    }
                    Some(Err(misfit)) => self.misfit(misfit),
                    None => {
                        let found = format!("a string of {} bytes that holds no number", text.len());
                        self.mismatch(found);
                    }
                }
                Some(end)
            }
            Values::Timestamp(values, memo) if first == b'"' => {
                let (text, end) = text(self.isa, &mut self.scratch, bytes, at)?;
                match time::timestamp(text, memo) {
                    Some(value) => {
                        values[row] = value;
                        column.valid.set(row);
                    }
                    None => {
                        let found = format!("a string of {} bytes that is no RFC 3339 time", text.len());
                        self.mismatch(found);
                    }
                }
                Some(end)
            }
            Values::Timestamp(values, _) if is_number(first) => {
                let (number, end) = number::read(bytes, at)?;
                match number.integer(i64::MIN, i64::MAX).map(time::epoch) {
                    Ok(Some(value)) => {
                        values[row] = value;
                        column.valid.set(row);
                    }
                    Ok(None) => self.misfit(Misfit::Range),
                    Err(misfit) => self.misfit(misfit),
                }
                Some(end)
            }
            Values::Date(values, memo) if first == b'"' => {
                let (text, end) = text(self.isa, &mut self.scratch, bytes, at)?;
                match time::day(text, memo) {
                    Some(value) => {
                        values[row] = value;
                        column.valid.set(row);
                    }
                    None => {
                        let found = format!("a string of {} bytes that is no day", text.len());
                        self.mismatch(found);
                    }
                }
                Some(end)
            }
            Values::Bool(values) if matches!(first, b't' | b'f') => {
                let end = skip::literal(bytes, at).ok()?;
                if first == b't' {
                    values.set(row);
                }
                column.valid.set(row);
                Some(end)
            }
            Values::Json(views) if first != b'n' => {
                let end = self.skip(bytes, at, depth)?;
                views[row] = view(bytes, at, end, Home::Payload, at - self.base)?;
                column.valid.set(row);
                Some(end)
            }
            Values::Present if first != b'n' => {
                column.valid.set(row);
                self.skip(bytes, at, depth)
            }
            Values::List(list) if first == b'[' => {
                let (is_sound, end) = self.list(list, row, bytes, at, depth)?;
                if is_sound {
                    column.valid.set(row);
                }
                Some(end)
            }
            Values::Text(_)
            | Values::Json(_)
            | Values::Bool(_)
            | Values::Int32(_)
            | Values::Int64(_)
            | Values::Float64(_)
            | Values::Decimal(..)
            | Values::Date(..)
            | Values::Timestamp(..)
            | Values::List(_)
            | Values::Present => self.unfit(bytes, at, depth),
        }
    }

    /// Walks over a value that nobody wants.
    #[inline(always)]
    pub(super) fn skip(&self, bytes: &[u8], at: usize, depth: u32) -> Option<usize> {
        self.isa.skip(bytes, at, &mut Depth::at_most(depth)).ok()
    }

    /// A null, or a value of a type that the column does not take.
    #[cold]
    fn unfit(&mut self, bytes: &[u8], at: usize, depth: u32) -> Option<usize> {
        let end = self.skip(bytes, at, depth)?;
        let found = match byte(bytes, at) {
            b'n' => return Some(end),
            b'"' => format!("a string of {} bytes", end - at - 2),
            b'{' => "an object".to_owned(),
            b'[' => "an array".to_owned(),
            b't' | b'f' => "a boolean".to_owned(),
            _ => "a number".to_owned(),
        };
        self.mismatch(found);
        Some(end)
    }

    #[cold]
    fn misfit(&mut self, misfit: Misfit) {
        let found = match misfit {
            Misfit::Range => "a number out of its range",
            Misfit::Fraction => "a number with more fractional digits",
        };
        self.mismatch(found.to_owned());
    }

    #[cold]
    fn mismatch(&mut self, found: String) {
        self.mismatches.push(Mismatch {
            field: self.field,
            found,
        });
    }

    /// The view of a string with escapes.
    #[cold]
    fn escaped_text(&mut self, bytes: &[u8], at: usize) -> Option<(u128, usize)> {
        let start = self.side.len();
        let end = unescape(self.isa, bytes, at + 1, &mut self.side)?;
        let text = view(&self.side, start, self.side.len(), Home::Side, start)?;
        Some((text, end))
    }

    /// Reads an array into the row; the first wrong item makes the list null and is the one reported.
    #[inline(never)]
    fn list(
        &mut self,
        list: &mut ListColumn,
        row: usize,
        bytes: &[u8],
        at: usize,
        depth: u32,
    ) -> Option<(bool, usize)> {
        let depth = depth.checked_sub(1)?;
        let reported = self.mismatches.len();
        list.begin(row)?;
        let mut at = space(bytes, at + 1);
        if byte(bytes, at) == b']' {
            return Some((true, at + 1));
        }
        loop {
            let item = list.add()?;
            at = space(bytes, self.item(&mut list.item, item, bytes, at, depth)?);
            match byte(bytes, at) {
                b',' => at = space(bytes, at + 1),
                b']' => break,
                _ => return None,
            }
        }
        let is_sound = self.mismatches.len() == reported;
        if !is_sound {
            self.mismatches.truncate(reported + 1);
            if let Some(first) = self.mismatches.last_mut() {
                first.found.push_str(" in it");
            }
            list.clear(row);
        }
        Some((is_sound, at + 1))
    }

    /// Breaks the cycle of inlining between lists and their items.
    #[inline(never)]
    fn item(
        &mut self,
        column: &mut Column,
        row: usize,
        bytes: &[u8],
        at: usize,
        depth: u32,
    ) -> Option<usize> {
        self.value(column, row, bytes, at, depth)
    }
}

#[inline(always)]
fn is_number(first: u8) -> bool {
    first == b'-' || first.is_ascii_digit()
}

fn number_of_text(text: &[u8]) -> Option<Number<'_>> {
    number::read(text, 0)
        .filter(|(_, end)| *end == text.len())
        .map(|(number, _)| number)
}

/// The text of the string at `at` and the position behind it; escaped text lies in `scratch`.
#[inline(always)]
fn text<'a>(isa: Isa, scratch: &'a mut Vec<u8>, bytes: &'a [u8], at: usize) -> Option<(&'a [u8], usize)> {
    let stop = isa.stop(bytes, at + 1);
    if byte(bytes, stop) == b'"' {
        return Some((&bytes[at + 1..stop], stop + 1));
    }
    scratch.clear();
    let end = unescape(isa, bytes, at + 1, scratch)?;
    Some((scratch, end))
}

/// Appends the text of a string, given from behind its opening quote. Returns the position behind it.
#[cold]
pub(super) fn unescape(isa: Isa, bytes: &[u8], mut at: usize, out: &mut Vec<u8>) -> Option<usize> {
    loop {
        let stop = isa.stop(bytes, at);
        out.extend_from_slice(&bytes[at..stop]);
        match byte(bytes, stop) {
            b'"' => return Some(stop + 1),
            b'\\' => {
                let (character, behind) = skip::escape(bytes, stop).ok()?;
                out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                at = behind;
            }
            _ => return None,
        }
    }
}
