//! A cluster of coordinators in this process, on an etcd of its own. Nothing runs jobs here: tests do, by hand.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use millrace_client::{Client, Options, v1};
use millrace_coordinator::api::{self, ApiConfig, BoxError, Control, Lakes};
use millrace_coordinator::election::{Candidate, Identity, Leadership, observe};
use millrace_coordinator::lake::Lake;
use millrace_coordinator::ledger::embedded::EmbeddedLedger;
use millrace_coordinator::ledger::{Ledger, State};
use millrace_coordinator::registry::Registry;
use millrace_coordinator::workers::Workers;
use millrace_pipeline::source::{S3Options, Stores};
use millrace_pipeline::spec::model::Pipeline;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::server::{LEASE, PREFIX, Server};

pub(crate) const HASH_KEY: &str = "0123456789abcdef0123456789abcdef";

/// An applied pipeline's text: it reads `path` and writes the lake `lake`.
pub(crate) fn files_pipeline(name: &str, path: &str, lake: &str) -> String {
    pipeline(name, &format!("files: {{path: {path}, format: json}}"), lake)
}

/// One that reads a topic.
pub(crate) fn kafka_pipeline(name: &str) -> String {
    pipeline(
        name,
        "kafka: {brokers: [\"127.0.0.1:9\"], topic: events, format: json}",
        "/nowhere",
    )
}

fn pipeline(name: &str, source: &str, lake: &str) -> String {
    format!(
        "version: 1\npipeline: {name}\nsource:\n  {source}\nschema:\n  \
         - {{name: id, type: string, required: true}}\n  - {{name: at, type: timestamp, required: true}}\n\
         dedup: {{key: [id]}}\nprivacy: {{hash_key: \"${{env:HASH_KEY}}\"}}\n\
         partition: {{time: at, by: [date, hour]}}\nlake: {{url: \"{lake}\"}}\n"
    )
}

/// Lakes that keep their own ledger, on this machine.
struct LocalLakes;

impl Lakes for LocalLakes {
    fn open(&self, pipeline: Arc<Pipeline>) -> BoxFuture<'_, Result<(Lake, State), BoxError>> {
        Box::pin(async move {
            let path = &pipeline.lake.url;
            let url = if path.contains("://") {
                path.clone()
            } else {
                format!("file://{path}")
            };
            let (store, root) = Stores::new(S3Options::default()).open(&url)?;
            let lake = Lake {
                url,
                store,
                root,
                s3: millrace_pipeline::source::S3Options::default(),
            };
            let state = EmbeddedLedger::read(&lake).await?.state().clone();
            Ok((lake, state))
        })
    }
}

pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    #[allow(dead_code, reason = "tests may look into the process")]
    pub(crate) control: Arc<Control>,
    pub(crate) leadership: watch::Receiver<Option<Leadership>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Node {
    /// Starts one on an etcd; it campaigns at once.
    pub(crate) async fn start(server: &Server, name: &str, change: impl FnOnce(&mut ApiConfig)) -> Self {
        let etcd = server.etcd().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, leadership) = watch::channel(None);
        let me = Identity {
            name: name.to_owned(),
            address: address.to_string(),
            scheduler_address: format!("{name}:2"),
        };
        let candidate = Candidate::new(etcd.clone(), PREFIX, me, LEASE);
        let workers = Arc::new(Workers::default());
        let table = Arc::clone(&workers);
        let campaign = tokio::spawn(async move {
            loop {
                let lead = candidate.campaign().await.unwrap();
                sender.send_replace(Some(lead.clone()));
                lead.ended().await;
                sender.send_replace(None);
                table.clear();
            }
        });
        let control = Arc::new(Control {
            name: name.to_owned(),
            leader: observe(&etcd, PREFIX),
            leadership: leadership.clone(),
            workers,
            environment: Arc::new(|name: &str| (name == "HASH_KEY").then(|| HASH_KEY.to_owned())),
            lakes: Arc::new(LocalLakes),
            jobs_environment: None,
        });
        let mut config = ApiConfig::new(address);
        change(&mut config);
        let served = api::serve_on(
            listener,
            config,
            Registry::new(etcd, PREFIX),
            Arc::clone(&control),
            std::future::pending(),
        );
        let serve = tokio::spawn(async move { served.await.unwrap() });
        Self {
            name: name.to_owned(),
            address,
            control,
            leadership,
            tasks: vec![campaign, serve],
        }
    }

    /// Until this one leads.
    pub(crate) async fn leads(&self) -> Leadership {
        let mut leadership = self.leadership.clone();
        let held = tokio::time::timeout(Duration::from_secs(30), leadership.wait_for(Option::is_some)).await;
        held.expect("leads within 30 s").unwrap().clone().unwrap()
    }

    /// Gone at once, as if killed; its lease ends now rather than in seconds.
    pub(crate) async fn die(self) {
        let lead = self.leadership.borrow().clone();
        for task in &self.tasks {
            task.abort();
        }
        if let Some(lead) = lead {
            lead.resign().await.unwrap();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// One etcd, one coordinator that leads, and a client.
pub(crate) struct Single {
    #[allow(dead_code, reason = "dropped last: its etcd is the cluster's")]
    pub(crate) server: Server,
    pub(crate) node: Node,
    pub(crate) client: Client,
    pub(crate) registry: Registry,
}

impl Single {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut ApiConfig)) -> Self {
        let server = Server::start(1).await;
        let node = Node::start(&server, "c1", change).await;
        node.leads().await;
        let client = client(&[&node]).await;
        let registry = Registry::new(server.etcd().await, PREFIX);
        Self {
            server,
            node,
            client,
            registry,
        }
    }

    /// Applies a pipeline under a name.
    pub(crate) async fn apply(&self, text: String) -> v1::Pipeline {
        let request = v1::ApplyPipelineRequest {
            text,
            ..v1::ApplyPipelineRequest::default()
        };
        self.client
            .apply_pipeline(request)
            .await
            .unwrap()
            .pipeline
            .unwrap()
    }

    /// Puts a job into a state, as the leader's loop does.
    pub(crate) async fn becomes(&self, job_id: &str, state: v1::JobState) -> v1::Job {
        let lead = self.node.leads().await;
        self.registry
            .update_job(&lead, job_id, |job| job.set_state(state))
            .await
            .unwrap()
    }
}

/// A client of some coordinators.
pub(crate) async fn client(nodes: &[&Node]) -> Client {
    Client::connect(options(nodes)).await.unwrap()
}

pub(crate) fn options(nodes: &[&Node]) -> Options {
    Options::new(nodes.iter().map(|node| node.address.to_string()))
}

/// A submit request with an id of its own.
pub(crate) fn submit(pipeline: &str) -> v1::SubmitJobRequest {
    v1::SubmitJobRequest {
        request_id: uuid::Uuid::new_v4().to_string(),
        pipeline: pipeline.to_owned(),
        ..v1::SubmitJobRequest::default()
    }
}
