//! What a failed task tells: at which step, over which input, what is wrong, and whether trying again can help.
//!
//! In: the error that ended a task, whichever operator it is of, and the task's splits. Out: a [`TaskFailure`], which people can
//! read and which comes through the engine. Ballista hands no error on, only its `Debug` text, quoted once or twice: so the
//! `Debug` text of a failure is its JSON in characters that no quoting touches, and [`TaskFailure::find`] reads it back out of
//! whatever stands around it.
//!
//! | the error is...                                           | what it tells                                       |
//! |------------------------------------------------------------|-----------------------------------------------------|
//! | of a step of ours                                         | its text and its causes: they name places, no values |
//! | of the engine, of Arrow or of a parser: it may quote a value | where it happened, and that its text is left out  |

use std::error::Error as StdError;
use std::fmt::{self, Write};
use std::io;
use std::sync::Arc;

use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::DataFusionError;
use datafusion::physical_plan::ExecutionPlan;
use millrace_proto::split::Split;
use serde::{Deserialize, Serialize};

use super::origin::{at, origin, told};
use crate::decode::json::DecodeError;
use crate::dedup::DedupError;
use crate::dedup::claims::ClaimError;
use crate::enrich::EnrichError;
use crate::map::MapError;
use crate::plan::Step;
use crate::privacy::PrivacyError;
use crate::sink::SinkError;
use crate::source::kafka::{KafkaError, TopicPartition};
use crate::source::{SourceError, splits_of};

/// Begins a failure in the engine's text.
const MARK: &str = "millrace-failure:";
/// So many splits are named.
const SPLITS_NAMED: usize = 3;

/// Why a task failed, for people.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskFailure {
    /// Where it failed; none where that was between steps.
    pub step: Option<Step>,
    /// What it read: the splits that the cause is about, or some of the task's.
    pub input: Vec<String>,
    /// Splits of the task that are not named.
    pub more: usize,
    /// What is wrong and, where we know, what would be right. No value of any record.
    pub cause: String,
    /// Whether the same task may succeed elsewhere or later.
    pub may_pass: bool,
    /// Whether no attempt over the same positions can succeed: the input is not what it was.
    pub is_final: bool,
}

impl TaskFailure {
    /// What an error tells that ended a task over these splits.
    #[must_use]
    pub fn of(error: &DataFusionError, splits: &[Split]) -> Self {
        let (step, origin) = origin(error);
        // In one process nobody notes the step; what is wrong says as much.
        let step = step.or_else(|| step_of(origin));
        let cause = told(origin);
        let is_meant = |split: &&Split| cause.contains(&format!("`{}`", split.object.url));
        let mut named: Vec<&Split> = splits.iter().filter(is_meant).collect();
        let more = if named.is_empty() {
            named = splits.iter().collect();
            splits.len().saturating_sub(SPLITS_NAMED)
        } else {
            0
        };
        Self {
            step,
            input: named.into_iter().take(SPLITS_NAMED).map(name_of).collect(),
            more,
            may_pass: matches!(error.find_root(), DataFusionError::IoError(_)),
            is_final: origin
                .downcast_ref::<SourceError>()
                .is_some_and(SourceError::is_final),
            cause,
        }
    }

    /// The failure in the engine's text, if a task of ours is what it is about.
    #[must_use]
    pub fn find(text: &str) -> Option<Self> {
        let (_, rest) = text.split_once(MARK)?;
        let (mut json, mut bytes) = (Vec::new(), rest.bytes());
        while let Some(byte) = bytes.next() {
            if byte == b'%' {
                let digits = [bytes.next()?, bytes.next()?];
                json.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
            } else if is_plain(byte) {
                json.push(byte);
            } else {
                break;
            }
        }
        serde_json::from_slice(&json).ok()
    }
}

/// The step whose error this is.
fn step_of(error: &(dyn StdError + 'static)) -> Option<Step> {
    if error.is::<SourceError>() || error.is::<KafkaError>() {
        Some(Step::Scan)
    } else if error.is::<DecodeError>() {
        Some(Step::Decode)
    } else if error.is::<MapError>() || error.is::<EnrichError>() {
        Some(Step::Map)
    } else if error.is::<DedupError>() || error.is::<ClaimError>() {
        Some(Step::Dedup)
    } else if error.is::<PrivacyError>() {
        Some(Step::Privacy)
    } else if error.is::<SinkError>() {
        Some(Step::Sink)
    } else {
        None
    }
}

/// Characters that stay what they are however often they are quoted.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte)
}

/// For the engine, which hands on nothing else.
impl fmt::Debug for TaskFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = serde_json::to_string(self).map_err(|_| fmt::Error)?;
        f.write_str(MARK)?;
        json.bytes().try_for_each(|byte| {
            if is_plain(byte) {
                f.write_char(char::from(byte))
            } else {
                write!(f, "%{byte:02x}")
            }
        })
    }
}

impl fmt::Display for TaskFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a task failed")?;
        if let Some(step) = self.step {
            write!(f, " at step `{}`", step.name())?;
        }
        if !self.input.is_empty() {
            write!(f, " over {}", self.input.join(" and "))?;
        }
        if self.more > 0 {
            write!(f, " and {} more splits", self.more)?;
        }
        write!(f, ": {}", self.cause)
    }
}

impl StdError for TaskFailure {}

/// The engine repeats a task only after an I/O error.
impl From<TaskFailure> for DataFusionError {
    fn from(failure: TaskFailure) -> Self {
        if failure.may_pass {
            Self::IoError(io::Error::other(failure))
        } else {
            Self::External(Box::new(failure))
        }
    }
}

/// What leaves a step of a task with an error. The first step that meets it notes that, the last one of a task tells it: what
/// the engine puts around it from there on takes nothing away.
pub(super) fn leaving(
    step: Step,
    operator: &Arc<dyn ExecutionPlan>,
    error: DataFusionError,
) -> DataFusionError {
    // What comes from below the last step is the engine's own: it finds out by it whose reports are lost.
    if step == Step::Collect && !origin(&error).1.is::<SinkError>() {
        return error;
    }
    let error = at(step, error);
    if matches!(step, Step::Sink | Step::Collect) {
        TaskFailure::of(&error, &splits_below(operator)).into()
    } else {
        error
    }
}

/// The splits that a task of this plan reads.
fn splits_below(plan: &Arc<dyn ExecutionPlan>) -> Vec<Split> {
    let source = plan
        .downcast_ref::<DataSourceExec>()
        .and_then(|source| source.data_source().downcast_ref::<MemorySourceConfig>());
    match source {
        // Rows that are no splits are nobody's input.
        Some(rows) => rows
            .partitions()
            .iter()
            .flatten()
            .flat_map(|batch| splits_of(batch).unwrap_or_default())
            .collect(),
        None => plan.children().into_iter().flat_map(splits_below).collect(),
    }
}

fn name_of(split: &Split) -> String {
    let Split {
        object, start, end, ..
    } = split;
    match TopicPartition::parse(&object.url) {
        Ok(TopicPartition { topic, partition }) => {
            format!("topic `{topic}`, partition {partition}, offsets {start}..{end}")
        }
        Err(_) => format!("`{}`, bytes {start}..{end}", object.url),
    }
}

#[cfg(test)]
#[path = "failure_tests.rs"]
mod tests;
