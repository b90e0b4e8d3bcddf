//! What masking does to a column, in words and by example.
//!
//! The examples go through the same policy as the events, with a made-up value and a made-up key.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int32Array, Int64Array, StringViewArray};
use arrow::util::display::array_value_to_string;

use crate::privacy::Policy;
use crate::spec::model::{Column, ColumnType, PiiClass, Pipeline, Privacy, Secret, Strategy};

/// Whether masking leaves nothing of the column's values: they become null.
pub(super) fn gives_null(column: &Column, privacy: &Privacy) -> bool {
    let Some(strategy) = column.pii.map(|class| privacy.strategy(class)) else {
        return false;
    };
    match (strategy, &column.kind) {
        (Strategy::Keep, _) | (_, ColumnType::String | ColumnType::Json | ColumnType::List(_)) => false,
        (Strategy::Hash | Strategy::HashKeepDomain, ColumnType::Int32 | ColumnType::Int64) => false,
        (Strategy::Hash | Strategy::HashKeepDomain | Strategy::Truncate | Strategy::Redact, _) => true,
    }
}

/// `Personal data (email): outside prod, ...`; none for a column without a class.
pub(super) fn sentence(column: &Column, privacy: &Privacy) -> Option<String> {
    let class = column.pii?;
    let effect = effect(column, privacy);
    let place = match privacy.clear_in.as_slice() {
        [] => "everywhere".to_owned(),
        clear => format!("outside {}", clear.join(", ")),
    };
    Some(if privacy.strategy(class) == Strategy::Keep {
        format!("Personal data ({}): {effect}", class_words(class))
    } else {
        format!("Personal data ({}): {place}, {effect}", class_words(class))
    })
}

/// What happens to a value.
pub(super) fn effect(column: &Column, privacy: &Privacy) -> &'static str {
    let Some(class) = column.pii else {
        return "left as it is";
    };
    if gives_null(column, privacy) {
        return "left empty";
    }
    match privacy.strategy(class) {
        Strategy::Hash => "replaced by a keyed code; equal values get equal codes",
        Strategy::HashKeepDomain => "replaced by a keyed code that keeps the domain after the @",
        Strategy::Truncate => "cut to its network",
        Strategy::Redact => "replaced by [redacted]",
        Strategy::Keep => "declared safe by the pipeline's owner and left as it is",
    }
}

/// A class in a reader's words.
pub(super) fn class_words(class: PiiClass) -> &'static str {
    match class {
        PiiClass::Email => "email address",
        PiiClass::Name => "name",
        PiiClass::Ip => "IP address",
        PiiClass::Phone => "phone number",
        PiiClass::Id => "personal identifier",
        PiiClass::FreeText => "free text",
    }
}

/// A made-up value of the column and what masking makes of it.
pub(super) fn example(pipeline: &Pipeline, column: usize) -> Option<(String, String)> {
    let declared = pipeline.columns.get(column)?;
    let class = declared.pii?;
    let clear = made_up(class);
    let values: ArrayRef = match &declared.kind {
        ColumnType::String => Arc::new(StringViewArray::from(vec![clear])),
        ColumnType::Json => Arc::new(StringViewArray::from(vec![format!("\"{clear}\"")])),
        ColumnType::Int32 => Arc::new(Int32Array::from(vec![4711])),
        ColumnType::Int64 => Arc::new(Int64Array::from(vec![4711])),
        ColumnType::Bool
        | ColumnType::Float64
        | ColumnType::Decimal(..)
        | ColumnType::Date
        | ColumnType::Timestamp
        | ColumnType::List(_) => return None,
    };
    let mut made_up = pipeline.clone();
    made_up.privacy.hash_key = Some(Secret::new("a made-up key for examples".to_owned()));
    let policy = Policy::new(&made_up, None).ok()?;
    let masked = policy.mask_values(column, &values).ok()?;
    let shown = |values: &ArrayRef| {
        if values.is_null(0) {
            Some("(empty)".to_owned())
        } else {
            array_value_to_string(values, 0).ok()
        }
    };
    Some((shown(&values)?, shown(&masked)?))
}

fn made_up(class: PiiClass) -> &'static str {
    match class {
        PiiClass::Email => "Ada.Lovelace@example.org",
        PiiClass::Name => "Ada Lovelace",
        PiiClass::Ip => "203.0.113.77",
        PiiClass::Phone => "+44 20 7946 0958",
        PiiClass::Id => "customer-4711",
        PiiClass::FreeText => "Please call Ada back",
    }
}
