//! `row_condition`: which rows an expectation looks at.
//!
//! In: the condition as a suite has it. Out: one bit a row. Three ways of writing it are read:
//!
//! | written as                                         | by                                          |
//! |----------------------------------------------------|---------------------------------------------|
//! | `{"type": "comparison", "column": {"name": "x"}, …}` | Great Expectations 1.x                    |
//! | `col("x") >= 1`, `col("x").notNull()`              | Great Expectations' own parser              |
//! | `x > 1 and y == "a"`, `` `my col` in [1, 2] ``, `x is null` | pandas' `query`, plain SQL          |
//!
//! Nulls are judged as pandas does: a comparison with null is false, `!=` and `not in` are true. What cannot
//! be read is an error, and the expectation an exception: no condition is ever guessed.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Float64Array, Int64Array, RecordBatch, StringViewArray,
    TimestampMicrosecondArray,
};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::{DataType, Schema};
use arrow::error::ArrowError;
use serde_json::Value;

use super::condition_text::parse_text;
use super::kernels::compare::{Comparison, columns, constant};
use super::kernels::range::instant;
use super::kernels::set::ValueSet;

/// A condition as read, by column names.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Written {
    Compare(Operand, Comparison, Operand),
    In(String, Vec<Value>),
    Null(String),
    Not(Box<Self>),
    And(Vec<Self>),
    Or(Vec<Self>),
    /// A boolean column on its own.
    Holds(String),
}

/// One side of a comparison.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Operand {
    Column(String),
    Value(Value),
}

/// A condition over the columns of a table.
#[derive(Debug, Clone)]
pub(super) enum Condition {
    Columns(usize, Comparison, usize),
    Constant(usize, Comparison, ArrayRef),
    In(usize, ValueSet),
    Null(usize),
    Not(Box<Self>),
    And(Vec<Self>),
    Or(Vec<Self>),
}

impl Condition {
    /// Reads a condition and looks its columns up; the error says what is wrong.
    pub(super) fn compile(declared: &Value, table: &Schema) -> Result<Self, String> {
        let written = match declared {
            Value::String(text) => parse_text(text)?,
            object => parse_object(object)?,
        };
        bind(&written, table)
    }

    /// The rows for which the condition holds.
    pub(super) fn judge(&self, batch: &RecordBatch) -> Result<BooleanBuffer, ArrowError> {
        let rows = batch.num_rows();
        Ok(match self {
            Self::Columns(left, comparison, right) => {
                columns(*comparison, batch.column(*left), batch.column(*right))?
            }
            Self::Constant(column, comparison, value) => constant(*comparison, batch.column(*column), value)?,
            Self::In(column, set) => {
                let array = batch.column(*column);
                let found = set.judge(array);
                array
                    .nulls()
                    .map_or(found.clone(), |nulls| &found & nulls.inner())
            }
            Self::Null(column) => batch
                .column(*column)
                .nulls()
                .map_or_else(|| BooleanBuffer::new_unset(rows), |nulls| !nulls.inner()),
            Self::Not(inner) => !&inner.judge(batch)?,
            Self::And(parts) => {
                let mut all = BooleanBuffer::new_set(rows);
                for part in parts {
                    all = &all & &part.judge(batch)?;
                }
                all
            }
            Self::Or(parts) => {
                let mut any = BooleanBuffer::new_unset(rows);
                for part in parts {
                    any = &any | &part.judge(batch)?;
                }
                any
            }
        })
    }
}

fn parse_object(object: &Value) -> Result<Written, String> {
    let unreadable = || format!("row_condition {object} is none that we know");
    let column = || {
        let column = object.get("column").ok_or_else(unreadable)?;
        column
            .get("name")
            .unwrap_or(column)
            .as_str()
            .map(str::to_owned)
            .ok_or_else(unreadable)
    };
    let parts = || {
        let parts = object
            .get("conditions")
            .and_then(Value::as_array)
            .ok_or_else(unreadable)?;
        parts.iter().map(parse_object).collect::<Result<Vec<_>, _>>()
    };
    match object.get("type").and_then(Value::as_str) {
        Some("and") => Ok(Written::And(parts()?)),
        Some("or") => Ok(Written::Or(parts()?)),
        Some("pass_through") => parse_text(
            object
                .get("pass_through_filter")
                .and_then(Value::as_str)
                .ok_or_else(unreadable)?,
        ),
        Some("nullity") => {
            let is_null = object
                .get("is_null")
                .and_then(Value::as_bool)
                .ok_or_else(unreadable)?;
            let null = Written::Null(column()?);
            Ok(if is_null {
                null
            } else {
                Written::Not(Box::new(null))
            })
        }
        Some("comparison") => {
            let value = object.get("parameter").ok_or_else(unreadable)?.clone();
            let operator = object
                .get("operator")
                .and_then(Value::as_str)
                .ok_or_else(unreadable)?;
            if let "IN" | "NOT_IN" = operator {
                let set = Written::In(column()?, value.as_array().ok_or_else(unreadable)?.clone());
                return Ok(if operator == "IN" {
                    set
                } else {
                    Written::Not(Box::new(set))
                });
            }
            let comparison = comparison(operator).ok_or_else(unreadable)?;
            Ok(Written::Compare(
                Operand::Column(column()?),
                comparison,
                Operand::Value(value),
            ))
        }
        _ => Err(unreadable()),
    }
}

/// A comparison by its sign.
pub(super) fn comparison(sign: &str) -> Option<Comparison> {
    Some(match sign {
        "==" | "=" => Comparison::Equal,
        "!=" | "<>" => Comparison::NotEqual,
        "<" => Comparison::Less,
        "<=" => Comparison::LessOrEqual,
        ">" => Comparison::Greater,
        ">=" => Comparison::GreaterOrEqual,
        _ => return None,
    })
}

fn bind(written: &Written, table: &Schema) -> Result<Condition, String> {
    let find = |name: &str| {
        table
            .index_of(name)
            .map_err(|_| format!("row_condition names the column `{name}`, which the table lacks"))
    };
    let all = |parts: &[Written]| {
        parts
            .iter()
            .map(|part| bind(part, table))
            .collect::<Result<Vec<_>, _>>()
    };
    Ok(match written {
        Written::Compare(Operand::Column(left), comparison, Operand::Column(right)) => {
            Condition::Columns(find(left)?, *comparison, find(right)?)
        }
        Written::Compare(Operand::Column(name), comparison, Operand::Value(value)) => {
            bind_constant(table, find(name)?, *comparison, value)?
        }
        Written::Compare(Operand::Value(value), comparison, Operand::Column(name)) => {
            bind_constant(table, find(name)?, flipped(*comparison), value)?
        }
        Written::Compare(Operand::Value(_), _, Operand::Value(_)) => {
            return Err("row_condition compares two constants".to_owned());
        }
        Written::In(name, values) => {
            let column = find(name)?;
            Condition::In(
                column,
                ValueSet::compile(table.field(column).data_type(), values)?,
            )
        }
        Written::Null(name) => Condition::Null(find(name)?),
        Written::Not(inner) => Condition::Not(Box::new(bind(inner, table)?)),
        Written::And(parts) => Condition::And(all(parts)?),
        Written::Or(parts) => Condition::Or(all(parts)?),
        Written::Holds(name) => {
            let column = find(name)?;
            if table.field(column).data_type() != &DataType::Boolean {
                return Err(format!(
                    "row_condition uses the column `{name}` as a condition, but it is no bool"
                ));
            }
            bind_constant(table, column, Comparison::Equal, &Value::Bool(true))?
        }
    })
}

fn flipped(comparison: Comparison) -> Comparison {
    match comparison {
        Comparison::Less => Comparison::Greater,
        Comparison::LessOrEqual => Comparison::GreaterOrEqual,
        Comparison::Greater => Comparison::Less,
        Comparison::GreaterOrEqual => Comparison::LessOrEqual,
        same @ (Comparison::Equal | Comparison::NotEqual) => same,
    }
}

fn bind_constant(
    table: &Schema,
    column: usize,
    comparison: Comparison,
    value: &Value,
) -> Result<Condition, String> {
    let kind = table.field(column).data_type();
    let wrong = || {
        let name = table.field(column).name();
        format!("row_condition compares the column `{name}` of type {kind} with {value}")
    };
    let array: ArrayRef = match (kind, value) {
        (DataType::Utf8View, Value::String(text)) => Arc::new(StringViewArray::from(vec![text.as_str()])),
        (DataType::Date32, Value::String(_)) => {
            let day = instant(kind, value)
                .and_then(|day| i32::try_from(day).ok())
                .ok_or_else(wrong)?;
            Arc::new(Date32Array::from(vec![day]))
        }
        (DataType::Timestamp(_, _), Value::String(_)) => {
            let time = instant(kind, value).ok_or_else(wrong)?;
            Arc::new(TimestampMicrosecondArray::from(vec![time]).with_timezone("UTC"))
        }
        (kind, Value::Bool(bit)) if kind.is_numeric() || kind == &DataType::Boolean => {
            Arc::new(BooleanArray::from(vec![*bit]))
        }
        (kind, Value::Number(number)) if kind.is_numeric() || kind == &DataType::Boolean => {
            match number.as_i64() {
                Some(int) => Arc::new(Int64Array::from(vec![int])),
                None => Arc::new(Float64Array::from(vec![number.as_f64().ok_or_else(wrong)?])),
            }
        }
        _ => return Err(wrong()),
    };
    Ok(Condition::Constant(column, comparison, array))
}
