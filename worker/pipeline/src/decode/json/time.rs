//! Points in time and days, read in place.
//!
//! | text or number                                   | means                                            |
//! |--------------------------------------------------|--------------------------------------------------|
//! | `2026-01-31T05:06:07.123456789Z`                 | RFC 3339; digits beyond the sixth are cut off    |
//! | `2026-01-31 05:06:07+02:00`, `+0200`, `+02`      | a space for the `T`, offsets with or without `:` |
//! | `2026-01-31T05:06:07`                            | no offset: UTC                                   |
//! | `2026-06-30T23:59:60Z`                           | a leap second: the second after 23:59:59         |
//! | whole number below 10^11 in size                 | seconds since 1970 UTC                           |
//! | whole number below 10^14 in size                 | milliseconds                                     |
//! | whole number below 10^17 in size                 | microseconds                                     |
//! | `2026-01-31`                                     | a day, for `date` only                           |
//!
//! 10^11 seconds is the year 5138 and 10^11 milliseconds is March 1973: between them the guess is right
//! for every time of our age but the first 38 months of milliseconds. Years are 0000 to 9999.

const DAY_MICROS: i64 = 86_400_000_000;

/// The last day that was read: events of one batch mostly share it.
#[derive(Debug, Clone, Copy)]
pub(super) struct DayMemo {
    text: [u8; 10],
    days: i64,
}

impl Default for DayMemo {
    fn default() -> Self {
        Self {
            text: *b"1970-01-01",
            days: 0,
        }
    }
}

/// Microseconds since 1970 UTC of an RFC 3339 text.
#[inline(always)]
pub(super) fn timestamp(text: &[u8], memo: &mut DayMemo) -> Option<i64> {
    let (day, clock) = text.split_first_chunk::<10>()?;
    if *day != memo.text {
        *memo = DayMemo {
            text: *day,
            days: date(day)?,
        };
    }
    let (clock, rest) = clock.split_first_chunk::<9>()?;
    if !matches!(clock[0], b'T' | b't' | b' ') || clock[3] != b':' || clock[6] != b':' {
        return None;
    }
    let hour = two(clock[1], clock[2])?;
    let minute = two(clock[4], clock[5])?;
    let second = two(clock[7], clock[8])?;
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (fraction, zone) = fraction(rest)?;
    let seconds = hour * 3600 + minute * 60 + second - offset_seconds(zone)?;
    Some(memo.days * DAY_MICROS + seconds * 1_000_000 + fraction)
}

/// Days since 1970 of `YYYY-MM-DD`, or of the UTC day of a timestamp.
pub(super) fn day(text: &[u8], memo: &mut DayMemo) -> Option<i32> {
    let days = match <&[u8; 10]>::try_from(text) {
        Ok(day) => date(day)?,
        Err(_) => timestamp(text, memo)?.div_euclid(DAY_MICROS),
    };
    i32::try_from(days).ok()
}

/// Microseconds since 1970 UTC of a number, whose unit its size tells.
#[inline]
pub(super) fn epoch(number: i64) -> Option<i64> {
    match number.unsigned_abs() {
        0..100_000_000_000 => Some(number * 1_000_000),
        100_000_000_000..100_000_000_000_000 => Some(number * 1_000),
        100_000_000_000_000..100_000_000_000_000_000 => Some(number),
        _ => None,
    }
}

#[inline(always)]
fn two(tens: u8, ones: u8) -> Option<i64> {
    let (tens, ones) = (tens.wrapping_sub(b'0'), ones.wrapping_sub(b'0'));
    (tens <= 9 && ones <= 9).then(|| i64::from(tens) * 10 + i64::from(ones))
}

fn date(text: &[u8; 10]) -> Option<i64> {
    if text[4] != b'-' || text[7] != b'-' {
        return None;
    }
    let year = two(text[0], text[1])? * 100 + two(text[2], text[3])?;
    let month = two(text[5], text[6])?;
    let day = two(text[8], text[9])?;
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if is_leap => 29,
        2 => 28,
        _ => return None,
    };
    if day < 1 || day > last {
        return None;
    }
    // Years that start in March put the leap day last; then months of 153 days a five fall into line.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

/// Microseconds of `.123`, and what stands behind.
#[inline(always)]
fn fraction(text: &[u8]) -> Option<(i64, &[u8])> {
    if text.first() != Some(&b'.') {
        return Some((0, text));
    }
    let digits = text[1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    if !(1..=9).contains(&digits) {
        return None;
    }
    let micros = (1..=6).fold(0, |micros, i| {
        let digit = if i <= digits { text[i] - b'0' } else { 0 };
        micros * 10 + i64::from(digit)
    });
    Some((micros, &text[1 + digits..]))
}

#[inline(always)]
fn offset_seconds(zone: &[u8]) -> Option<i64> {
    match zone {
        [] | [b'Z' | b'z'] => Some(0),
        [sign @ (b'+' | b'-'), hours @ ..] => {
            let (hours, minutes) = match *hours {
                [a, b, b':', c, d] | [a, b, c, d] => (two(a, b)?, two(c, d)?),
                [a, b] => (two(a, b)?, 0),
                _ => return None,
            };
            if hours > 23 || minutes > 59 {
                return None;
            }
            let seconds = hours * 3600 + minutes * 60;
            Some(if *sign == b'-' { -seconds } else { seconds })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, NaiveDate};
    use proptest::prelude::*;

    use super::*;

    fn micros(text: &str) -> Option<i64> {
        timestamp(text.as_bytes(), &mut DayMemo::default())
    }

    #[test]
    fn every_written_form_is_read() {
        let base = 1_769_835_967_000_000;
        assert_eq!(micros("2026-01-31T05:06:07Z"), Some(base));
        assert_eq!(micros("2026-01-31 05:06:07"), Some(base));
        assert_eq!(micros("2026-01-31t05:06:07.1z"), Some(base + 100_000));
        assert_eq!(micros("2026-01-31T05:06:07.123456789Z"), Some(base + 123_456));
        assert_eq!(micros("2026-01-31T07:06:07+02:00"), Some(base));
        assert_eq!(micros("2026-01-30T21:06:07-0800"), Some(base));
        assert_eq!(micros("2026-01-31T06:06:07+01"), Some(base));
        assert_eq!(micros("1969-12-31T23:59:59.5Z"), Some(-500_000));
        assert_eq!(micros("2016-12-31T23:59:60Z"), micros("2017-01-01T00:00:00Z"));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "2026-01-31",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-01-32T00:00:00Z",
            "2026-01-31T24:00:00Z",
            "2026-01-31T00:60:00Z",
            "2026-01-31T00:00:61Z",
            "2026-01-31T00:00:00.Z",
            "2026-01-31T00:00:00.1234567890Z",
            "2026-01-31T00:00:00Zx",
            "2026-01-31T00:00:00+2",
            "2026-01-31T00:00:00+24:00",
            "2026-01-31X00:00:00Z",
            "2026-01-31T00:00",
            "2026/01/31T00:00:00Z",
            "2026-01-31T00:00:00 Z",
        ] {
            assert_eq!(micros(text), None, "{text}");
        }
    }

    #[test]
    fn a_number_is_seconds_milliseconds_or_microseconds_by_its_size() {
        assert_eq!(epoch(1_700_000_000), Some(1_700_000_000_000_000));
        assert_eq!(epoch(1_700_000_000_123), Some(1_700_000_000_123_000));
        assert_eq!(epoch(1_700_000_000_123_456), Some(1_700_000_000_123_456));
        assert_eq!(epoch(-1), Some(-1_000_000));
        assert_eq!(epoch(1_700_000_000_123_456_789), None);
    }

    #[test]
    fn a_day_may_be_written_as_a_time() {
        let mut memo = DayMemo::default();
        assert_eq!(day(b"1970-01-02", &mut memo), Some(1));
        assert_eq!(day(b"1970-01-02T00:30:00+01:00", &mut memo), Some(0));
        assert_eq!(day(b"1970-01-2", &mut memo), None);
    }

    proptest! {
        #[test]
        fn days_agree_with_chrono(year in 0i32..=9999, month in 0u32..14, of_month in 0u32..33) {
            let text = format!("{year:04}-{month:02}-{of_month:02}");
            let expected = NaiveDate::from_ymd_opt(year, month, of_month)
                .map(|day| i32::try_from((day - NaiveDate::default()).num_days()).unwrap());
            prop_assert_eq!(day(text.as_bytes(), &mut DayMemo::default()), expected);
        }

        #[test]
        fn times_agree_with_chrono(seconds in -62_135_596_800i64..253_402_300_000, nanos in 0u32..1_000_000_000, minutes in -1439i32..=1439) {
            let zone = chrono::FixedOffset::east_opt(minutes * 60).unwrap();
            let time = DateTime::from_timestamp(seconds, nanos).unwrap().with_timezone(&zone);
            let text = time.to_rfc3339();
            prop_assume!(text.as_bytes()[4] == b'-' && !text.starts_with(['+', '-']));
            prop_assert_eq!(micros(&text), Some(time.timestamp_micros()), "{}", text);
        }
    }
}
