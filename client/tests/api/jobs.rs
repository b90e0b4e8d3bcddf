//! Jobs from submission to their end.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt;
use millrace_client::v1::{self, JobState};

use crate::cluster::{Single, files_pipeline, submit};

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_submitted_watched_cancelled_and_retried() {
    let cluster = Single::start().await;
    let client = &cluster.client;
    let pipeline = cluster.apply(files_pipeline("shop", "/events", "/lake")).await;
    let request = submit("shop");
    let job = client.submit_job(request.clone()).await.unwrap();
    assert_eq!(
        (job.state(), job.pipeline_version),
        (JobState::Pending, pipeline.version)
    );
    assert_eq!(
        (job.submitter.as_str(), &job.request_id),
        ("anonymous", &request.request_id)
    );
    assert_eq!(client.get_job(&job.job_id).await.unwrap(), job);
    assert_eq!(
        client.submit_job(request).await.unwrap().job_id,
        job.job_id,
        "the same request, the same job"
    );

    let watched = tokio::spawn(
        client
            .watch_job(&job.job_id)
            .map(|job| job.unwrap().state())
            .collect::<Vec<_>>(),
    );
    cluster.becomes(&job.job_id, JobState::Running).await;
    let cancelled = client.cancel_job(&job.job_id).await.unwrap();
    assert_eq!(cancelled.state(), JobState::Cancelled);
    assert!(cancelled.end_time.is_some());
    assert_eq!(
        client.cancel_job(&job.job_id).await.unwrap().state(),
        JobState::Cancelled,
        "again is the same"
    );
    let states = tokio::time::timeout(Duration::from_secs(20), watched)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        states.last(),
        Some(&JobState::Cancelled),
        "the watch ends with the job: {states:?}"
    );

    let retried = client.retry_job(&job.job_id).await.unwrap();
    assert_eq!((retried.state(), retried.end_time), (JobState::Pending, None));
    cluster.becomes(&job.job_id, JobState::Running).await;
    cluster.becomes(&job.job_id, JobState::Succeeded).await;
    assert_eq!(
        client
            .retry_job(&job.job_id)
            .await
            .unwrap_err()
            .refusal()
            .unwrap()
            .reason,
        "WRONG_STATE"
    );
    assert_eq!(
        client
            .cancel_job(&job.job_id)
            .await
            .unwrap_err()
            .refusal()
            .unwrap()
            .reason,
        "WRONG_STATE"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_retry_changes_nothing_more() {
    use v1::job_service_client::JobServiceClient;
    let cluster = Single::start().await;
    cluster.apply(files_pipeline("shop", "/events", "/lake")).await;
    let job = cluster.client.submit_job(submit("shop")).await.unwrap();
    cluster.becomes(&job.job_id, JobState::Failed).await;
    let mut raw = JobServiceClient::connect(format!("http://{}", cluster.node.address))
        .await
        .unwrap();
    let request = v1::RetryJobRequest {
        job_id: job.job_id.clone(),
        request_id: uuid::Uuid::new_v4().to_string(),
    };
    raw.retry_job(request.clone()).await.unwrap();
    let failed = cluster.becomes(&job.job_id, JobState::Failed).await;
    let again = raw.retry_job(request).await.unwrap().into_inner().job.unwrap();
    assert_eq!(
        (again.state(), again.revision),
        (JobState::Failed, failed.revision)
    );
    let other = v1::RetryJobRequest {
        job_id: job.job_id,
        request_id: uuid::Uuid::new_v4().to_string(),
    };
    assert_eq!(
        raw.retry_job(other)
            .await
            .unwrap()
            .into_inner()
            .job
            .unwrap()
            .state(),
        JobState::Pending
    );
}

/// Pages show each job once, whatever is submitted meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn pages_are_stable_and_filters_hold() {
    let cluster = Single::start().await;
    let client = &cluster.client;
    for name in ["shop", "game"] {
        cluster.apply(files_pipeline(name, "/events", "/lake")).await;
    }
    let mut there = BTreeSet::new();
    for n in 0..23 {
        let name = if n % 3 == 0 { "game" } else { "shop" };
        there.insert(client.submit_job(submit(name)).await.unwrap().job_id);
    }
    let (mut seen, mut page) = (
        Vec::new(),
        v1::ListJobsRequest {
            page_size: 5,
            ..Default::default()
        },
    );
    loop {
        let response = client.list_jobs_page(page.clone()).await.unwrap();
        assert!(response.jobs.len() <= 5);
        seen.extend(response.jobs.into_iter().map(|job| job.job_id));
        client.submit_job(submit("shop")).await.unwrap();
        if response.next_page_token.is_empty() {
            break;
        }
        page.page_token = response.next_page_token;
    }
    assert!(
        seen.is_sorted_by(|a, b| a > b),
        "newest first, each once: {seen:?}"
    );
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), there);

    let games = client.list_jobs("pipeline=game").await.unwrap();
    assert_eq!(games.len(), 8);
    client.cancel_job(&games[0].job_id).await.unwrap();
    assert_eq!(
        client
            .list_jobs("pipeline=game AND state=cancelled")
            .await
            .unwrap()
            .len(),
        1
    );
    assert_eq!(client.list_jobs("state=running").await.unwrap().len(), 0);

    page.page_token = client
        .list_jobs_page(v1::ListJobsRequest {
            page_size: 1,
            ..Default::default()
        })
        .await
        .unwrap()
        .next_page_token;
    page.filter = "pipeline=game".to_owned();
    let foreign = client.list_jobs_page(page).await.unwrap_err();
    assert_eq!(foreign.refusal().unwrap().violations[0].field, "page_token");
}
