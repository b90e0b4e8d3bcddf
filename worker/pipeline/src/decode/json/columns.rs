//! Typed columns that are written by row number.
//!
//! A column starts as nulls; reading a value writes it and its bit. So an absent key costs nothing, and a
//! row is taken back by clearing its bits. A value of the wrong type leaves null and a [`Mismatch`].

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Decimal128Array, ListArray, PrimitiveArray, TimestampMicrosecondArray,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{ArrowPrimitiveType, Date32Type, Field, Float64Type, Int32Type, Int64Type};
use arrow::error::ArrowError;

use super::time::DayMemo;
use crate::decode::WantedKind;
use crate::spec::model::ColumnType;
use crate::views::{self, Homes};

/// A bit a row.
#[derive(Debug, Default)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    fn new(rows: usize) -> Self {
        Self(vec![0; rows.div_ceil(64)])
    }

    #[inline(always)]
    pub(super) fn set(&mut self, row: usize) {
        self.0[row / 64] |= 1 << (row % 64);
    }

    fn clear(&mut self, row: usize) {
        self.0[row / 64] &= !(1 << (row % 64));
    }

    /// Clears what the last word holds behind `rows` rows.
    fn clear_behind(&mut self, rows: usize) {
        if let (Some(last), used @ 1..) = (self.0.last_mut(), rows % 64) {
            *last &= (1 << used) - 1;
        }
    }

    fn grow(&mut self, rows: usize) {
        self.0.resize(rows.div_ceil(64), 0);
    }

    fn finish(self, rows: usize) -> BooleanBuffer {
        BooleanBuffer::new(Buffer::from_vec(self.0), 0, rows)
    }
}

/// One column of the batch that is being filled.
#[derive(Debug)]
pub(super) struct Column {
    pub(super) values: Values,
    pub(super) valid: Bits,
}

/// The values of a column. Rows without a bit hold whatever was there.
#[derive(Debug)]
pub(super) enum Values {
    Text(Vec<u128>),
    Json(Vec<u128>),
    Bool(Bits),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Float64(Vec<f64>),
    Decimal(Vec<i128>, u8, i8),
    Date(Vec<i32>, DayMemo),
    Timestamp(Vec<i64>, DayMemo),
    List(Box<ListColumn>),
    /// Its bits are the values: never null.
    Present,
}

/// Items of all rows, and where each row's begin.
#[derive(Debug)]
pub(super) struct ListColumn {
    pub(super) item: Column,
    pub(super) items: usize,
    starts: Vec<i32>,
    kind: ColumnType,
}

impl Column {
    /// An empty column with room for `rows` rows.
    pub(super) fn new(kind: &WantedKind, rows: usize) -> Self {
        match kind {
            WantedKind::Value(kind) => Self::of_type(kind, rows),
            WantedKind::Present => Self {
                values: Values::Present,
                valid: Bits::new(rows),
            },
        }
    }

    fn of_type(kind: &ColumnType, rows: usize) -> Self {
        let values = match kind {
            ColumnType::String => Values::Text(vec![0; rows]),
            ColumnType::Json => Values::Json(vec![0; rows]),
            ColumnType::Bool => Values::Bool(Bits::new(rows)),
            ColumnType::Int32 => Values::Int32(vec![0; rows]),
            ColumnType::Int64 => Values::Int64(vec![0; rows]),
            ColumnType::Float64 => Values::Float64(vec![0.0; rows]),
            ColumnType::Decimal(precision, scale) => Values::Decimal(vec![0; rows], *precision, *scale),
            ColumnType::Date => Values::Date(vec![0; rows], DayMemo::default()),
            ColumnType::Timestamp => Values::Timestamp(vec![0; rows], DayMemo::default()),
            ColumnType::List(item) => Values::List(Box::new(ListColumn {
                item: Self::of_type(item, 0),
                items: 0,
                starts: Vec::with_capacity(rows + 1),
                kind: item.as_ref().clone(),
            })),
        };
        Self {
            values,
            valid: Bits::new(rows),
        }
    }

    /// Makes the row null again.
    pub(super) fn clear(&mut self, row: usize) {
        self.valid.clear(row);
        match &mut self.values {
            Values::Bool(values) => values.clear(row),
            Values::List(list) => list.clear(row),
            Values::Text(_)
            | Values::Json(_)
            | Values::Int32(_)
            | Values::Int64(_)
            | Values::Float64(_)
            | Values::Decimal(..)
            | Values::Date(..)
            | Values::Timestamp(..)
            | Values::Present => {}
        }
    }

    /// Makes the column `rows` long; new rows are null.
    pub(super) fn resize(&mut self, rows: usize) {
        self.valid.grow(rows);
        match &mut self.values {
            Values::Text(values) | Values::Json(values) => values.resize(rows, 0),
            Values::Bool(values) => values.grow(rows),
            Values::Int32(values) | Values::Date(values, _) => values.resize(rows, 0),
            Values::Int64(values) | Values::Timestamp(values, _) => values.resize(rows, 0),
            Values::Float64(values) => values.resize(rows, 0.0),
            Values::Decimal(values, ..) => values.resize(rows, 0),
            Values::List(_) | Values::Present => {}
        }
    }

    /// Makes the column `rows` long, so that rows added later start as null.
    fn truncate(&mut self, rows: usize) {
        self.resize(rows);
        self.valid.clear_behind(rows);
        match &mut self.values {
            Values::Bool(values) => values.clear_behind(rows),
            Values::List(list) => list.clear(rows),
            Values::Text(_)
            | Values::Json(_)
            | Values::Int32(_)
            | Values::Int64(_)
            | Values::Float64(_)
            | Values::Decimal(..)
            | Values::Date(..)
            | Values::Timestamp(..)
            | Values::Present => {}
        }
    }

    /// The first `rows` rows as an array.
    pub(super) fn finish(mut self, rows: usize, homes: &Homes) -> Result<ArrayRef, ArrowError> {
        self.resize(rows);
        let valid = self.valid.finish(rows);
        if matches!(self.values, Values::Present) {
            return Ok(Arc::new(BooleanArray::new(valid, None)));
        }
        let nulls = Some(NullBuffer::new(valid)).filter(|nulls| nulls.null_count() > 0);
        Ok(match self.values {
            Values::Text(views) | Values::Json(views) => views::text_array(views, homes, nulls),
            Values::Bool(values) => Arc::new(BooleanArray::new(values.finish(rows), nulls)),
            Values::Int32(values) => primitive::<Int32Type>(values, nulls),
            Values::Int64(values) => primitive::<Int64Type>(values, nulls),
            Values::Float64(values) => primitive::<Float64Type>(values, nulls),
            Values::Date(values, _) => primitive::<Date32Type>(values, nulls),
            Values::Decimal(values, precision, scale) => Arc::new(
                Decimal128Array::new(values.into(), nulls).with_precision_and_scale(precision, scale)?,
            ),
            Values::Timestamp(values, _) => {
                Arc::new(TimestampMicrosecondArray::new(values.into(), nulls).with_timezone("UTC"))
            }
            Values::List(list) => list.finish(rows, nulls, homes)?,
            // Answered above.
            Values::Present => Arc::new(BooleanArray::new_null(rows)),
        })
    }
}

fn primitive<T: ArrowPrimitiveType>(values: Vec<T::Native>, nulls: Option<NullBuffer>) -> ArrayRef {
    Arc::new(PrimitiveArray::<T>::new(ScalarBuffer::from(values), nulls))
}

impl ListColumn {
    /// Begins the row's list. None when there are more items than a list column can count.
    pub(super) fn begin(&mut self, row: usize) -> Option<()> {
        let items = i32::try_from(self.items).ok()?;
        self.starts.resize(row + 1, items);
        Some(())
    }

    /// Adds a null item and says where it is.
    pub(super) fn add(&mut self) -> Option<usize> {
        let at = self.items;
        i32::try_from(at + 1).ok()?;
        self.items += 1;
        self.item.resize(self.items);
        Some(at)
    }

    /// Takes the row's items back.
    pub(super) fn clear(&mut self, row: usize) {
        if let Some(&start) = self.starts.get(row) {
            self.items = start as usize;
            self.item.truncate(self.items);
            self.starts.truncate(row);
        }
    }

    fn finish(
        mut self,
        rows: usize,
        nulls: Option<NullBuffer>,
        homes: &Homes,
    ) -> Result<ArrayRef, ArrowError> {
        let items = i32::try_from(self.items).map_err(|_| ArrowError::OffsetOverflowError(self.items))?;
        self.starts.resize(rows + 1, items);
        let offsets = OffsetBuffer::new(ScalarBuffer::from(self.starts));
        let field = Arc::new(Field::new("item", self.kind.arrow(), true));
        let items = self.item.finish(self.items, homes)?;
        Ok(Arc::new(ListArray::try_new(field, offsets, items, nulls)?))
    }
}
