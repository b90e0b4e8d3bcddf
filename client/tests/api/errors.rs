//! Every error has a code, a reason, and names what is wrong.

use millrace_client::v1::{self, JobInput, JobState, job_input::Input};
use millrace_client::{ClientError, Refusal};
use tonic::Code;

use crate::cluster::{Single, files_pipeline, kafka_pipeline, submit};

fn refused<T: std::fmt::Debug>(result: Result<T, ClientError>) -> Refusal {
    result.unwrap_err().refusal().expect("the server's word").clone()
}

fn fields(refusal: &Refusal) -> Vec<&str> {
    refusal
        .violations
        .iter()
        .map(|violation| violation.field.as_str())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_request_names_every_field_and_stores_nothing() {
    let cluster = Single::start().await;
    let client = &cluster.client;
    cluster.apply(files_pipeline("shop", "/events", "/lake")).await;
    cluster.apply(kafka_pipeline("live")).await;
    let hour = |seconds| {
        let hour = Some(prost_types::Timestamp { seconds, nanos: 0 });
        Some(JobInput {
            input: Some(Input::Hour(v1::HourInput { hour })),
        })
    };
    let bad = refused(
        client
            .submit_job(v1::SubmitJobRequest {
                request_id: "42".to_owned(),
                input: hour(1),
                ..Default::default()
            })
            .await,
    );
    assert_eq!(
        (bad.code, bad.reason.as_str()),
        (Code::InvalidArgument, "INVALID_FIELDS")
    );
    assert_eq!(fields(&bad), ["request_id", "pipeline", "input.hour.hour"]);

    let with = |pipeline: &str, input| v1::SubmitJobRequest {
        input,
        ..submit(pipeline)
    };
    assert_eq!(
        fields(&refused(client.submit_job(with("shop", hour(7200))).await)),
        ["input.hour"]
    );
    assert_eq!(
        fields(&refused(client.submit_job(with("live", None)).await)),
        ["input"]
    );
    let mut checked = with("live", hour(7200));
    checked.validate_only = true;
    let job = client.submit_job(checked).await.unwrap();
    assert_eq!((job.job_id.as_str(), job.pipeline_version), ("", 1));
    assert_eq!(
        client.list_jobs("").await.unwrap(),
        [],
        "nothing of it was stored"
    );

    let filter = refused(client.list_jobs("colour=red").await);
    assert_eq!(fields(&filter), ["filter"]);
    for (page_size, page_token, field) in [(-1, "", "page_size"), (0, "nonsense", "page_token")] {
        let request = v1::ListJobsRequest {
            page_size,
            page_token: page_token.to_owned(),
            filter: String::new(),
        };
        assert_eq!(fields(&refused(client.list_jobs_page(request).await)), [field]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_and_what_cannot_be_have_reasons() {
    let cluster = Single::start().await;
    let client = &cluster.client;
    cluster.apply(files_pipeline("shop", "/events", "/lake")).await;
    let gone = refused(client.get_job("j0000000099").await);
    assert_eq!(
        (gone.code, gone.reason.as_str()),
        (Code::NotFound, "JOB_NOT_FOUND")
    );
    assert_eq!(gone.facts["name"], "j0000000099");
    assert_eq!(
        refused(client.get_pipeline("nix", 0).await).reason,
        "PIPELINE_NOT_FOUND"
    );
    assert_eq!(
        refused(client.get_pipeline("shop", 9).await).reason,
        "PIPELINE_NOT_FOUND"
    );
    assert_eq!(
        refused(client.submit_job(submit("nix")).await).reason,
        "PIPELINE_NOT_FOUND"
    );
    assert_eq!(
        refused(client.delete_pipeline("nix").await).reason,
        "PIPELINE_NOT_FOUND"
    );
    assert_eq!(
        refused(client.drain_worker("w9").await).reason,
        "WORKER_NOT_FOUND"
    );
    assert_eq!(refused(client.get_job("no/id").await).code, Code::InvalidArgument);

    let request = submit("shop");
    let job = client.submit_job(request.clone()).await.unwrap();
    let other = v1::SubmitJobRequest {
        environment: "prod".to_owned(),
        ..request
    };
    let reused = refused(client.submit_job(other).await);
    assert_eq!(
        (reused.code, reused.reason.as_str()),
        (Code::AlreadyExists, "REQUEST_ID_REUSED")
    );
    assert_eq!(reused.facts["job"], job.job_id);
    let used = refused(client.delete_pipeline("shop").await);
    assert_eq!(
        (used.code, used.reason.as_str()),
        (Code::FailedPrecondition, "PIPELINE_IN_USE")
    );
    cluster.becomes(&job.job_id, JobState::Failed).await;
    client.delete_pipeline("shop").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_join_drain_and_are_refused_with_another_protocol() {
    let cluster = Single::start().await;
    let client = &cluster.client;
    let beat = |version| v1::JoinClusterRequest {
        protocol_version: version,
        worker: Some(v1::Worker {
            name: "w1".to_owned(),
            executor_id: "e1".to_owned(),
            slots: 2,
            ..Default::default()
        }),
    };
    let joined = client.join_cluster(beat(v1::PROTOCOL_VERSION)).await.unwrap();
    assert_eq!(
        (joined.leader.unwrap().name.as_str(), joined.drain),
        ("c1", false)
    );
    let other = refused(client.join_cluster(beat(v1::PROTOCOL_VERSION + 1)).await);
    assert_eq!(
        (other.code, other.reason.as_str()),
        (Code::FailedPrecondition, "PROTOCOL_MISMATCH")
    );
    assert_eq!(other.facts["coordinator"], v1::PROTOCOL_VERSION.to_string());
    assert_eq!(other.facts["worker"], (v1::PROTOCOL_VERSION + 1).to_string());
    let view = client.cluster().await.unwrap();
    assert_eq!(
        (view.slots, view.workers.len(), view.leader.unwrap().name.as_str()),
        (2, 1, "c1")
    );
    let drained = client.drain_worker("w1").await.unwrap();
    assert_eq!(drained.state(), v1::WorkerState::Draining);
    assert!(
        client
            .join_cluster(beat(v1::PROTOCOL_VERSION))
            .await
            .unwrap()
            .drain
    );
}
