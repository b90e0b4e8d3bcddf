//! Finding and following the leader.
//!
//! In: addresses of coordinators, or etcd, and how both are spoken to. Out: who leads, asked again with every heartbeat: a heartbeat goes to the
//! leader that is known, then to whoever etcd names, then to each coordinator in turn, which passes it on.

use std::collections::HashMap;
use std::time::Duration;

use etcd_client::{Client as Etcd, ConnectOptions};
use millrace_pipeline::spec::model::Secret;
use millrace_proto::tls::Tls;
use millrace_proto::v1::cluster_service_client::ClusterServiceClient;
use millrace_proto::v1::{Coordinator, JoinClusterRequest, PROTOCOL_VERSION, Worker};
use serde::Deserialize;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};

use crate::config::WorkerConfig;
use crate::serving::Access;

/// A heartbeat that takes longer counts as lost.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a heartbeat was answered with.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Who leads.
    pub leader: Coordinator,
    /// The worker was asked to drain.
    pub drain: bool,
    /// The worker drains, and the leader may need what it holds.
    pub is_needed: bool,
    /// Attempts that are over.
    pub over: Vec<String>,
}

/// Why nobody took a heartbeat.
#[derive(Debug, thiserror::Error)]
pub enum LeaderError {
    /// No coordinator leads, or none can be reached.
    #[error("no leader can be reached; asked {asked}")]
    None {
        /// Addresses.
        asked: String,
        /// What the last of them said.
        #[source]
        source: Option<Box<Status>>,
    },
    /// The leader does not take this worker, and will not.
    #[error("the leader refuses this worker: {0}")]
    Refused(String),
}

/// Asks for the leader.
pub struct Leaders {
    coordinators: Vec<String>,
    etcd: Option<(Vec<String>, String)>,
    etcd_options: ConnectOptions,
    etcd_client: Option<Etcd>,
    tls: Option<ClientTlsConfig>,
    token: Option<MetadataValue<Ascii>>,
    channels: HashMap<String, Channel>,
    last: Option<String>,
}

/// What stands in the leader's key.
#[derive(Deserialize)]
struct LeaderKey {
    address: String,
}

impl Leaders {
    /// From a worker's settings; `access` says how coordinators and etcd are spoken to.
    #[must_use]
    pub fn new(config: &WorkerConfig, access: &Access) -> Self {
        let bearer = |token: &Secret| format!("Bearer {}", token.reveal()).parse().ok();
        Self {
            coordinators: config.coordinators.clone(),
            etcd: config
                .etcd
                .as_ref()
                .map(|etcd| (etcd.endpoints.clone(), etcd.prefix.clone())),
            etcd_options: access
                .etcd
                .clone()
                .with_connect_timeout(PATIENCE)
                .with_timeout(PATIENCE),
            etcd_client: None,
            tls: access.tls.as_ref().map(Tls::client),
            token: config.token.as_ref().and_then(bearer),
            channels: HashMap::new(),
            last: None,
        }
    }

    /// Says that the worker is there.
    ///
    /// # Errors
    /// [`LeaderError::Refused`] for good, else when nobody leads for now.
    pub async fn join(&mut self, worker: &Worker) -> Result<Answer, LeaderError> {
        let mut asked: Vec<String> = Vec::new();
        let mut said = None;
        let mut next: Vec<String> = self.last.take().into_iter().collect();
        let mut etcd_asked = false;
        loop {
            let Some(address) = next.pop() else {
                if !etcd_asked {
                    etcd_asked = true;
                    next = self.coordinators.iter().rev().cloned().collect();
                    next.extend(self.leader_by_etcd().await);
                    next.retain(|address| !asked.contains(address));
                    if !next.is_empty() {
                        continue;
                    }
                }
                let asked = asked.join(", ");
                return Err(LeaderError::None { asked, source: said });
            };
            asked.push(address.clone());
            match self.join_at(&address, worker).await {
                Ok(answer) => {
                    self.last = Some(answer.leader.address.clone());
                    return Ok(answer);
                }
                Err(status) if status.code() == Code::FailedPrecondition => {
                    return Err(LeaderError::Refused(status.message().to_owned()));
                }
                Err(status) => {
                    self.channels.remove(&address);
                    said = Some(Box::new(status));
                }
            }
        }
    }

    async fn join_at(&mut self, address: &str, worker: &Worker) -> Result<Answer, Status> {
        let channel = match self.channels.get(address) {
            Some(channel) => channel.clone(),
            None => {
                let endpoint = endpoint(address, self.tls.as_ref())
                    .map_err(|error| Status::invalid_argument(error.to_string()))?;
                let channel = endpoint
                    .connect_timeout(PATIENCE)
                    .timeout(PATIENCE)
                    .connect_lazy();
                self.channels.insert(address.to_owned(), channel.clone());
                channel
            }
        };
        let mut request = Request::new(JoinClusterRequest {
            protocol_version: PROTOCOL_VERSION,
            worker: Some(worker.clone()),
        });
        request.set_timeout(PATIENCE);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", token.clone());
        }
        let mut client = ClusterServiceClient::new(channel);
        let answer = tokio::time::timeout(PATIENCE, client.join_cluster(request))
            .await
            .map_err(|_| Status::deadline_exceeded("no answer"))??
            .into_inner();
        let leader = answer.leader.ok_or_else(|| Status::unavailable("nobody leads"))?;
        Ok(Answer {
            leader,
            drain: answer.drain,
            is_needed: answer.is_needed,
            over: answer.over,
        })
    }

    /// Whoever the leader's key names.
    async fn leader_by_etcd(&mut self) -> Option<String> {
        let (endpoints, prefix) = self.etcd.as_ref()?;
        if self.etcd_client.is_none() {
            let options = self.etcd_options.clone();
            self.etcd_client = Etcd::connect(endpoints, Some(options)).await.ok();
        }
        let client = self.etcd_client.as_mut()?;
        let found = client.get(format!("{prefix}/leader"), None).await;
        match found {
            Ok(found) => {
                let key = found.kvs().first()?;
                let leader: LeaderKey = serde_json::from_slice(key.value()).ok()?;
                Some(leader.address)
            }
            Err(error) => {
                tracing::debug!(%error, "etcd was not asked for the leader");
                self.etcd_client = None;
                None
            }
        }
    }
}

/// Where another process of the cluster answers, over TLS where it is spoken.
pub(crate) fn endpoint(
    address: &str,
    tls: Option<&ClientTlsConfig>,
) -> Result<Endpoint, tonic::transport::Error> {
    match tls {
        None => Endpoint::from_shared(format!("http://{address}")),
        Some(tls) => Endpoint::from_shared(format!("https://{address}"))?.tls_config(tls.clone()),
    }
}
