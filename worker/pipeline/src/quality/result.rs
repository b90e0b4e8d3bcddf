//! The result in Great Expectations' own form, in the order of the suite.
//!
//! What differs on purpose: `partial_unexpected_index_list` is not there (rows of a stream have no index), an
//! exception is told in one flat `exception_info`, a sketch says so by `approximate` and its error, and
//! figures that would show a personal value are replaced by a note.
//!
//! `mostly` concerns the suite's `success` alone. A row that fails a critical row-level expectation is
//! quarantined in any case.

use serde_json::{Map, Value, json};

use super::compile::Kind;
use super::plan::{Check, QualityPlan};
use super::state::{QualityState, SHOWN_MAX, Slot, Tally};
use super::suite::Severity;
use super::verdict::Judge;

/// What a run's summary says about its suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QualitySummary {
    /// Whether every expectation was met.
    pub success: bool,
    /// Expectations in the suite.
    pub evaluated: u64,
    /// Those that were met.
    pub successful: u64,
    /// Unmet ones (exceptions included) that are critical.
    pub failed_critical: u64,
    /// Those that could not be judged.
    pub exceptions: u64,
}

/// Success, result, and the reason of an exception.
pub(super) struct Outcome {
    pub(super) success: bool,
    pub(super) result: Value,
    pub(super) exception: Option<String>,
}

impl QualityPlan {
    /// The validation result; `meta` is put into its `meta` as it is.
    #[must_use]
    pub fn result(&self, state: &QualityState, meta: Map<String, Value>) -> Value {
        let outcomes: Vec<Outcome> = self
            .checks
            .iter()
            .map(|check| self.outcome(check, state))
            .collect();
        let results: Vec<Value> = self
            .checks
            .iter()
            .zip(&outcomes)
            .map(|(check, outcome)| entry(check, outcome))
            .collect();
        let evaluated = outcomes.len();
        let successful = outcomes.iter().filter(|outcome| outcome.success).count();
        let percent = (evaluated > 0).then(|| successful as f64 / evaluated as f64 * 100.0);
        let mut suite_meta = self.suite_meta.clone();
        suite_meta.extend(meta);
        json!({
            "success": evaluated == successful,
            "results": results,
            "suite_name": self.suite_name,
            "suite_parameters": self.parameters,
            "statistics": {
                "evaluated_expectations": evaluated,
                "successful_expectations": successful,
                "unsuccessful_expectations": evaluated - successful,
                "success_percent": percent,
            },
            "meta": suite_meta,
            "id": null,
        })
    }

    /// The figures that a run's summary needs.
    #[must_use]
    pub fn summary(&self, state: &QualityState) -> QualitySummary {
        let mut summary = QualitySummary {
            success: true,
            ..QualitySummary::default()
        };
        for check in &self.checks {
            let outcome = self.outcome(check, state);
            summary.evaluated += 1;
            summary.successful += u64::from(outcome.success);
            summary.success &= outcome.success;
            summary.exceptions += u64::from(outcome.exception.is_some());
            summary.failed_critical +=
                u64::from(!outcome.success && check.declared.severity == Severity::Critical);
        }
        summary
    }

    fn outcome(&self, check: &Check, state: &QualityState) -> Outcome {
        let slot = check.slot.and_then(|slot| state.slots.get(slot));
        match (&check.kind, slot) {
            (Kind::Fixed(success, result), _) => Outcome {
                success: *success,
                result: result.clone(),
                exception: None,
            },
            (Kind::Broken(reason), _) => Outcome::exception(reason.clone()),
            (Kind::Rows(judge, _), Some(slot)) => rows_outcome(check, judge, slot),
            (Kind::Measure(measure), Some(slot)) => self.measured(check, measure, slot),
            (Kind::Rows(_, _) | Kind::Measure(_), None) => {
                Outcome::exception("the quality state is of another suite".to_owned())
            }
        }
    }
}

impl Outcome {
    pub(super) fn exception(reason: String) -> Self {
        Self {
            success: false,
            result: json!({}),
            exception: Some(reason),
        }
    }
}

fn entry(check: &Check, outcome: &Outcome) -> Value {
    let declared = &check.declared;
    let mut config = Map::new();
    config.insert("type".into(), declared.kind.clone().into());
    config.insert("kwargs".into(), declared.kwargs.clone().into());
    config.insert("meta".into(), declared.meta.clone());
    if let Some(id) = &declared.id {
        config.insert("id".into(), id.clone().into());
    }
    config.insert("severity".into(), json!(declared.severity));
    json!({
        "success": outcome.success,
        "expectation_config": config,
        "result": outcome.result,
        "meta": {},
        "exception_info": {
            "raised_exception": outcome.exception.is_some(),
            "exception_traceback": null,
            "exception_message": outcome.exception,
        },
    })
}

fn rows_outcome(check: &Check, judge: &Judge, slot: &Slot) -> Outcome {
    let Tally::Rows(rows) = &slot.tally else {
        return Outcome::exception("the quality state is of another suite".to_owned());
    };
    if matches!(judge, Judge::Sql(_)) {
        return Outcome {
            success: rows.unexpected == 0,
            result: json!({ "observed_value": rows.unexpected }),
            exception: None,
        };
    }
    let shown = rows.shown.iter().map(|(_, _, value)| value.clone()).collect();
    // Checks of nulls leave nothing out, and so report nothing missing.
    let has_missing = !matches!(judge, Judge::NotNull(_) | Judge::Null(_));
    map_outcome(
        slot.elements,
        slot.missing,
        rows.unexpected,
        shown,
        check.mostly(),
        has_missing,
    )
}

/// The figures of a row-wise expectation, as Great Expectations computes them.
pub(super) fn map_outcome(
    elements: u64,
    missing: u64,
    unexpected: u64,
    shown: Vec<Value>,
    mostly: f64,
    has_missing: bool,
) -> Outcome {
    let considered = elements - missing;
    let percent = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64 * 100.0);
    let success = considered == 0 || (considered as f64 - unexpected as f64) / considered as f64 >= mostly;
    let of_considered = percent(unexpected, considered);
    let mut result = Map::new();
    result.insert("element_count".into(), elements.into());
    result.insert("unexpected_count".into(), unexpected.into());
    result.insert("unexpected_percent".into(), json!(of_considered));
    result.insert("partial_unexpected_list".into(), Value::Array(shown.clone()));
    if has_missing {
        result.insert("missing_count".into(), missing.into());
        result.insert("missing_percent".into(), json!(percent(missing, elements)));
        result.insert(
            "unexpected_percent_total".into(),
            json!(percent(unexpected, elements)),
        );
        result.insert("unexpected_percent_nonmissing".into(), json!(of_considered));
    }
    result.insert("partial_unexpected_counts".into(), counts(&shown));
    Outcome {
        success,
        result: Value::Object(result),
        exception: None,
    }
}

/// How often each shown value stands among the shown ones, the most frequent first.
fn counts(shown: &[Value]) -> Value {
    let mut counts: Vec<(&Value, u64)> = Vec::new();
    for value in shown.iter().take(SHOWN_MAX) {
        match counts.iter_mut().find(|(known, _)| *known == value) {
            Some((_, count)) => *count += 1,
            None => counts.push((value, 1)),
        }
    }
    counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.to_string().cmp(&b.0.to_string())));
    counts
        .into_iter()
        .map(|(value, count)| json!({"value": value, "count": count}))
        .collect()
}
