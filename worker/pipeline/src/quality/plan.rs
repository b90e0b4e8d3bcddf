//! A suite made ready for a table: checks, the tallies they share, and the conditions they share.
//!
//! In: the pipeline, its suite, the masking policy. Out: what both operators run, batch by batch. Tallies are
//! shared between expectations that ask for the same, conditions between those that say the same, so a column is
//! walked once for each.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use serde_json::Value;

use super::compile::{Kind, compile};
use super::condition::Condition;
use super::measure::Source;
use super::state::{QualityState, Rows, Slot, StateError, Tally};
use super::statistics::counts::Counts;
use super::statistics::extremes::Extremes;
use super::statistics::moments::Moments;
use super::statistics::occurrences::Occurrences;
use super::statistics::quantiles::Quantiles;
use super::suite::{Expectation, Severity, Suite};
use crate::privacy::Policy;
use crate::spec::model::{Format, Pipeline};

/// Why a suite cannot be run on a table.
#[derive(Debug, thiserror::Error)]
pub enum QualityError {
    /// More tallies than any suite has.
    #[error("the suite has {0} expectations; at most 10000 are run")]
    TooMany(usize),
}

const EXPECTATIONS_MAX: usize = 10_000;

/// What the quality steps do, for one pipeline in one environment.
#[derive(Debug)]
pub struct QualityPlan {
    pub(super) table: SchemaRef,
    pub(super) policy: Arc<Policy>,
    pub(super) objects: Vec<String>,
    pub(super) format: Format,
    pub(super) suite_name: String,
    pub(super) suite_meta: serde_json::Map<String, Value>,
    pub(super) parameters: serde_json::Map<String, Value>,
    pub(super) checks: Vec<Check>,
    pub(super) conditions: Vec<Condition>,
    pub(super) slots: Vec<SlotPlan>,
    /// Personal columns that are masked here.
    pub(super) masked: Vec<bool>,
}

/// An expectation and where its figures are.
#[derive(Debug)]
pub(super) struct Check {
    pub(super) declared: Expectation,
    pub(super) kind: Kind,
    /// None for what needs no rows.
    pub(super) slot: Option<usize>,
}

/// What fills a slot of the state.
#[derive(Debug)]
pub(super) struct SlotPlan {
    /// Index of the row condition.
    pub(super) condition: Option<usize>,
    pub(super) fill: Fill,
}

/// How a slot is filled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fill {
    /// The rows that fail this check.
    Check(usize),
    /// A statistic.
    Source(Source),
}

impl SlotPlan {
    /// Whether deduplicated rows fill it.
    pub(super) fn is_after_dedup(&self) -> bool {
        matches!(
            &self.fill,
            Fill::Source(Source::Occurrences {
                after_dedup: true,
                ..
            })
        )
    }
}

/// Why an expectation cannot be judged on a table, if it cannot.
pub(super) fn fault(declared: &Expectation, table: &SchemaRef) -> Option<String> {
    let condition = declared
        .kwargs
        .get("row_condition")
        .filter(|value| !value.is_null());
    if let Some(reason) = unfit(declared) {
        return Some(reason);
    }
    if let Some(Err(reason)) = condition.map(|condition| Condition::compile(condition, table)) {
        return Some(reason);
    }
    match compile(declared, table) {
        Kind::Broken(reason) => Some(reason),
        Kind::Rows(..) | Kind::Measure(_) | Kind::Fixed(..) => None,
    }
}

impl QualityPlan {
    /// Makes a suite ready. Without a suite only rows with faults are taken out.
    ///
    /// # Errors
    /// When the suite is too large. An expectation that cannot be judged is no error: the result reports it.
    pub fn new(
        pipeline: &Pipeline,
        suite: Option<&Suite>,
        policy: Arc<Policy>,
    ) -> Result<Self, QualityError> {
        let table = pipeline.table();
        let masked = pipeline
            .columns
            .iter()
            .enumerate()
            .map(|(index, _)| policy.masks(index))
            .collect();
        let mut plan = Self {
            table,
            policy,
            objects: Vec::new(),
            format: pipeline.source.format(),
            suite_name: suite.map(|suite| suite.name.clone()).unwrap_or_default(),
            suite_meta: suite.map(|suite| suite.meta.clone()).unwrap_or_default(),
            parameters: suite.map(|suite| suite.parameters.clone()).unwrap_or_default(),
            checks: Vec::new(),
            conditions: Vec::new(),
            slots: Vec::new(),
            masked,
        };
        let expectations = suite
            .map(|suite| suite.expectations.as_slice())
            .unwrap_or_default();
        if expectations.len() > EXPECTATIONS_MAX {
            return Err(QualityError::TooMany(expectations.len()));
        }
        let mut written: Vec<Value> = Vec::new();
        for declared in expectations {
            plan.add(declared, &mut written);
        }
        Ok(plan)
    }

    /// Names the input objects, by split index: quarantined records say where they came from.
    #[must_use]
    pub fn with_objects(mut self, objects: Vec<String>) -> Self {
        self.objects = objects;
        self
    }

    /// Whether some expectation looks at rows after deduplication, so that [`super::UniquenessExec`] is needed.
    #[must_use]
    pub fn has_uniqueness(&self) -> bool {
        self.slots.iter().any(SlotPlan::is_after_dedup)
    }

    /// Whether there is anything to judge.
    #[must_use]
    pub fn has_expectations(&self) -> bool {
        !self.checks.is_empty()
    }

    /// A state that has seen nothing.
    #[must_use]
    pub fn empty_state(&self) -> QualityState {
        let slots = self
            .slots
            .iter()
            .map(|slot| {
                let tally = match &slot.fill {
                    Fill::Check(_) => Tally::Rows(Rows::default()),
                    Fill::Source(Source::Rows | Source::Nulls(_)) => Tally::None,
                    Fill::Source(Source::Extremes(_)) => Tally::Extremes(Extremes::default()),
                    Fill::Source(Source::Moments(_)) => Tally::Moments(Moments::default()),
                    Fill::Source(Source::Quantiles(_)) => Tally::Quantiles(Quantiles::default()),
                    Fill::Source(Source::Counts(_)) => Tally::Counts(Counts::default()),
                    Fill::Source(Source::Occurrences { .. }) => Tally::Occurrences(Occurrences::default()),
                };
                Slot {
                    tally,
                    ..Slot::default()
                }
            })
            .collect();
        QualityState { slots }
    }

    /// A state as a task writes it: sealed where personal data must not leave in the clear.
    #[must_use]
    pub fn seal(&self, state: &QualityState) -> Vec<u8> {
        let clear = state.encode();
        self.policy
            .sealer()
            .map_or(clear.clone(), |sealer| sealer.seal(&clear))
    }

    /// A state as a task wrote it; [`QualityPlan::seal`] in reverse.
    ///
    /// # Errors
    /// When the bytes are no state, or sealed with another key.
    pub fn open(&self, bytes: &[u8]) -> Result<QualityState, StateError> {
        match self.policy.sealer() {
            None => QualityState::decode(bytes),
            Some(sealer) => QualityState::decode(&sealer.open(bytes).map_err(StateError::Sealed)?),
        }
    }

    fn add(&mut self, declared: &Expectation, written: &mut Vec<Value>) {
        let mut kind = compile(declared, &self.table);
        let mut condition = None;
        if let Some(row_condition) = declared
            .kwargs
            .get("row_condition")
            .filter(|value| !value.is_null())
        {
            match Condition::compile(row_condition, &self.table) {
                Err(reason) => kind = Kind::Broken(reason),
                Ok(compiled) => {
                    let known = written.iter().position(|known| known == row_condition);
                    condition = Some(known.unwrap_or_else(|| {
                        written.push(row_condition.clone());
                        self.conditions.push(compiled);
                        written.len() - 1
                    }));
                }
            }
        }
        if let Some(reason) = unfit(declared) {
            kind = Kind::Broken(reason);
        }
        let index = self.checks.len();
        let slot = match &kind {
            Kind::Rows(_, _) => Some(self.slot(condition, Fill::Check(index))),
            Kind::Measure(measure) => Some(self.slot(condition, Fill::Source(measure.source.clone()))),
            Kind::Fixed(_, _) | Kind::Broken(_) => None,
        };
        self.checks.push(Check {
            declared: declared.clone(),
            kind,
            slot,
        });
    }

    fn slot(&mut self, condition: Option<usize>, fill: Fill) -> usize {
        let same = |slot: &SlotPlan| slot.condition == condition && slot.fill == fill;
        self.slots.iter().position(same).unwrap_or_else(|| {
            self.slots.push(SlotPlan { condition, fill });
            self.slots.len() - 1
        })
    }
}

/// What is wrong with the arguments that all types share.
fn unfit(declared: &Expectation) -> Option<String> {
    match declared.kwargs.get("mostly") {
        None | Some(Value::Null) => None,
        Some(mostly) => match mostly.as_f64() {
            Some(mostly) if (0.0..=1.0).contains(&mostly) => None,
            _ => Some(format!("mostly is {mostly}; it must be a number from 0 to 1")),
        },
    }
}

impl Check {
    /// The share of good rows that is enough.
    pub(super) fn mostly(&self) -> f64 {
        self.declared
            .kwargs
            .get("mostly")
            .and_then(Value::as_f64)
            .unwrap_or(1.0)
    }

    /// Whether a failing row is quarantined.
    pub(super) fn takes_rows_out(&self) -> bool {
        matches!(self.kind, Kind::Rows(_, _)) && self.declared.severity == Severity::Critical
    }
}
