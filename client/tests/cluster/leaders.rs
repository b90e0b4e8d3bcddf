//! Leaders that die at each step of a batch, that freeze and wake, that come and go.

use std::time::{Duration, Instant};

use millrace_loadtest::proxy::Fault;

use crate::sandbox::Sandbox;

const SOURCE: &str = r#"s3: {url: "s3://millrace/raw/shop/", format: json}"#;
/// The lease is 3 s; the rest is the election, and a busy machine.
const SUCCESSION: Duration = Duration::from_secs(30);

/// One leader after another dies at the moment; the next one finishes what it finds.
fn dies_at(moment: &str) {
    let mut sandbox = Sandbox::start(1, 0);
    sandbox.upload("shop", 20_000, 21);
    sandbox.coordinator("mortal", &[("MILLRACE_CRASH_AT", moment)]);
    assert_eq!(sandbox.leader().0, "mortal");
    sandbox.coordinator("heir", &[]);
    let mut sandbox = sandbox.with(0, 2);
    sandbox.apply("shop", SOURCE);
    let job = sandbox.submit("shop", &[]);
    assert_eq!(sandbox.ended("mortal"), Some(9), "the fault did not happen");
    let died = Instant::now();
    sandbox.until("the heir leads", |sandbox| {
        (sandbox.try_json(&["cluster", "show"])?["leader"] == "heir").then_some(())
    });
    let vacant = died.elapsed();
    eprintln!("{moment}: the next leader leads after {vacant:.1?}");
    assert!(vacant < SUCCESSION, "{vacant:?}");
    let done = sandbox.done(&job);
    assert_eq!(done["events_read"], 20_000, "{done}");
    sandbox.judge("shop", "shop");
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
