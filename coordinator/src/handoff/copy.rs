//! Rows as PostgreSQL's binary COPY format.
//!
//! In: batches of a data file. Out: bytes of `COPY ... FROM STDIN (FORMAT binary)`: [`HEADER`], rows, [`TRAILER`].
//!
//! | Arrow             | PostgreSQL       | as                                                             |
//! |-------------------|------------------|----------------------------------------------------------------|
//! | text              | text             | its bytes                                                      |
//! | text, of JSON     | jsonb            | version 1, then the text                                       |
//! | boolean           | boolean          | one byte                                                       |
//! | int32, int64      | integer, bigint  | big-endian                                                     |
//! | float64           | double precision | big-endian                                                     |
//! | decimal(p,s)      | numeric          | digits to the base of 10,000                                   |
//! | date              | date             | days since 2000                                                |
//! | timestamp (us)    | timestamptz      | microseconds since 2000                                        |
//! | list              | jsonb            | a JSON array; its timestamps as RFC 3339, a NaN as null        |

use arrow::array::{
    Array, AsArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int32Array, Int64Array,
    ListArray, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float64Type, Int32Type, Int64Type, TimeUnit,
    TimestampMicrosecondType,
};
use millrace_pipeline::spec::model::ColumnType;

use super::jsonb;

/// The start of a stream: signature, no flags, no extension.
pub(super) const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// The end of a stream.
pub(super) const TRAILER: [u8; 2] = (-1i16).to_be_bytes();

/// Days from 1970 to 2000.
const EPOCH_DAYS: i32 = 10_957;
/// Microseconds from 1970 to 2000.
const EPOCH_US: i64 = EPOCH_DAYS as i64 * 86_400_000_000;

/// Why rows cannot be sent. It names the column, never a value.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CellError {
    /// The file's type and the table's type do not go together.
    #[error("column `{column}` is {found} in the file, and the table's `{expected}` takes no such values")]
    Type {
        /// The column.
        column: String,
        /// In the file.
        found: String,
        /// In the table.
        expected: String,
    },
    /// A date or a time that PostgreSQL has no place for.
    #[error("column `{column}` holds a time outside PostgreSQL's range (4713 BC to 294276 AD)")]
    Time {
        /// The column.
        column: String,
    },
    /// A value of more than 1 GiB.
    #[error("column `{column}` holds a value of {bytes} bytes; PostgreSQL takes 1 GiB at most")]
    Long {
        /// The column.
        column: String,
        /// Its size.
        bytes: usize,
    },
}

/// The cells of one column.
enum Cells<'a> {
    Text(&'a StringArray),
    Json(&'a StringArray),
    Bool(&'a BooleanArray),
    Int32(&'a Int32Array),
    Int64(&'a Int64Array),
    Float64(&'a Float64Array),
    Decimal(&'a Decimal128Array, u8),
    Date(&'a Date32Array),
    Timestamp(&'a TimestampMicrosecondArray),
    List(&'a ListArray, bool),
}

struct Column<'a> {
    name: &'a str,
    cells: Cells<'a>,
    nulls: Option<&'a arrow::buffer::NullBuffer>,
}

/// Appends all rows of a batch. `kinds` are the types of its columns as the pipeline declares them, in their order.
///
/// # Errors
/// When a column's type does not fit its declaration, or a value does not fit PostgreSQL.
pub(super) fn encode(batch: &RecordBatch, kinds: &[ColumnType], out: &mut Vec<u8>) -> Result<(), CellError> {
    let schema = batch.schema();
    let columns = schema
        .fields()
        .iter()
        .zip(batch.columns())
        .zip(kinds)
        .map(|((field, array), kind)| {
            Ok(Column {
                name: field.name(),
                cells: cells(field.name(), array, kind)?,
                nulls: array.nulls(),
            })
        })
        .collect::<Result<Vec<Column<'_>>, CellError>>()?;
    let width = i16::try_from(columns.len()).unwrap_or(i16::MAX).to_be_bytes();
    for row in 0..batch.num_rows() {
        out.extend_from_slice(&width);
        for column in &columns {
            if column.nulls.is_some_and(|nulls| nulls.is_null(row)) {
                out.extend_from_slice(&(-1i32).to_be_bytes());
            } else {
                column.put(row, out)?;
            }
        }
    }
    Ok(())
}

fn cells<'a>(name: &str, array: &'a dyn Array, kind: &ColumnType) -> Result<Cells<'a>, CellError> {
    let cells = match (kind, array.data_type()) {
        (ColumnType::String, DataType::Utf8) => Cells::Text(array.as_string::<i32>()),
        (ColumnType::Json, DataType::Utf8) => Cells::Json(array.as_string::<i32>()),
        (ColumnType::Bool, DataType::Boolean) => Cells::Bool(array.as_boolean()),
        (ColumnType::Int32, DataType::Int32) => Cells::Int32(array.as_primitive::<Int32Type>()),
        (ColumnType::Int64, DataType::Int64) => Cells::Int64(array.as_primitive::<Int64Type>()),
        (ColumnType::Float64, DataType::Float64) => Cells::Float64(array.as_primitive::<Float64Type>()),
        (ColumnType::Decimal(..), DataType::Decimal128(_, scale)) => Cells::Decimal(
            array.as_primitive::<Decimal128Type>(),
            u8::try_from(*scale).unwrap_or(0),
        ),
        (ColumnType::Date, DataType::Date32) => Cells::Date(array.as_primitive::<Date32Type>()),
        (ColumnType::Timestamp, DataType::Timestamp(TimeUnit::Microsecond, _)) => {
            Cells::Timestamp(array.as_primitive::<TimestampMicrosecondType>())
        }
        (ColumnType::List(item), DataType::List(_)) => {
            Cells::List(array.as_list::<i32>(), **item == ColumnType::Json)
        }
        (kind, found) => {
            return Err(CellError::Type {
                column: name.to_owned(),
                found: found.to_string(),
                expected: format!("{kind:?}").to_lowercase(),
            });
        }
    };
    Ok(cells)
}

impl Column<'_> {
    /// Appends one cell that is not null: its length, its bytes.
    fn put(&self, row: usize, out: &mut Vec<u8>) -> Result<(), CellError> {
        match &self.cells {
            Cells::Text(array) => self.sized(None, jsonb::text(array.value(row)).as_bytes(), out)?,
            Cells::Json(array) => self.sized(Some(1), jsonb::json(array.value(row)).as_bytes(), out)?,
            Cells::Bool(array) => fixed(&[u8::from(array.value(row))], out),
            Cells::Int32(array) => fixed(&array.value(row).to_be_bytes(), out),
            Cells::Int64(array) => fixed(&array.value(row).to_be_bytes(), out),
            Cells::Float64(array) => fixed(&array.value(row).to_be_bytes(), out),
            Cells::Decimal(array, scale) => numeric(array.value(row), *scale, out),
            Cells::Date(array) => {
                let days = array.value(row).checked_sub(EPOCH_DAYS);
                let days = days.filter(|days| (-2_451_545..2_145_031_949).contains(days));
                fixed(&days.ok_or_else(|| self.time())?.to_be_bytes(), out);
            }
            Cells::Timestamp(array) => {
                let us = array.value(row).checked_sub(EPOCH_US);
                let us = us.filter(|us| (-211_813_488_000_000_000..9_223_371_331_200_000_000).contains(us));
                fixed(&us.ok_or_else(|| self.time())?.to_be_bytes(), out);
            }
            Cells::List(array, is_json) => {
                let mut text = String::new();
                json_list(&array.value(row), *is_json, &mut text);
                self.sized(Some(1), jsonb::json(&text).as_bytes(), out)?;
            }
        }
        Ok(())
    }

    fn sized(&self, version: Option<u8>, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), CellError> {
        let size = bytes.len() + usize::from(version.is_some());
        let fits = i32::try_from(size).ok().filter(|size| *size < 1 << 30);
        let size = fits.ok_or_else(|| CellError::Long {
            column: self.name.to_owned(),
            bytes: size,
        })?;
        out.extend_from_slice(&size.to_be_bytes());
        out.extend(version);
        out.extend_from_slice(bytes);
        Ok(())
    }

    fn time(&self) -> CellError {
        CellError::Time {
            column: self.name.to_owned(),
        }
    }
}

fn fixed<const N: usize>(bytes: &[u8; N], out: &mut Vec<u8>) {
    out.extend_from_slice(&(N as i32).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// A decimal as PostgreSQL's `numeric`: groups of four digits around the point, without zeros at either end.
fn numeric(value: i128, scale: u8, out: &mut Vec<u8>) {
    let mut left = value.unsigned_abs();
    let mut groups: Vec<i16> = Vec::with_capacity(12); // lowest first
    let mut fraction_groups = 0i16;
    let mut digits = u32::from(scale);
    while digits > 0 {
        let take = match digits % 4 {
            0 => 4,
            some => some,
        };
        let unit = 10u128.pow(take);
        #[expect(clippy::cast_possible_truncation, reason = "below 10,000")]
        groups.push(((left % unit) * 10u128.pow(4 - take)) as i16);
        left /= unit;
        digits -= take;
        fraction_groups += 1;
    }
    while left > 0 {
        groups.push((left % 10_000) as i16);
        left /= 10_000;
    }
    #[expect(clippy::cast_possible_truncation, reason = "at most 20 groups")]
    let mut weight = groups.len() as i16 - fraction_groups - 1;
    while groups.last() == Some(&0) {
        groups.pop();
        weight -= 1;
    }
    let zeros = groups.iter().take_while(|group| **group == 0).count();
    let groups = &groups[zeros..];
    if groups.is_empty() {
        weight = 0;
    }
    let sign: i16 = if value < 0 { 0x4000 } else { 0 };
    let size = 8 + 2 * groups.len();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        reason = "at most 20 groups"
    )]
    let (size, count) = (size as i32, groups.len() as i16);
    out.extend_from_slice(&size.to_be_bytes());
    for part in [count, weight, sign, i16::from(scale)]
        .iter()
        .chain(groups.iter().rev())
    {
        out.extend_from_slice(&part.to_be_bytes());
    }
}

/// A list as JSON.
fn json_list(items: &dyn Array, is_json: bool, out: &mut String) {
    out.push('[');
    for at in 0..items.len() {
        if at > 0 {
            out.push(',');
        }
        if items.is_null(at) {
            out.push_str("null");
        } else {
            json_item(items, at, is_json, out);
        }
    }
    out.push(']');
}

fn json_item(items: &dyn Array, at: usize, is_json: bool, out: &mut String) {
    if let Some(texts) = items.as_string_opt::<i32>() {
        if is_json {
            out.push_str(texts.value(at));
        } else {
            out.push_str(&serde_json::Value::from(texts.value(at)).to_string());
        }
    } else if let Some(lists) = items.as_list_opt::<i32>() {
        json_list(&lists.value(at), is_json, out);
    } else if let Some(times) = items.as_primitive_opt::<TimestampMicrosecondType>() {
        match chrono::DateTime::from_timestamp_micros(times.value(at)) {
            Some(time) => {
                out.push('"');
                out.push_str(&time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true));
                out.push('"');
            }
            None => out.push_str("null"),
        }
    } else {
        let shown = arrow::util::display::array_value_to_string(items, at).unwrap_or_default();
        let floats = items.as_primitive_opt::<Float64Type>();
        if floats.is_some_and(|floats| !floats.value(at).is_finite()) {
            out.push_str("null");
        } else if *items.data_type() == DataType::Date32 {
            out.push('"');
            out.push_str(&shown);
            out.push('"');
        } else {
            out.push_str(&shown);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What PostgreSQL would print for these bytes, read by the documentation of the type and nothing of ours.
    fn shown(bytes: &[u8]) -> String {
        let parts: Vec<i64> = bytes[4..]
            .chunks(2)
            .map(|pair| i64::from(i16::from_be_bytes([pair[0], pair[1]])))
            .collect();
        let (count, weight, sign, scale) = (parts[0], parts[1], parts[2], parts[3]);
        assert_eq!(parts.len() as i64, 4 + count);
        let group = |power: i64| {
            let at = weight - power;
            if (0..count).contains(&at) {
                parts[(4 + at) as usize]
            } else {
                0
            }
        };
        let whole: String = (0..=weight.max(0))
            .rev()
            .map(|power| format!("{:04}", group(power)))
            .collect();
        let whole = whole.trim_start_matches('0');
        let fraction: String = (1..=10).map(|power| format!("{:04}", group(-power))).collect();
        let mut text = if whole.is_empty() {
            "0".to_owned()
        } else {
            whole.to_owned()
        };
        if scale > 0 {
            text.push('.');
            text.push_str(&fraction[..scale as usize]);
        }
        if sign == 0x4000 { format!("-{text}") } else { text }
    }

    proptest! {
        #[test]
        fn a_decimal_keeps_every_digit(value in -(10i128.pow(38) - 1)..10i128.pow(38), shift in 0u32..38, scale in 0u8..=38) {
            let value = value / 10i128.pow(shift);
            let mut out = Vec::new();
            numeric(value, scale, &mut out);
            let digits = format!("{:0>width$}", value.unsigned_abs(), width = usize::from(scale) + 1);
            let (whole, fraction) = digits.split_at(digits.len() - usize::from(scale));
            let point = if scale > 0 { "." } else { "" };
            let sign = if value < 0 { "-" } else { "" };
            prop_assert_eq!(shown(&out), format!("{sign}{whole}{point}{fraction}"));
        }
    }

    #[test]
    fn a_list_is_json() {
        let list = ListArray::from_iter_primitive::<Float64Type, _, _>([Some(vec![
            Some(1.5),
            None,
            Some(f64::NAN),
        ])]);
        let mut text = String::new();
        json_list(&list.value(0), false, &mut text);
        assert_eq!(text, "[1.5,null,null]");
        let mut text = String::new();
        json_list(&StringArray::from(vec!["a\"b", "{\"c\":1}"]), false, &mut text);
        assert_eq!(text, r#"["a\"b","{\"c\":1}"]"#);
    }
}
