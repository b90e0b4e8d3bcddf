//! What a caller may send, and how long it waits.

use std::time::{Duration, Instant};

use millrace_client::v1::cluster_service_client::ClusterServiceClient;
use millrace_client::v1::job_service_client::JobServiceClient;
use millrace_client::v1::pipeline_service_client::PipelineServiceClient;
use millrace_client::v1::{ApplyPipelineRequest, GetClusterRequest, ListJobsRequest, WatchJobRequest};
use millrace_coordinator::api::Rate;
use tonic::{Code, Request};
use tonic_types::StatusExt;

use crate::cluster::{Node, Single, files_pipeline, submit};
use crate::server::Server;

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_over_its_rate_is_told_when_to_come_again_and_our_client_does() {
    let cluster = Single::with(|config| {
        config.rate = Rate {
            per_second: 5.0,
            burst: 3.0,
        };
    })
    .await;
    let mut raw = JobServiceClient::connect(format!("http://{}", cluster.node.address))
        .await
        .unwrap();
    let mut refused = None;
    for _ in 0..10 {
        if let Err(status) = raw.list_jobs(ListJobsRequest::default()).await {
            refused = Some(status);
        }
    }
    let refused = refused.expect("ten calls at once are over the rate");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let details = refused.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "RATE_LIMITED");
    assert!(details.retry_info().unwrap().retry_delay.unwrap() <= Duration::from_millis(250));
    for _ in 0..6 {
        cluster.client.list_jobs("").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_the_limit_is_refused() {
    let cluster = Single::with(|config| config.message_bytes = 100_000).await;
    let mut raw = PipelineServiceClient::connect(format!("http://{}", cluster.node.address))
        .await
        .unwrap();
    let request = ApplyPipelineRequest {
        text: "#".repeat(200_000),
        ..Default::default()
    };
    let status = raw.apply_pipeline(request).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert_eq!(
        status.get_details_error_info().unwrap().reason,
        "MESSAGE_TOO_LARGE"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn deadlines_end_calls_and_streams() {
    let cluster = Single::start().await;
    cluster.apply(files_pipeline("shop", "/events", "/lake")).await;
    let job = cluster.client.submit_job(submit("shop")).await.unwrap();
    let mut raw = JobServiceClient::connect(format!("http://{}", cluster.node.address))
        .await
        .unwrap();
    let mut request = Request::new(WatchJobRequest { job_id: job.job_id });
    // As a header only: the server has to end it, not our side.
    request
        .metadata_mut()
        .insert("grpc-timeout", "400m".parse().unwrap());
    let started = Instant::now();
    let mut stream = raw.watch_job(request).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some());
    let ended = stream.message().await.unwrap_err();
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
    assert!(
        matches!(ended.code(), Code::DeadlineExceeded | Code::Cancelled),
        "{ended}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_leader_a_call_waits_for_its_deadline_and_is_told_to_come_again() {
    let server = Server::start(1).await;
    // Somebody leads that nobody can reach.
    let other = server.lead("ghost").await;
    let node = Node::start(&server, "c1", |_| {}).await;
    let mut raw = ClusterServiceClient::connect(format!("http://{}", node.address))
        .await
        .unwrap();
    let call = async |raw: &mut ClusterServiceClient<_>| {
        let mut request = Request::new(GetClusterRequest {});
        request
            .metadata_mut()
            .insert("grpc-timeout", "900m".parse().unwrap());
        raw.get_cluster(request).await
    };
    let started = Instant::now();
    let status = call(&mut raw).await.unwrap_err();
    assert!(
        started.elapsed() >= Duration::from_millis(500),
        "it waited: {:?}",
        started.elapsed()
    );
    assert!(
        matches!(
            status.code(),
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled
        ),
        "{status}"
    );
    other.resign().await.unwrap();
    node.leads().await;
    let view = raw.get_cluster(GetClusterRequest {}).await.unwrap().into_inner();
    assert_eq!(view.leader.unwrap().name, "c1");
}
