//! The engine across processes: Ballista's scheduler in this process, workers elsewhere.
//!
//! In: an attempt, its splits dealt out to tasks, the committed key files. Out: each task's report. A Ballista job
//! is disposable: its state is in memory only, the ledger is the truth, and an attempt that ends in an error is simply
//! not committed. The reports are read from the object that the plan's last operator puts, not from the job's result,
//! which can name tasks that were repeated elsewhere.
//!
//! Where copies of a key can meet in several tasks, the workers that take tasks when the attempt begins keep its claims. An
//! attempt one of whose keepers is gone is [given up](EngineError::Disturbed) at once and made again from the start.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ballista_core::config::{
    BALLISTA_ADAPTIVE_PLANNER_ENABLED, BALLISTA_CLIENT_GRPC_MAX_MESSAGE_SIZE, BALLISTA_COALESCE_ENABLED,
    BALLISTA_SCHEDULER_MAX_PARTITIONS_PER_TASK, TaskSchedulingPolicy,
};
use ballista_core::error::BallistaError;
use ballista_core::extension::SessionConfigExt;
use ballista_core::serde::BallistaPhysicalExtensionCodec;
use ballista_core::serde::protobuf::ExecutorStoppedParams;
use ballista_core::serde::protobuf::job_status::Status;
use ballista_core::serde::protobuf::scheduler_grpc_server::{SchedulerGrpc, SchedulerGrpcServer};
use ballista_scheduler::cluster::BallistaCluster;
use ballista_scheduler::config::{SchedulerConfig, TaskDistributionPolicy};
use ballista_scheduler::scheduler_process::create_scheduler;
use ballista_scheduler::scheduler_server::SchedulerServer;
use ballista_scheduler::state::execution_graph::ExecutionGraphBox;
use datafusion::common::DataFusionError;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::SessionStateBuilder;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion_proto::protobuf::{LogicalPlanNode, PhysicalPlanNode};
use millrace_pipeline::codec::{AttemptSpec, Codec, TaskFailure, Workplace, assemble};
use millrace_pipeline::dedup::claims::Keeper;
use millrace_pipeline::sink::read_reports;
use millrace_pipeline::source::{split_schema, splits_batch};
use millrace_proto::keys;
use millrace_proto::manifest::{KeyFile, TaskReport};
use millrace_proto::split::Split;
use millrace_proto::tls::Tls;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::{RwLock, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;

use super::graph::{InUse, sinks};
use super::turns::{JobName, Turns};
use super::{EngineError, stopped};
use crate::lake::Lake;
use crate::workers::Workers;

/// Largest message between scheduler and workers: plans name every split.
pub const MESSAGE_BYTES: usize = 128 << 20;
/// How often a running attempt is looked at when the scheduler says nothing: it may leave out what it has no room for.
const POLL_EVERY: Duration = Duration::from_millis(25);
/// News of an attempt that wait to be heard.
const NEWS: usize = 64;
/// How often it is looked whether its keepers are there.
const KEEPERS_EVERY: Duration = Duration::from_millis(250);
/// What Ballista says of a stage whose input could not be fetched, again and again.
const UNFETCHED: &str = " times, most recent failure reason";
/// A worker that has not polled for so long is taken for dead, whatever else it says, in seconds.
const WORKER_TIMEOUT_SECONDS: u64 = 10;

type Scheduler = SchedulerServer<LogicalPlanNode, PhysicalPlanNode>;

/// The scheduler, and the address that workers reach it at.
pub struct Ballista {
    scheduler: Scheduler,
    workplace: Arc<Workplace>,
    workers: Arc<Workers>,
    /// Who keeps the claims of which attempt that runs.
    keeping: Mutex<HashMap<String, Vec<Keeper>>>,
    serving: JoinHandle<()>,
}

/// One attempt's work.
#[derive(Debug)]
pub struct Work<'a> {
    /// The attempt.
    pub attempt: AttemptSpec,
    /// Whether it is of a `follow` job, which goes first where slots are few.
    pub is_follow: bool,
    /// The splits of each task.
    pub tasks: &'a [Vec<Split>],
    /// Every committed key file.
    pub committed: &'a [KeyFile],
}

/// How far a running attempt is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TaskProgress {
    /// Tasks that ended.
    pub done: u32,
    /// Tasks of all stages.
    pub tasks: u32,
}

/// The settings of every session, here and at the workers.
#[must_use]
pub fn session_config() -> SessionConfig {
    let settings = [
        // Small units of retry, and slots are what they say.
        (BALLISTA_SCHEDULER_MAX_PARTITIONS_PER_TASK, "1".to_owned()),
        // Our plans are finished: what they say is what runs.
        (BALLISTA_ADAPTIVE_PLANNER_ENABLED, "false".to_owned()),
        (BALLISTA_COALESCE_ENABLED, "false".to_owned()),
        (BALLISTA_CLIENT_GRPC_MAX_MESSAGE_SIZE, MESSAGE_BYTES.to_string()),
    ];
    let config = SessionConfig::new_with_ballista();
    settings
        .iter()
        .fold(config, |config, (key, value)| config.set_str(key, value))
}

impl Ballista {
    /// Starts a scheduler that serves workers on `listener`, and gives tasks to those that take some; with TLS only those
    /// of the cluster's authority are served.
    ///
    /// # Errors
    /// When Ballista refuses to start, or certificate and key do not fit together.
    pub async fn start(
        listener: TcpListener,
        workplace: Arc<Workplace>,
        workers: Arc<Workers>,
        tls: Option<&Tls>,
    ) -> Result<Self, EngineError> {
        let address = listener.local_addr().map_err(EngineError::Listen)?;
        let message_bytes = u32::try_from(MESSAGE_BYTES).unwrap_or(u32::MAX);
        let codec = Codec::new(
            Arc::clone(&workplace),
            Arc::new(BallistaPhysicalExtensionCodec::default()),
        );
        let table = Arc::clone(&workers);
        let turns = Turns::new(Arc::new(move |id| table.takes_tasks(id, Instant::now())));
        let config = SchedulerConfig {
            task_distribution: TaskDistributionPolicy::Custom(Arc::new(turns)),
            external_host: address.ip().to_string(),
            bind_port: address.port(),
            scheduling_policy: TaskSchedulingPolicy::PullStaged,
            executor_timeout_seconds: WORKER_TIMEOUT_SECONDS,
            expire_dead_executor_interval_seconds: 1,
            no_executors_grace_period_seconds: u64::from(u32::MAX),
            // Who says that it leaves has nothing left to give.
            executor_termination_grace_period: 0,
            finished_job_data_clean_up_interval_seconds: 30,
            finished_job_state_clean_up_interval_seconds: 60,
            grpc_server_max_decoding_message_size: message_bytes,
            grpc_server_max_encoding_message_size: message_bytes,
            grpc_client_max_message_size: message_bytes,
            override_physical_codec: Some(Arc::new(codec)),
            override_config_producer: Some(Arc::new(session_config)),
            ..SchedulerConfig::default()
        };
        let cluster = BallistaCluster::new_memory(
            config.scheduler_endpoint(),
            Arc::new(|config| {
                Ok(SessionStateBuilder::new()
                    .with_default_features()
                    .with_config(config)
                    .build())
            }),
            Arc::new(session_config),
        );
        let scheduler: Scheduler = create_scheduler(cluster, Arc::new(config)).await?;
        let service = SchedulerGrpcServer::new(scheduler.clone())
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES);
        let mut server = tonic::transport::Server::builder().tcp_nodelay(true);
        if let Some(tls) = tls {
            server = server.tls_config(tls.inner_server()).map_err(EngineError::Tls)?;
        }
        let serving = tokio::spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            let served = server.add_service(service).serve_with_incoming(incoming).await;
            if let Err(error) = served {
                tracing::error!(%error, "the scheduler no longer serves workers");
            }
        });
        Ok(Self {
            scheduler,
            workplace,
            workers,
            keeping: Mutex::default(),
            serving,
        })
    }

    /// Takes a worker for gone: what it did is done again elsewhere.
    pub async fn lose(&self, executor_id: &str, reason: &str) {
        let request = tonic::Request::new(ExecutorStoppedParams {
            executor_id: executor_id.to_owned(),
            reason: reason.to_owned(),
        });
        if let Err(error) = SchedulerGrpc::executor_stopped(&self.scheduler, request).await {
            tracing::warn!(executor = executor_id, %error, "a worker that is gone was not taken out");
        }
    }

    /// How long a worker has not polled for tasks; none if it never has, or is out already.
    #[must_use]
    pub fn silent_for(&self, executor_id: &str) -> Option<Duration> {
        let heard = self
            .scheduler
            .state
            .executor_manager
            .get_executor_hearbeat(executor_id)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Some(now.saturating_sub(Duration::from_secs(heard.timestamp)))
    }

    /// What running attempts have of workers at this moment.
    pub async fn in_use(&self) -> InUse {
        let manager = &self.scheduler.state.task_manager;
        let mut in_use = InUse::of(&manager.get_running_job_cache()).await;
        let keeping = self.keeping.lock();
        let keepers = keeping.values().flatten();
        in_use
            .workers
            .extend(keepers.map(|keeper| keeper.executor_id.clone()));
        in_use
    }

    /// Runs one attempt. `progress` is told how far it is.
    ///
    /// # Errors
    /// When the attempt cannot be planned, a task fails for good, or `stop` says so.
    pub async fn run(
        &self,
        work: Work<'_>,
        lake: &Lake,
        progress: &(dyn Fn(TaskProgress) + Send + Sync),
        stop: &watch::Receiver<bool>,
    ) -> Result<Vec<TaskReport>, EngineError> {
        let Work {
            attempt,
            is_follow,
            tasks,
            committed,
        } = work;
        let prepared = self
            .workplace
            .prepare(&attempt.pipeline, attempt.environment.as_deref())?;
        let reports = keys::attempt(&attempt.batch, attempt.attempt);
        let name = JobName {
            pipeline: prepared.steps.pipeline.name.to_string(),
            attempt: format!("{}-{}", attempt.batch, attempt.attempt),
            is_follow,
        };
        let mut objects = vec![String::new(); tasks.iter().map(Vec::len).sum()];
        for split in tasks.iter().flatten() {
            if let Some(object) = objects.get_mut(split.index as usize) {
                object.clone_from(&split.object.url);
            }
        }
        let keepers = if prepared.steps.claims_together() {
            self.keepers(stop).await?
        } else {
            Vec::new()
        };
        let plan = assemble(
            source(tasks)?,
            &keepers,
            attempt,
            &objects,
            committed,
            &prepared,
            &self.workplace,
        )?;
        let expected = sinks(&plan);
        let needed = Needed::begin(
            self,
            format!("{}/{}", name.pipeline, name.attempt),
            keepers.clone(),
        );
        let ran = self.execute(&name, plan, &keepers, progress, stop).await;
        drop(needed);
        // What a task says that misses its keeper tells less than that the keeper is gone.
        ran.map_err(|error| self.disturbance(&keepers).unwrap_or(error))?;
        let bytes = lake.get(&reports).await.map_err(EngineError::Reports)?;
        let reports = read_reports(&bytes)?;
        if reports.len() != expected {
            return Err(EngineError::Disturbed {
                what: format!("{} of {expected} tasks reported", reports.len()),
            });
        }
        Ok(reports)
    }

    /// Who is to keep the claims of an attempt that begins: waits for somebody. Only those whom the scheduler has heard are
    /// of the cluster: it looks at certificates where the table of workers looks at tokens.
    async fn keepers(&self, stop: &watch::Receiver<bool>) -> Result<Vec<Keeper>, EngineError> {
        let mut stop = stop.clone();
        loop {
            let mut keepers = self.workers.keepers(Instant::now());
            keepers.retain(|keeper| self.silent_for(&keeper.executor_id).is_some());
            if !keepers.is_empty() {
                return Ok(keepers);
            }
            tokio::select! {
                () = tokio::time::sleep(KEEPERS_EVERY) => {}
                () = stopped(&mut stop) => return Err(EngineError::Stopped),
            }
        }
    }

    /// That a keeper is gone, if one is.
    fn disturbance(&self, keepers: &[Keeper]) -> Option<EngineError> {
        let gone = self.workers.gone(keepers, Instant::now())?;
        Some(EngineError::Disturbed {
            what: format!("the worker at {} that kept claims of it is gone", gone.address),
        })
    }

    async fn execute(
        &self,
        name: &JobName,
        plan: Arc<dyn ExecutionPlan>,
        keepers: &[Keeper],
        progress: &(dyn Fn(TaskProgress) + Send + Sync),
        stop: &watch::Receiver<bool>,
    ) -> Result<(), EngineError> {
        let context = Arc::new(SessionContext::new_with_config(session_config()));
        let (tell, mut news) = mpsc::channel(NEWS);
        let job = self
            .scheduler
            .submit_physical_plan(&name.to_string(), context, plan, Some(tell))
            .await?;
        let mut stop = stop.clone();
        let manager = &self.scheduler.state.task_manager;
        let mut graph: Option<Arc<RwLock<ExecutionGraphBox>>> = None;
        let mut looked = Instant::now();
        loop {
            tokio::select! {
                Some(_) = news.recv() => {}
                () = tokio::time::sleep(POLL_EVERY) => {}
                () = stopped(&mut stop) => {
                    self.scheduler.cancel_job(job).await?;
                    return Err(EngineError::Stopped);
                }
            }
            if graph.is_none() {
                let running = manager.get_running_job_cache();
                graph = running
                    .get(&job)
                    .map(|running| Arc::clone(&running.execution_graph));
            }
            let status = manager.get_job_status(&job).await?;
            let status = status.and_then(|status| status.status);
            if looked.elapsed() >= KEEPERS_EVERY && !matches!(status, Some(Status::Successful(_))) {
                looked = Instant::now();
                if let Some(disturbed) = self.disturbance(keepers) {
                    self.scheduler.cancel_job(job).await?;
                    return Err(disturbed);
                }
            }
            match status {
                Some(Status::Successful(_)) => return Ok(()),
                Some(Status::Failed(failed)) => return Err(gave_up(&failed.error)),
                Some(Status::Running(_)) => {
                    if let Some(graph) = &graph {
                        let graph = graph.read().await;
                        progress(TaskProgress {
                            done: u32::try_from(graph.completed_stages()).unwrap_or(u32::MAX),
                            tasks: u32::try_from(graph.stage_count()).unwrap_or(u32::MAX),
                        });
                    }
                }
                Some(Status::Queued(_)) | None => {}
            }
        }
    }
}

/// An attempt that runs: its keepers are needed until it is over, or nobody waits for it any more.
struct Needed<'a> {
    engine: &'a Ballista,
    attempt: String,
}

impl<'a> Needed<'a> {
    fn begin(engine: &'a Ballista, attempt: String, keepers: Vec<Keeper>) -> Self {
        engine.keeping.lock().insert(attempt.clone(), keepers);
        Self { engine, attempt }
    }
}

impl Drop for Needed<'_> {
    fn drop(&mut self) {
        let attempt = std::mem::take(&mut self.attempt);
        self.engine.keeping.lock().remove(&attempt);
        // Workers stop what they still do of it, and forget its claims.
        self.engine.workers.end(attempt, Instant::now());
    }
}

impl Drop for Ballista {
    fn drop(&mut self) {
        self.serving.abort();
        self.workplace.cancel();
    }
}

/// Splits as rows: one partition a task. What the scheduler hands out are slices of it.
fn source(tasks: &[Vec<Split>]) -> Result<Arc<dyn ExecutionPlan>, EngineError> {
    let batches = tasks
        .iter()
        .map(|splits| Ok(vec![splits_batch(splits)?]))
        .collect::<Result<Vec<_>, DataFusionError>>()?;
    Ok(MemorySourceConfig::try_new_exec(&batches, split_schema(), None)?)
}

/// Why the engine gave an attempt up: it has a text only, in which the task that failed says so.
fn gave_up(text: &str) -> EngineError {
    if let Some(failure) = TaskFailure::find(text) {
        return EngineError::Failed(Box::new(failure));
    }
    tracing::debug!(engine = text, "the engine gave an attempt up");
    if text.contains(UNFETCHED) {
        EngineError::Unfetched
    } else {
        EngineError::Unsaid
    }
}

impl From<BallistaError> for EngineError {
    fn from(error: BallistaError) -> Self {
        Self::Scheduler(Box::new(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_task_says_is_not_quoted_either() {
        let fetched = r#"Job failed due to stage 2 failed: Stage 2 has failed 4 times, most recent failure reason: "General(\"x\")""#;
        assert!(matches!(gave_up(fetched), EngineError::Unfetched));
        for text in [
            "",
            "Task failed due to runtime execution error: Internal(\"carol\")",
        ] {
            let error = gave_up(text);
            assert!(matches!(error, EngineError::Unsaid), "{error}");
            assert!(!error.to_string().contains("carol") && !error.is_final());
        }
    }
}
