//! What jobs read: prefixes, hours, ranges, what comes; and what users do with jobs.

use std::process::Command;

use millrace_loadtest::proxy::Fault;
use serde_json::Value;

use crate::sandbox::{Sandbox, producer};

fn counts(job: &Value) -> [u64; 4] {
    ["events_read", "events_written", "duplicates", "quarantined"].map(|name| job[name].as_u64().unwrap())
}

/// What `millrace run` makes of the same files.
fn alone(sandbox: &Sandbox, name: &str) -> [u64; 4] {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/shop/shop.yaml");
    let output = Command::new(env!("CARGO_BIN_EXE_millrace"))
        .args(["run", example, "--output", "json", "--input"])
        .arg(sandbox.path(name).join("events"))
        .arg("--lake")
        .arg(sandbox.path("alone"))
        .env("MILLRACE_HASH_KEY", "a-key-for-tests-only")
        .output()
        .unwrap();
    counts(&serde_json::from_slice(&output.stdout).unwrap())
}

#[test]
fn a_prefix_gives_what_a_run_in_one_process_gives_and_a_second_job_nothing_more() {
    let sandbox = Sandbox::cluster(2, 2);
    sandbox.upload("shop", 40_000, 11);
    sandbox.apply("shop", r#"s3: {url: "s3://millrace/raw/shop/", format: json}"#);
    let job = sandbox.done(&sandbox.submit("shop", &["--prefix", "s3://millrace/raw/shop/"]));
    assert_eq!(counts(&job), alone(&sandbox, "shop"));
    assert!(job["batches"].as_u64().unwrap() > 1, "{job}");
    let again = sandbox.done(&sandbox.submit("shop", &["--prefix", "s3://millrace/raw/shop/"]));
    assert_eq!(again["events_read"], 0);
    let rows = sandbox.json(&["query", "SELECT count(*) AS n FROM shop", "--pipeline", "shop"]);
    assert_eq!(rows[0]["n"], job["events_written"]);
    sandbox.judge("shop", "shop");
}

const SOURCE: &str = r#"s3: {url: "s3://millrace/raw/shop/", format: json}"#;

/// What comes while the job runs is the next job's, also when another leader takes over in between.
#[test]
fn a_prefix_is_listed_once_for_a_job_whoever_leads() {
    let (mut sandbox, proxy) = Sandbox::with_one_held(2, 1);
    let first = sandbox.upload("shop", 20_000, 17);
    sandbox.apply("shop", SOURCE);
    let job = sandbox.submit("shop", &[]);
    sandbox.at_work("worker-1");
    sandbox.upload_beside("shop", "more", 10_000, 18);
    let (leader, _) = sandbox.leader();
    sandbox.kill(&leader);
    proxy.set(Fault::None, 1);
    let done = sandbox.done(&job);
    assert_eq!(done["events_read"], first.recipe.events, "{done}");
    sandbox.judge("shop", "shop");
    let next = sandbox.done(&sandbox.submit("shop", &[]));
    assert_eq!(next["events_read"], 10_000, "{next}");
    sandbox.verify("shop");
}

/// An object that is not what it was when the job began is named; a job that is begun again lists anew.
#[test]
fn an_object_that_is_written_over_under_a_job_is_named() {
    let (sandbox, proxy) = Sandbox::with_one_held(1, 1);
    sandbox.upload("shop", 20_000, 19);
    sandbox.apply("shop", SOURCE);
    let job = sandbox.submit("shop", &[]);
    sandbox.at_work("worker-1");
    let key = sandbox.rewrite("shop");
    proxy.set(Fault::None, 1);
    let failed = sandbox.until("the job fails", |sandbox| {
        let job = sandbox.job(&job);
        (job["state"] == "failed").then_some(job)
    });
    let error = failed["error"].as_str().unwrap();
    let url = format!("s3://millrace/raw/shop/{key}");
    assert!(
        error.starts_with(&format!("a task failed at step `scan` over `{url}`, bytes 0.."))
            && error.contains(&format!("`{url}` has changed since it was listed"))
            && error.ends_with("submit the input again to read what is there now"),
        "{error}"
    );
    // Waiting does not help: it was tried once. Whoever watches, and whoever reads the log, is told the same.
    assert_eq!(sandbox.logged("coordinator-1", "an attempt failed"), 0);
    assert_eq!(sandbox.logged("coordinator-1", &format!("over `{url}`")), 1);
    let watched = sandbox.millrace(&["job", "watch", &job, "--output", "json"]);
    assert_eq!(watched.status.code(), Some(1));
    let watched: Value = serde_json::from_slice(&watched.stdout).unwrap();
    assert_eq!(watched["error"], error);
    sandbox.json(&["job", "retry", &job]);
    sandbox.done(&job);
    sandbox.verify("shop");
}

#[test]
fn hours_and_ranges_of_a_topic_together_take_everything_once() {
    let sandbox = Sandbox::start(1, 1).with(1, 2);
    let sent = sandbox.produce("shop", 40_000, 12, None);
    sandbox.apply("shop", &topic(&sandbox, "shop"));
    let hour = sandbox.done(&sandbox.submit("shop", &["--hour", "2026-01-01T05"]));
    assert!(hour["events_read"].as_u64().unwrap() > 1000, "{hour}");
    assert_eq!(hour["open"], false, "{hour}");
    let again = sandbox.done(&sandbox.submit("shop", &["--hour", "2026-01-01T05"]));
    assert_eq!(again["events_read"], 0);
    let range = ["--from", "2026-01-01T04:30:00Z", "--to", "2026-01-01T12:00:00Z"];
    let range = sandbox.done(&sandbox.submit("shop", &range));
    let whole = ["--from", "2025-12-31T00:00:00Z", "--to", "2026-01-03T00:00:00Z"];
    let whole = sandbox.done(&sandbox.submit("shop", &whole));
    let read: u64 = [&hour, &range, &whole]
        .map(|job| job["events_read"].as_u64().unwrap())
        .iter()
        .sum();
    assert_eq!(read, sent.recipe.events);
    sandbox.judge("shop", "shop");
}

#[test]
fn an_hour_that_is_not_over_is_taken_as_far_as_it_goes_and_then_gone_on_with() {
    let sandbox = Sandbox::start(1, 1).with(1, 2);
    // Records of this very hour: what is sent has the time of now, over the next tenth of an hour at most.
    let hour = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs()
        / 3600
        * 3600;
    let begin = prost_types::Timestamp {
        seconds: i64::try_from(hour).unwrap(),
        nanos: 0,
    }
    .to_string();
    sandbox.produce_at("shop", 20_000, 13, hour * 1000, 0.0001);
    sandbox.apply("shop", &topic(&sandbox, "shop"));
    let first = sandbox.done(&sandbox.submit("shop", &["--hour", &begin[..13]]));
    assert_eq!(
        (&first["open"], first["events_read"].as_u64()),
        (&Value::Bool(true), Some(20_000)),
        "{first}"
    );
    let again = sandbox.done(&sandbox.submit("shop", &["--hour", &begin[..13]]));
    assert_eq!(
        (&again["open"], again["events_read"].as_u64()),
        (&Value::Bool(true), Some(0)),
        "{again}"
    );
    sandbox.judge("shop", "shop");
}

#[test]
fn a_follow_job_takes_what_comes_while_it_comes() {
    let sandbox = Sandbox::start(1, 1).with(1, 2);
    sandbox.produce("before", 1_000, 14, None);
    sandbox.apply("shop", &topic(&sandbox, "shop"));
    let (folder, brokers) = (sandbox.path("shop"), sandbox.kafka());
    let sending = std::thread::spawn(move || producer(folder, brokers, "shop", 40_000, 15, Some(8_000)));
    sandbox.has_topic("shop");
    let job = sandbox.submit("shop", &["--follow", "--interval", "1s"]);
    let sent = sending.join().unwrap();
    sandbox.has_read(&job, sent.recipe.events);
    let seen = sandbox.job(&job);
    assert!(seen["batches"].as_u64().unwrap() >= 2, "{seen}");
    sandbox.json(&["job", "cancel", &job]);
    sandbox.until("it is cancelled", |sandbox| {
        (sandbox.job(&job)["state"] == "cancelled").then_some(())
    });
    sandbox.judge("shop", "shop");
}

#[test]
fn the_same_request_is_one_job_and_a_cancelled_one_goes_on_when_retried() {
    let sandbox = Sandbox::cluster(1, 1);
    sandbox.upload("shop", 60_000, 16);
    sandbox.apply("shop", r#"s3: {url: "s3://millrace/raw/shop/", format: json}"#);
    let request = ["--request-id", "6ba7b810-9dad-41d1-80b4-00c04fd430c8"];
    let job = sandbox.submit("shop", &request);
    assert_eq!(sandbox.submit("shop", &request), job);
    assert_eq!(
        sandbox.json(&["job", "list"])["jobs"].as_array().unwrap().len(),
        1
    );
    sandbox.has_read(&job, 1);
    sandbox.json(&["job", "cancel", &job]);
    let cancelled = sandbox.job(&job);
    assert_eq!(cancelled["state"], "cancelled", "{cancelled}");
    assert!(
        cancelled["events_read"].as_u64().unwrap() < 60_000,
        "it was over too early: {cancelled}"
    );
    sandbox.json(&["job", "retry", &job]);
    let done = sandbox.done(&job);
    assert_eq!(done["events_read"], 60_000);
    sandbox.judge("shop", "shop");
}

/// A source that reads a topic of the sandbox.
pub(crate) fn topic(sandbox: &Sandbox, name: &str) -> String {
    format!(
        "kafka: {{brokers: [\"{}\"], topic: {name}, format: json}}",
        sandbox.kafka().replace(',', "\", \"")
    )
}
