//! Workers that die, freeze and wake, and leave politely.

use crate::sandbox::Sandbox;

const SOURCE: &str = r#"s3: {url: "s3://millrace/raw/shop/", format: json}"#;

fn at_work(sandbox: &Sandbox, name: &str) {
    sandbox.until(&format!("{name} is at work"), |sandbox| {
        let cluster = sandbox.try_json(&["cluster", "show"])?;
        let workers = cluster["workers"].as_array()?;
        let busy = |worker: &&serde_json::Value| worker["name"] == name && worker["slots_busy"] != 0;
        workers.iter().find(busy).map(|_| ())
    });
}

#[test]
fn a_worker_killed_at_work_costs_time_and_nothing_else() {
    let mut sandbox = Sandbox::cluster(1, 2);
    sandbox.upload("shop", 60_000, 31);
    sandbox.apply("shop", SOURCE);
    let job = sandbox.submit("shop", &[]);
    at_work(&sandbox, "worker-1");
    sandbox.kill("worker-1");
    let done = sandbox.done(&job);
    assert_eq!(done["events_read"], 60_000, "{done}");
    sandbox.judge("shop", "shop");
}

#[test]
fn a_worker_that_freezes_and_wakes_when_it_was_given_up_harms_nothing() {
    let sandbox = Sandbox::cluster(1, 2);
    sandbox.upload("shop", 60_000, 32);
    sandbox.apply("shop", SOURCE);
    let job = sandbox.submit("shop", &[]);
    at_work(&sandbox, "worker-2");
    sandbox.signal("worker-2", "STOP");
    sandbox.until("it is taken for dead", |sandbox| {
        let cluster = sandbox.try_json(&["cluster", "show"])?;
        (cluster["workers"].as_array()?.len() == 1).then_some(())
    });
    let before = sandbox.job(&job)["events_read"].as_u64().unwrap();
    sandbox.until("the other one goes on", |sandbox| {
        (sandbox.job(&job)["events_read"].as_u64()? > before).then_some(())
    });
    sandbox.signal("worker-2", "CONT");
    let done = sandbox.done(&job);
    assert_eq!(done["events_read"], 60_000, "{done}");
    sandbox.until("it is back", |sandbox| {
        let cluster = sandbox.try_json(&["cluster", "show"])?;
        (cluster["workers"].as_array()?.len() == 2).then_some(())
    });
    sandbox.judge("shop", "shop");
}

#[test]
fn a_worker_told_to_stop_finishes_and_leaves_and_the_job_goes_on() {
    let mut sandbox = Sandbox::cluster(1, 2);
    sandbox.upload("shop", 60_000, 33);
    sandbox.apply("shop", SOURCE);
    let job = sandbox.submit("shop", &[]);
    at_work(&sandbox, "worker-1");
    sandbox.signal("worker-1", "TERM");
    assert_eq!(sandbox.ended("worker-1"), None, "it was killed");
    let done = sandbox.done(&job);
    assert_eq!(done["events_read"], 60_000, "{done}");
    sandbox.judge("shop", "shop");
}

#[test]
fn without_any_worker_a_job_waits_for_one() {
    let mut sandbox = Sandbox::cluster(1, 1);
    sandbox.upload("shop", 40_000, 34);
    sandbox.apply("shop", SOURCE);
    let job = sandbox.submit("shop", &[]);
    at_work(&sandbox, "worker-1");
    sandbox.kill("worker-1");
    sandbox.until("nobody works", |sandbox| {
        let cluster = sandbox.try_json(&["cluster", "show"])?;
        cluster["workers"].as_array()?.is_empty().then_some(())
    });
    sandbox.worker("worker-2", &[]);
    sandbox.done(&job);
    sandbox.judge("shop", "shop");
}
