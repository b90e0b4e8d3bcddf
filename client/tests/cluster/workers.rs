//! Workers that die, freeze and wake, and leave politely.

use millrace_loadtest::proxy::Fault;

use crate::sandbox::Sandbox;

const SOURCE: &str = r#"s3: {url: "s3://millrace/raw/shop/", format: json}"#;

#[test]
fn a_worker_killed_at_work_costs_time_and_nothing_else() {
    let (mut sandbox, _proxy) = Sandbox::with_one_held(1, 2);
    sandbox.upload("shop", 60_000, 31);
    sandbox.apply("shop", SOURCE);
    let job = sandbox.submit("shop", &[]);
    sandbox.at_work("worker-2");
    sandbox.kill("worker-2");
    let done = sandbox.done(&job);
    assert_eq!(done["events_read"], 60_000, "{done}");
    sandbox.judge("shop", "shop");
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
fn a_worker_told_to_stop_finishes_and_leaves_and_the_job_goes_on() {
    let (mut sandbox, proxy) = Sandbox::with_one_held(1, 2);
    sandbox.upload("shop", 60_000, 33);
    sandbox.apply("shop", SOURCE);
    let job = sandbox.submit("shop", &[]);
    sandbox.at_work("worker-2");
    sandbox.signal("worker-2", "TERM");
    proxy.set(Fault::None, 1);
    assert_eq!(sandbox.ended("worker-2"), None, "it was killed");
    let done = sandbox.done(&job);
    assert_eq!(done["events_read"], 60_000, "{done}");
    sandbox.judge("shop", "shop");
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
