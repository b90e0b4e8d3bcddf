//! Many callers and many jobs at once: each request is one job, every job gets its turn, and the leader stays small.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use millrace_client::{Client, Options, v1};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::inputs::topic;
use crate::sandbox::Sandbox;

const CALLERS: usize = 50;
const CALLS: usize = 10_000;
const REQUESTS: usize = 500;
/// What a coordinator may hold while 200 jobs wait and run.
const COORDINATOR_KIB_MAX: u64 = 500 << 10;

#[test]
fn ten_thousand_submits_of_fifty_callers_across_a_leader_change_are_one_job_a_request() {
    let seed = 81;
    eprintln!("calls: {CALLS}, callers: {CALLERS}, requests: {REQUESTS}, seed: {seed}");
    let mut sandbox = Sandbox::start(1, 0);
    sandbox.more.coordinator = "limits: {calls_per_second: 1000000, burst: 1000000}".to_owned();
    let mut sandbox = sandbox.with(2, 0);
    // Nothing lies there: what is counted is jobs.
    sandbox.apply("shop", r#"s3: {url: "s3://millrace/raw/nothing/", format: json}"#);
    let made = Arc::new(AtomicUsize::new(0));
    let answers = Arc::new(Mutex::new(BTreeMap::<String, BTreeSet<String>>::new()));
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let (made, answers, addresses) = (Arc::clone(&made), Arc::clone(&answers), sandbox.apis());
            std::thread::spawn(move || call(seed, caller, addresses, &made, &answers))
        })
        .collect();
    sandbox.until("half of the calls are made", |_| {
        (made.load(Ordering::SeqCst) >= CALLS / 2).then_some(())
    });
    let (first, epoch) = sandbox.leader();
    sandbox.kill(&first);
    let at_the_change = made.load(Ordering::SeqCst);
    for caller in callers {
        caller.join().unwrap();
    }
    assert!(at_the_change < CALLS, "the leader changed after the last call");
    assert!(sandbox.leader().1 > epoch);
    let answers = answers.lock().unwrap();
    for (request, jobs) in &*answers {
        assert_eq!(jobs.len(), 1, "{request} was given {jobs:?}");
    }
    let listed = sandbox.json(&["job", "list", "--limit", "1000"]);
    let listed: Vec<(&str, &str)> = listed["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|job| (job["request_id"].as_str().unwrap(), job["job"].as_str().unwrap()))
        .collect();
    let answered: Vec<(&str, &str)> = answers
        .iter()
        .flat_map(|(request, jobs)| jobs.iter().map(|job| (request.as_str(), job.as_str())))
        .collect();
    assert_eq!((listed.len(), answered.len()), (REQUESTS, REQUESTS));
    let (listed, answered): (BTreeSet<_>, BTreeSet<_>) = (listed.iter().collect(), answered.iter().collect());
    assert!(
        listed == answered,
        "some jobs are of other requests than were answered"
    );
}

/// One caller's share of the calls, each for a request that others ask for too.
fn call(
    seed: u64,
    caller: usize,
    addresses: Vec<String>,
    made: &AtomicUsize,
    answers: &Mutex<BTreeMap<String, BTreeSet<String>>>,
) {
    let mut random = ChaCha8Rng::seed_from_u64(seed + caller as u64);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let client = Client::connect(Options::new(addresses)).await.unwrap();
        for i in 0..CALLS / CALLERS {
            // Every request is asked for by somebody, most of them by many; new ones come until the end.
            let (own, every) = (REQUESTS / CALLERS, CALLS / REQUESTS);
            let number = if i % every == 0 {
                caller * own + i / every
            } else {
                random.random_range(0..REQUESTS * (i + 1) * CALLERS / CALLS)
            };
            let request_id = format!("00000000-0000-4000-8000-{number:012}");
            let asked = v1::SubmitJobRequest {
                pipeline: "shop".to_owned(),
                request_id: request_id.clone(),
                ..v1::SubmitJobRequest::default()
            };
            let job = client.submit_job(asked).await.unwrap();
            answers
                .lock()
                .unwrap()
                .entry(request_id)
                .or_default()
                .insert(job.job_id);
            made.fetch_add(1, Ordering::SeqCst);
        }
    });
}

#[test]
fn two_hundred_jobs_submitted_at_once_all_run_and_the_leader_stays_small() {
    const PIPELINES: usize = 8;
    const FILES: usize = 25;
    let sandbox = Sandbox::cluster(1, 2);
    let names: Vec<String> = (0..PIPELINES).map(|i| format!("shop-{i}")).collect();
    for (name, seed) in names.iter().zip(90..) {
        sandbox.upload_files(name, 2_500, seed, FILES);
        let source = format!("s3: {{url: \"s3://millrace/raw/{name}/\", format: json}}");
        sandbox.apply(name, &source);
    }
    let jobs: Vec<String> = std::thread::scope(|scope| {
        let submitting: Vec<_> = names
            .iter()
            .map(|name| {
                let sandbox = &sandbox;
                scope.spawn(move || {
                    let prefix = |file| format!("s3://millrace/raw/{name}/events-{file:05}.ndjson");
                    (0..FILES)
                        .map(|file| sandbox.submit(name, &["--prefix", &prefix(file)]))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        submitting
            .into_iter()
            .flat_map(|jobs| jobs.join().unwrap())
            .collect()
    });
    assert_eq!(jobs.len(), PIPELINES * FILES);
    for job in &jobs {
        assert_eq!(sandbox.done(job)["batches"], 1);
    }
    let most = sandbox.most_memory_kib("coordinator-1");
    eprintln!("200 jobs: the leader held {} MiB at most", most >> 10);
    assert!(most < COORDINATOR_KIB_MAX, "{most} KiB");
    for name in &names {
        sandbox.judge(name, name);
    }
}

#[test]
fn a_follow_job_gets_its_turn_beside_a_backfill() {
    let sandbox = Sandbox::start(1, 1).with(1, 1);
    sandbox.upload("past", 150_000, 83);
    sandbox.produce("shop", 4_000, 84, None);
    sandbox.apply("past", r#"s3: {url: "s3://millrace/raw/past/", format: json}"#);
    sandbox.apply("shop", &topic(&sandbox, "shop"));
    let backfill = sandbox.submit("past", &[]);
    sandbox.has_read(&backfill, 1);
    let follow = sandbox.submit("shop", &["--follow", "--interval", "1s"]);
    sandbox.has_read(&follow, 4_000);
    let meanwhile = sandbox.job(&backfill);
    assert_eq!(
        meanwhile["state"], "running",
        "the backfill went first: {meanwhile}"
    );
    // Nor does it stand still.
    assert_eq!(sandbox.done(&backfill)["events_read"], 150_000);
    sandbox.json(&["job", "cancel", &follow]);
    sandbox.judge("past", "past");
    sandbox.judge("shop", "shop");
}
