//! Engines run one attempt of a batch and return what its tasks wrote.

pub mod ballista;
pub mod embedded;
pub mod graph;
mod queue;
mod turns;

use datafusion::error::DataFusionError;
use millrace_pipeline::codec::{CodecError, TaskFailure};
use millrace_pipeline::dedup::DedupError;
use millrace_pipeline::plan::PlanError;
use tokio::sync::watch;

use crate::lake::LakeError;

/// Why an attempt failed. Its files, if any, are never named by a manifest.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The plan could not be made.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The key index could not be used.
    #[error("the key index could not be used")]
    Keys(#[from] DedupError),
    /// A task failed for good; it says where and why.
    #[error(transparent)]
    Failed(Box<TaskFailure>),
    /// A task ended without its result: it was cancelled, or it has a bug.
    #[error("a task ended without its report")]
    Task(#[from] tokio::task::JoinError),
    /// A report that cannot be read.
    #[error("a task's report is damaged")]
    Report(#[from] serde_json::Error),
    /// The pipeline or its lake cannot be used here.
    #[error(transparent)]
    Workplace(#[from] CodecError),
    /// The scheduler cannot listen.
    #[error("the scheduler cannot listen for workers")]
    Listen(#[source] std::io::Error),
    /// TLS files that do not fit together.
    #[error("the scheduler cannot be served over TLS")]
    Tls(#[source] tonic::transport::Error),
    /// The scheduler refused.
    #[error("the scheduler refused")]
    Scheduler(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Reports of tasks stay where they were made.
    #[error(
        "workers could not fetch what other workers hold for them; can each reach the others where they `advertise`?"
    )]
    Unfetched,
    /// The engine gave up, and no task says why.
    #[error(
        "the engine gave the attempt up, and no task says why: its words are in the coordinator's log at `debug`"
    )]
    Unsaid,
    /// Workers left while the attempt needed them, and what is left of it cannot be trusted. Another attempt is all it takes.
    #[error("the attempt is begun again: {what}")]
    Disturbed {
        /// How it was found out.
        what: String,
    },
    /// The reports cannot be read.
    #[error("the reports of an attempt cannot be read")]
    Reports(#[source] LakeError),
    /// The list of committed key files was not put.
    #[error("the attempt could not be told of the committed keys")]
    List(#[source] LakeError),
    /// Told to stop.
    #[error("stopped on request")]
    Stopped,
}

impl EngineError {
    /// Whether no attempt over the same positions can succeed.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Failed(failure) if failure.is_final)
    }
}

/// In this process as from afar: what may be told, and no more.
impl From<DataFusionError> for EngineError {
    fn from(error: DataFusionError) -> Self {
        Self::Failed(Box::new(TaskFailure::of(&error, &[])))
    }
}

/// Ends when `stop` says so.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A sender that is gone can never ask: wait for ever.
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}
