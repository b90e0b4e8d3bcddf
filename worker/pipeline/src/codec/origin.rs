//! The error that ended a task, inside those that the engine wraps it in: at which step it was met, and what of it may be told.
//!
//! Texts of ours name places and never what stands there. Those of the engine, of Arrow and of parsers may quote a value: they
//! are left out.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use parquet::errors::ParquetError;

use crate::plan::Step;

/// An error, and the step that met it first.
#[derive(Debug)]
struct At {
    step: Step,
    source: DataFusionError,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step `{}` failed", self.step.name())
    }
}

impl StdError for At {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.source)
    }
}

/// Notes at which step an error was met, unless a step before it did.
pub(super) fn at(step: Step, error: DataFusionError) -> DataFusionError {
    if origin(&error).0.is_some() {
        return error;
    }
    let source = error;
    DataFusionError::External(Box::new(At { step, source }))
}

/// The error inside, and the step that met it first.
pub(super) fn origin(error: &DataFusionError) -> (Option<Step>, &(dyn StdError + 'static)) {
    let (mut step, mut error): (_, &(dyn StdError + 'static)) = (None, error);
    loop {
        let inner = match error.downcast_ref::<At>() {
            Some(at) => {
                step = Some(at.step);
                error.source()
            }
            None => wrapped(error),
        };
        match inner {
            Some(inner) => error = inner,
            None => return (step, error),
        }
    }
}

fn wrapped<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    if let Some(error) = error.downcast_ref::<DataFusionError>() {
        return wrapped_by_the_engine(error);
    }
    match error.downcast_ref::<ArrowError>() {
        Some(ArrowError::ExternalError(inner)) => return Some(&**inner),
        Some(ArrowError::IoError(_, inner)) => return Some(inner),
        Some(_) | None => {}
    }
    let inner = error.downcast_ref::<io::Error>()?.get_ref()?;
    Some(inner)
}

#[expect(clippy::wildcard_enum_match_arm, reason = "all others wrap nothing")]
fn wrapped_by_the_engine(error: &DataFusionError) -> Option<&(dyn StdError + 'static)> {
    match error {
        DataFusionError::External(inner) => Some(&**inner),
        DataFusionError::IoError(inner) => Some(inner),
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => Some(&**inner),
        DataFusionError::Shared(inner) => Some(&**inner),
        DataFusionError::Collection(all) => Some(all.first()?),
        DataFusionError::ArrowError(inner, _) => Some(&**inner),
        DataFusionError::ParquetError(inner) => Some(&**inner),
        DataFusionError::ObjectStore(inner) => Some(&**inner),
        _ => None,
    }
}

/// An error and its causes in one line, as far as they may be told.
pub(super) fn told(error: &(dyn StdError + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let instead = left_out(error);
        let said = instead.map_or_else(|| error.to_string(), str::to_owned);
        if !text.ends_with(&said) {
            text.push_str(if text.is_empty() { "" } else { ": " });
            text.push_str(&said);
        }
        next = error.source().filter(|_| instead.is_none());
    }
    text
}

/// What is said in the place of an error that may quote a value.
fn left_out(error: &(dyn StdError + 'static)) -> Option<&'static str> {
    if let Some(error) = error.downcast_ref::<DataFusionError>() {
        return Some(instead_of_the_engine(error));
    }
    let quotes = error.is::<ArrowError>()
        || error.is::<serde_json::Error>()
        || matches!(error.downcast_ref(), Some(ParquetError::ArrowError(_)));
    quotes.then_some("what the library below says is left out, for it may quote a value")
}

fn instead_of_the_engine(error: &DataFusionError) -> &'static str {
    // A panic in a task that the engine itself spawned leaves its text only.
    let panicked = matches!(error, DataFusionError::ExecutionJoin(error) if error.is_panic())
        || matches!(error, DataFusionError::Execution(text) if text.contains("panicked"));
    if panicked {
        "it panicked, which is a bug of Millrace"
    } else if matches!(error, DataFusionError::ResourcesExhausted(_)) {
        "it needs more memory than there is; raise the workers' `memory_bytes`, or lower the coordinators' `batch_mib`"
    } else {
        "the engine refused; what it says is left out, for it may quote a value"
    }
}
