//! The strategies, each over a whole array.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, ListArray, PrimitiveArray, StringViewArray, new_null_array,
};
use arrow::datatypes::{DataType, Int32Type, Int64Type};

use super::PrivacyError;
use super::address::{push_domain, push_network};
use super::keyed_hash::{KeyedHash, push_hex};
use super::views::{constant_text, map_text};
use crate::spec::model::ColumnType;

/// A strategy with its key.
#[derive(Clone)]
pub(super) enum Mask {
    /// 32 hex digits, or a number.
    Hash(KeyedHash),
    /// 16 hex digits and the domain.
    HashKeepDomain(KeyedHash),
    /// The network of an IP address.
    Truncate,
    /// A fixed text, or null.
    Redact,
}

impl std::fmt::Debug for Mask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Hash(_) => "Hash([secret])",
            Self::HashKeepDomain(_) => "HashKeepDomain([secret])",
            Self::Truncate => "Truncate",
            Self::Redact => "Redact",
        })
    }
}

const REDACTED: &[u8] = b"[redacted]";

/// Masks the values of a column of type `kind`; the result has the same type, length and nulls, but that
/// values of a type that the strategy has no mask for are null.
pub(super) fn mask(mask: &Mask, kind: &ColumnType, values: &ArrayRef) -> Result<ArrayRef, PrivacyError> {
    match kind {
        ColumnType::String => Ok(Arc::new(mask_text(mask, values.as_string_view())?)),
        ColumnType::Json => Ok(Arc::new(mask_json(mask, values.as_string_view())?)),
        ColumnType::Int32 => Ok(mask_number::<Int32Type>(mask, values, |hash| (hash >> 33) as i32)),
        ColumnType::Int64 => Ok(mask_number::<Int64Type>(mask, values, |hash| (hash >> 1) as i64)),
        ColumnType::List(item) => mask_list(mask, item, values.as_list()),
        ColumnType::Bool
        | ColumnType::Float64
        | ColumnType::Decimal(..)
        | ColumnType::Date
        | ColumnType::Timestamp => Ok(new_null_array(values.data_type(), values.len())),
    }
}

fn mask_text(mask: &Mask, values: &StringViewArray) -> Result<StringViewArray, PrivacyError> {
    let masked = match mask {
        Mask::Hash(hash) => map_text(values, |value, out| push_hex(hash.digest(value), out)),
        Mask::HashKeepDomain(hash) => {
            let mut address = Vec::new();
            map_text(values, |value, out| push_email(hash, value, &mut address, out))
        }
        Mask::Truncate => map_text(values, push_address),
        Mask::Redact => constant_text(values, REDACTED),
    };
    Ok(masked?)
}

/// A JSON column stays JSON: its masks are JSON strings. Where the value is a plain JSON string, the
/// strategy sees what stands between the quotes; everything else is hashed or redacted as a whole.
fn mask_json(mask: &Mask, values: &StringViewArray) -> Result<StringViewArray, PrivacyError> {
    let masked = match mask {
        Mask::Hash(hash) => map_text(values, |value, out| {
            quoted(out, |out| {
                push_hex(hash.digest(json_string(value).unwrap_or(value)), out)
            });
        }),
        Mask::HashKeepDomain(hash) => {
            let mut address = Vec::new();
            map_text(values, |value, out| {
                let value = json_string(value).unwrap_or(value);
                quoted(out, |out| push_email(hash, value, &mut address, out));
            })
        }
        Mask::Truncate => map_text(values, |value, out| {
            quoted(out, |out| {
                push_address(json_string(value).unwrap_or_default(), out)
            });
        }),
        Mask::Redact => constant_text(values, b"\"[redacted]\""),
    };
    Ok(masked?)
}

/// Between the quotes of a JSON string without escapes.
fn json_string(text: &[u8]) -> Option<&[u8]> {
    let inner = text.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    memchr::memchr2(b'\\', b'"', inner).is_none().then_some(inner)
}

fn quoted(out: &mut Vec<u8>, push: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    push(out);
    out.push(b'"');
}

fn push_address(value: &[u8], out: &mut Vec<u8>) {
    if !push_network(value, out) {
        out.extend_from_slice(REDACTED);
    }
}

/// The hash covers the domain too: `info@` of two companies must not look like one person.
/// 64 bits suffice for it: a million people of one domain collide with a chance of 1 in 37 million.
fn push_email(hash: &KeyedHash, value: &[u8], address: &mut Vec<u8>, out: &mut Vec<u8>) {
    address.clear();
    let Some(local) = push_domain(value, address) else {
        push_hex(hash.digest(value), out);
        return;
    };
    let domain_bytes = address.len();
    address.extend_from_slice(local);
    let [a, b, c, d, e, f, g, h, ..] = hash.digest(address);
    push_hex([a, b, c, d, e, f, g, h], out);
    out.extend_from_slice(&address[..domain_bytes]);
}

fn mask_number<T>(mask: &Mask, values: &ArrayRef, narrow: impl Fn(u64) -> T::Native) -> ArrayRef
where
    T: ArrowPrimitiveType,
    T::Native: Into<i64>,
{
    let numbers = values.as_primitive::<T>();
    match mask {
        Mask::Hash(hash) | Mask::HashKeepDomain(hash) => {
            let masked: PrimitiveArray<T> = numbers.unary(|value| narrow(hash.number(value.into())));
            Arc::new(masked)
        }
        Mask::Truncate | Mask::Redact => new_null_array(values.data_type(), values.len()),
    }
}

fn mask_list(of: &Mask, item: &ColumnType, values: &ListArray) -> Result<ArrayRef, PrivacyError> {
    let DataType::List(field) = values.data_type() else {
        return Ok(new_null_array(values.data_type(), values.len()));
    };
    // A sliced list's items beyond its offsets are masked as well: they must not leave the worker either.
    let items = mask(of, item, values.values())?;
    Ok(Arc::new(ListArray::try_new(
        Arc::clone(field),
        values.offsets().clone(),
        items,
        values.nulls().cloned(),
    )?))
}
