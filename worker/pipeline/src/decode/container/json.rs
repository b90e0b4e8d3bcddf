//! One Arrow value as JSON text, for `json` columns and for the raw record of a row with faults.
//!
//! Numbers are numbers, but NaN and infinities are null; times are RFC 3339; binary that is not UTF-8 is hexadecimal.

#![allow(clippy::wildcard_enum_match_arm)] // Arrow's types: what is not named here is shown as text.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};

/// Appends the value of a row.
///
/// # Errors
/// When Arrow cannot show a type.
pub(super) fn write(values: &dyn Array, row: usize, out: &mut Vec<u8>) -> Result<(), ArrowError> {
    if values.is_null(row) {
        out.extend_from_slice(b"null");
        return Ok(());
    }
    match values.data_type() {
        DataType::Null => out.extend_from_slice(b"null"),
        DataType::Struct(fields) => {
            let columns = values.as_struct().columns();
            object(
                fields
                    .iter()
                    .map(|field| field.name().as_str())
                    .zip(columns.iter().map(|column| (column, row))),
                out,
            )?;
        }
        DataType::Map(..) => {
            let map = values.as_map();
            let range = map.value_offsets()[row] as usize..map.value_offsets()[row + 1] as usize;
            let keys: Vec<String> = range
                .clone()
                .map(|at| shown(map.keys(), at))
                .collect::<Result<_, ArrowError>>()?;
            object(
                keys.iter()
                    .map(String::as_str)
                    .zip(range.map(|at| (map.values(), at))),
                out,
            )?;
        }
        DataType::List(_) => list(&values.as_list::<i32>().value(row), out)?,
        DataType::LargeList(_) => list(&values.as_list::<i64>().value(row), out)?,
        DataType::FixedSizeList(..) => list(&values.as_fixed_size_list().value(row), out)?,
        DataType::Dictionary(..) => {
            let dictionary = values.as_any_dictionary();
            write(dictionary.values(), dictionary.normalized_keys()[row], out)?;
        }
        kind if kind.is_floating() => {
            let text = shown(values, row)?;
            let finite = text.parse::<f64>().is_ok_and(f64::is_finite);
            out.extend_from_slice(if finite { text.as_bytes() } else { b"null" });
        }
        kind if kind.is_numeric() || *kind == DataType::Boolean => {
            out.extend_from_slice(shown(values, row)?.as_bytes())
        }
        DataType::Binary => binary(values.as_binary::<i32>().value(row), out),
        DataType::LargeBinary => binary(values.as_binary::<i64>().value(row), out),
        DataType::BinaryView => binary(values.as_binary_view().value(row), out),
        _ => quoted(&shown(values, row)?, out),
    }
    Ok(())
}

fn shown(values: &dyn Array, row: usize) -> Result<String, ArrowError> {
    ArrayFormatter::try_new(values, &FormatOptions::default())?
        .value(row)
        .try_to_string()
}

fn object<'a>(
    entries: impl Iterator<Item = (&'a str, (&'a ArrayRef, usize))>,
    out: &mut Vec<u8>,
) -> Result<(), ArrowError> {
    out.push(b'{');
    for (n, (name, (values, row))) in entries.enumerate() {
        if n > 0 {
            out.push(b',');
        }
        quoted(name, out);
        out.push(b':');
        write(values, row, out)?;
    }
    out.push(b'}');
    Ok(())
}

fn list(items: &dyn Array, out: &mut Vec<u8>) -> Result<(), ArrowError> {
    out.push(b'[');
    for row in 0..items.len() {
        if row > 0 {
            out.push(b',');
        }
        write(items, row, out)?;
    }
    out.push(b']');
    Ok(())
}

fn binary(bytes: &[u8], out: &mut Vec<u8>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => quoted(text, out),
        Err(_) => quoted(
            &bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
            out,
        ),
    }
}

fn quoted(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(serde_json::Value::from(text).to_string().as_bytes());
}
