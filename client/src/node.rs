//! `millrace coordinator` and `millrace worker`: the processes of a cluster.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use millrace_coordinator::api::ApiConfig;
use millrace_coordinator::metrics::Metrics;
use millrace_coordinator::node::{self, NodeOptions};
use millrace_worker::Worker;
use millrace_worker::config::WorkerConfig;
use millrace_worker::serving::Access;
use prometheus_client::registry::Registry;
use serde::Deserialize;
use tokio::sync::watch;

use crate::lakes;
use crate::output::Exit;
use crate::run::crash_hook;
use crate::scrape;

/// Runs one process of a cluster until SIGTERM or Ctrl-C.
#[derive(Debug, Args)]
pub(crate) struct Node {
    /// Its configuration, YAML.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CoordinatorFile {
    name: String,
    listen: SocketAddr,
    scheduler_listen: SocketAddr,
    etcd: EtcdFile,
    #[serde(default = "lease_seconds")]
    lease_seconds: u64,
    #[serde(default = "batch_mib")]
    batch_mib: u64,
    #[serde(default)]
    metrics_listen: Option<SocketAddr>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EtcdFile {
    endpoints: Vec<String>,
    #[serde(default = "prefix")]
    prefix: String,
}

fn lease_seconds() -> u64 {
    3
}

fn batch_mib() -> u64 {
    512
}

fn prefix() -> String {
    "/millrace".to_owned()
}

fn read<T: serde::de::DeserializeOwned>(file: &Path) -> Result<T> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("the configuration `{}` cannot be read", file.display()))?;
    serde_saphyr::from_str(&text).with_context(|| format!("the configuration `{}` is wrong", file.display()))
}

impl Node {
    /// Runs a coordinator.
    pub(crate) fn coordinate(self) -> Result<Exit> {
        let file: CoordinatorFile = read(&self.config)?;
        let options = NodeOptions {
            name: file.name,
            api: ApiConfig::new(file.listen),
            advertise: None,
            scheduler_listen: file.scheduler_listen,
            scheduler_advertise: None,
            etcd: file.etcd.endpoints,
            etcd_options: Default::default(),
            prefix: file.etcd.prefix,
            lease: Duration::from_secs(file.lease_seconds),
            batch_bytes: file.batch_mib << 20,
            s3: lakes::s3_options(None, None),
            env: Arc::new(|name| std::env::var(name).ok()),
            hook: crash_hook(std::env::var("MILLRACE_CRASH_AT").ok()),
            metrics: Metrics::default(),
        };
        let metrics = options.metrics.clone();
        lakes::runtime(lakes::cores().max(2))?.block_on(async {
            if let Some(listen) = file.metrics_listen {
                let mut registry = Registry::default();
                metrics.register(&mut registry);
                // A follower is as ready as the leader: it passes calls on.
                scrape::serve(listen, registry, || true).await?;
            }
            node::run(options, until_told()?).await?;
            Ok(Exit::Done)
        })
    }

    /// Runs a worker.
    pub(crate) fn work(self) -> Result<Exit> {
        let config: WorkerConfig = read(&self.config)?;
        let access = Access {
            s3: lakes::s3_options(None, None),
            env: Arc::new(|name| std::env::var(name).ok()),
        };
        lakes::runtime(config.slot_count().max(2))?.block_on(async {
            let stop = until_told()?;
            let metrics_listen = config.metrics_listen;
            let worker = Worker::start(config, access).await?;
            if let Some(listen) = metrics_listen {
                let (mut registry, metrics) = (Registry::default(), worker.metrics());
                metrics.register(&mut registry);
                scrape::serve(listen, registry, move || metrics.is_ready()).await?;
            }
            worker.run(stop).await?;
            Ok(Exit::Done)
        })
    }
}

/// Becomes true at SIGTERM or Ctrl-C.
fn until_told() -> Result<watch::Receiver<bool>> {
    let (stop, stopped) = watch::channel(false);
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        tracing::info!("told to stop");
        stop.send_replace(true);
        // The receivers decide when the process ends.
        std::future::pending::<()>().await;
    });
    Ok(stopped)
}
