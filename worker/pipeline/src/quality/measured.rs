//! What a statistic amounts to: the observed value and whether it is as expected.

use serde_json::{Map, Value, json};

use super::kernels::range::{Bounds, instant};
use super::measure::{Asked, HashedSet, Measure, Source};
use super::plan::{Check, QualityPlan};
use super::result::{Outcome, map_outcome};
use super::state::{SHOWN_MAX, Slot, Tally};
use super::statistics::counts::Counts;
use super::statistics::extremes::Cell;
use super::statistics::quantiles::{Interpolation, Quantiles};
use arrow::datatypes::DataType;

/// Relative distance within which a quantile counts as its bound.
const QUANTILE_TOLERANCE: f64 = 1e-4;

impl QualityPlan {
    pub(super) fn measured(&self, check: &Check, measure: &Measure, slot: &Slot) -> Outcome {
        let mut outcome = match judge(check, &measure.asked, slot) {
            Ok(outcome) => outcome,
            Err(reason) => return Outcome::exception(reason),
        };
        self.hide(&measure.source, &mut outcome.result);
        outcome
    }

    /// Takes out figures that are values of a masked column.
    fn hide(&self, source: &Source, result: &mut Value) {
        let column = match source {
            Source::Extremes(column) | Source::Moments(column) | Source::Quantiles(column) => *column,
            // Counts are no values, and listed values are masked when they are taken in.
            Source::Rows | Source::Nulls(_) | Source::Counts(_) | Source::Occurrences { .. } => return,
        };
        if !self.masked.get(column).copied().unwrap_or(false) {
            return;
        }
        if let Some(result) = result.as_object_mut() {
            result.insert("observed_value".into(), Value::Null);
            result.insert(
                "details".into(),
                json!({"note": "omitted: the column holds personal data"}),
            );
        }
    }
}

fn judge(check: &Check, asked: &Asked, slot: &Slot) -> Result<Outcome, String> {
    let considered = slot.elements - slot.missing;
    let foreign = || "the quality state is of another suite".to_owned();
    match (asked, &slot.tally) {
        (Asked::RowsBetween(bounds), _) => between(Some(slot.elements as f64), slot.elements.into(), bounds),
        (Asked::RowsEqual(wanted), _) => Ok(observed(slot.elements as f64 == *wanted, slot.elements.into())),
        (Asked::NonNullShare(bounds), _) => {
            let share = if slot.elements > 0 {
                considered as f64 / slot.elements as f64
            } else {
                0.0
            };
            between(Some(share), json!(share), bounds)
        }
        (Asked::Min(bounds), Tally::Extremes(extremes)) => extreme(extremes.least.as_ref(), bounds),
        (Asked::Max(bounds), Tally::Extremes(extremes)) => extreme(extremes.greatest.as_ref(), bounds),
        (Asked::Mean(bounds), Tally::Moments(moments)) => number(moments.mean(), bounds),
        (Asked::Sum(bounds), Tally::Moments(moments)) => number(Some(moments.sum()), bounds),
        (Asked::Deviation(bounds), Tally::Moments(moments)) => number(moments.deviation(), bounds),
        (Asked::Median(bounds), Tally::Quantiles(quantiles)) => {
            let median = quantiles
                .at(&[0.5], Interpolation::Midpoint)
                .and_then(|found| found.first().copied());
            let mut outcome = number(median, bounds)?;
            note_rank_error(quantiles, &mut outcome.result);
            Ok(outcome)
        }
        (
            Asked::Quantiles {
                quantiles,
                ranges,
                interpolation,
            },
            Tally::Quantiles(tally),
        ) => Ok(quantile_outcome(quantiles, ranges, tally, *interpolation)),
        (Asked::DistinctCount(bounds), Tally::Occurrences(tally)) => {
            let occurred = tally.sum_up(0);
            let mut outcome = between(Some(occurred.distinct as f64), occurred.distinct.into(), bounds)?;
            note_relative_error(occurred.error, &mut outcome.result);
            Ok(outcome)
        }
        (Asked::UniqueShare(bounds), Tally::Occurrences(tally)) => {
            let occurred = tally.sum_up(0);
            let share = if considered > 0 {
                occurred.distinct as f64 / considered as f64
            } else {
                0.0
            };
            let value = if considered > 0 { json!(share) } else { json!(0) };
            let mut outcome = between(Some(share), value, bounds)?;
            note_relative_error(occurred.error, &mut outcome.result);
            Ok(outcome)
        }
        (Asked::Unique, Tally::Occurrences(tally)) => {
            let occurred = tally.sum_up(SHOWN_MAX);
            let unexpected = occurred.repeated.min(considered);
            let mut outcome = map_outcome(
                slot.elements,
                slot.missing,
                unexpected,
                occurred.shown,
                check.mostly(),
                true,
            );
            note_relative_error(occurred.error, &mut outcome.result);
            Ok(outcome)
        }
        (Asked::DistinctIn(set), Tally::Counts(counts)) => Ok(distinct(counts, Some(set), None)),
        (Asked::DistinctContain(set), Tally::Counts(counts)) => Ok(distinct(counts, None, Some(set))),
        (Asked::DistinctEqual(set), Tally::Counts(counts)) => Ok(distinct(counts, Some(set), Some(set))),
        (Asked::MostCommonIn(set, ties_okay), Tally::Counts(counts)) => {
            Ok(most_common(counts, set, *ties_okay))
        }
        _ => Err(foreign()),
    }
}

fn observed(success: bool, value: Value) -> Outcome {
    Outcome {
        success,
        result: json!({ "observed_value": value }),
        exception: None,
    }
}

fn between(value: Option<f64>, shown: Value, bounds: &Bounds) -> Result<Outcome, String> {
    match value.filter(|value| !value.is_nan()) {
        None => Ok(observed(false, Value::Null)),
        Some(value) => Ok(observed(bounds.contain(value)?, shown)),
    }
}

fn number(value: Option<f64>, bounds: &Bounds) -> Result<Outcome, String> {
    between(value, value.map_or(Value::Null, |value| json!(value)), bounds)
}

fn extreme(cell: Option<&Cell>, bounds: &Bounds) -> Result<Outcome, String> {
    let Some(cell) = cell else {
        return Ok(observed(false, Value::Null));
    };
    let success = match cell {
        Cell::Int(value) => bounds.contain(*value as f64)?,
        Cell::Float(value) => bounds.contain(*value)?,
        Cell::Text(text) => ordered(
            text,
            bounds,
            |bound| bound.as_str().map(str::to_owned),
            |a, b| (*a).cmp(b),
        )?,
        Cell::Micros(micros) => {
            let kind = DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, None);
            ordered(micros, bounds, |bound| instant(&kind, bound), |a, b| (*a).cmp(b))?
        }
        Cell::Days(days) => ordered(
            days,
            bounds,
            |bound| instant(&DataType::Date32, bound),
            |a, b| (*a).cmp(b),
        )?,
    };
    Ok(observed(success, cell.json()))
}

/// Whether a value lies within bounds of its own kind.
fn ordered<T, B>(
    value: T,
    bounds: &Bounds,
    read: impl Fn(&Value) -> Option<B>,
    compare: impl Fn(&T, &B) -> std::cmp::Ordering,
) -> Result<bool, String> {
    let bound = |bound: &Option<Value>| match bound {
        None => Ok(None),
        Some(value) => read(value)
            .map(Some)
            .ok_or_else(|| format!("the bound {value} does not compare with the column")),
    };
    let is_above = bound(&bounds.min)?.is_none_or(|min| {
        let order = compare(&value, &min);
        order.is_gt() || (order.is_eq() && !bounds.strict_min)
    });
    let is_below = bound(&bounds.max)?.is_none_or(|max| {
        let order = compare(&value, &max);
        order.is_lt() || (order.is_eq() && !bounds.strict_max)
    });
    Ok(is_above && is_below)
}

fn quantile_outcome(
    quantiles: &[f64],
    ranges: &[(Option<f64>, Option<f64>)],
    tally: &Quantiles,
    interpolation: Interpolation,
) -> Outcome {
    let values = tally.at(quantiles, interpolation);
    let details: Vec<bool> = ranges
        .iter()
        .enumerate()
        .map(|(at, (low, high))| {
            let Some(value) = values.as_ref().map(|values| values[at]) else {
                return false;
            };
            let close = |bound: Option<f64>| {
                bound.is_some_and(|bound| (value - bound).abs() <= 1e-8 + QUANTILE_TOLERANCE * bound.abs())
            };
            close(*low)
                || close(*high)
                || (low.is_none_or(|low| low <= value) && high.is_none_or(|high| value <= high))
        })
        .collect();
    let shown: Vec<Value> = match &values {
        None => vec![Value::Null; quantiles.len()],
        Some(values) => values.iter().map(|value| json!(value)).collect(),
    };
    let mut result = json!({
        "observed_value": {"quantiles": quantiles, "values": shown},
        "details": {"success_details": details},
    });
    note_rank_error(tally, &mut result);
    Outcome {
        success: details.iter().all(|detail| *detail),
        result,
        exception: None,
    }
}

fn distinct(counts: &Counts, all_in: Option<&HashedSet>, contains: Option<&HashedSet>) -> Outcome {
    let mut result = Map::new();
    result.insert("observed_value".into(), Value::Null);
    let mut success = true;
    if let Some(set) = all_in {
        let mut unexpected: Vec<&Value> = counts
            .iter()
            .filter(|(hash, _, _)| !set.contains(*hash))
            .map(|(_, _, value)| value)
            .collect();
        unexpected.sort_by(|a, b| by_value(a, b));
        success &= unexpected.is_empty();
        result.insert("unexpected_count".into(), unexpected.len().into());
        unexpected.truncate(SHOWN_MAX);
        result.insert("partial_unexpected_list".into(), json!(unexpected));
    }
    if let Some(set) = contains {
        let is_there = |hash: &Option<u128>| hash.is_some_and(|hash| counts.contains(hash));
        let missing: Vec<&Value> = set
            .0
            .iter()
            .filter(|(hash, _)| !is_there(hash))
            .map(|(_, value)| value)
            .collect();
        success &= missing.is_empty();
        result.insert("missing_count".into(), missing.len().into());
        result.insert(
            "partial_missing_list".into(),
            json!(missing[..missing.len().min(SHOWN_MAX)]),
        );
    }
    let mut result = Value::Object(result);
    note_unseen(counts, &mut result);
    Outcome {
        success,
        result,
        exception: None,
    }
}

fn most_common(counts: &Counts, set: &HashedSet, ties_okay: bool) -> Outcome {
    let mut most = counts.most_common();
    most.sort_by(|a, b| by_value(a.1, b.1));
    let expected = most.iter().filter(|(hash, _)| set.contains(*hash)).count();
    let success = if ties_okay {
        expected > 0
    } else {
        most.len() == 1 && expected == 1
    };
    let values: Vec<&Value> = most.iter().map(|(_, value)| *value).collect();
    let mut result = json!({ "observed_value": values });
    note_unseen(counts, &mut result);
    Outcome {
        success,
        result,
        exception: None,
    }
}

/// Numbers by size, all else by text.
fn by_value(a: &Value, b: &Value) -> std::cmp::Ordering {
    match (a.as_f64(), b.as_f64(), a.as_str(), b.as_str()) {
        (Some(a), Some(b), _, _) => a.total_cmp(&b),
        (_, _, Some(a), Some(b)) => a.cmp(b),
        _ => a.to_string().cmp(&b.to_string()),
    }
}

fn note_rank_error(quantiles: &Quantiles, result: &mut Value) {
    if let (Some(error), Some(result)) = (quantiles.error(), result.as_object_mut()) {
        result.insert("approximate".into(), true.into());
        result.insert("rank_error".into(), json!(error));
    }
}

fn note_relative_error(error: Option<f64>, result: &mut Value) {
    if let (Some(error), Some(result)) = (error, result.as_object_mut()) {
        result.insert("approximate".into(), true.into());
        result.insert("relative_error".into(), json!(error));
    }
}

fn note_unseen(counts: &Counts, result: &mut Value) {
    if let (Some(error), Some(result)) = (counts.error(), result.as_object_mut()) {
        result.insert("approximate".into(), true.into());
        result.insert("count_error".into(), error.into());
    }
}
