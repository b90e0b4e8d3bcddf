//! Taking tasks under one leader.
//!
//! In: the leader's scheduler. Out: nothing that lasts: what tasks write counts once the leader commits it. A tenure
//! ends when it is dropped: its operators stop at their next batch, and the executor's id is never used again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ballista_core::extension::SessionConfigExt;
use ballista_core::registry::BallistaFunctionRegistry;
use ballista_core::serde::protobuf::scheduler_grpc_client::SchedulerGrpcClient;
use ballista_core::serde::protobuf::{ExecutorRegistration, ExecutorStoppedParams};
use ballista_core::serde::scheduler::{ExecutorOperatingSystemSpecification, ExecutorSpecification};
use ballista_core::serde::{BallistaCodec, BallistaLogicalExtensionCodec, BallistaPhysicalExtensionCodec};
use ballista_core::{BALLISTA_PROTOCOL_VERSION, ConfigProducer, RuntimeProducer};
use ballista_executor::execution_loop;
use ballista_executor::executor::Executor;
use ballista_executor::health::ExecutorHealth;
use ballista_executor::metrics::LoggingMetricsCollector;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::SessionConfig;
use datafusion_proto::protobuf::{LogicalPlanNode, PhysicalPlanNode};
use millrace_pipeline::codec::{Codec, Held, Workplace};
use millrace_proto::tls::Tls;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tonic::transport::{Channel, ClientTlsConfig};

use crate::disk::Disk;
use crate::leader::endpoint;
use crate::stage::Stages;
use crate::task::WatchedEngine;

/// Largest message from the scheduler: plans name every split.
const MESSAGE_BYTES: usize = 128 << 20;
/// A scheduler that does not answer within this is tried again.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How often an idle worker asks for tasks: the next stage of a batch is ready when the last task of the one before
/// ends, wherever that ran.
const ASK_SOON: Duration = Duration::from_millis(5);
/// How often one asks that has had nothing to do for [`LULL`].
const ASK: Duration = Duration::from_millis(50);
const LULL: Duration = Duration::from_secs(5);

/// What a tenure needs to know of the worker.
#[derive(Debug, Clone)]
pub struct Place {
    /// Host where shuffle data is served.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Tasks at once.
    pub slots: usize,
    /// Folder for shuffle data.
    pub work_dir: String,
    /// How the scheduler and other workers are spoken to; none: in the clear.
    pub tls: Option<Tls>,
    /// The disk that it is on.
    pub disk: Arc<Disk>,
}

/// Why a tenure did not begin.
#[derive(Debug, thiserror::Error)]
pub enum TenureError {
    /// The scheduler cannot be reached.
    #[error("the leader's scheduler at `{address}` cannot be reached")]
    Connect {
        /// `host:port`.
        address: String,
        /// What the transport says.
        #[source]
        source: tonic::transport::Error,
    },
    /// No run-time for tasks.
    #[error("tasks have no run-time here")]
    Runtime(#[from] datafusion::error::DataFusionError),
}

/// A worker under one leader.
pub struct Tenure {
    executor: Arc<Executor>,
    scheduler: SchedulerGrpcClient<Channel>,
    slots: Arc<Semaphore>,
    slot_count: usize,
    workplace: Arc<Workplace>,
    health: ExecutorHealth,
    polling: JoinHandle<()>,
    waking: JoinHandle<()>,
}

impl Tenure {
    /// Begins to take tasks from the scheduler at `address`.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn begin(
        address: &str,
        id: String,
        place: &Place,
        workplace: Arc<Workplace>,
    ) -> Result<Self, TenureError> {
        let failed = |source| TenureError::Connect {
            address: address.to_owned(),
            source,
        };
        let tls = place.tls.as_ref().map(Tls::client);
        let channel = endpoint(address, tls.as_ref())
            .map_err(failed)?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .connect()
            .await
            .map_err(failed)?;
        let scheduler = SchedulerGrpcClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES);
        let executor = Arc::new(executor(id, place, &workplace)?);
        let codec: BallistaCodec<LogicalPlanNode, PhysicalPlanNode> = BallistaCodec::new(
            Arc::new(BallistaLogicalExtensionCodec::default()),
            Arc::new(Codec::new(
                Arc::clone(&workplace),
                Arc::new(BallistaPhysicalExtensionCodec::default()),
            )),
        );
        let slots = Arc::new(Semaphore::new(place.slots));
        let ask = Arc::new(Notify::new());
        let waking = tokio::spawn(wake(Arc::clone(&ask), Arc::clone(&executor)));
        let health = ExecutorHealth::new();
        let polling = execution_loop::poll_loop(
            scheduler.clone(),
            Arc::clone(&executor),
            codec,
            Some(ask),
            Some(Arc::clone(&slots)),
            health.clone(),
        );
        let polling = tokio::spawn(async move {
            if let Err(error) = polling.await {
                tracing::debug!(%error, "the poll loop ended");
            }
        });
        Ok(Self {
            executor,
            scheduler,
            slots,
            slot_count: place.slots,
            workplace,
            health,
            polling,
            waking,
        })
    }

    /// Whether the scheduler answered when it was asked for tasks last.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        self.health.is_ready()
    }

    /// Slots with a task in them.
    #[must_use]
    pub fn busy(&self) -> usize {
        self.executor
            .active_task_count()
            .max(self.slot_count.saturating_sub(self.slots.available_permits()))
    }

    /// These attempts are over: tasks of theirs stop at their next batch, and claims are forgotten.
    pub fn end(&self, attempts: &[String]) {
        self.workplace.end(attempts);
    }

    /// Polls no more, and tells the scheduler that this executor is gone with what it holds.
    pub async fn leave(self, reason: &str) {
        self.polling.abort();
        let told = ExecutorStoppedParams {
            executor_id: self.executor.metadata.id.clone(),
            reason: reason.to_owned(),
        };
        let mut scheduler = self.scheduler.clone();
        if let Err(error) = scheduler.executor_stopped(told).await {
            tracing::warn!(%error, "the scheduler was not told that this worker leaves");
        }
    }
}

impl Drop for Tenure {
    fn drop(&mut self) {
        self.workplace.cancel();
        self.polling.abort();
        self.waking.abort();
    }
}

/// Makes the poll loop ask for tasks, for ever.
async fn wake(ask: Arc<Notify>, executor: Arc<Executor>) {
    let mut worked = Instant::now();
    loop {
        if executor.active_task_count() > 0 {
            worked = Instant::now();
        }
        let pause = if worked.elapsed() < LULL { ASK_SOON } else { ASK };
        tokio::time::sleep(pause).await;
        ask.notify_one();
    }
}

fn executor(id: String, place: &Place, workplace: &Arc<Workplace>) -> Result<Executor, TenureError> {
    let slots = u32::try_from(place.slots).unwrap_or(u32::MAX);
    let registration = ExecutorRegistration {
        id,
        host: Some(place.host.clone()),
        port: u32::from(place.port),
        grpc_port: 0,
        specification: Some(ExecutorSpecification::default().with_vcores(slots).into()),
        os_info: Some(ExecutorOperatingSystemSpecification::default().into()),
        ballista_protocol_version: BALLISTA_PROTOCOL_VERSION,
    };
    let runtime = Arc::new(RuntimeEnvBuilder::new().build()?);
    let (claims, keys) = (workplace.claim_book(), Arc::downgrade(workplace));
    workplace.counters().watch_memory(move || Held {
        claims: claims.bytes(),
        keys: keys.upgrade().map_or(0, |workplace| workplace.key_bytes_held()),
        ..Held::default()
    });
    let runtime: RuntimeProducer = Arc::new(move |_| Ok(Arc::clone(&runtime)));
    let tls = place.tls.as_ref().map(Tls::client);
    let config: ConfigProducer = Arc::new(move || session(tls.as_ref()));
    let state = SessionStateBuilder::new().with_default_features().build();
    Ok(Executor::new(
        registration,
        &place.work_dir,
        runtime,
        config,
        Arc::new(BallistaFunctionRegistry::from(&state)),
        Arc::new(LoggingMetricsCollector::default()),
        place.slots,
        Arc::new(Stages::new(WatchedEngine::new(), Arc::clone(&place.disk))),
    ))
}

/// What a task's session starts from; the scheduler's settings come with each task. Where other workers' shuffle data is
/// read from is made here and not there: a scheduler's word cannot take TLS away.
fn session(tls: Option<&ClientTlsConfig>) -> SessionConfig {
    let session = SessionConfig::new_with_ballista();
    let Some(tls) = tls.cloned() else {
        return session;
    };
    session.with_ballista_override_create_grpc_client_endpoint(Arc::new(move |plain| {
        let authority = plain.uri().authority().map(ToString::to_string);
        let address = authority.ok_or("shuffle data is at no address")?;
        Ok(endpoint(&address, Some(&tls))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true))
    }))
}
