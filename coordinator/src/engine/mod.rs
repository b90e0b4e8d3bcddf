//! Engines run one attempt of a batch and return what its tasks wrote.

pub mod embedded;
mod queue;

use millrace_pipeline::dedup::DedupError;
use millrace_pipeline::plan::PlanError;

/// Why an attempt failed. Its files, if any, are never named by a manifest.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The plan could not be made.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The key index could not be used.
    #[error("the key index could not be used")]
    Keys(#[from] DedupError),
    /// A step failed.
    #[error("a task failed")]
    Step(#[from] datafusion::error::DataFusionError),
    /// A task ended without its result: it was cancelled, or it has a bug.
    #[error("a task ended without its report")]
    Task(#[from] tokio::task::JoinError),
    /// A report that cannot be read.
    #[error("a task's report is damaged")]
    Report(#[from] serde_json::Error),
    /// Told to stop.
    #[error("stopped on request")]
    Stopped,
}
