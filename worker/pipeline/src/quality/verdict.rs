//! Row-level expectations: from a batch to the rows that fail.
//!
//! In: a batch of sound rows and the rows of the row condition. Out: how many rows were looked at, how many of
//! them left out, and the failing ones as bits; no bits at all when none fails, which is the rule.
//!
//! | expectation of | looks at                | leaves out                              |
//! |----------------|-------------------------|-----------------------------------------|
//! | nulls          | every row               | none                                    |
//! | a column       | every row               | nulls                                   |
//! | several columns| every row               | by `ignore_row_if`: all null, any null  |
//! | SQL            | every row               | none                                    |

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::buffer::BooleanBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;

use super::kernels::compare::{self, Comparison};
use super::kernels::length;
use super::kernels::pattern::Pattern;
use super::kernels::range::Range;
use super::kernels::set::ValueSet;
use super::kernels::strftime::TimeFormat;

/// What a row-level expectation asks.
#[derive(Debug, Clone)]
pub(super) enum Judge {
    NotNull(usize),
    Null(usize),
    Value(usize, ValueTest),
    Columns {
        columns: Vec<usize>,
        ignore: Ignore,
        test: ColumnsTest,
    },
    /// The rows for which the expression is true are unexpected; none: all of them.
    Sql(Option<Arc<dyn PhysicalExpr>>),
}

/// What is asked of a single value.
#[derive(Debug, Clone)]
pub(super) enum ValueTest {
    Range(Range),
    In(ValueSet),
    NotIn(ValueSet),
    /// A set that is not there holds everything.
    Always,
    Matches(Vec<Pattern>, Quantifier),
    Time(TimeFormat),
    Length(u64, u64),
    Json,
}

/// How many of several patterns must match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quantifier {
    Any,
    All,
    None,
}

/// What is asked of several columns of a row.
#[derive(Debug, Clone)]
pub(super) enum ColumnsTest {
    Compare(Comparison),
    /// Each pair: a test of either side, none for null.
    PairIn(Vec<(Option<ValueSet>, Option<ValueSet>)>),
    Sum(f64),
    Different,
    Same,
    Always,
}

/// Which rows are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Ignore {
    Never,
    AllNull,
    AnyNull,
}

/// What came of a batch.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) elements: u64,
    pub(super) missing: u64,
    /// Failing rows; none when there are none.
    pub(super) unexpected: Option<(BooleanBuffer, u64)>,
}

impl Judge {
    /// The columns whose values a failing row is shown by.
    pub(super) fn columns(&self) -> Vec<usize> {
        match self {
            Self::NotNull(column) | Self::Null(column) | Self::Value(column, _) => vec![*column],
            Self::Columns { columns, .. } => columns.clone(),
            Self::Sql(_) => Vec::new(),
        }
    }

    /// Judges a batch; `domain` holds the rows of the row condition.
    pub(super) fn judge(
        &self,
        batch: &RecordBatch,
        domain: Option<&BooleanBuffer>,
    ) -> Result<Judged, DataFusionError> {
        let rows = batch.num_rows();
        let elements = domain.map_or(rows, BooleanBuffer::count_set_bits) as u64;
        let column = |index: &usize| batch.column(*index);
        let (considered, pass) = match self {
            Self::NotNull(index) => match column(index).nulls() {
                None => {
                    return Ok(Judged {
                        elements,
                        missing: 0,
                        unexpected: None,
                    });
                }
                Some(nulls) => (None, nulls.inner().clone()),
            },
            Self::Null(index) => (None, null_bits(column(index))),
            Self::Value(index, test) => {
                let array = column(index);
                (array.nulls().map(|nulls| nulls.inner().clone()), test.pass(array))
            }
            Self::Columns {
                columns,
                ignore,
                test,
            } => {
                let arrays: Vec<&ArrayRef> = columns.iter().map(column).collect();
                (ignore.considered(&arrays), test.pass(&arrays)?)
            }
            Self::Sql(None) => (None, BooleanBuffer::new_unset(rows)),
            Self::Sql(Some(expression)) => {
                let found = expression.evaluate(batch)?.into_array(rows)?;
                let found = found.as_boolean_opt().ok_or_else(|| {
                    DataFusionError::Internal("the predicate of unexpected_rows is not boolean".to_owned())
                })?;
                let (bits, nulls) = found.clone().into_parts();
                (
                    None,
                    !&nulls.map_or_else(|| bits.clone(), |nulls| &bits & nulls.inner()),
                )
            }
        };
        let considered = match (considered, domain) {
            (Some(considered), Some(domain)) => Some(&considered & domain),
            (Some(considered), None) => Some(considered),
            (None, Some(domain)) => Some(domain.clone()),
            (None, None) => None,
        };
        let (left, good) = match &considered {
            None => (rows, pass.count_set_bits()),
            Some(considered) => {
                let passing = pass.count_set_bits();
                let left = considered.count_set_bits();
                // Where every slot passes, those that count do.
                (
                    left,
                    if passing == rows {
                        left
                    } else {
                        (considered & &pass).count_set_bits()
                    },
                )
            }
        };
        let unexpected = (good < left).then(|| {
            let failing = !&pass;
            let failing = considered
                .as_ref()
                .map_or(failing.clone(), |considered| &failing & considered);
            (failing, (left - good) as u64)
        });
        Ok(Judged {
            elements,
            missing: elements - left as u64,
            unexpected,
        })
    }
}

impl ValueTest {
    fn pass(&self, array: &ArrayRef) -> BooleanBuffer {
        match self {
            Self::Range(range) => range.judge(array),
            Self::In(set) => set.judge(array),
            Self::NotIn(set) => !&set.judge(array),
            Self::Always => BooleanBuffer::new_set(array.len()),
            Self::Matches(patterns, quantifier) => matching(patterns, *quantifier, array),
            Self::Time(format) => format.judge(array),
            Self::Length(min, max) => length::judge(array, *min, *max),
            Self::Json => match array.as_string_view_opt() {
                None => BooleanBuffer::new_unset(array.len()),
                Some(texts) => BooleanBuffer::collect_bool(texts.len(), |row| {
                    serde_json::from_str::<serde::de::IgnoredAny>(texts.value(row)).is_ok()
                }),
            },
        }
    }
}

fn matching(patterns: &[Pattern], quantifier: Quantifier, array: &ArrayRef) -> BooleanBuffer {
    let mut each = patterns.iter().map(|pattern| pattern.judge(array));
    match quantifier {
        Quantifier::All => each.fold(BooleanBuffer::new_set(array.len()), |all, bits| &all & &bits),
        Quantifier::Any => match (each.next(), each) {
            (None, _) => BooleanBuffer::new_unset(array.len()),
            (Some(first), rest) => rest.fold(first, |any, bits| &any | &bits),
        },
        Quantifier::None => !&matching(patterns, Quantifier::Any, array),
    }
}

impl ColumnsTest {
    fn pass(&self, arrays: &[&ArrayRef]) -> Result<BooleanBuffer, ArrowError> {
        let rows = arrays.first().map_or(0, |array| array.len());
        let mut pass = BooleanBuffer::new_set(rows);
        match (self, arrays) {
            (Self::Compare(comparison), [a, b]) => compare::columns(*comparison, a, b),
            (Self::PairIn(pairs), [a, b]) => {
                let side = |array: &ArrayRef, member: &Option<ValueSet>| match member {
                    None => null_bits(array),
                    Some(set) => {
                        let found = set.judge(array);
                        array
                            .nulls()
                            .map_or(found.clone(), |nulls| &found & nulls.inner())
                    }
                };
                Ok(pairs
                    .iter()
                    .fold(BooleanBuffer::new_unset(rows), |any, (left, right)| {
                        &any | &(&side(a, left) & &side(b, right))
                    }))
            }
            (Self::Sum(total), arrays) => sums(arrays, *total),
            (Self::Different, arrays) => {
                for (i, a) in arrays.iter().enumerate() {
                    for b in &arrays[i + 1..] {
                        pass = &pass & &!&compare::same(a, b)?;
                    }
                }
                Ok(pass)
            }
            (Self::Same, [first, rest @ ..]) => {
                for other in rest {
                    pass = &pass & &compare::same(first, other)?;
                }
                Ok(pass)
            }
            (Self::Always | Self::Compare(_) | Self::PairIn(_) | Self::Same, _) => Ok(pass),
        }
    }
}

/// The rows whose columns add up to `total`; a null makes a sum of nothing.
fn sums(arrays: &[&ArrayRef], total: f64) -> Result<BooleanBuffer, ArrowError> {
    let rows = arrays.first().map_or(0, |array| array.len());
    let mut sums = vec![0.0; rows];
    let mut whole = BooleanBuffer::new_set(rows);
    for array in arrays {
        let array = if array.data_type() == &DataType::Boolean {
            &cast(array, &DataType::Int32)?
        } else {
            *array
        };
        let floats = cast(array, &DataType::Float64)?;
        let floats = floats.as_primitive::<Float64Type>();
        sums.iter_mut()
            .zip(floats.values())
            .for_each(|(sum, value)| *sum += value);
        if let Some(nulls) = floats.nulls() {
            whole = &whole & nulls.inner();
        }
    }
    Ok(&whole & &BooleanBuffer::collect_bool(rows, |row| sums[row] == total))
}

impl Ignore {
    /// The rows that are not left out; none when that is all of them.
    pub(super) fn considered(self, arrays: &[&ArrayRef]) -> Option<BooleanBuffer> {
        let valid = |array: &&ArrayRef| array.nulls().map(|nulls| nulls.inner().clone());
        match self {
            Self::Never => None,
            Self::AnyNull => arrays.iter().filter_map(valid).reduce(|all, bits| &all & &bits),
            // A column without nulls keeps every row.
            Self::AllNull => arrays
                .iter()
                .map(valid)
                .collect::<Option<Vec<_>>>()?
                .into_iter()
                .reduce(|any, bits| &any | &bits),
        }
    }
}

fn null_bits(array: &ArrayRef) -> BooleanBuffer {
    array
        .nulls()
        .map_or_else(|| BooleanBuffer::new_unset(array.len()), |nulls| !nulls.inner())
}
