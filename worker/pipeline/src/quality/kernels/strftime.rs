//! Whether text reads as a time by a `strftime` format, as Python's `datetime.strptime` decides.
//!
//! The format becomes a regular expression in which every directive accepts what Python's does (leftmost
//! alternative first, letters in any case, white space as it comes), and then the parts must be a real
//! day: 30 February is none.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::DataType;
use chrono::NaiveDate;
use regex::{CaptureLocations, Regex};

/// A compiled format.
#[derive(Debug, Clone)]
pub(crate) struct TimeFormat {
    regex: Regex,
    /// Which directive each group of the expression stands for.
    groups: Vec<char>,
}

impl TimeFormat {
    /// Compiles a format; the error names the directive that Python or we do not know.
    pub(crate) fn compile(format: &str) -> Result<Self, String> {
        let mut pattern = String::from("(?i)^");
        let mut groups = Vec::new();
        let mut chars = format.chars().peekable();
        while let Some(next) = chars.next() {
            if next.is_whitespace() {
                while chars.next_if(|following| following.is_whitespace()).is_some() {}
                pattern.push_str(r"\s+");
                continue;
            }
            if next != '%' {
                pattern.push_str(&regex::escape(next.encode_utf8(&mut [0; 4])));
                continue;
            }
            let directive = chars.next().ok_or("stray % in the format")?;
            if directive == '%' {
                pattern.push('%');
                continue;
            }
            let part = accepted(directive)
                .ok_or_else(|| format!("the directive `%{directive}` is not supported"))?;
            if groups.contains(&directive) {
                return Err(format!("the directive `%{directive}` stands twice in the format"));
            }
            groups.push(directive);
            pattern.push('(');
            pattern.push_str(part);
            pattern.push(')');
        }
        let regex = Regex::new(&pattern).map_err(|error| error.to_string())?;
        Ok(Self { regex, groups })
    }

    /// The rows whose text reads as a time. The column must be text.
    pub(crate) fn judge(&self, array: &ArrayRef) -> BooleanBuffer {
        if array.data_type() != &DataType::Utf8View {
            return BooleanBuffer::new_unset(array.len());
        }
        let texts = array.as_string_view();
        let mut parts = self.regex.capture_locations();
        BooleanBuffer::collect_bool(texts.len(), |row| self.reads(&mut parts, texts.value(row)))
    }

    fn reads(&self, parts: &mut CaptureLocations, text: &str) -> bool {
        let Some(whole) = self.regex.captures_read(parts, text) else {
            return false;
        };
        if whole.end() != text.len() {
            return false;
        }
        let part = |directive: char| {
            let group = self.groups.iter().position(|have| *have == directive)? + 1;
            let (start, end) = parts.get(group)?;
            Some(&text[start..end])
        };
        let number = |directive: char| part(directive).and_then(|digits| digits.trim().parse::<u32>().ok());
        let year = number('Y').or_else(|| {
            // POSIX: 69-99 are the twentieth century.
            number('y').map(|year| if year <= 68 { 2000 + year } else { 1900 + year })
        });
        let month = number('m')
            .or_else(|| part('b').and_then(month_number))
            .or_else(|| part('B').and_then(month_number));
        // Python starts from 1900-01-01, but gives 29 February without a year the leap year 1904.
        let day = number('d').unwrap_or(1);
        let month = month.unwrap_or(1);
        let year = year.unwrap_or(if month == 2 && day == 29 { 1904 } else { 1900 });
        let is_day = i32::try_from(year)
            .is_ok_and(|year| year > 0 && NaiveDate::from_ymd_opt(year, month, day).is_some());
        let is_leap_day_of_year = number('j') != Some(366)
            || i32::try_from(year).is_ok_and(|year| NaiveDate::from_yo_opt(year, 366).is_some());
        is_day && is_leap_day_of_year && number('S').is_none_or(|second| second <= 59)
    }
}

/// What a directive accepts.
fn accepted(directive: char) -> Option<&'static str> {
    Some(match directive {
        'd' => r"3[0-1]|[1-2]\d|0[1-9]|[1-9]| [1-9]",
        'f' => r"[0-9]{1,6}",
        'H' => r"2[0-3]|[0-1]\d|\d",
        'I' => r"1[0-2]|0[1-9]|[1-9]| [1-9]",
        'j' => r"36[0-6]|3[0-5]\d|[1-2]\d\d|0[1-9]\d|00[1-9]|[1-9]\d|0[1-9]|[1-9]",
        'm' => r"1[0-2]|0[1-9]|[1-9]",
        'M' => r"[0-5]\d|\d",
        'S' => r"6[0-1]|[0-5]\d|\d",
        'w' => r"[0-6]",
        'u' => r"[1-7]",
        'y' => r"\d\d",
        'Y' => r"\d\d\d\d",
        'z' => r"[+-]\d\d:?[0-5]\d(?::?[0-5]\d(?:\.\d{1,6})?)?|(?-i:Z)",
        'Z' => r"utc|gmt",
        'p' => r"am|pm",
        'a' => r"mon|tue|wed|thu|fri|sat|sun",
        'A' => r"wednesday|thursday|saturday|tuesday|monday|friday|sunday",
        'b' => r"jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec",
        'B' => r"september|february|november|december|january|october|august|march|april|june|july|may",
        _ => return None,
    })
}

fn month_number(name: &str) -> Option<u32> {
    const SHORT: [&str; 12] = [
        "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    ];
    let start = name.get(..3)?;
    let at = SHORT.iter().position(|short| short.eq_ignore_ascii_case(start))?;
    u32::try_from(at + 1).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_read_as_python_reads_them() {
        for (format, text, expected) in [
            ("%Y-%m-%d", "2026-01-31", true),
            ("%Y-%m-%d", "2026-02-30", false),
            ("%Y-%m-%d", "2026-1-3", true),
            ("%Y-%m-%d", "26-01-03", false),
            ("%Y-%m-%dT%H:%M:%S.%fZ", "2026-01-01T10:00:00.123Z", true),
            ("%Y-%m-%d %H:%M", "2026-01-01   10:00", true),
            ("%H:%M:%S", "10:00:60", false),
            ("%b %d %Y", "FEB 29 2024", true),
            ("%m-%d", "02-29", true),
            ("%Y-%m-%d", "2026-01-31x", false),
            ("%z", "+01:00", true),
            ("100%%", "100%", true),
        ] {
            let array: ArrayRef = std::sync::Arc::new(arrow::array::StringViewArray::from(vec![text]));
            let judged = TimeFormat::compile(format).unwrap().judge(&array).value(0);
            assert_eq!(judged, expected, "{format} {text}");
        }
        assert!(TimeFormat::compile("%Q").is_err());
    }
}
