//! Any coordinator will do, also while leaders change.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use millrace_client::v1::JobState;

use crate::cluster::{Node, client, files_pipeline, options, submit};
use crate::server::{PREFIX, Server};
use millrace_client::{Client, v1};
use millrace_coordinator::registry::Registry;

async fn two(server: &Server) -> (Node, Node) {
    let first = Node::start(server, "c1", |_| {}).await;
    first.leads().await;
    (first, Node::start(server, "c2", |_| {}).await)
}

async fn apply(client: &Client) {
    let request = v1::ApplyPipelineRequest {
        text: files_pipeline("shop", "/events", "/lake"),
        ..Default::default()
    };
    client.apply_pipeline(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_answers_as_the_leader_does() {
    let server = Server::start(1).await;
    let (leader, follower) = two(&server).await;
    let (at_leader, at_follower) = (client(&[&leader]).await, client(&[&follower]).await);
    apply(&at_follower).await;
    let request = submit("shop");
    let job = at_follower.submit_job(request.clone()).await.unwrap();
    assert_eq!(at_leader.submit_job(request).await.unwrap().job_id, job.job_id);
    assert_eq!(at_follower.cluster().await.unwrap().leader.unwrap().name, "c1");
    let refused = at_follower.get_job("j9").await.unwrap_err();
    assert_eq!(
        refused.refusal().unwrap().reason,
        "JOB_NOT_FOUND",
        "details come through"
    );
    let mut watch = Box::pin(at_follower.watch_job(&job.job_id));
    assert_eq!(watch.next().await.unwrap().unwrap().state(), JobState::Pending);
    at_leader.cancel_job(&job.job_id).await.unwrap();
    let last = watch.map(|job| job.unwrap().state()).collect::<Vec<_>>().await;
    assert_eq!(last.last(), Some(&JobState::Cancelled), "streams come through");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_when_its_coordinator_dies() {
    let server = Server::start(1).await;
    let (leader, follower) = two(&server).await;
    let both = client(&[&leader, &follower]).await;
    apply(&both).await;
    let job = both.submit_job(submit("shop")).await.unwrap();
    let mut watch = Box::pin(both.watch_job(&job.job_id));
    assert_eq!(watch.next().await.unwrap().unwrap().state(), JobState::Pending);
    leader.die().await;
    let lead = follower.leads().await;
    let registry = Registry::new(server.etcd().await, PREFIX);
    registry
        .update_job(&lead, &job.job_id, |job| job.set_state(JobState::Running))
        .await
        .unwrap();
    registry
        .update_job(&lead, &job.job_id, |job| job.set_state(JobState::Succeeded))
        .await
        .unwrap();
    let rest = tokio::time::timeout(
        Duration::from_secs(30),
        watch.map(|job| job.unwrap().state()).collect::<Vec<_>>(),
    );
    assert_eq!(rest.await.unwrap().last(), Some(&JobState::Succeeded));
}

/// 50 callers repeat requests at both coordinators while the leader dies and comes back: each request is one job,
/// and no caller notices more than a wait.
#[tokio::test(flavor = "multi_thread")]
async fn each_request_is_exactly_one_job_across_a_change_of_leaders() {
    const CALLERS: usize = 50;
    const REQUESTS: usize = 8;
    let server = Server::start(1).await;
    let (leader, follower) = two(&server).await;
    apply(&client(&[&leader]).await).await;
    let requests: Vec<_> = (0..CALLERS * REQUESTS / 4).map(|_| submit("shop")).collect();
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let nodes = if caller % 2 == 0 {
                [&leader, &follower]
            } else {
                [&follower, &leader]
            };
            let (options, requests) = (options(&nodes), requests.clone());
            tokio::spawn(async move {
                let client = Client::connect(options).await.unwrap();
                let mut got = Vec::new();
                for n in 0..REQUESTS {
                    let request = requests[(caller * REQUESTS + n) % requests.len()].clone();
                    let id = request.request_id.clone();
                    got.push((id, client.submit_job(request).await.unwrap().job_id));
                }
                got
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await; // some before, some after: any split will do
    leader.die().await;
    let mut jobs: BTreeMap<String, String> = BTreeMap::new();
    for caller in callers {
        for (request, job) in caller.await.unwrap() {
            let before = jobs.insert(request.clone(), job.clone());
            assert!(
                before.is_none_or(|before| before == job),
                "request {request} gave two jobs"
            );
        }
    }
    assert_eq!(jobs.len(), requests.len());
    let stored = client(&[&follower]).await.list_jobs("").await.unwrap();
    assert_eq!(
        stored.len(),
        requests.len(),
        "a job that nobody was told of, or one lost"
    );
}
