//! Statistics types: which tally an expectation reads, and what it makes of it.
//!
//! | tally       | expectations                                                                |
//! |-------------|-----------------------------------------------------------------------------|
//! | counts alone| row counts, share of non-null values                                        |
//! | extremes    | min, max                                                                    |
//! | moments     | mean, sum, standard deviation                                               |
//! | quantiles   | median, quantiles                                                           |
//! | counts      | sets of distinct values, most common value                                  |
//! | occurrences | number of distinct values; after deduplication: uniqueness and its share    |

use arrow::datatypes::DataType;
use serde_json::Value;

use super::compile::Arguments;
use super::kernels::cells::{float_hash, int_hash, text_hash};
use super::kernels::range::Bounds;
use super::kernels::set::{as_int, as_number};
use super::statistics::extremes::Extremes;
use super::statistics::moments::Moments;
use super::statistics::quantiles::Interpolation;
use super::verdict::Ignore;

/// A statistic and what is asked of it.
#[derive(Debug)]
pub(super) struct Measure {
    pub(super) source: Source,
    pub(super) asked: Asked,
}

/// What is tallied. Expectations that ask for the same share a tally.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Source {
    /// Every row, no column.
    Rows,
    /// Nulls of a column.
    Nulls(usize),
    Extremes(usize),
    Moments(usize),
    Quantiles(usize),
    Counts(usize),
    /// Values of one or several columns; whether they are looked at after deduplication.
    Occurrences {
        columns: Vec<usize>,
        ignore: Ignore,
        after_dedup: bool,
    },
}

/// What is asked of a tally.
#[derive(Debug)]
pub(super) enum Asked {
    RowsBetween(Bounds),
    RowsEqual(f64),
    NonNullShare(Bounds),
    Min(Bounds),
    Max(Bounds),
    Mean(Bounds),
    Sum(Bounds),
    Deviation(Bounds),
    Median(Bounds),
    Quantiles {
        quantiles: Vec<f64>,
        ranges: Vec<(Option<f64>, Option<f64>)>,
        interpolation: Interpolation,
    },
    DistinctCount(Bounds),
    UniqueShare(Bounds),
    /// No value stands twice.
    Unique,
    DistinctIn(HashedSet),
    DistinctContain(HashedSet),
    DistinctEqual(HashedSet),
    MostCommonIn(HashedSet, bool),
}

/// A set of values, with each value's hash in the column's type; none when the column cannot hold it.
#[derive(Debug)]
pub(super) struct HashedSet(pub(super) Vec<(Option<u128>, Value)>);

impl HashedSet {
    fn compile(kind: &DataType, values: &[Value]) -> Self {
        let hash = |value: &Value| match kind {
            DataType::Utf8View => value.as_str().map(text_hash),
            DataType::Float64 => as_number(value).map(float_hash),
            _ => as_int(kind, value).map(int_hash),
        };
        let mut set: Vec<(Option<u128>, Value)> = Vec::new();
        for value in values {
            let hash = hash(value);
            let is_known = set
                .iter()
                .any(|(have, known)| known == value || (hash.is_some() && *have == hash));
            if !is_known {
                set.push((hash, value.clone()));
            }
        }
        Self(set)
    }

    pub(super) fn contains(&self, hash: u128) -> bool {
        self.0.iter().any(|(have, _)| *have == Some(hash))
    }
}

/// None when the type is no statistic.
pub(super) fn compile(kind: &str, arguments: &Arguments<'_>) -> Result<Option<Measure>, String> {
    let bounds = || Bounds::of(arguments.kwargs);
    let column = || arguments.column("column");
    let fitting = |fit: fn(&DataType) -> bool| {
        let column = column()?;
        let kind = arguments.table.field(column).data_type();
        if fit(kind) {
            Ok(column)
        } else {
            Err(format!("a column of type {kind} has no such statistic"))
        }
    };
    let is_number: fn(&DataType) -> bool = |kind| kind.is_numeric();
    let set = || {
        let kind = arguments.table.field(column()?).data_type();
        let values = arguments.list("value_set")?.ok_or("`value_set` is missing")?;
        Ok::<_, String>(HashedSet::compile(kind, values))
    };
    let occurrences = |columns: Vec<usize>, ignore, after_dedup| Source::Occurrences {
        columns,
        ignore,
        after_dedup,
    };
    let (source, asked) = match kind {
        "expect_table_row_count_to_be_between" => (Source::Rows, Asked::RowsBetween(bounds())),
        "expect_table_row_count_to_equal" => (Source::Rows, Asked::RowsEqual(arguments.number("value")?)),
        "expect_column_proportion_of_non_null_values_to_be_between" => {
            (Source::Nulls(column()?), Asked::NonNullShare(bounds()))
        }
        "expect_column_min_to_be_between" => {
            (Source::Extremes(fitting(Extremes::fit)?), Asked::Min(bounds()))
        }
        "expect_column_max_to_be_between" => {
            (Source::Extremes(fitting(Extremes::fit)?), Asked::Max(bounds()))
        }
        "expect_column_mean_to_be_between" => {
            (Source::Moments(fitting(Moments::fit)?), Asked::Mean(bounds()))
        }
        "expect_column_sum_to_be_between" => (Source::Moments(fitting(Moments::fit)?), Asked::Sum(bounds())),
        "expect_column_stdev_to_be_between" => (
            Source::Moments(fitting(Moments::fit)?),
            Asked::Deviation(bounds()),
        ),
        "expect_column_median_to_be_between" => {
            (Source::Quantiles(fitting(is_number)?), Asked::Median(bounds()))
        }
        "expect_column_quantile_values_to_be_between" => {
            (Source::Quantiles(fitting(is_number)?), quantiles(arguments)?)
        }
        "expect_column_unique_value_count_to_be_between" => (
            occurrences(vec![column()?], Ignore::AnyNull, false),
            Asked::DistinctCount(bounds()),
        ),
        "expect_column_proportion_of_unique_values_to_be_between" => (
            occurrences(vec![column()?], Ignore::AnyNull, true),
            Asked::UniqueShare(bounds()),
        ),
        "expect_column_values_to_be_unique" => {
            (occurrences(vec![column()?], Ignore::AnyNull, true), Asked::Unique)
        }
        "expect_compound_columns_to_be_unique" => (
            occurrences(arguments.columns()?, arguments.ignore()?, true),
            Asked::Unique,
        ),
        "expect_column_distinct_values_to_be_in_set" => {
            (Source::Counts(column()?), Asked::DistinctIn(set()?))
        }
        "expect_column_distinct_values_to_contain_set" => {
            (Source::Counts(column()?), Asked::DistinctContain(set()?))
        }
        "expect_column_distinct_values_to_equal_set" => {
            (Source::Counts(column()?), Asked::DistinctEqual(set()?))
        }
        "expect_column_most_common_value_to_be_in_set" => (
            Source::Counts(column()?),
            Asked::MostCommonIn(set()?, arguments.flag("ties_okay", false)),
        ),
        _ => return Ok(None),
    };
    Ok(Some(Measure { source, asked }))
}

fn quantiles(arguments: &Arguments<'_>) -> Result<Asked, String> {
    let wrong =
        || "`quantile_ranges` must hold `quantiles` and as many `value_ranges` of two bounds".to_owned();
    let declared = arguments.kwargs.get("quantile_ranges").ok_or_else(wrong)?;
    let list = |key: &str| declared.get(key).and_then(Value::as_array).ok_or_else(wrong);
    let quantiles: Option<Vec<f64>> = list("quantiles")?.iter().map(Value::as_f64).collect();
    let quantiles = quantiles.ok_or_else(wrong)?;
    let ranges = list("value_ranges")?
        .iter()
        .map(|range| match range.as_array().map(Vec::as_slice) {
            Some([low, high])
                if [low, high]
                    .iter()
                    .all(|bound| bound.is_null() || bound.is_number()) =>
            {
                Ok((low.as_f64(), high.as_f64()))
            }
            _ => Err(wrong()),
        })
        .collect::<Result<Vec<_>, _>>()?;
    if ranges.len() != quantiles.len() {
        return Err(wrong());
    }
    let interpolation = match arguments.kwargs.get("allow_relative_error") {
        None | Some(Value::Null | Value::Bool(false)) => Interpolation::Nearest,
        Some(Value::String(name)) => match name.as_str() {
            "linear" => Interpolation::Linear,
            "lower" => Interpolation::Lower,
            "higher" => Interpolation::Higher,
            "midpoint" => Interpolation::Midpoint,
            "nearest" => Interpolation::Nearest,
            _ => return Err(format!("allow_relative_error `{name}` is no interpolation")),
        },
        Some(other) => return Err(format!("allow_relative_error {other} is no interpolation")),
    };
    Ok(Asked::Quantiles {
        quantiles,
        ranges,
        interpolation,
    })
}
