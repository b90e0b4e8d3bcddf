//! Shorthands: sizes, durations, types, paths, compression.
//!
//! Each function takes the text of one value. On refusal it says what would be right, never what it was
//! given: the text may come out of `${env:...}`.

use std::fmt;

use super::model::{ColumnType, Compression, Path};

/// Why a text is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    /// Follows the text: `is not a size`.
    pub(super) problem: String,
    /// What would be right.
    pub(super) right: String,
}

fn refused<T>(problem: &str, right: impl fmt::Display) -> Result<T, Refused> {
    Err(Refused {
        problem: problem.into(),
        right: right.to_string(),
    })
}

const SIZES: [(&str, u64); 10] = [
    ("", 1),
    ("B", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// A size in bytes: `256MiB`, `10MB`, `4096`. The unit's case does not matter.
pub(super) fn size(text: &str) -> Result<u64, Refused> {
    let right = "a whole number with a unit: `256MiB`, `10MB`, or plain bytes: `4096`";
    let (number, unit) = number_and_unit(text);
    let factor = SIZES
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit))
        .map(|(_, factor)| *factor);
    match (number.parse::<u64>().ok(), factor) {
        (Some(number), Some(factor)) => match number.checked_mul(factor) {
            Some(bytes) => Ok(bytes),
            None => refused("is larger than any file", right),
        },
        _ => refused("is not a size", right),
    }
}

/// A duration in seconds: `400d`, `1h`, `30m`, `10s`.
pub(super) fn duration(text: &str) -> Result<u64, Refused> {
    let right = "a whole number with a unit: `400d`, `1h`, `30m` or `10s`";
    let (number, unit) = number_and_unit(text);
    let factor = match unit {
        "d" => 86_400,
        "h" => 3_600,
        "m" => 60,
        "s" => 1,
        "" if !number.is_empty() => return refused("has no unit", right),
        _ => return refused("is not a duration", right),
    };
    // Event times are microseconds in an i64: no duration may leave that range.
    let seconds = number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor));
    match seconds {
        Some(seconds) if seconds <= 400 * 366 * 86_400 => Ok(seconds),
        Some(_) => refused("is longer than 400 years", right),
        None => refused("is not a duration", right),
    }
}

fn number_and_unit(text: &str) -> (&str, &str) {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    (&text[..digits], text[digits..].trim_start())
}

const TYPES: &str =
    "types are string, bool, int32, int64, float64, decimal(p,s), date, timestamp, json and list<type>";

/// A column's type: `string`, `decimal(12,2)`, `list<int64>`.
pub(super) fn column_type(text: &str) -> Result<ColumnType, Refused> {
    let compact: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    if let Some(item) = compact
        .strip_prefix("list<")
        .and_then(|rest| rest.strip_suffix('>'))
    {
        let item = column_type(item)?;
        if matches!(item, ColumnType::List(_)) {
            return refused("is a list of lists", "a list of one of the other types, or json");
        }
        return Ok(ColumnType::List(Box::new(item)));
    }
    if let Some(inner) = compact.strip_prefix("decimal") {
        return decimal(inner);
    }
    match compact.as_str() {
        "string" => Ok(ColumnType::String),
        "bool" => Ok(ColumnType::Bool),
        "int32" => Ok(ColumnType::Int32),
        "int64" => Ok(ColumnType::Int64),
        "float64" => Ok(ColumnType::Float64),
        "date" => Ok(ColumnType::Date),
        "timestamp" => Ok(ColumnType::Timestamp),
        "json" => Ok(ColumnType::Json),
        "list" => refused(
            "does not say what the list holds",
            "`list<string>`, or `json` for mixed values",
        ),
        _ => refused("is not a type", TYPES),
    }
}

fn decimal(inner: &str) -> Result<ColumnType, Refused> {
    let right = "`decimal(precision,scale)` with a precision of 1 to 38 and a scale of 0 to the precision: `decimal(12,2)`";
    let numbers = inner
        .strip_prefix('(')
        .and_then(|rest| rest.strip_suffix(')'))
        .and_then(|inner| inner.split_once(','));
    let Some((precision, scale)) = numbers else {
        return refused("is not a decimal type", right);
    };
    match (precision.parse::<u8>(), scale.parse::<i8>()) {
        (Ok(precision @ 1..=38), Ok(scale)) if scale >= 0 && scale.unsigned_abs() <= precision => {
            Ok(ColumnType::Decimal(precision, scale))
        }
        _ => refused("is not a decimal type", right),
    }
}

/// The type that users of other systems mean by a name.
pub(super) fn type_meant(given: &str) -> Option<&'static str> {
    let name = given.trim().to_lowercase();
    let name = name.split(['(', '<', ' ']).next().unwrap_or_default();
    Some(match name {
        "text" | "varchar" | "char" | "str" | "utf8" | "uuid" | "enum" => "string",
        "boolean" => "bool",
        "integer" | "int" | "int4" | "serial" | "i32" | "smallint" | "int16" => "int32",
        "bigint" | "long" | "int8" | "i64" | "uint32" => "int64",
        "double" | "float" | "real" | "float32" | "float8" | "f64" | "number" => "float64",
        "numeric" | "money" => "decimal(12,2)",
        "datetime" | "timestamptz" | "timestamp_tz" | "time" => "timestamp",
        "jsonb" | "object" | "struct" | "map" | "super" | "variant" => "json",
        "array" => "list<string>",
        _ => {
            return super::nearest::nearest(
                given,
                [
                    "string",
                    "bool",
                    "int32",
                    "int64",
                    "float64",
                    "date",
                    "timestamp",
                    "json",
                    "decimal(12,2)",
                    "list<string>",
                ],
            );
        }
    })
}

/// `zstd(1)` to `zstd(22)`, `zstd`, `snappy`, `lz4` or `none`.
pub(super) fn compression(text: &str) -> Result<Compression, Refused> {
    let right = "`zstd(level)` with a level of 1 to 22, `snappy`, `lz4` or `none`";
    match text {
        "none" => Ok(Compression::None),
        "snappy" => Ok(Compression::Snappy),
        "lz4" => Ok(Compression::Lz4),
        "zstd" => Ok(Compression::Zstd(1)),
        _ => match text.strip_prefix("zstd(").and_then(|rest| rest.strip_suffix(')')) {
            Some(level) => match level.trim().parse::<i32>() {
                Ok(level @ 1..=22) => Ok(Compression::Zstd(level)),
                _ => refused("has no level of 1 to 22", right),
            },
            None => refused("is not a compression", right),
        },
    }
}

/// A path into a record: names with dots between; a name in double quotes may itself hold dots, and a
/// backslash in it keeps the next character: `actor.login`, `headers."user.agent"`.
pub(super) fn path(text: &str) -> Result<Path, Refused> {
    let right = "names with dots between: `actor.login`; a name that holds dots stands in double quotes: `headers.\"user.agent\"`";
    let mut names = Vec::new();
    let mut rest = text;
    loop {
        let (name, after) = match rest.strip_prefix('"') {
            Some(quoted) => match quoted_name(quoted) {
                Some(split) => split,
                None => return refused("has an open quote", right),
            },
            None => {
                let end = rest.find('.').unwrap_or(rest.len());
                (rest[..end].to_owned(), &rest[end..])
            }
        };
        if name.is_empty() || (!rest.starts_with('"') && name.contains('"')) {
            return refused("is not a path", right);
        }
        names.push(name);
        match after.strip_prefix('.') {
            Some(next) => rest = next,
            None if after.is_empty() => return Ok(names),
            None => return refused("is not a path", right),
        }
    }
}

/// The name up to its closing quote, and what follows the quote.
fn quoted_name(text: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((name, &text[at + 1..])),
            '\\' => name.push(chars.next()?.1),
            _ => name.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_decimal_or_binary_or_plain_bytes() {
        assert_eq!(size("256MiB"), Ok(256 << 20));
        assert_eq!(size("10MB"), Ok(10_000_000));
        assert_eq!(size("10 mb"), Ok(10_000_000));
        assert_eq!(size("4096"), Ok(4096));
        for bad in ["", "MiB", "1.5GiB", "-1", "10 apples", "99999999999999TiB", "é"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("400d"), Ok(400 * 86_400));
        assert_eq!(duration("30m"), Ok(1_800));
        assert_eq!(duration("10s"), Ok(10));
        assert_eq!(duration("60").unwrap_err().problem, "has no unit");
        for bad in ["", "d", "1y", "1h30m", "99999999999999999999d", "999999d", "1.5h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn types_are_those_of_the_design() {
        assert_eq!(column_type("decimal(12, 2)"), Ok(ColumnType::Decimal(12, 2)));
        assert_eq!(
            column_type("list<int64>"),
            Ok(ColumnType::List(Box::new(ColumnType::Int64)))
        );
        assert_eq!(
            column_type("list<decimal(38,38)>"),
            Ok(ColumnType::List(Box::new(ColumnType::Decimal(38, 38))))
        );
        for bad in [
            "",
            "text",
            "decimal",
            "decimal(0,0)",
            "decimal(39,2)",
            "decimal(5,6)",
            "list<list<bool>>",
            "list",
            "list<>",
        ] {
            assert!(column_type(bad).is_err(), "{bad}");
        }
        assert_eq!(type_meant("varchar(255)"), Some("string"));
        assert_eq!(type_meant("timestmap"), Some("timestamp"));
    }

    #[test]
    fn compression_has_a_level_of_1_to_22() {
        assert_eq!(compression("zstd(22)"), Ok(Compression::Zstd(22)));
        for bad in ["zstd(0)", "zstd(23)", "zstd()", "gzip", ""] {
            assert!(compression(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_path_is_cut_at_dots_outside_quotes() {
        assert_eq!(path("actor.login").unwrap(), ["actor", "login"]);
        assert_eq!(path(r#"a."b.c".d"#).unwrap(), ["a", "b.c", "d"]);
        assert_eq!(path(r#""say \"hi\"""#).unwrap(), [r#"say "hi""#]);
        for bad in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            r#"a."b"#,
            r#"a."b"c"#,
            r#"a.b"c"#,
            r#""""#,
        ] {
            assert!(path(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_names_come_back_from_a_quoted_path(names in prop::collection::vec(".{1,8}", 1..5)) {
            let quoted: Vec<String> =
                names.iter().map(|name| format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""))).collect();
            prop_assert_eq!(path(&quoted.join(".")).unwrap(), names);
        }

        #[test]
        fn no_text_makes_a_shorthand_panic(text in ".{0,24}") {
            let _ = (size(&text), duration(&text), column_type(&text), compression(&text), path(&text), type_meant(&text));
        }
    }
}
