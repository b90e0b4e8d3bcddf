//! `millrace coordinator` and `millrace worker`: the processes of a cluster.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use millrace_coordinator::config;
use millrace_coordinator::metrics::Metrics;
use millrace_coordinator::node::{self, NodeOptions};
use millrace_worker::Worker;
use millrace_worker::config::WorkerConfig;
use millrace_worker::serving::Access;
use prometheus_client::registry::Registry;
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

fn read<T: serde::de::DeserializeOwned>(file: &Path) -> Result<T> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("the configuration `{}` cannot be read", file.display()))?;
    serde_saphyr::from_str(&text).with_context(|| format!("the configuration `{}` is wrong", file.display()))
}

impl Node {
    /// Runs a coordinator.
    pub(crate) fn coordinate(self) -> Result<Exit> {
        let file = self.config.display().to_string();
        let text = std::fs::read_to_string(&self.config)
            .with_context(|| format!("the configuration `{file}` cannot be read"))?;
        let folder = self.config.parent().unwrap_or(Path::new("."));
        let config = config::load(&text, &file, folder, &|name| std::env::var(name).ok())?;
        let pem = |path: &Path| std::fs::read(path);
        let options = NodeOptions {
            api: config.api(&pem).context("a certificate cannot be read")?,
            etcd_options: config
                .etcd
                .options(&pem)
                .context("a certificate cannot be read")?,
            name: config.name,
            advertise: Some(config.advertise),
            scheduler_listen: config.scheduler_listen,
            scheduler_advertise: Some(config.scheduler_advertise),
            etcd: config.etcd.endpoints,
            prefix: config.etcd.prefix,
            lease: config.lease,
            batch_bytes: config.batch_bytes,
            s3: lakes::s3_options(None, None),
            env: Arc::new(|name| std::env::var(name).ok()),
            hook: crash_hook(std::env::var("MILLRACE_CRASH_AT").ok()),
            metrics: Metrics::default(),
        };
        let metrics = options.metrics.clone();
        lakes::runtime(lakes::cores().max(2))?.block_on(async {
            if let Some(listen) = config.metrics_listen {
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
