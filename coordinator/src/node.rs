//! A coordinator process: it serves the API all the time, and leads whenever it is elected.

use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_client::ConnectOptions;
use futures::FutureExt;
use futures::future::BoxFuture;
use millrace_pipeline::codec::{Workplace, WorkplaceOptions};
use millrace_pipeline::source::S3Options;
use millrace_pipeline::spec::model::Pipeline;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::api::{self, ApiConfig, BoxError, Control, Lakes, ServeError};
use crate::applied::Environment;
use crate::election::{Candidate, Identity, Leadership, observe};
use crate::engine::ballista::Ballista;
use crate::engine::{self, EngineError};
use crate::etcd::{Etcd, EtcdError};
use crate::lake::Lake;
use crate::lane::Tools;
use crate::leader;
use crate::ledger::State;
use crate::ledger::etcd::EtcdLedger;
use crate::lifecycle::Hook;
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::workers::Workers;

/// How often silent workers are looked for.
const BURY_EVERY: Duration = Duration::from_secs(1);

/// How often an etcd that is full is asked whether it still is.
const KNOCK_EVERY: Duration = Duration::from_secs(5);

/// What a coordinator is told.
pub struct NodeOptions {
    /// Its name, unique in the cluster.
    pub name: String,
    /// How the API is served.
    pub api: ApiConfig,
    /// How others reach the API, `host:port`. Default: where it listens.
    pub advertise: Option<String>,
    /// Where workers reach the scheduler.
    pub scheduler_listen: std::net::SocketAddr,
    /// How workers reach the scheduler, `host:port`. Default: where it listens.
    pub scheduler_advertise: Option<String>,
    /// `host:port` of etcd's members.
    pub etcd: Vec<String>,
    /// How etcd is connected to.
    pub etcd_options: ConnectOptions,
    /// Prefix of all keys.
    pub prefix: String,
    /// How long a dead leader blocks the next one.
    pub lease: Duration,
    /// Unpacked input that is committed at once, in bytes.
    pub batch_bytes: u64,
    /// Environment of jobs that name none; none: they are masked.
    pub environment: Option<String>,
    /// How S3 is reached.
    pub s3: S3Options,
    /// Fills in `${env:NAME}`.
    pub env: Environment,
    /// Told of each moment of each batch.
    pub hook: Hook,
    /// What is counted.
    pub metrics: Metrics,
    /// How long a committed batch may wait for the warehouse before it is alarmed.
    pub service_level: Duration,
}

/// Why a coordinator ended.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// etcd cannot be used.
    #[error("etcd cannot be used")]
    Etcd(#[from] EtcdError),
    /// The API cannot be served.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// Anybody could take tasks.
    #[error(
        "the scheduler would listen on {listen}, where others can reach it, without `tls`; \
         configure `tls`, or listen on 127.0.0.1"
    )]
    Open {
        /// The address.
        listen: std::net::SocketAddr,
    },
    /// The scheduler cannot be started.
    #[error("the scheduler cannot be started")]
    Engine(#[from] EngineError),
}

/// Lakes as the API reaches them: their ledger is in etcd.
struct EtcdLakes {
    etcd: Etcd,
    prefix: String,
    s3: S3Options,
}

impl Lakes for EtcdLakes {
    fn open(&self, pipeline: Arc<Pipeline>) -> BoxFuture<'_, Result<(Lake, State), BoxError>> {
        Box::pin(async move {
            let lake = Lake::of(&pipeline, self.s3.open_lake(&pipeline.lake)?, &self.s3);
            let state = EtcdLedger::read(&self.etcd, &self.prefix, &pipeline.name, &lake).await?;
            Ok((lake, state))
        })
    }
}

/// Runs a coordinator until `stop` says so.
///
/// # Errors
/// When it cannot begin: etcd, an address or TLS cannot be used.
pub fn run(options: NodeOptions, stop: watch::Receiver<bool>) -> BoxFuture<'static, Result<(), NodeError>> {
    async move {
        if options.api.tls.is_none() && !options.scheduler_listen.ip().is_loopback() {
            let listen = options.scheduler_listen;
            return Err(NodeError::Open { listen });
        }
        let etcd = Etcd::connect(&options.etcd, options.etcd_options.clone()).await?;
        let registry = Registry::new(etcd.clone(), &options.prefix);
        let workers = Arc::new(Workers::default());
        let listen = |address: std::net::SocketAddr| async move {
            TcpListener::bind(address)
                .await
                .map_err(|source| NodeError::Listen { address, source })
        };
        let api_listener = listen(options.api.listen).await?;
        let scheduler_listener = listen(options.scheduler_listen).await?;
        let at = |listener: &TcpListener, told: &Option<String>, address: std::net::SocketAddr| {
            let local = listener
                .local_addr()
                .map_err(|source| NodeError::Listen { address, source })?;
            Ok::<_, NodeError>(told.clone().unwrap_or_else(|| local.to_string()))
        };
        let me = Identity {
            name: options.name.clone(),
            address: at(&api_listener, &options.advertise, options.api.listen)?,
            scheduler_address: at(
                &scheduler_listener,
                &options.scheduler_advertise,
                options.scheduler_listen,
            )?,
        };
        tracing::info!(
            name = me.name,
            api = me.address,
            scheduler = me.scheduler_address,
            "a coordinator begins"
        );
        let (leads, leadership) = watch::channel(None);
        let leader = observe(&etcd, &options.prefix);
        options
            .metrics
            .watch(Arc::clone(&workers), etcd.clone(), leader.clone());
        let control = Arc::new(Control {
            name: options.name.clone(),
            leader,
            leadership,
            workers: Arc::clone(&workers),
            environment: Arc::clone(&options.env),
            lakes: Arc::new(EtcdLakes {
                etcd: etcd.clone(),
                prefix: options.prefix.clone(),
                s3: options.s3.clone(),
            }),
            jobs_environment: options.environment.clone(),
        });
        let mut api_stop = stop.clone();
        let stopped = async move {
            engine::stopped(&mut api_stop).await;
        };
        let serving = api::serve_on(
            api_listener,
            options.api.clone(),
            registry.clone(),
            control,
            stopped,
        );
        let candidate = Candidate::new(etcd.clone(), &options.prefix, me, options.lease);
        let room = room(etcd.clone(), options.prefix.clone());
        let leading = campaign(
            options,
            candidate,
            etcd,
            registry,
            workers,
            leads,
            scheduler_listener,
            stop,
        );
        tokio::select! {
            served = serving => Ok(served?),
            led = leading => led,
            () = room => Ok(()),
        }
    }
    .boxed()
}

/// Tells for as long as etcd refuses writes that it does, and when it takes them again; never ends.
async fn room(etcd: Etcd, prefix: String) {
    let mut tick = tokio::time::interval(KNOCK_EVERY);
    loop {
        tick.tick().await;
        if !etcd.is_full() {
            continue;
        }
        match etcd.knock(&prefix).await {
            Ok(()) => tracing::info!("etcd takes writes again"),
            Err(error) => tracing::error!("{error}"),
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "the parts of one process")]
async fn campaign(
    options: NodeOptions,
    candidate: Candidate,
    etcd: Etcd,
    registry: Registry,
    workers: Arc<Workers>,
    leads: watch::Sender<Option<Leadership>>,
    scheduler: TcpListener,
    stop: watch::Receiver<bool>,
) -> Result<(), NodeError> {
    let listen = |source| NodeError::Listen {
        address: options.scheduler_listen,
        source,
    };
    let scheduler = scheduler.into_std().map_err(listen)?;
    let mut stopped = stop.clone();
    loop {
        let lead = tokio::select! {
            lead = candidate.campaign() => lead?,
            () = engine::stopped(&mut stopped) => return Ok(()),
        };
        workers.clear();
        let workplace = Arc::new(Workplace::new(WorkplaceOptions {
            s3: options.s3.clone(),
            env: Arc::clone(&options.env),
            key_bytes: 0,
            task_bytes: 0,
            runner: options.name.clone(),
        }));
        let listener = TcpListener::from_std(scheduler.try_clone().map_err(listen)?).map_err(listen)?;
        let tls = options.api.tls.as_ref();
        let engine = Ballista::start(listener, Arc::clone(&workplace), Arc::clone(&workers), tls).await?;
        let seats = Arc::clone(&workers);
        let tools = Arc::new(Tools {
            etcd: etcd.clone(),
            prefix: options.prefix.clone(),
            registry: registry.clone(),
            lead: lead.clone(),
            engine,
            workplace,
            env: Arc::clone(&options.env),
            slots: Arc::new(move || seats.slots(Instant::now()) as usize),
            workers: Arc::clone(&workers),
            since: tokio::time::Instant::now(),
            batch_bytes: options.batch_bytes,
            hook: Arc::clone(&options.hook),
            metrics: options.metrics.clone(),
            committed: watch::Sender::new(()),
            service_level: options.service_level,
        });
        leads.send_replace(Some(lead.clone()));
        options.metrics.leads(Some(lead.epoch()));
        tokio::select! {
            () = leader::lead(tools, stop.clone()) => {}
            () = bury(&workers, &options.metrics) => {}
        }
        leads.send_replace(None);
        options.metrics.leads(None);
        if *stop.borrow() {
            // The next leader need not wait for the lease to end.
            if let Err(error) = lead.resign().await {
                tracing::debug!(%error, "the leadership ends with its lease");
            }
            return Ok(());
        }
    }
}

/// Takes workers that fell silent out of the table, for as long as it is polled.
async fn bury(workers: &Workers, metrics: &Metrics) {
    let mut tick = tokio::time::interval(BURY_EVERY);
    loop {
        tick.tick().await;
        metrics.workers_lost(workers.bury(Instant::now()).len());
    }
}
