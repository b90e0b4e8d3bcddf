//! Numbers, read in place.
//!
//! In: the position of a number. Out: its digits as an integer and a power of ten, from which every
//! numeric type is made without a detour through `f64`. Numbers of more than 19 digits keep only their
//! text; the conversions then read that, slowly and exactly.

use super::skip::{self, byte};

/// A JSON number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Number<'a> {
    /// As it stands in the record.
    pub text: &'a [u8],
    negative: bool,
    /// The value is `mantissa * 10^exponent`, where `exact`.
    mantissa: u64,
    exponent: i32,
    exact: bool,
}

/// Why a number does not fit a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Misfit {
    /// Beyond the type's bounds.
    Range,
    /// More fractional digits than the type has.
    Fraction,
}

const POWERS: [u64; 20] = {
    let mut powers = [1; 20];
    let mut i = 1;
    while i < 20 {
        powers[i] = powers[i - 1] * 10;
        i += 1;
    }
    powers
};

const FLOAT_POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18,
    1e19, 1e20, 1e21, 1e22,
];

/// Reads the number at `at`: itself and the position behind it; none when it is no JSON number.
#[inline(always)]
pub(super) fn read(bytes: &[u8], at: usize) -> Option<(Number<'_>, usize)> {
    let negative = byte(bytes, at) == b'-';
    let start = at + usize::from(negative);
    let mut mantissa = 0u64;
    let mut end = start;
    let mut take_digits = |mut end: usize| {
        loop {
            let digit = byte(bytes, end).wrapping_sub(b'0');
            if digit > 9 {
                return end;
            }
            mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(digit));
            end += 1;
        }
    };
    end = take_digits(end);
    let whole = end - start;
    if whole == 0 || (whole > 1 && bytes[start] == b'0') {
        return None;
    }
    let mut fraction = 0;
    if byte(bytes, end) == b'.' {
        let behind = take_digits(end + 1);
        fraction = behind - end - 1;
        if fraction == 0 {
            return None;
        }
        end = behind;
    }
    let mut exact = whole + fraction <= 19;
    let mut exponent = 0i32;
    if matches!(byte(bytes, end), b'e' | b'E') {
        let behind = skip::number(bytes, at).ok()?;
        exact = exact && behind - end < 8;
        if exact {
            exponent = std::str::from_utf8(&bytes[end + 1..behind]).ok()?.parse().ok()?;
        }
        end = behind;
    }
    if exact {
        exponent -= i32::try_from(fraction).ok()?;
    }
    let text = &bytes[at..end];
    Some((
        Number {
            text,
            negative,
            mantissa,
            exponent,
            exact,
        },
        end,
    ))
}

impl Number<'_> {
    /// As a whole number within bounds; `1.0` and `1e3` are whole.
    #[inline(always)]
    pub(super) fn integer(&self, min: i64, max: i64) -> Result<i64, Misfit> {
        let value = if self.exact && self.exponent == 0 && self.mantissa <= i64::MAX as u64 {
            let value = self.mantissa as i64;
            if self.negative { -value } else { value }
        } else {
            i64::try_from(self.scaled(0)?).map_err(|_| Misfit::Range)?
        };
        if value < min || value > max {
            return Err(Misfit::Range);
        }
        Ok(value)
    }

    /// As the nearest floating point number, as IEEE 754 rounds.
    #[inline(always)]
    pub(super) fn float(&self) -> Result<f64, Misfit> {
        // Both numbers are exact as f64, and so one operation rounds once.
        if self.exact && self.mantissa <= 1 << 53 && self.exponent.unsigned_abs() <= 22 {
            let mantissa = self.mantissa as f64;
            let power = FLOAT_POWERS[self.exponent.unsigned_abs() as usize];
            let value = if self.exponent < 0 {
                mantissa / power
            } else {
                mantissa * power
            };
            return Ok(if self.negative { -value } else { value });
        }
        self.float_of_text()
    }

    #[cold]
    fn float_of_text(&self) -> Result<f64, Misfit> {
        let text = std::str::from_utf8(self.text).map_err(|_| Misfit::Range)?;
        text.parse::<f64>()
            .ok()
            .filter(|value| value.is_finite())
            .ok_or(Misfit::Range)
    }

    /// As a decimal's unscaled value.
    #[inline(always)]
    pub(super) fn decimal(&self, precision: u8, scale: i8) -> Result<i128, Misfit> {
        let shift = self.exponent + i32::from(scale);
        let value = if self.exact && (0..=18).contains(&shift) {
            // 19 digits times 10^18 fit an i128.
            let value = i128::from(self.mantissa) * i128::from(POWERS[shift as usize]);
            if self.negative { -value } else { value }
        } else {
            self.scaled(i64::from(scale))?
        };
        match 10u128.checked_pow(u32::from(precision)) {
            Some(bound) if value.unsigned_abs() >= bound => Err(Misfit::Range),
            Some(_) | None => Ok(value),
        }
    }

    /// `value * 10^scale`, exact, from the text.
    #[cold]
    fn scaled(&self, scale: i64) -> Result<i128, Misfit> {
        let text = self.text.strip_prefix(b"-").unwrap_or(self.text);
        let exponent_at = text.iter().position(|byte| matches!(byte, b'e' | b'E'));
        let (digits, exponent) = text.split_at(exponent_at.unwrap_or(text.len()));
        let point = digits.iter().position(|&byte| byte == b'.');
        let fraction = point.map_or(0, |point| digits.len() - point - 1) as i64;
        let mut significant: Vec<u8> = digits
            .iter()
            .copied()
            .filter(u8::is_ascii_digit)
            .skip_while(|&digit| digit == b'0')
            .collect();
        let zeros = significant
            .iter()
            .rev()
            .take_while(|&&digit| digit == b'0')
            .count();
        significant.truncate(significant.len() - zeros);
        if significant.is_empty() {
            return Ok(0);
        }
        let shift = (zeros as i64 - fraction)
            .saturating_add(exponent_of(exponent))
            .saturating_add(scale);
        if shift < 0 {
            return Err(Misfit::Fraction);
        }
        if significant.len() as i64 > 38_i64.saturating_sub(shift) {
            return Err(Misfit::Range);
        }
        let value = significant
            .iter()
            .fold(0i128, |value, digit| value * 10 + i128::from(digit - b'0'))
            * 10i128.pow(shift as u32);
        Ok(if self.negative { -value } else { value })
    }
}

/// The value of `e-12`; beyond what matters, the nearest bound.
fn exponent_of(text: &[u8]) -> i64 {
    let negative = text.contains(&b'-');
    let size = text
        .iter()
        .filter(|byte| byte.is_ascii_digit())
        .fold(0i64, |value, digit| {
            value.saturating_mul(10).saturating_add(i64::from(digit - b'0'))
        })
        .min(i64::MAX / 4);
    if negative { -size } else { size }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Number<'_> {
        let (number, end) = read(text.as_bytes(), 0).unwrap();
        assert_eq!(end, text.len(), "{text}");
        number
    }

    fn int64(text: &str) -> Result<i64, Misfit> {
        number(text).integer(i64::MIN, i64::MAX)
    }

    #[test]
    fn whole_numbers_are_exact_up_to_the_bounds() {
        assert_eq!(int64("9223372036854775807"), Ok(i64::MAX));
        assert_eq!(int64("-9223372036854775808"), Ok(i64::MIN));
        assert_eq!(int64("9223372036854775808"), Err(Misfit::Range));
        assert_eq!(int64("18446744073709551617"), Err(Misfit::Range));
        assert_eq!(int64("1e3"), Ok(1000));
        assert_eq!(int64("-1.50e1"), Ok(-15));
        assert_eq!(int64("1.5"), Err(Misfit::Fraction));
        assert_eq!(int64("1.000000000000000000000000000"), Ok(1));
        assert_eq!(int64("0e999999999999999999999"), Ok(0));
        assert_eq!(int64("1e999999999999999999999"), Err(Misfit::Range));
        assert_eq!(int64("1e-999999999999999999999"), Err(Misfit::Fraction));
        assert_eq!(int64("-0"), Ok(0));
        assert_eq!(
            number("2147483648").integer(i64::from(i32::MIN), i64::from(i32::MAX)),
            Err(Misfit::Range)
        );
    }

    #[test]
    fn decimals_never_lose_a_digit() {
        assert_eq!(number("12.5").decimal(10, 2), Ok(1250));
        assert_eq!(number("12.500").decimal(10, 2), Ok(1250));
        assert_eq!(number("12.505").decimal(10, 2), Err(Misfit::Fraction));
        assert_eq!(number("123456789.01").decimal(10, 2), Err(Misfit::Range));
        assert_eq!(
            number("-99999999999999999999999999999999999999").decimal(38, 0),
            Ok(-(10i128.pow(38) - 1))
        );
        assert_eq!(number("1e37").decimal(38, 1), Err(Misfit::Range));
        assert_eq!(number("0.1").decimal(38, 20), Ok(10i128.pow(19)));
    }

    #[test]
    fn floats_are_the_nearest_ones() {
        for text in [
            "0.1",
            "-0",
            "1e22",
            "1e23",
            "9007199254740993",
            "5e-324",
            "1.7976931348623157e308",
            "12345678901234567890123",
            "3.14159",
        ] {
            let expected: f64 = text.parse().unwrap();
            assert_eq!(
                number(text).float().unwrap().to_bits(),
                expected.to_bits(),
                "{text}"
            );
        }
        assert_eq!(number("1e400").float(), Err(Misfit::Range));
    }

    #[test]
    fn what_is_no_json_number_is_refused() {
        for text in ["", "-", "+1", "01", "-01", ".5", "1.", "1.e3", "1e", "1e+", "a"] {
            assert!(read(text.as_bytes(), 0).is_none(), "{text}");
        }
    }
}
