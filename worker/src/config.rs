//! What a worker is told. Comes as values: the binary reads the file.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A worker's settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerConfig {
    /// What people call this worker; unique in the cluster.
    pub name: String,
    /// Where shuffle data is served to other workers.
    #[serde(default = "any_port")]
    pub listen: SocketAddr,
    /// How other workers reach `listen`, `host:port`. Default: `listen` itself.
    #[serde(default)]
    pub advertise: Option<String>,
    /// Where `/metrics`, `/healthz` and `/readyz` are served; none for nowhere.
    #[serde(default)]
    pub metrics_listen: Option<SocketAddr>,
    /// Addresses of coordinators, `host:port`. One of these and `etcd` must be given.
    #[serde(default)]
    pub coordinators: Vec<String>,
    /// The cluster's etcd.
    #[serde(default)]
    pub etcd: Option<EtcdAccess>,
    /// Tasks at once. Default: the machine's cores.
    #[serde(default)]
    pub slots: Option<usize>,
    /// Availability zone, for people and for Kafka's `client.rack`.
    #[serde(default)]
    pub zone: String,
    /// Folder on a fast disk; its subfolder `shuffle` is emptied at the start.
    pub work_dir: PathBuf,
    /// Memory for rows that wait to be written and for committed keys, in bytes. Default: 2 GiB.
    #[serde(default = "two_gib")]
    pub memory_bytes: usize,
    /// How long running tasks may go on after SIGTERM.
    #[serde(default = "drain_seconds")]
    pub drain_seconds: u64,
    /// Bearer token for the coordinators' API.
    #[serde(default)]
    pub token: Option<String>,
}

/// Where etcd is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EtcdAccess {
    /// `host:port` of each member.
    pub endpoints: Vec<String>,
    /// Prefix of all keys. Default: `/millrace`.
    #[serde(default = "prefix")]
    pub prefix: String,
}

impl WorkerConfig {
    /// Tasks at once.
    #[must_use]
    pub fn slot_count(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        self.slots.unwrap_or_else(cores).max(1)
    }
}

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn two_gib() -> usize {
    2 << 30
}

fn drain_seconds() -> u64 {
    110
}

fn prefix() -> String {
    "/millrace".to_owned()
}
