//! ClusterService: who leads, who works. Heartbeats reach the leader through any coordinator, like every call.

use std::time::{Duration, Instant};

use millrace_proto::v1::{self, cluster_service_server::ClusterService};
use tonic::{Request, Response, Status};

use super::audit::Deed;
use super::errors::{Reason, status};
use super::{Shared, caller};
use crate::election::LeaderInfo;

/// How long a leader may take to see itself.
const OBSERVED: Duration = Duration::from_secs(1);

/// The service.
pub(crate) struct Cluster(pub(crate) Shared);

#[tonic::async_trait]
impl ClusterService for Cluster {
    async fn get_cluster(
        &self,
        _: Request<v1::GetClusterRequest>,
    ) -> Result<Response<v1::GetClusterResponse>, Status> {
        let workers = self.0.control.workers.alive(Instant::now());
        Ok(Response::new(v1::GetClusterResponse {
            leader: self.leader().await,
            slots: workers.iter().map(|worker| worker.slots).sum(),
            slots_busy: workers.iter().map(|worker| worker.slots_busy).sum(),
            workers,
        }))
    }

    async fn drain_worker(
        &self,
        request: Request<v1::DrainWorkerRequest>,
    ) -> Result<Response<v1::DrainWorkerResponse>, Status> {
        let caller = caller(&request);
        let name = request.into_inner().name;
        let drained = self
            .0
            .control
            .workers
            .drain(&name, Instant::now())
            .ok_or_else(|| {
                let text = format!("there is no worker `{name}`");
                status(Reason::WorkerNotFound, text, &[("name", &name)])
            });
        let deed = Deed {
            caller: &caller,
            method: "DrainWorker",
            resource: &format!("workers/{name}"),
            request_id: "",
        };
        let worker = Some(deed.note(drained)?);
        Ok(Response::new(v1::DrainWorkerResponse { worker }))
    }

    async fn join_cluster(
        &self,
        request: Request<v1::JoinClusterRequest>,
    ) -> Result<Response<v1::JoinClusterResponse>, Status> {
        let welcome = self
            .0
            .control
            .workers
            .join(request.into_inner(), Instant::now())?;
        let leader = self.leader().await;
        Ok(Response::new(v1::JoinClusterResponse {
            leader,
            drain: welcome.drain,
            is_needed: welcome.is_needed,
            over: welcome.over,
        }))
    }
}

impl Cluster {
    /// Ourselves, as everybody sees us: only the leader answers calls. A new leader sees its own election a moment
    /// after it has begun to act, so that is waited for.
    async fn leader(&self) -> Option<v1::Coordinator> {
        let control = &self.0.control;
        let mut leader = control.leader.clone();
        let is_us = |seen: &Option<LeaderInfo>| seen.as_ref().is_some_and(|seen| seen.name == control.name);
        let seen = tokio::time::timeout(OBSERVED, leader.wait_for(is_us)).await;
        let seen = seen.ok().and_then(Result::ok).and_then(|seen| seen.clone());
        seen.map(Into::into)
    }
}
