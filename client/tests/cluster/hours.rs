//! Event hours: when they are complete, and that their files become few, whoever leads.

use millrace_loadtest::proxy::{Fault, Proxy};
use serde_json::Value;

use crate::inputs::topic;
use crate::sandbox::Sandbox;

const SOURCE: &str = r#"s3: {url: "s3://millrace/raw/shop/", format: json}"#;

fn hours(sandbox: &Sandbox, pipeline: &str) -> Value {
    sandbox.json(&["job", "list", "--hours", pipeline, "--limit", "1000"])
}

/// Waits until every hour of a pipeline is compacted; what is told of them then.
fn compacted(sandbox: &Sandbox, pipeline: &str) -> Value {
    sandbox.until("every hour is compacted", |sandbox| {
        let told = hours(sandbox, pipeline);
        let all = told["hours"].as_array()?;
        let done = all.iter().all(|hour| hour["state"] == "compacted");
        (done && !all.is_empty()).then_some(told)
    })
}

fn sum(told: &Value, what: &str) -> u64 {
    let hours = told["hours"].as_array().unwrap();
    hours.iter().map(|hour| hour[what].as_u64().unwrap()).sum()
}

#[test]
fn hours_of_a_topic_are_complete_when_nothing_is_left_and_are_compacted_while_it_is_followed() {
    let sandbox = Sandbox::start(1, 1).with(1, 2);
    let sent = sandbox.produce("shop", 30_000, 51, None);
    sandbox.apply("shop", &topic(&sandbox, "shop"));
    let job = sandbox.submit("shop", &["--follow", "--interval", "1s"]);
    sandbox.has_read(&job, sent.recipe.events);
    let told = compacted(&sandbox, "shop");
    let seen = sandbox.job(&job);
    assert_eq!(
        sum(&told, "events_written"),
        seen["events_written"].as_u64().unwrap()
    );
    let partitions = told["partitions"].as_array().unwrap();
    assert_eq!(partitions.len(), 4, "{told}");
    assert!(
        partitions.iter().all(|one| one["watermark"].is_string()),
        "{told}"
    );
    let files = sum(&told, "files");
    let folders = sandbox.json(&[
        "query",
        "SELECT count(*) AS n FROM (SELECT DISTINCT date, hour, source FROM shop)",
        "--pipeline",
        "shop",
    ]);
    assert_eq!(folders[0]["n"].as_u64(), Some(files), "{told}");
    sandbox.judge("shop", "shop");
}

/// The compaction that a dead leader left behind is finished by the next one, once.
#[test]
fn a_leader_may_die_while_it_compacts() {
    let mut sandbox = Sandbox::start(1, 0);
    sandbox.upload("shop", 12_000, 52);
    sandbox.coordinator("probe", &[]);
    let mut sandbox = sandbox.with(0, 2);
    sandbox.apply("probe", SOURCE);
    let probe = sandbox.submit("probe", &[]);
    let batches = sandbox.done(&probe)["batches"].as_u64().unwrap();
    sandbox.signal("probe", "TERM");
    sandbox.ended("probe");
    for moment in ["written", "published"] {
        let (mortal, heir) = (format!("mortal-{moment}"), format!("heir-{moment}"));
        // The first compaction comes after the job's own batches.
        let crash = format!("{moment}:{}", batches + 1);
        sandbox.coordinator(&mortal, &[("MILLRACE_CRASH_AT", &crash)]);
        sandbox.has_workers(2);
        sandbox.apply(moment, SOURCE);
        sandbox.submit(moment, &[]);
        assert_eq!(sandbox.ended(&mortal), Some(9), "the fault did not happen");
        sandbox.coordinator(&heir, &[]);
        sandbox.has_workers(2);
        let again = sandbox.done(&sandbox.submit(moment, &[]));
        let told = compacted(&sandbox, moment);
        assert!(sum(&told, "files") > 0, "{again} {told}");
        sandbox.judge(moment, "shop");
        sandbox.signal(&heir, "TERM");
        sandbox.ended(&heir);
    }
}

/// Nobody submits a job afterwards that would bring the pipeline's lane back.
#[test]
fn a_compaction_that_failed_is_tried_again_by_itself() {
    let mut sandbox = Sandbox::start(1, 0);
    sandbox.upload("shop", 12_000, 53);
    let proxy = Proxy::start(sandbox.s3()).unwrap();
    // Of the leader's calls only those of compactions are about data files.
    proxy.set_for(Fault::Forbidden, "/data/");
    sandbox.coordinator("leader", &[("AWS_ENDPOINT_URL", &proxy.endpoint())]);
    let sandbox = sandbox.with(0, 2);
    sandbox.apply("shop", SOURCE);
    sandbox.done(&sandbox.submit("shop", &[]));
    sandbox.until("a compaction failed twice", |sandbox| {
        (sandbox.logged("leader", "a compaction failed") > 1).then_some(())
    });
    proxy.set(Fault::None, 1);
    let told = compacted(&sandbox, "shop");
    assert!(sum(&told, "files") > 0, "{told}");
    sandbox.judge("shop", "shop");
}
