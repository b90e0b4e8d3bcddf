//! Single values out of texts, by the rules that hold for JSON: for formats whose values are texts.

use super::number::{self, Number};
use super::time::{self, DayMemo};

fn whole(text: &str) -> Option<Number<'_>> {
    let (number, end) = number::read(text.as_bytes(), 0)?;
    (end == text.len()).then_some(number)
}

/// A whole number.
pub(in crate::decode) fn integer(text: &str) -> Option<i64> {
    whole(text)?.integer(i64::MIN, i64::MAX).ok()
}

/// A decimal's unscaled value; exact or none.
pub(in crate::decode) fn decimal(text: &str, precision: u8, scale: i8) -> Option<i128> {
    whole(text)?.decimal(precision, scale).ok()
}

/// Microseconds since 1970 UTC.
pub(in crate::decode) fn timestamp(text: &str) -> Option<i64> {
    time::timestamp(text.as_bytes(), &mut DayMemo::default())
}

/// Days since 1970.
pub(in crate::decode) fn day(text: &str) -> Option<i32> {
    time::day(text.as_bytes(), &mut DayMemo::default())
}

/// Microseconds since 1970 UTC of a number whose unit its size tells.
pub(in crate::decode) fn epoch(number: i64) -> Option<i64> {
    time::epoch(number)
}
