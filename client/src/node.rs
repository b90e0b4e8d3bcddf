//! `millrace coordinator` and `millrace worker`: the processes of a cluster.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use millrace_coordinator::metrics::Metrics;
use millrace_coordinator::node::{self, NodeOptions};
use millrace_coordinator::{config as coordinator, etcd};
use millrace_pipeline::settings::{ConfigError, Variable};
use millrace_worker::serving::Access;
use millrace_worker::{Worker, config as worker};
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use crate::lakes;
use crate::output::Exit;
use crate::run::crash_hook;
use crate::scrape;
use crate::telemetry::{Telemetry, Whose};

const CERTIFICATE: &str = "a certificate cannot be read";

/// Runs one process of a cluster until SIGTERM or Ctrl-C.
#[derive(Debug, Args)]
pub(crate) struct Node {
    /// Its configuration, YAML.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// What surrounds a process: its environment.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

impl Node {
    /// Reads the file by the rules of the process that it is for.
    fn read<Config>(
        &self,
        load: impl FnOnce(&str, &str, &Path, Variable<'_>) -> Result<Config, ConfigError>,
    ) -> Result<Config> {
        let file = self.config.display().to_string();
        let text = std::fs::read_to_string(&self.config)
            .with_context(|| format!("the configuration `{file}` cannot be read"))?;
        let folder = self.config.parent().unwrap_or(Path::new("."));
        Ok(load(&text, &file, folder, &variable)?)
    }

    /// Runs a coordinator.
    pub(crate) fn coordinate(self, telemetry: Telemetry) -> Result<Exit> {
        let config = self.read(coordinator::load)?;
        let whose = Whose {
            service: "millrace-coordinator",
            instance: &config.name,
        };
        let _until_the_end = telemetry.begin(whose, &config.telling)?;
        let pem = |path: &Path| std::fs::read(path);
        let options = NodeOptions {
            api: config.api(&pem).context(CERTIFICATE)?,
            etcd_options: etcd::options(&config.etcd, &pem).context(CERTIFICATE)?,
            name: config.name,
            advertise: Some(config.advertise),
            scheduler_listen: config.scheduler_listen,
            scheduler_advertise: Some(config.scheduler_advertise),
            etcd: config.etcd.endpoints,
            prefix: config.etcd.prefix,
            lease: config.lease,
            batch_bytes: config.batch_bytes,
            environment: config.environment,
            s3: lakes::s3_options(None, None),
            env: Arc::new(variable),
            hook: crash_hook(std::env::var("MILLRACE_CRASH_AT").ok()),
            metrics: Metrics::default(),
            service_level: config.service_level,
        };
        let metrics = options.metrics.clone();
        crate::allocator::give_back();
        lakes::runtime(lakes::cores().max(2))?.block_on(async {
            if let Some(listen) = config.metrics_listen {
                let mut registry = Registry::default();
                metrics.register(&mut registry);
                // A follower is as ready as the leader: it passes calls on.
                scrape::serve(listen, registry, move || metrics.is_ready()).await?;
            }
            node::run(options, until_told()?).await?;
            Ok(Exit::Done)
        })
    }

    /// Runs a worker.
    pub(crate) fn work(self, telemetry: Telemetry) -> Result<Exit> {
        let config = self.read(worker::load)?;
        let whose = Whose {
            service: "millrace-worker",
            instance: &config.name,
        };
        let _until_the_end = telemetry.begin(whose, &config.telling)?;
        let pem = |path: &Path| std::fs::read(path);
        let tls = config.tls.as_ref().map(|tls| tls.load(&pem)).transpose();
        let etcd = config.etcd.as_ref().map(|settings| etcd::options(settings, &pem));
        let access = Access {
            tls: tls.context(CERTIFICATE)?,
            etcd: etcd.transpose().context(CERTIFICATE)?.unwrap_or_default(),
            s3: lakes::s3_options(None, None),
            env: Arc::new(variable),
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
