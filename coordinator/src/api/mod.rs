//! The gRPC API (`proto/millrace/v1`): what users, Airflow, workers and the command line speak to.
//!
//! ```text
//! call -> gate (deadline, token, rate) -> forward (to whoever leads) -> jobs | pipelines | quarantine | handoff | models | retention | cluster
//! ```
//!
//! Every coordinator serves it; followers pass calls on to the leader, so that any address will do. Without TLS and
//! tokens only loopback is served. Every mutation leaves a line in the audit log. Beside it: `grpc.health.v1` and
//! reflection.

mod access;
mod audit;
mod cluster;
mod deadline;
mod errors;
mod filter;
mod forward;
mod gate;
mod handoff;
mod hours;
mod jobs;
mod models;
mod pages;
mod pipelines;
mod proof;
mod quarantine;
mod rate;
mod refusals;
mod retention;
mod submit;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use millrace_pipeline::spec::model::Pipeline;
use millrace_proto::v1::{self, DESCRIPTORS};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use v1::cluster_service_server::ClusterServiceServer;
use v1::handoff_service_server::HandoffServiceServer;
use v1::job_service_server::JobServiceServer;
use v1::model_service_server::ModelServiceServer;
use v1::pipeline_service_server::PipelineServiceServer;
use v1::quarantine_service_server::QuarantineServiceServer;
use v1::retention_service_server::RetentionServiceServer;

pub use access::{Role, Token};
pub use errors::{DOMAIN, Reason};
pub use hours::Hours;
pub use millrace_proto::tls::Tls;
pub use rate::Rate;

use crate::applied::Environment;
use crate::election::{LeaderInfo, Leadership};
use crate::lake::Lake;
use crate::ledger::State;
use crate::registry::Registry;
use crate::workers::Workers;

/// How the API is served.
#[derive(Debug, Clone)]
pub struct ApiConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// TLS; none: in the clear, and on loopback only.
    pub tls: Option<Tls>,
    /// Who may call; empty: everybody, and on loopback only.
    pub tokens: Vec<Token>,
    /// Largest message, in bytes.
    pub message_bytes: usize,
    /// Calls of one caller.
    pub rate: Rate,
}

impl ApiConfig {
    /// An address, in the clear, with the default limits.
    #[must_use]
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            tls: None,
            tokens: Vec::new(),
            message_bytes: 4 << 20,
            rate: Rate {
                per_second: 1000.0,
                burst: 2000.0,
            },
        }
    }
}

/// Why the API is not served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Anybody could reach it.
    #[error(
        "the API would listen on {listen}, where others can reach it, without {missing}; \
         configure `tls` and `tokens`, or listen on 127.0.0.1"
    )]
    Open {
        /// The address.
        listen: SocketAddr,
        /// `tls`, `tokens` or both.
        missing: &'static str,
    },
    /// The address is taken, or none of this machine's.
    #[error("the API cannot listen on {listen}")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// TLS files that do not fit together, or the connection loop.
    #[error("the API cannot be served")]
    Transport(#[from] tonic::transport::Error),
    /// The compiled descriptors are damaged.
    #[error("reflection cannot be served")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// What the services need of the process around them.
pub struct Control {
    /// This coordinator's name.
    pub name: String,
    /// Who leads, as everybody sees it.
    pub leader: watch::Receiver<Option<LeaderInfo>>,
    /// Our own leadership, while we have it.
    pub leadership: watch::Receiver<Option<Leadership>>,
    /// The table that heartbeats feed.
    pub workers: Arc<Workers>,
    /// What `${env:NAME}` stands for when pipelines are checked.
    pub environment: Environment,
    /// How lakes are reached.
    pub lakes: Arc<dyn Lakes>,
    /// Environment of jobs that name none; none: they are masked.
    pub jobs_environment: Option<String>,
}

impl Control {
    /// The leadership, if it is held at this moment.
    pub(crate) fn lead(&self) -> Result<Leadership, tonic::Status> {
        let held = self.leadership.borrow().clone().filter(Leadership::is_held);
        held.ok_or_else(|| errors::not_leader(format!("`{}` does not lead", self.name)))
    }
}

/// Any error, boxed.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How the API reaches pipelines' lakes.
pub trait Lakes: Send + Sync {
    /// The lake of a pipeline, and what its ledger says.
    fn open(&self, pipeline: Arc<Pipeline>) -> BoxFuture<'_, Result<(Lake, State), BoxError>>;

    /// Its event hours, newest first. By default what the ledger tells.
    fn hours(&self, pipeline: Arc<Pipeline>) -> BoxFuture<'_, Result<Hours, BoxError>> {
        Box::pin(async move {
            let (_, state) = self.open(pipeline).await?;
            Ok(hours::of(&state))
        })
    }
}

/// What all services share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) registry: Registry,
    pub(crate) control: Arc<Control>,
}

/// Serves the API until `stop`, then lets calls under way end.
///
/// # Errors
/// When it would be open to others, or the address or TLS cannot be used.
pub async fn serve(
    config: ApiConfig,
    registry: Registry,
    control: Arc<Control>,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let listen = config.listen;
    check_open(&config)?;
    let listener = TcpListener::bind(listen)
        .await
        .map_err(|source| ServeError::Listen { listen, source })?;
    serve_on(listener, config, registry, control, stop).await
}

/// The same on a socket that listens already; `config.listen` only decides whether it may be open.
///
/// # Errors
/// See [`serve`].
pub async fn serve_on(
    listener: TcpListener,
    config: ApiConfig,
    registry: Registry,
    control: Arc<Control>,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    check_open(&config)?;
    let most = config.message_bytes;
    let shared = Shared {
        registry,
        control: Arc::clone(&control),
    };
    macro_rules! service {
        ($server:ident, $service:expr) => {
            $server::new($service)
                .max_decoding_message_size(most)
                .max_encoding_message_size(most)
        };
    }
    let (health, health_service) = tonic_health::server::health_reporter();
    health
        .set_service_status("", tonic_health::ServingStatus::Serving)
        .await;
    health.set_serving::<JobServiceServer<jobs::Jobs>>().await;
    health
        .set_serving::<PipelineServiceServer<pipelines::Pipelines>>()
        .await;
    health
        .set_serving::<QuarantineServiceServer<quarantine::Quarantine>>()
        .await;
    health
        .set_serving::<HandoffServiceServer<handoff::Handoffs>>()
        .await;
    health.set_serving::<ModelServiceServer<models::Models>>().await;
    health
        .set_serving::<RetentionServiceServer<retention::Retentions>>()
        .await;
    health
        .set_serving::<ClusterServiceServer<cluster::Cluster>>()
        .await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let mut server = Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(Duration::from_secs(15)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .max_concurrent_streams(1024);
    if let Some(tls) = &config.tls {
        server = server.tls_config(tls.api_server())?;
    }
    server
        .layer(gate::GateLayer(Arc::new(gate(&config, &control))))
        .add_service(health_service)
        .add_service(reflection)
        .add_service(service!(JobServiceServer, jobs::Jobs(shared.clone())))
        .add_service(service!(
            PipelineServiceServer,
            pipelines::Pipelines(shared.clone())
        ))
        .add_service(service!(
            QuarantineServiceServer,
            quarantine::Quarantine(shared.clone())
        ))
        .add_service(service!(HandoffServiceServer, handoff::Handoffs(shared.clone())))
        .add_service(service!(ModelServiceServer, models::Models(shared.clone())))
        .add_service(service!(
            RetentionServiceServer,
            retention::Retentions(shared.clone())
        ))
        .add_service(service!(ClusterServiceServer, cluster::Cluster(shared)))
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop)
        .await?;
    Ok(())
}

fn gate(config: &ApiConfig, control: &Arc<Control>) -> gate::Gate {
    let leadership = control.leadership.clone();
    gate::Gate {
        access: access::Access::new(config.tokens.clone()),
        rates: Mutex::new(rate::Rates::new(config.rate)),
        forward: forward::Forward {
            name: control.name.clone(),
            leader: control.leader.clone(),
            leads: Arc::new(move || leadership.borrow().as_ref().is_some_and(Leadership::is_held)),
            tls: config.tls.as_ref().map(Tls::client),
            channel: Mutex::default(),
            message_bytes: config.message_bytes,
        },
    }
}

fn check_open(config: &ApiConfig) -> Result<(), ServeError> {
    let missing = match (&config.tls, config.tokens.is_empty()) {
        (Some(_), false) => return Ok(()),
        (None, false) => "`tls`",
        (Some(_), true) => "`tokens`",
        (None, true) => "`tls` and `tokens`",
    };
    if config.listen.ip().is_loopback() {
        return Ok(());
    }
    let listen = config.listen;
    Err(ServeError::Open { listen, missing })
}

/// The caller that the gate let through.
pub(crate) fn caller<T>(request: &tonic::Request<T>) -> access::Caller {
    let found = request.extensions().get::<access::Caller>();
    found.cloned().unwrap_or_else(|| access::Caller {
        name: "unknown".to_owned(),
        role: Role::Viewer,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_tls_and_tokens_only_loopback_is_served() {
        let mut config = ApiConfig::new("0.0.0.0:7400".parse().unwrap());
        let refused = check_open(&config).unwrap_err().to_string();
        assert!(
            refused.contains("`tls` and `tokens`") && refused.contains("127.0.0.1"),
            "{refused}"
        );
        config.tls = Some(Tls {
            certificate: Vec::new(),
            key: Vec::new(),
            ca: Vec::new(),
            client_ca: None,
            domain: None,
        });
        assert!(
            check_open(&config)
                .unwrap_err()
                .to_string()
                .contains("without `tokens`")
        );
        config.tokens.push(Token {
            name: "ada".to_owned(),
            role: Role::Admin,
            hash: blake3::hash(b"x"),
        });
        assert!(check_open(&config).is_ok());
        assert!(check_open(&ApiConfig::new("127.0.0.1:0".parse().unwrap())).is_ok());
    }
}
