//! Leaders that die at each step of a batch, that freeze and wake, that come and go.

use std::time::{Duration, Instant};

use millrace_loadtest::proxy::{Fault, Proxy};

use crate::sandbox::Sandbox;

const SOURCE: &str = r#"s3: {url: "s3://millrace/raw/shop/", format: json}"#;
const EVENTS: u64 = 20_000;
/// The lease is 3 s; the rest is the election, and a busy machine.
const SUCCESSION: Duration = Duration::from_secs(30);

/// A leader that dies at the moment, one to come after it, and events to be read.
fn mortal(moment: &str) -> Sandbox {
    let mut sandbox = Sandbox::start(1, 0);
    sandbox.upload("shop", EVENTS, 21);
    sandbox.coordinator("mortal", &[("MILLRACE_CRASH_AT", moment)]);
    assert_eq!(sandbox.leader().0, "mortal");
    sandbox.coordinator("heir", &[]);
    sandbox
}

/// It dies there, and the next one finishes what it finds.
fn is_succeeded(mut sandbox: Sandbox, moment: &str, job: &str) {
    assert_eq!(sandbox.ended("mortal"), Some(9), "the fault did not happen");
    let died = Instant::now();
    sandbox.until("the heir leads", |sandbox| {
        (sandbox.try_json(&["cluster", "show"])?["leader"] == "heir").then_some(())
    });
    let vacant = died.elapsed();
    eprintln!("{moment}: the next leader leads after {vacant:.1?}");
    assert!(vacant < SUCCESSION, "{vacant:?}");
    let done = sandbox.done(job);
    assert_eq!(done["events_read"], EVENTS, "{done}");
    sandbox.judge("shop", "shop");
}

fn dies_at(moment: &str) {
    let sandbox = mortal(moment).with(0, 2);
    sandbox.apply("shop", SOURCE);
    let job = sandbox.submit("shop", &[]);
    is_succeeded(sandbox, moment, &job);
}

#[test]
fn a_leader_may_die_when_it_has_opened_the_ledger() {
    dies_at("opened");
}

#[test]
fn a_leader_may_die_when_the_objects_of_a_job_are_listed() {
    dies_at("listed");
}

/// The batch before it is written then, and not committed: two are open.
#[test]
fn a_leader_may_die_when_a_batch_is_planned() {
    dies_at("planned:2");
}

#[test]
fn a_leader_may_die_when_a_batch_is_written() {
    dies_at("written:2");
}

#[test]
fn a_leader_may_die_between_the_manifest_and_the_ledger() {
    dies_at("published:2");
}

#[test]
fn a_leader_may_die_when_a_batch_is_committed() {
    dies_at("committed:2");
}

/// The batch behind it is being read, and waits for a list that nobody puts any more.
#[test]
fn a_leader_may_die_between_a_commit_and_the_list_of_keys_that_the_next_batch_waits_for() {
    dies_at("awaited");
}

#[test]
fn a_leader_may_die_when_the_next_batch_is_told_of_committed_keys() {
    dies_at("told");
}

/// A worker that dies takes the attempt with it; the leader dies when it begins the next one.
#[test]
fn a_leader_may_die_when_a_second_attempt_begins() {
    let mut sandbox = mortal("again");
    let proxy = Proxy::start(sandbox.s3()).unwrap();
    proxy.set(Fault::Hold, 1);
    sandbox.worker("worker-1", &[("AWS_ENDPOINT_URL", &proxy.endpoint())]);
    sandbox.has_workers(1);
    sandbox.apply("shop", SOURCE);
    let job = sandbox.submit("shop", &[]);
    sandbox.until("it reads", |_| (proxy.fired() > 0).then_some(()));
    sandbox.kill("worker-1");
    sandbox.worker("worker-2", &[]);
    is_succeeded(sandbox, "again", &job);
}

#[test]
fn a_leader_may_die_when_a_batch_is_finished() {
    dies_at("finished:2");
}

#[test]
fn a_leader_that_freezes_and_wakes_when_another_leads_writes_nothing() {
    let (sandbox, proxy) = Sandbox::with_one_held(2, 2);
    sandbox.upload("shop", 60_000, 22);
    sandbox.apply("shop", SOURCE);
    let job = sandbox.submit("shop", &[]);
    sandbox.at_work("worker-2");
    let (first, epoch) = sandbox.leader();
    sandbox.signal(&first, "STOP");
    let (second, later) = sandbox.until("another leads", |sandbox| {
        let (name, epoch) = sandbox.leader();
        (name != first).then_some((name, epoch))
    });
    assert!(later > epoch, "{first} {epoch}, {second} {later}");
    sandbox.signal(&first, "CONT");
    proxy.set(Fault::None, 1);
    let done = sandbox.done(&job);
    assert_eq!(done["events_read"], 60_000, "{done}");
    sandbox.until("the first one knows that it was taken over", |sandbox| {
        (sandbox.logged(&first, "no longer leads") > 0).then_some(())
    });
    sandbox.judge("shop", "shop");
}

#[test]
fn leaders_are_killed_one_after_another_while_a_job_runs() {
    let (mut sandbox, proxy) = Sandbox::with_one_held(3, 2);
    sandbox.upload("shop", 60_000, 23);
    sandbox.apply("shop", SOURCE);
    let job = sandbox.submit("shop", &[]);
    for _ in 0..2 {
        sandbox.at_work("worker-2");
        let (leader, _) = sandbox.leader();
        sandbox.kill(&leader);
    }
    proxy.set(Fault::None, 1);
    let done = sandbox.done(&job);
    assert_eq!(done["events_read"], 60_000, "{done}");
    sandbox.judge("shop", "shop");
}
