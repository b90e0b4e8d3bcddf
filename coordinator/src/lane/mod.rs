//! One pipeline's lane: its jobs take turns, batch by batch, and its batches commit in order.
//!
//! In: the active jobs of one pipeline, from the registry. Out: committed batches, and each job's record kept up to date. A lane
//! lives as long as its pipeline has active jobs and its coordinator leads; a new leader's lane goes on from the ledger.
//!
//! | what happens                            | the lane                                                              |
//! |------------------------------------------|-----------------------------------------------------------------------|
//! | it begins                               | opens the ledger, then finishes the batches that were interrupted      |
//! | a job over a prefix begins              | lists its objects, once: they stand in the ledger                      |
//! | several jobs are active                 | takes a batch of each in turn; a `follow` job whose time has come first |
//! | a job's batch is read, and there is more | commits it while the next one of that job is read (see [`crate::ahead`]) |
//! | an attempt fails                        | tries the same positions again, with growing pauses, for half a minute |
//! | an object is not what it was when the batch was planned | fails the job at once: waiting does not bring it back   |
//! | a redrive is interrupted                | its open batch is given up, unless its manifest is there; what is left is read again |
//! | workers leave and take with them what an attempt needed | tries again at once                                   |
//! | the brokers do not answer, or a table that must be looked up in | asks again, for as long as it takes             |
//! | a job lets go of what is too old, holds it or erases a person | does so between two batches                    |
//! | no job has a batch to be run            | begins to compute a due period of a model, compacts complete hours, deletes what was replaced |
//! | a period of a model is computed         | commits it between two steps; jobs go on meanwhile                    |
//! | it still fails, or its job is cancelled | gives the batch up, unless its manifest is there: its positions are free |
//! | the leadership is lost                  | is dropped where it stands: the ledger refuses it from then on          |

mod attempt;
mod input;
mod keys;
mod land;
mod listing;
mod models;
mod reached;
mod record;
mod redrive;
mod telling;
mod tidy;
mod upkeep;
mod work;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use millrace_pipeline::codec::Workplace;
use millrace_proto::ids::{BatchId, IdError, PipelineName};
use millrace_proto::v1;
use tokio::sync::watch;

use crate::applied::Environment;
use crate::commit::CommitError;
use crate::election::Leadership;
use crate::engine::EngineError;
use crate::engine::ballista::Ballista;
use crate::etcd::Etcd;
use crate::job::RunError;
use crate::ledger::LedgerError;
use crate::lifecycle::Hook;
use crate::metrics::Metrics;
use crate::query::QueryError;
use crate::registry::{Registry, RegistryError};
use crate::split::kafka::TopicError;
use crate::workers::Workers;

pub use models::tend as tend_models;
pub use work::Lane;

/// How long a lane without jobs stays, with its ledger open.
const LINGER: Duration = Duration::from_secs(5);

/// How long workers have to come back after an election before a batch is dealt out.
const GATHER: Duration = Duration::from_millis(1200);

/// What all lanes of a leader share.
pub struct Tools {
    /// The cluster's etcd.
    pub etcd: Etcd,
    /// Prefix of all keys.
    pub prefix: String,
    /// Jobs and pipelines.
    pub registry: Registry,
    /// Our leadership.
    pub lead: Leadership,
    /// Runs attempts.
    pub engine: Ballista,
    /// Makes operators here.
    pub workplace: Arc<Workplace>,
    /// Fills in `${env:NAME}`.
    pub env: Environment,
    /// Slots of all workers at this moment.
    pub slots: Arc<dyn Fn() -> usize + Send + Sync>,
    /// Who works.
    pub workers: Arc<Workers>,
    /// When we began to lead.
    pub since: tokio::time::Instant,
    /// Unpacked input that is committed at once, in bytes.
    pub batch_bytes: u64,
    /// Told of each moment of each batch.
    pub hook: Hook,
    /// What is counted.
    pub metrics: Metrics,
    /// Told of each commit, whosever it is: handoffs wait for it.
    pub committed: watch::Sender<()>,
    /// How long a committed batch may wait for the warehouse before it is alarmed.
    pub service_level: Duration,
}

impl Tools {
    /// Slots of all workers, once there are any. After an election workers come back one by one: a plan made for the
    /// first of them would leave the others idle, so they get a moment.
    async fn slots_ready(&self) -> usize {
        tokio::time::sleep_until(self.since + GATHER).await;
        let mut told = false;
        loop {
            let slots = (self.slots)();
            if slots > 0 {
                return slots;
            }
            if !told {
                tracing::warn!("no worker is there; batches wait");
                told = true;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// The active jobs of one pipeline, as the registry last said.
pub type ActiveJobs = BTreeMap<String, v1::Job>;

/// Why a lane ended.
#[derive(Debug, thiserror::Error)]
pub enum LaneError {
    /// The ledger. Where it says that we do not lead, that is how a lane ends.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A batch's way to its commit.
    #[error(transparent)]
    Run(Box<RunError>),
    /// What is committed cannot be read.
    #[error("what is committed cannot be read")]
    Committed(#[from] QueryError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The brokers.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// A name that is none; it points at a bug.
    #[error(transparent)]
    Id(#[from] IdError),
    /// Nobody can say whether a batch is published; the next lane finds out.
    #[error("whether batch {batch} is published is not known")]
    Unsettled {
        /// The batch.
        batch: BatchId,
        /// Why not.
        #[source]
        source: Box<RunError>,
    },
    /// What a job asks for does not fit its pipeline.
    #[error("{0}")]
    Input(String),
}

impl From<RunError> for LaneError {
    fn from(error: RunError) -> Self {
        Self::Run(Box::new(error))
    }
}

impl LaneError {
    /// Whether it is the whole lane's, not one job's: we may not or cannot write.
    fn is_fatal(&self) -> bool {
        match self {
            Self::Ledger(_) | Self::Unsettled { .. } => true,
            Self::Registry(error) => error.is_retryable() || matches!(error, RegistryError::NotLeader { .. }),
            Self::Run(error) => matches!(**error, RunError::Ledger(_)),
            Self::Committed(_) | Self::Engine(_) | Self::Topic(_) | Self::Id(_) | Self::Input(_) => false,
        }
    }

    /// Whether its pipeline is applied no longer.
    pub(crate) fn is_about_nothing(&self) -> bool {
        matches!(self, Self::Registry(RegistryError::NotFound { .. }))
    }

    /// Whether an attempt's counts did not add up: rows were lost on their way between workers. Nothing was published.
    fn is_miscounted(&self) -> bool {
        let Self::Run(error) = self else { return false };
        matches!(
            **error,
            RunError::Commit {
                source: CommitError::Manifest(_),
                ..
            }
        )
    }

    /// Whether no attempt over the same positions can succeed: what they were fixed on is not there any more.
    fn is_final(&self) -> bool {
        matches!(self, Self::Engine(error) if error.is_final())
    }

    /// Whether an attempt only met workers that left: the next one need not wait.
    fn is_disturbed(&self) -> bool {
        matches!(self, Self::Engine(EngineError::Disturbed { .. }))
    }

    /// The lookup that a batch waits for.
    fn waits_for(&self) -> Option<&str> {
        let Self::Run(error) = self else { return None };
        if let RunError::Enrich(error) = &**error {
            Some(error.lookup())
        } else {
            None
        }
    }

    /// Whether waiting helps: brokers and databases come back.
    fn is_passing(&self) -> bool {
        match self {
            Self::Topic(error) => error.is_retryable(),
            Self::Run(error) => matches!(&**error, RunError::Enrich(error) if error.is_retryable()),
            Self::Ledger(_)
            | Self::Registry(_)
            | Self::Committed(_)
            | Self::Engine(_)
            | Self::Id(_)
            | Self::Unsettled { .. }
            | Self::Input(_) => false,
        }
    }
}

/// Runs a lane until its pipeline has no active jobs for a while. `jobs` holds all active jobs of all pipelines.
///
/// # Errors
/// When the ledger or the registry refuse or fail.
pub async fn run(
    tools: Arc<Tools>,
    pipeline: PipelineName,
    mut jobs: watch::Receiver<ActiveJobs>,
) -> Result<(), LaneError> {
    let mut lane = Lane::new(tools, pipeline, jobs.clone());
    lane.finish_interrupted().await?;
    loop {
        lane.commit_model().await?;
        let next = lane.step().await?;
        let pause = next.unwrap_or(LINGER);
        if pause.is_zero() {
            continue;
        }
        // Dashboards wait for models, nobody for a compaction.
        if !lane.models.is_computing() && (lane.model().await? || lane.tidy().await?) {
            continue;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {
                let has_models = lane.models.is_computing() || lane.models.has_resting();
                if next.is_none() && lane.is_idle() && !has_models && !lane.tidy.has_failed() {
                    return Ok(());
                }
            }
            changed = jobs.changed() => if changed.is_err() { return Ok(()) },
            () = lane.models.over() => {}
        }
    }
}
