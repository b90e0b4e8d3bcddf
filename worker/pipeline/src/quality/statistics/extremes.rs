//! The least and the greatest value.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::kernels::aggregate::{max, min};
use arrow::compute::{cast, max_string_view, min_string_view};
use arrow::datatypes::{DataType, Date32Type, Float64Type, Int64Type, TimestampMicrosecondType};
use arrow::error::ArrowError;
use serde_json::Value;

use super::wire::{Reader, StateError, Writer};
use crate::quality::kernels::cells::{day_text, time_text};

/// A value with an order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Cell {
    Int(i64),
    Float(f64),
    Text(String),
    Micros(i64),
    Days(i64),
}

impl Cell {
    fn is_below(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Int(a), Self::Int(b))
            | (Self::Micros(a), Self::Micros(b))
            | (Self::Days(a), Self::Days(b)) => a < b,
            (Self::Float(a), Self::Float(b)) => a < b,
            (Self::Text(a), Self::Text(b)) => a < b,
            _ => false,
        }
    }

    /// As a result shows it.
    pub(crate) fn json(&self) -> Value {
        match self {
            Self::Int(value) => (*value).into(),
            Self::Float(value) => (*value).into(),
            Self::Text(text) => text.as_str().into(),
            Self::Micros(micros) => time_text(*micros).into(),
            Self::Days(days) => i32::try_from(*days).map_or(Value::Null, |days| day_text(days).into()),
        }
    }

    fn write(&self, writer: &mut Writer) {
        let (tag, bits) = match self {
            Self::Int(value) => (1, *value as u64),
            Self::Float(value) => (2, value.to_bits()),
            Self::Text(text) => {
                writer.u8(3);
                return writer.text(text);
            }
            Self::Micros(value) => (4, *value as u64),
            Self::Days(value) => (5, *value as u64),
        };
        writer.u8(tag);
        writer.u64(bits);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Option<Self>, StateError> {
        Ok(Some(match reader.u8()? {
            0 => return Ok(None),
            1 => Self::Int(reader.u64()? as i64),
            2 => Self::Float(reader.f64()?),
            3 => Self::Text(reader.text()?.to_owned()),
            4 => Self::Micros(reader.u64()? as i64),
            5 => Self::Days(reader.u64()? as i64),
            tag => {
                return Err(StateError::Unknown {
                    found: tag.into(),
                    expected: "a value's tag",
                });
            }
        }))
    }
}

/// Least and greatest; none before the first value.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Extremes {
    pub(crate) least: Option<Cell>,
    pub(crate) greatest: Option<Cell>,
}

impl Extremes {
    /// Whether columns of this type have extremes.
    pub(crate) fn fit(kind: &DataType) -> bool {
        kind.is_numeric()
            || matches!(
                kind,
                DataType::Boolean | DataType::Utf8View | DataType::Timestamp(_, _) | DataType::Date32
            )
    }

    /// Takes the values that are not null.
    pub(crate) fn add(&mut self, array: &ArrayRef) -> Result<(), ArrowError> {
        let (least, greatest) = match array.data_type() {
            DataType::Utf8View => {
                let texts = array.as_string_view();
                let cell = |text: &str| Cell::Text(text.to_owned());
                (min_string_view(texts).map(cell), max_string_view(texts).map(cell))
            }
            DataType::Timestamp(_, _) => {
                let times = array.as_primitive::<TimestampMicrosecondType>();
                (min(times).map(Cell::Micros), max(times).map(Cell::Micros))
            }
            DataType::Date32 => {
                let days = array.as_primitive::<Date32Type>();
                let cell = |days: i32| Cell::Days(days.into());
                (min(days).map(cell), max(days).map(cell))
            }
            kind if kind.is_integer() || kind == &DataType::Boolean => {
                let ints = cast(array, &DataType::Int64)?;
                let ints = ints.as_primitive::<Int64Type>();
                (min(ints).map(Cell::Int), max(ints).map(Cell::Int))
            }
            _ => {
                let floats = cast(array, &DataType::Float64)?;
                let floats = floats.as_primitive::<Float64Type>();
                // Arrow's order puts NaN above all numbers; here it is no value.
                let numbers = || floats.iter().flatten().filter(|value| !value.is_nan());
                (
                    numbers().reduce(f64::min).map(Cell::Float),
                    numbers().reduce(f64::max).map(Cell::Float),
                )
            }
        };
        self.merge(&Self { least, greatest });
        Ok(())
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        if let Some(least) = &other.least
            && self.least.as_ref().is_none_or(|ours| least.is_below(ours))
        {
            self.least = Some(least.clone());
        }
        if let Some(greatest) = &other.greatest
            && self.greatest.as_ref().is_none_or(|ours| ours.is_below(greatest))
        {
            self.greatest = Some(greatest.clone());
        }
    }

    pub(crate) fn write(&self, writer: &mut Writer) {
        for cell in [&self.least, &self.greatest] {
            match cell {
                None => writer.u8(0),
                Some(cell) => cell.write(writer),
            }
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, StateError> {
        Ok(Self {
            least: Cell::read(reader)?,
            greatest: Cell::read(reader)?,
        })
    }
}
