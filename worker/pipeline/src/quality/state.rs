//! What an expectation has seen so far: one slot each, mergeable across batches and tasks.
//!
//! Merging is commutative and associative; sums of floats agree to rounding. The encoding is for the task's
//! quality object and is sealed outside clear environments by [`super::QualityPlan::seal`]: extremes and
//! hashes of personal columns stand in it as they are.

use serde_json::Value;

use super::statistics::counts::Counts;
use super::statistics::extremes::{Cell, Extremes};
use super::statistics::moments::Moments;
use super::statistics::occurrences::Occurrences;
use super::statistics::quantiles::Quantiles;
pub use super::statistics::wire::StateError;
use super::statistics::wire::{Reader, Writer};
use crate::privacy::Sealer;

/// As many unexpected values are shown.
pub(super) const SHOWN_MAX: usize = 20;
/// First byte of an encoded state.
const VERSION: u8 = 1;

/// The state of a whole suite.
#[derive(Debug, Clone)]
pub struct QualityState {
    pub(super) slots: Vec<Slot>,
}

/// The values that stand in a state as a task wrote it, sealed or not, whatever its suite: for whoever looks for somebody in it.
///
/// # Errors
/// When the bytes are no state, or sealed with another key.
pub fn values_of(bytes: &[u8], sealer: Option<&Sealer>) -> Result<Vec<Value>, StateError> {
    let state = match (QualityState::decode(bytes), sealer) {
        (Ok(state), _) => state,
        (Err(_), Some(sealer)) => QualityState::decode(&sealer.open(bytes).map_err(StateError::Sealed)?)?,
        (Err(error), None) => return Err(error),
    };
    Ok(state.values())
}

/// The state of one expectation, or of several that ask for the same statistic.
#[derive(Debug, Clone, Default)]
pub(super) struct Slot {
    /// Rows looked at: all, or those of the row condition.
    pub(super) elements: u64,
    /// Rows among them that were left out: null, or ignored.
    pub(super) missing: u64,
    pub(super) tally: Tally,
}

/// What is kept beside the counts.
#[derive(Debug, Clone, Default)]
pub(super) enum Tally {
    /// Counts alone.
    #[default]
    None,
    Rows(Rows),
    Extremes(Extremes),
    Moments(Moments),
    Quantiles(Quantiles),
    Counts(Counts),
    Occurrences(Occurrences),
}

/// Unexpected rows.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Rows {
    pub(super) unexpected: u64,
    /// The first ones by split and line.
    pub(super) shown: Vec<(u32, u64, Value)>,
}

impl Rows {
    /// Whether a row at this position would be among the first.
    pub(super) fn wants(&self, split: u32, line: u64) -> bool {
        self.shown.len() < SHOWN_MAX
            || self
                .shown
                .last()
                .is_some_and(|(s, l, _)| (split, line) < (*s, *l))
    }

    pub(super) fn show(&mut self, shown: impl IntoIterator<Item = (u32, u64, Value)>) {
        self.shown.extend(shown);
        // By position, then by text: the same whatever the order of merging.
        self.shown.sort_by(|a, b| {
            (a.0, a.1)
                .cmp(&(b.0, b.1))
                .then_with(|| a.2.to_string().cmp(&b.2.to_string()))
        });
        self.shown.truncate(SHOWN_MAX);
    }
}

impl QualityState {
    /// Adds what another task or batch saw.
    ///
    /// # Errors
    /// When the states are of different suites.
    pub fn merge(&mut self, other: Self) -> Result<(), StateError> {
        let wrong = StateError::Shape {
            ours: self.slots.len(),
            theirs: other.slots.len(),
        };
        if self.slots.len() != other.slots.len() {
            return Err(wrong);
        }
        for (ours, theirs) in self.slots.iter_mut().zip(other.slots) {
            ours.elements += theirs.elements;
            ours.missing += theirs.missing;
            match (&mut ours.tally, theirs.tally) {
                (Tally::None, Tally::None) => {}
                (Tally::Rows(ours), Tally::Rows(theirs)) => {
                    ours.unexpected += theirs.unexpected;
                    ours.show(theirs.shown);
                }
                (Tally::Extremes(ours), Tally::Extremes(theirs)) => ours.merge(&theirs),
                (Tally::Moments(ours), Tally::Moments(theirs)) => ours.merge(&theirs),
                (Tally::Quantiles(ours), Tally::Quantiles(theirs)) => ours.merge(&theirs),
                (Tally::Counts(ours), Tally::Counts(theirs)) => ours.merge(&theirs),
                (Tally::Occurrences(ours), Tally::Occurrences(theirs)) => ours.merge(theirs),
                _ => return Err(wrong),
            }
        }
        Ok(())
    }

    /// Every value that stands in it as it is; hashes are none.
    fn values(&self) -> Vec<Value> {
        let of = |slot: &Slot| -> Vec<Value> {
            match &slot.tally {
                Tally::None | Tally::Moments(_) => Vec::new(),
                Tally::Rows(rows) => rows.shown.iter().map(|(_, _, value)| value.clone()).collect(),
                Tally::Extremes(extremes) => {
                    let ends = [&extremes.least, &extremes.greatest].into_iter().flatten();
                    ends.map(Cell::json).collect()
                }
                Tally::Quantiles(quantiles) => quantiles.values().collect(),
                Tally::Counts(counts) => counts.iter().map(|(_, _, value)| value.clone()).collect(),
                Tally::Occurrences(occurrences) => occurrences.shown().cloned().collect(),
            }
        };
        self.slots.iter().flat_map(of).collect()
    }

    /// The state as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.u8(VERSION);
        writer.u64(self.slots.len() as u64);
        for slot in &self.slots {
            writer.u64(slot.elements);
            writer.u64(slot.missing);
            slot.tally.write(&mut writer);
        }
        writer.0
    }

    /// The state back from its bytes.
    ///
    /// # Errors
    /// When the bytes are no state of this version.
    pub fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        let mut reader = Reader::new(bytes);
        let version = reader.u8()?;
        if version != VERSION {
            return Err(StateError::Unknown {
                found: version.into(),
                expected: "version 1",
            });
        }
        let slots = (0..reader.count(17)?)
            .map(|_| {
                Ok(Slot {
                    elements: reader.u64()?,
                    missing: reader.u64()?,
                    tally: Tally::read(&mut reader)?,
                })
            })
            .collect::<Result<_, StateError>>()?;
        if reader.is_at_end() {
            Ok(Self { slots })
        } else {
            Err(StateError::Unknown {
                found: 0,
                expected: "the end",
            })
        }
    }
}

impl Tally {
    fn write(&self, writer: &mut Writer) {
        match self {
            Self::None => writer.u8(0),
            Self::Rows(rows) => {
                writer.u8(1);
                writer.u64(rows.unexpected);
                writer.u64(rows.shown.len() as u64);
                for (split, line, value) in &rows.shown {
                    writer.u64(u64::from(*split));
                    writer.u64(*line);
                    writer.value(value);
                }
            }
            Self::Extremes(extremes) => {
                writer.u8(2);
                extremes.write(writer);
            }
            Self::Moments(moments) => {
                writer.u8(3);
                moments.write(writer);
            }
            Self::Quantiles(quantiles) => {
                writer.u8(4);
                quantiles.write(writer);
            }
            Self::Counts(counts) => {
                writer.u8(5);
                counts.write(writer);
            }
            Self::Occurrences(occurrences) => {
                writer.u8(6);
                occurrences.write(writer);
            }
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, StateError> {
        Ok(match reader.u8()? {
            0 => Self::None,
            1 => {
                let unexpected = reader.u64()?;
                let shown = (0..reader.count(24)?)
                    .map(|_| Ok((reader.u64()? as u32, reader.u64()?, reader.value()?)))
                    .collect::<Result<_, StateError>>()?;
                Self::Rows(Rows { unexpected, shown })
            }
            2 => Self::Extremes(Extremes::read(reader)?),
            3 => Self::Moments(Moments::read(reader)?),
            4 => Self::Quantiles(Quantiles::read(reader)?),
            5 => Self::Counts(Counts::read(reader)?),
            6 => Self::Occurrences(Occurrences::read(reader)?),
            tag => {
                return Err(StateError::Unknown {
                    found: tag.into(),
                    expected: "a tally's tag",
                });
            }
        })
    }
}
