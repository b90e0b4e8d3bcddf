//! Workers that die at each step of a task, freeze and wake, leave politely, run out of disk.

use millrace_loadtest::proxy::{Fault, Proxy};

use crate::sandbox::Sandbox;

const SOURCE: &str = r#"s3: {url: "s3://millrace/raw/shop/", format: json}"#;
/// What the leader says of an attempt that it makes again.
const FAILED: &str = "an attempt failed";
/// Why, where a worker left that kept claims of it.
const KEEPER_GONE: &str = "that kept claims of it is gone";

/// A coordinator and two workers, the second of which misbehaves so at S3, and a job that runs. Few events: a batch has
/// a file for each worker then, so that one that is held does not hold the only one.
fn with_fault(fault: Fault, events: u64, seed: u64) -> (Sandbox, Proxy, String) {
    let mut sandbox = Sandbox::cluster(1, 1);
    let proxy = Proxy::start(sandbox.s3()).unwrap();
    proxy.set(fault, 1);
    sandbox.worker("worker-2", &[("AWS_ENDPOINT_URL", &proxy.endpoint())]);
    sandbox.has_workers(2);
    sandbox.upload("shop", events, seed);
    sandbox.apply("shop", SOURCE);
    let job = sandbox.submit("shop", &[]);
    (sandbox, proxy, job)
}

fn met(sandbox: &Sandbox, proxy: &Proxy) {
    sandbox.until("the fault happens", |_| (proxy.fired() > 0).then_some(()));
}

fn finishes(sandbox: &Sandbox, job: &str, events: u64) {
    let done = sandbox.done(job);
    assert_eq!(done["events_read"], events, "{done}");
    sandbox.judge("shop", "shop");
}

#[test]
fn a_worker_killed_while_it_scans_takes_the_attempt_with_it_and_nothing_else() {
    let (mut sandbox, proxy, job) = with_fault(Fault::Hold, 8_000, 31);
    met(&sandbox, &proxy);
    sandbox.kill("worker-2");
    finishes(&sandbox, &job, 8_000);
    assert!(sandbox.logged("coordinator-1", KEEPER_GONE) > 0);
}

#[test]
fn a_worker_killed_that_keeps_claims_takes_the_attempt_with_it_and_nothing_else() {
    let (mut sandbox, proxy, job) = with_fault(Fault::Hold, 8_000, 35);
    met(&sandbox, &proxy);
    // Its own half is done and in the lake; it keeps claims that worker-2 still has to meet.
    sandbox.has_result("worker-1", 1);
    sandbox.kill("worker-1");
    proxy.set(Fault::None, 1);
    finishes(&sandbox, &job, 8_000);
    assert!(sandbox.logged("coordinator-1", KEEPER_GONE) > 0);
}

#[test]
fn without_claims_a_worker_killed_costs_its_task_and_nothing_else() {
    let (mut sandbox, proxy) = Sandbox::with_one_held(1, 2);
    sandbox.upload("shop", 8_000, 40);
    sandbox.apply_with("shop", SOURCE, "dedup: {key: [event_id], scope: partition}");
    let job = sandbox.submit("shop", &[]);
    met(&sandbox, &proxy);
    sandbox.kill("worker-2");
    let done = sandbox.done(&job);
    assert_eq!(done["events_read"], 8_000, "{done}");
    assert_eq!(sandbox.logged("coordinator-1", FAILED), 0);
}

#[test]
fn a_worker_killed_while_it_writes_costs_time_and_nothing_else() {
    let (mut sandbox, proxy, job) = with_fault(Fault::HoldWrites, 8_000, 36);
    met(&sandbox, &proxy);
    sandbox.kill("worker-2");
    finishes(&sandbox, &job, 8_000);
    assert_eq!(
        sandbox.logged("coordinator-1", "but written"),
        0,
        "a miscount got through"
    );
}

#[test]
fn a_worker_killed_when_it_has_written_costs_time_and_nothing_else() {
    let (mut sandbox, proxy, job) = with_fault(Fault::HoldWrites, 8_000, 37);
    met(&sandbox, &proxy);
    // Its half of the batch is in the lake, and its report waits to be joined with the other.
    sandbox.has_result("worker-1", 1);
    sandbox.kill("worker-1");
    sandbox.has_workers(1);
    proxy.set(Fault::None, 1);
    finishes(&sandbox, &job, 8_000);
}

#[test]
fn a_worker_that_freezes_and_wakes_when_it_was_given_up_harms_nothing() {
    let (sandbox, proxy) = Sandbox::with_one_held(1, 2);
    sandbox.upload("shop", 60_000, 32);
    sandbox.apply("shop", SOURCE);
    let job = sandbox.submit("shop", &[]);
    sandbox.at_work("worker-2");
    sandbox.signal("worker-2", "STOP");
    let before = sandbox.job(&job)["events_read"].as_u64().unwrap();
    proxy.set(Fault::None, 1);
    sandbox.has_workers(1);
    sandbox.until("the other one goes on", |sandbox| {
        (sandbox.job(&job)["events_read"].as_u64()? > before).then_some(())
    });
    sandbox.signal("worker-2", "CONT");
    let done = sandbox.done(&job);
    assert_eq!(done["events_read"], 60_000, "{done}");
    sandbox.has_workers(2);
    sandbox.judge("shop", "shop");
}

#[test]
fn a_worker_told_to_stop_finishes_and_stays_until_nobody_needs_what_it_holds() {
    let (mut sandbox, proxy, job) = with_fault(Fault::Hold, 8_000, 33);
    met(&sandbox, &proxy);
    sandbox.has_result("worker-1", 1);
    // Both are told; the first has nothing to do any more, the second is at work.
    sandbox.signal("worker-1", "TERM");
    sandbox.until("it drains", |sandbox| {
        let cluster = sandbox.try_json(&["cluster", "show"])?;
        let workers = cluster["workers"].as_array()?;
        let drains = |shown: &&serde_json::Value| shown["name"] == "worker-1" && shown["state"] == "draining";
        workers.iter().find(drains).map(|_| ())
    });
    proxy.set(Fault::None, 1);
    assert_eq!(sandbox.ended("worker-1"), None, "it was killed");
    finishes(&sandbox, &job, 8_000);
    assert_eq!(
        sandbox.logged("coordinator-1", FAILED),
        0,
        "its results were missed"
    );
}

#[test]
fn without_any_worker_a_job_waits_for_one() {
    let (mut sandbox, _proxy) = Sandbox::with_one_held(1, 1);
    sandbox.upload("shop", 40_000, 34);
    sandbox.apply("shop", SOURCE);
    let job = sandbox.submit("shop", &[]);
    sandbox.at_work("worker-1");
    sandbox.kill("worker-1");
    sandbox.has_workers(0);
    sandbox.worker("worker-2", &[]);
    sandbox.done(&job);
    sandbox.judge("shop", "shop");
}

/// A worker whose disk is full from the first task on: the other one does the work.
fn has_no_room(start: impl FnOnce(&mut Sandbox), says: &str) {
    let (mut sandbox, proxy) = Sandbox::with_one_held(1, 1);
    start(&mut sandbox);
    sandbox.has_workers(2);
    sandbox.upload("shop", 8_000, 38);
    sandbox.apply("shop", SOURCE);
    let job = sandbox.submit("shop", &[]);
    // A batch has a file for each; the other one holds its file, so this one gets the second.
    sandbox.until("it has no room", |sandbox| {
        (sandbox.logged("full", says) > 0).then_some(())
    });
    let trouble = sandbox.until("its trouble is told", |sandbox| {
        let cluster = sandbox.try_json(&["cluster", "show"])?;
        let workers = cluster["workers"].as_array()?;
        let full = workers.iter().find(|shown| shown["name"] == "full")?;
        full["trouble"]
            .as_str()
            .filter(|trouble| !trouble.is_empty())
            .map(str::to_owned)
    });
    assert!(trouble.contains("the disk of worker `full` is full"), "{trouble}");
    proxy.set(Fault::None, 1);
    finishes(&sandbox, &job, 8_000);
    sandbox.has_workers(2);
}

#[test]
fn a_worker_whose_disk_is_full_leaves_the_work_to_others() {
    has_no_room(
        |sandbox| sandbox.worker_on_small_disk("full", 8),
        "the system has no room",
    );
}

#[test]
fn a_worker_takes_no_more_of_its_disk_than_it_may() {
    has_no_room(
        |sandbox| sandbox.worker_with("full", "work_dir_bytes: 1000", &[]),
        "1000 may",
    );
    // What it wrote all the same is gone with the attempt.
}
