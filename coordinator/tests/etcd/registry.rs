//! Jobs once for each request; pipelines by version; nothing but the leader's writes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use millrace_coordinator::election::Leadership;
use millrace_coordinator::registry::{JobFilter, NewJob, Registry, RegistryError, Retention};
use millrace_proto::v1::{Job, JobState, Pipeline};

use crate::proxy::Proxy;
use crate::server::{PREFIX, Server, eventually};

struct World {
    server: Server,
    registry: Registry,
    lead: Leadership,
}

impl World {
    async fn new() -> Self {
        let server = Server::start(1).await;
        let lead = server.lead("a").await;
        let registry = Registry::new(server.etcd().await, PREFIX);
        for name in ["github", "shop"] {
            registry.apply_pipeline(&lead, pipeline(name, "1")).await.unwrap();
        }
        Self {
            server,
            registry,
            lead,
        }
    }

    async fn submit(&self, request: &str, pipeline: &str) -> Job {
        let (job, created) = self
            .registry
            .submit(&self.lead, new_job(request, pipeline))
            .await
            .unwrap();
        assert!(created);
        job
    }

    async fn set(&self, id: &str, state: JobState) -> Result<Job, RegistryError> {
        self.registry
            .update_job(&self.lead, id, |job| job.set_state(state))
            .await
    }
}

fn pipeline(name: &str, digest: &str) -> Pipeline {
    Pipeline {
        name: name.to_owned(),
        text: format!("pipeline: {name}"),
        digest: digest.to_owned(),
        ..Pipeline::default()
    }
}

fn new_job(request: &str, pipeline: &str) -> NewJob {
    NewJob {
        request_id: request.to_owned(),
        pipeline: pipeline.to_owned(),
        submitter: "test".to_owned(),
        ..NewJob::default()
    }
}

/// 200 requests from 50 tasks, each sent several times, over two registries as after a change of leader.
#[tokio::test(flavor = "multi_thread")]
async fn each_request_is_exactly_one_job() {
    let world = World::new().await;
    let other = Registry::new(world.server.etcd().await, PREFIX);
    let tasks = (0..50).map(|task| {
        let registry = if task % 2 == 0 {
            world.registry.clone()
        } else {
            other.clone()
        };
        let lead = world.lead.clone();
        tokio::spawn(async move {
            let mut got = Vec::new();
            for n in 0..16 {
                let request = format!("request-{}", (task * 4 + n) % 200);
                let (job, created) = registry.submit(&lead, new_job(&request, "github")).await.unwrap();
                got.push((request, job.job_id, created));
            }
            got
        })
    });
    let mut jobs: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut created = 0;
    for task in futures::future::join_all(tasks).await {
        for (request, job, new) in task.unwrap() {
            jobs.entry(request).or_default().insert(job);
            created += usize::from(new);
        }
    }
    assert_eq!((jobs.len(), created), (200, 200));
    assert!(jobs.values().all(|ids| ids.len() == 1), "{jobs:?}");
    let ids: BTreeSet<&String> = jobs.values().flatten().collect();
    assert_eq!(ids.len(), 200);
    assert_eq!(world.registry.active_jobs().await.unwrap().len(), 200);
}

/// The same while the leader is replaced: half of the requests are granted by one and repeated at the other.
#[tokio::test(flavor = "multi_thread")]
async fn each_request_is_exactly_one_job_across_leaders() {
    let world = World::new().await;
    let (sender, leads) = tokio::sync::watch::channel((world.registry.clone(), world.lead.clone()));
    let tasks = (0..50).map(|task| {
        let mut leads = leads.clone();
        tokio::spawn(async move {
            let mut got = Vec::new();
            for n in 0..40 {
                let request = format!("request-{}", (task * 7 + n * 13) % 500);
                let job = loop {
                    let (registry, lead) = leads.borrow_and_update().clone();
                    match registry.submit(&lead, new_job(&request, "github")).await {
                        Ok((job, _)) => break job,
                        Err(RegistryError::NotLeader { .. }) => leads.changed().await.unwrap(),
                        Err(error) => panic!("{error:?}"),
                    }
                };
                got.push((request, job.job_id));
            }
            got
        })
    });
    let tasks: Vec<_> = tasks.collect();
    for name in ["b", "c"] {
        tokio::time::sleep(Duration::from_millis(150)).await;
        let old = leads.borrow().1.clone();
        world.server.raw().await.delete(old.key(), None).await.unwrap();
        let next = Registry::new(world.server.etcd().await, PREFIX);
        sender.send_replace((next, world.server.lead(name).await));
        assert!(
            tasks.iter().any(|task| !task.is_finished()),
            "no request came after the change"
        );
    }
    let mut jobs: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for task in futures::future::join_all(tasks).await {
        for (request, job) in task.unwrap() {
            jobs.entry(request).or_default().insert(job);
        }
    }
    assert!(jobs.values().all(|ids| ids.len() == 1), "{jobs:?}");
    let ids: BTreeSet<&String> = jobs.values().flatten().collect();
    assert_eq!(ids.len(), jobs.len());
    assert_eq!(world.registry.active_jobs().await.unwrap().len(), jobs.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_response_submits_no_second_job() {
    let world = World::new().await;
    let proxy = Proxy::start(&world.server.endpoints[0]).await;
    let endpoints = std::slice::from_ref(&proxy.endpoint);
    let etcd = millrace_coordinator::etcd::Etcd::connect(endpoints, etcd_client::ConnectOptions::new());
    let registry = Registry::new(etcd.await.unwrap(), PREFIX);
    let known = NewJob {
        pipeline_version: 1, // no read before the transaction: the transaction's response is the one that is lost
        ..new_job("r1", "github")
    };
    proxy.lose_next();
    let (job, created) = registry.submit(&world.lead, known.clone()).await.unwrap();
    assert_eq!(proxy.lost(), 1);
    assert!(created, "it was ours");
    let (again, created) = registry.submit(&world.lead, known).await.unwrap();
    assert_eq!((again.job_id, created), (job.job_id, false));
    assert_eq!(registry.active_jobs().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_come_newest_first_in_pages_that_join() {
    let world = World::new().await;
    for n in 0..130 {
        world
            .submit(&format!("r{n}"), if n % 3 == 0 { "shop" } else { "github" })
            .await;
    }
    for filter in [
        JobFilter::default(),
        JobFilter {
            pipeline: Some("shop".to_owned()),
            state: Some(JobState::Pending),
        },
    ] {
        let (mut ids, mut token, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let (jobs, next) = world.registry.list_jobs(&filter, 7, &token).await.unwrap();
            assert!(jobs.len() <= 7);
            ids.extend(jobs.into_iter().map(|job| job.job_id));
            pages += 1;
            if pages == 2 {
                // A job that comes between the pages is newer than all that follow.
                world
                    .submit(&format!("late-{}", filter.pipeline.is_some()), "github")
                    .await;
            }
            if next.is_empty() {
                break;
            }
            token = next;
        }
        let wanted = if filter.pipeline.is_some() { 44 } else { 130 };
        assert_eq!(ids.len(), wanted);
        assert!(ids.is_sorted_by(|a, b| a > b));
        let other = JobFilter {
            state: Some(JobState::Failed),
            ..JobFilter::default()
        };
        let refused = world.registry.list_jobs(&other, 7, &token).await;
        assert!(matches!(refused, Err(RegistryError::Token)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_kept_apart_and_illegal_ones_refused() {
    let world = World::new().await;
    let job = world.submit("r", "github").await;
    world.set(&job.job_id, JobState::Running).await.unwrap();
    let updates = (0..20).map(|_| {
        let (registry, lead, id) = (world.registry.clone(), world.lead.clone(), job.job_id.clone());
        tokio::spawn(async move {
            registry
                .update_job(&lead, &id, |job| job.batches += 1)
                .await
                .unwrap()
        })
    });
    futures::future::join_all(updates).await;
    let stored = world.registry.get_job(&job.job_id).await.unwrap();
    assert_eq!(stored.batches, 20, "an update was lost");
    assert!(stored.revision > job.revision && stored.start_time.is_some());
    let done = world.set(&job.job_id, JobState::Succeeded).await.unwrap();
    assert!(done.end_time.is_some());
    assert!(world.registry.active_jobs().await.unwrap().is_empty());
    let refused = world.set(&job.job_id, JobState::Running).await.unwrap_err();
    assert!(matches!(refused, RegistryError::State { .. }));

    let failed = world.submit("r2", "github").await;
    world.set(&failed.job_id, JobState::Failed).await.unwrap();
    let retried = world.set(&failed.job_id, JobState::Pending).await.unwrap();
    assert!(retried.end_time.is_none());
    assert_eq!(world.registry.active_jobs().await.unwrap(), vec![retried]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_leads_no_more_changes_nothing() {
    let world = World::new().await;
    let job = world.submit("r", "github").await;
    world
        .server
        .raw()
        .await
        .delete(world.lead.key(), None)
        .await
        .unwrap();
    assert!(world.lead.is_held(), "the test is too slow to test the guard");
    let (registry, lead) = (&world.registry, &world.lead);
    let refused = [
        registry.submit(lead, new_job("r2", "github")).await.err(),
        world.set(&job.job_id, JobState::Running).await.err(),
        registry.apply_pipeline(lead, pipeline("github", "2")).await.err(),
        registry.delete_pipeline(lead, "shop").await.err(),
    ];
    for error in refused {
        assert!(
            matches!(error, Some(RegistryError::NotLeader { .. })),
            "{error:?}"
        );
    }
    assert_eq!(registry.get_job(&job.job_id).await.unwrap(), job);
    // What was granted before is still told.
    let (again, created) = registry.submit(lead, new_job("r", "github")).await.unwrap();
    assert_eq!((again, created), (job, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_has_a_version_for_each_content_and_none_twice() {
    let world = World::new().await;
    let (registry, lead) = (&world.registry, &world.lead);
    let apply = async |digest: &str| {
        registry
            .apply_pipeline(lead, pipeline("github", digest))
            .await
            .unwrap()
    };
    let (same, changed) = apply("1").await;
    assert_eq!((same.version, changed), (1, false));
    let (next, changed) = apply("2").await;
    assert_eq!((next.version, changed), (2, true));
    assert_eq!(registry.get_pipeline("github", 1).await.unwrap().digest, "1");
    assert_eq!(registry.get_pipeline("github", 0).await.unwrap().digest, "2");

    let job = world.submit("r", "github").await;
    assert_eq!(job.pipeline_version, 2);
    let refused = registry.delete_pipeline(lead, "github").await.unwrap_err();
    assert!(
        matches!(&refused, RegistryError::Active { job: id, .. } if *id == job.job_id),
        "{refused}"
    );
    world.set(&job.job_id, JobState::Cancelled).await.unwrap();
    registry.delete_pipeline(lead, "github").await.unwrap();
    assert!(matches!(
        registry.get_pipeline("github", 0).await,
        Err(RegistryError::NotFound { .. })
    ));
    let refused = registry.submit(lead, new_job("r2", "github")).await.unwrap_err();
    assert!(matches!(refused, RegistryError::NotFound { .. }));
    let (again, _) = registry.submit(lead, new_job("r", "github")).await.unwrap();
    assert_eq!(
        again.job_id, job.job_id,
        "a granted request outlives its pipeline"
    );
    let (reborn, _) = apply("3").await;
    assert_eq!(reborn.version, 3);

    let large = Pipeline {
        text: "x".repeat(1 << 20),
        ..pipeline("large", "1")
    };
    let refused = registry.apply_pipeline(lead, large).await.unwrap_err();
    assert!(matches!(refused, RegistryError::TooLarge { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelines_are_listed_by_name_in_their_newest_version() {
    let world = World::new().await;
    for n in 0..9 {
        let name = format!("p{n}");
        world
            .registry
            .apply_pipeline(&world.lead, pipeline(&name, "1"))
            .await
            .unwrap();
        world
            .registry
            .apply_pipeline(&world.lead, pipeline(&name, "2"))
            .await
            .unwrap();
    }
    let (mut names, mut token) = (Vec::new(), String::new());
    loop {
        let (page, next) = world.registry.list_pipelines(4, &token).await.unwrap();
        assert!(
            page.iter()
                .all(|p| p.version == if p.name.starts_with('p') { 2 } else { 1 })
        );
        names.extend(page.into_iter().map(|p| p.name));
        if next.is_empty() {
            break;
        }
        token = next;
    }
    assert_eq!(names.len(), 11);
    assert!(names.is_sorted());
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_see_changes() {
    let world = World::new().await;
    let before = world.submit("r0", "github").await;
    let mut all = world.registry.watch_jobs();
    assert_eq!(all.next().await.unwrap(), before);
    let job = world.submit("r", "github").await;
    assert_eq!(all.next().await.unwrap(), job);
    let mut one = world.registry.watch_job(&job.job_id).await.unwrap();
    assert_eq!(one.next().await.unwrap(), job);
    for state in [JobState::Running, JobState::Succeeded] {
        let changed = world.set(&job.job_id, state).await.unwrap();
        assert_eq!(one.next().await.unwrap(), changed);
        assert_eq!(all.next().await.unwrap(), changed);
    }
    assert!(world.registry.watch_job("j9999999999").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_outlives_its_member() {
    let server = Server::start(3).await;
    let mut lead = server.lead("a").await;
    let registry = Registry::new(server.etcd().await, PREFIX);
    registry
        .apply_pipeline(&lead, pipeline("github", "1"))
        .await
        .unwrap();
    let mut watched = registry.watch_jobs();
    let seen = std::sync::Arc::new(std::sync::Mutex::new(BTreeSet::new()));
    let shared = std::sync::Arc::clone(&seen);
    let reader = tokio::spawn(async move {
        while let Some(job) = watched.next().await {
            shared.lock().unwrap().insert(job.job_id);
        }
    });
    let mut submitted = BTreeSet::new();
    for member in 1..=3 {
        server.member("kill", member).await;
        for n in 0..5 {
            let new = new_job(&format!("r{member}-{n}"), "github");
            let job = loop {
                match registry.submit(&lead, new.clone()).await {
                    Ok((job, _)) => break job,
                    // Etcd's own election may cost ours.
                    Err(RegistryError::NotLeader { .. }) => lead = server.lead("a").await,
                    Err(error) => panic!("{error:?}"),
                }
            };
            submitted.insert(job.job_id);
        }
        eventually("every job is seen", Duration::from_secs(5), async || {
            *seen.lock().unwrap() == submitted
        })
        .await;
        server.member("start", member).await;
    }
    reader.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn ended_jobs_go_after_a_day_and_active_ones_never() {
    let world = World::new().await;
    for n in 0..120 {
        let job = world.submit(&format!("r{n}"), "github").await;
        if n % 2 == 0 {
            world.set(&job.job_id, JobState::Failed).await.unwrap();
        }
    }
    let keep = Retention {
        jobs: 20,
        age: Duration::from_secs(1000 * 60 * 60),
    };
    let prune = async |after| {
        let now = SystemTime::now() + Duration::from_secs(after);
        world.registry.prune(&world.lead, &keep, now).await.unwrap()
    };
    assert_eq!(prune(23 * 3600).await, 0);
    assert_eq!(prune(25 * 3600).await, 50, "of the newest 20 none goes");
    assert_eq!(prune(1001 * 3600).await, 10);
    let (rest, _) = world
        .registry
        .list_jobs(&JobFilter::default(), 1000, "")
        .await
        .unwrap();
    assert_eq!(rest.len(), 60);
    assert!(rest.iter().all(|job| job.state() == JobState::Pending));
    assert!(world.registry.job_of_request("r0").await.unwrap().is_none());
}
