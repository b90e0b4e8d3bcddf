//! The loop around tenures: a heartbeat each second, a new tenure under each new leader, and shuffle data for
//! other workers all the time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arrow_flight::flight_service_server::FlightServiceServer;
use ballista_executor::flight_service::BallistaFlightService;
use etcd_client::ConnectOptions;
use futures::FutureExt;
use futures::future::BoxFuture;
use millrace_pipeline::codec::{Environment, Workplace, WorkplaceOptions};
use millrace_pipeline::source::S3Options;
use millrace_pipeline::source::kafka::KafkaClients;
use millrace_proto::tls::Tls;
use millrace_proto::v1;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;

use crate::claims::{ClaimDesk, Routes};
use crate::config::WorkerConfig;
use crate::disk::Disk;
use crate::leader::{LeaderError, Leaders};
use crate::metrics::WorkerMetrics;
use crate::tenure::{Place, Tenure};

/// Between heartbeats.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// Between heartbeats while it drains.
const DRAINING: Duration = Duration::from_millis(100);
/// Largest message of shuffle data.
const MESSAGE_BYTES: usize = 128 << 20;

/// Why a worker ended.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// Neither coordinators nor etcd.
    #[error("worker `{name}` is told neither `coordinators` nor `etcd`: it cannot find a leader")]
    Nowhere {
        /// The worker.
        name: String,
    },
    /// The folder for shuffle data.
    #[error("the work folder `{path}` cannot be emptied and made")]
    WorkDir {
        /// The folder.
        path: String,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// Anybody could read it.
    #[error(
        "shuffle data would be served at {listen}, where others can reach it, without `tls`; \
         configure `tls`, or listen on 127.0.0.1"
    )]
    Open {
        /// The address.
        listen: SocketAddr,
    },
    /// TLS files that do not fit together.
    #[error("shuffle data cannot be served over TLS")]
    Tls(#[source] tonic::transport::Error),
    /// The address for shuffle data.
    #[error("shuffle data cannot be served at {address}")]
    Listen {
        /// The address.
        address: String,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The leader does not take this worker.
    #[error(transparent)]
    Leader(#[from] LeaderError),
}

/// Access that a worker and its operators have.
#[derive(Clone)]
pub struct Access {
    /// How coordinators and other workers are spoken to; none: in the clear.
    pub tls: Option<Tls>,
    /// How etcd is connected to.
    pub etcd: ConnectOptions,
    /// How S3 is reached.
    pub s3: S3Options,
    /// Fills in `${env:NAME}` of pipelines.
    pub env: Environment,
}

/// The tenure under way, and whose it is.
struct Following {
    epoch: u64,
    address: String,
    tenure: Tenure,
}

impl Following {
    fn is_of(&self, leader: &v1::Coordinator) -> bool {
        self.epoch == leader.epoch && self.address == leader.scheduler_address
    }
}

/// A worker that serves shuffle data already.
pub struct Worker {
    config: WorkerConfig,
    access: Access,
    place: Place,
    desk: Arc<ClaimDesk>,
    started: SystemTime,
    serving: JoinHandle<()>,
    /// Connections to brokers outlive a leader.
    brokers: Arc<KafkaClients>,
    gauges: Arc<WorkerMetrics>,
}

impl Worker {
    /// Empties the work folder and serves shuffle data from it.
    ///
    /// # Errors
    /// When the folder or the address cannot be used.
    pub fn start(config: WorkerConfig, access: Access) -> BoxFuture<'static, Result<Self, WorkerError>> {
        async move {
            if config.coordinators.is_empty() && config.etcd.is_none() {
                return Err(WorkerError::Nowhere { name: config.name });
            }
            if access.tls.is_none() && !config.listen.ip().is_loopback() {
                let listen = config.listen;
                return Err(WorkerError::Open { listen });
            }
            let shuffle = config.work_dir.join("shuffle");
            let disk = Disk::new(&config.name, shuffle.clone(), config.work_dir_bytes);
            disk.empty().map_err(|source| WorkerError::WorkDir {
                path: shuffle.display().to_string(),
                source,
            })?;
            let listen = |source| WorkerError::Listen {
                address: config.listen.to_string(),
                source,
            };
            let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
            let local = listener.local_addr().map_err(listen)?;
            let (host, port) = match config
                .advertise
                .as_ref()
                .and_then(|address| address.rsplit_once(':'))
            {
                Some((host, port)) => (host.to_owned(), port.parse().unwrap_or(local.port())),
                None => (local.ip().to_string(), local.port()),
            };
            let work_dir = shuffle.display().to_string();
            let gauges = Arc::<WorkerMetrics>::default();
            gauges.memory_bytes(config.memory_bytes);
            let desk = Arc::new(ClaimDesk::new(gauges.claims()));
            let served = serve_workers(listener, work_dir.clone(), Arc::clone(&desk), access.tls.as_ref());
            let serving = tokio::spawn(served.map_err(WorkerError::Tls)?);
            let place = Place {
                host,
                port,
                slots: config.slot_count(),
                work_dir,
                tls: access.tls.clone(),
                disk: Arc::new(disk),
            };
            Ok(Self {
                config,
                access,
                place,
                desk,
                started: SystemTime::now(),
                serving,
                brokers: Arc::default(),
                gauges,
            })
        }
        .boxed()
    }

    /// What this worker counts, for its metrics.
    #[must_use]
    pub fn metrics(&self) -> Arc<WorkerMetrics> {
        Arc::clone(&self.gauges)
    }

    /// Works until `stop` says so or the leader asks it to drain; then drains.
    ///
    /// # Errors
    /// When the leader refuses this worker for good.
    pub fn run(self, mut stop: watch::Receiver<bool>) -> BoxFuture<'static, Result<(), WorkerError>> {
        async move {
        let mut leaders = Leaders::new(&self.config, &self.access);
        let mut following: Option<Following> = None;
        let (mut is_silent, mut is_unheard) = (false, false);
        let mut id = fresh_id();
        loop {
            let busy = following.as_ref().map_or(0, |following| following.tenure.busy());
            // It had a heartbeat's time to ask for tasks since it follows.
            let unheard = following
                .as_ref()
                .is_some_and(|following| !following.tenure.is_heard());
            if unheard && !is_unheard {
                tracing::warn!(
                    "the leader's scheduler gives no answer to this worker; where TLS is spoken: is its certificate of the cluster's `ca`?"
                );
            }
            is_unheard = unheard;
            self.gauges.slots(self.place.slots, busy);
            self.look_at_disk().await;
            match leaders.join(&self.describe(&id, busy, false)).await {
                Ok(answer) => {
                    if std::mem::take(&mut is_silent) {
                        tracing::info!(leader = answer.leader.name, "a leader answers again");
                    }
                    if !following
                        .as_ref()
                        .is_some_and(|following| following.is_of(&answer.leader))
                    {
                        drop(following.take());
                        // What lies there was for the leader before.
                        if let Err(error) = self.place.disk.empty() {
                            tracing::warn!(%error, "reports for an earlier leader stay");
                        }
                        id = fresh_id();
                        following = self.follow(&answer.leader, &id).await;
                    }
                    if let Some(following) = &following {
                        following.tenure.end(&answer.over);
                    }
                    if answer.drain {
                        tracing::info!("draining: the leader asked for it");
                        break;
                    }
                }
                Err(refused @ LeaderError::Refused(_)) => return Err(refused.into()),
                Err(error) if !is_silent => {
                    tracing::warn!(%error, "no leader; looking for one");
                    is_silent = true;
                }
                Err(_) => {}
            }
            let followed = following
                .as_ref()
                .filter(|following| !is_silent && following.tenure.is_heard());
            self.gauges
                .follows(followed.map_or(0, |following| following.epoch));
            tokio::select! {
                () = tokio::time::sleep(HEARTBEAT) => {}
                () = told(&mut stop) => {
                    tracing::info!("draining: told to stop");
                    break;
                }
            }
        }
        if let Some(following) = following {
            self.drain(following, &mut leaders, &id).await;
        }
        if let Err(error) = self.place.disk.clear() {
            tracing::warn!(%error, "reports stay behind");
        }
        Ok(())
    }.boxed()
    }

    /// Says that it drains, so that it is given no more tasks, until its tasks have ended and nobody needs what they
    /// left here: a worker that goes with the results of a first stage takes the whole attempt with it. Then leaves.
    async fn drain(&self, following: Following, leaders: &mut Leaders, id: &str) {
        let end = Instant::now() + Duration::from_secs(self.config.drain_seconds);
        loop {
            let busy = following.tenure.busy();
            self.gauges.slots(self.place.slots, busy);
            let answer = leaders.join(&self.describe(id, busy, true)).await;
            // What is here is of use to this one leader only.
            let is_needed = answer.is_ok_and(|answer| {
                following.tenure.end(&answer.over);
                answer.is_needed && following.is_of(&answer.leader)
            });
            if busy == 0 && !is_needed {
                break;
            }
            if Instant::now() >= end {
                tracing::warn!(busy, is_needed, "leaving before all is done: it took too long");
                break;
            }
            tokio::time::sleep(DRAINING).await;
        }
        following.tenure.leave("drained").await;
    }

    /// Begins to take tasks from a leader; none where its scheduler cannot be reached yet.
    async fn follow(&self, leader: &v1::Coordinator, id: &str) -> Option<Following> {
        let (epoch, address) = (leader.epoch, leader.scheduler_address.clone());
        let workplace = Arc::new(self.workplace(id));
        self.desk.open(id.to_owned(), workplace.claim_book());
        match Tenure::begin(&address, id.to_owned(), &self.place, workplace).await {
            Ok(tenure) => {
                tracing::info!(leader = leader.name, epoch, executor = id, "following");
                Some(Following {
                    epoch,
                    address,
                    tenure,
                })
            }
            Err(error) => {
                tracing::warn!(%error, epoch, "the leader cannot be followed yet");
                None
            }
        }
    }

    fn describe(&self, id: &str, busy: usize, draining: bool) -> v1::Worker {
        let state = if draining {
            v1::WorkerState::Draining
        } else {
            v1::WorkerState::Ready
        };
        v1::Worker {
            name: self.config.name.clone(),
            executor_id: id.to_owned(),
            address: format!("{}:{}", self.place.host, self.place.port),
            slots: u32::try_from(self.place.slots).unwrap_or(u32::MAX),
            slots_busy: u32::try_from(busy).unwrap_or(u32::MAX),
            zone: self.config.zone.clone(),
            state: state.into(),
            start_time: Some(self.started.into()),
            seen_time: None,
            trouble: self
                .place
                .disk
                .trouble()
                .map_or(String::new(), |error| error.to_string()),
        }
    }

    async fn look_at_disk(&self) {
        let disk = Arc::clone(&self.place.disk);
        // It only looks: there is nothing to be done where it cannot.
        let _ = tokio::task::spawn_blocking(move || disk.look(Instant::now())).await;
        self.gauges.shuffle_bytes(self.place.disk.used());
    }

    /// Half of the memory is for keys, committed and claimed, the other for rows that wait to be written.
    fn workplace(&self, id: &str) -> Workplace {
        let claim_bytes = self.config.memory_bytes / 8;
        let zone = Some(self.config.zone.clone()).filter(|zone| !zone.is_empty());
        Workplace::new(WorkplaceOptions {
            s3: self.access.s3.clone(),
            env: Arc::clone(&self.access.env),
            key_bytes: self.config.memory_bytes / 2 - claim_bytes,
            task_bytes: self.config.memory_bytes / 2 / self.place.slots,
            runner: id.to_owned(),
        })
        .with_kafka(Arc::clone(&self.brokers), zone)
        .with_counters(Arc::clone(&self.gauges.steps))
        .with_claims(claim_bytes, |book| {
            let tls = self.access.tls.as_ref().map(Tls::client);
            Arc::new(Routes::new(id.to_owned(), book, self.gauges.claims(), tls))
        })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Serves other workers, until the future is dropped: the shuffle data below `work_dir`, and the desk that takes claims. With TLS
/// only those of the cluster's authority are served.
///
/// # Errors
/// When certificate and key do not fit together.
pub fn serve_workers(
    listener: TcpListener,
    work_dir: String,
    desk: Arc<ClaimDesk>,
    tls: Option<&Tls>,
) -> Result<impl Future<Output = ()> + Send + use<>, tonic::transport::Error> {
    let flight = FlightServiceServer::new(BallistaFlightService::new(work_dir))
        .max_decoding_message_size(MESSAGE_BYTES)
        .max_encoding_message_size(MESSAGE_BYTES);
    let mut server = tonic::transport::Server::builder().tcp_nodelay(true);
    if let Some(tls) = tls {
        server = server.tls_config(tls.inner_server())?;
    }
    let served = server
        .add_service(flight)
        .add_service(desk.service())
        .serve_with_incoming(TcpListenerStream::new(listener));
    Ok(async move {
        if let Err(error) = served.await {
            tracing::error!(%error, "other workers are no longer served");
        }
    })
}

/// Ends when `stop` says so.
async fn told(stop: &mut watch::Receiver<bool>) {
    // A sender that is gone can never ask: wait for ever.
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn fresh_id() -> String {
    uuid::Uuid::new_v4().to_string()
}
