//! Quarantine of a pipeline that a cluster runs: listed, shown where it may be, and read again by a job.

use serde_json::Value;

use crate::sandbox::Sandbox;

const SOURCE: &str = r#"s3: {url: "s3://millrace/raw/shop/", format: json}"#;
const EVENTS: u64 = 5_000;
const WRONG: (&str, &str) = (
    "{name: event_time, type: timestamp, required: true,",
    "{name: event_time, type: timestamp, required: true, from: no_such_field,",
);

#[test]
fn a_mended_pipeline_takes_back_what_it_rejected_once_through_two_dead_leaders() {
    let mut sandbox = Sandbox::cluster(1, 1);
    sandbox.upload("shop", EVENTS, 51);
    sandbox.apply_changed("shop", SOURCE, WRONG);
    let done = sandbox.done(&sandbox.submit("shop", &[]));
    assert_eq!(
        (&done["events_read"], &done["events_written"]),
        (&EVENTS.into(), &0.into())
    );

    let listed = sandbox.json(&["quarantine", "list", "shop", "--limit", "7"]);
    assert_eq!(listed["quarantined"], EVENTS);
    let events = listed["events"].as_array().unwrap();
    assert_eq!(events.len(), 7);
    assert!(
        events
            .iter()
            .all(|event| event["sealed"] == true && event["reasons"][0]["kind"].is_string())
    );
    let shown = |more: &[&str]| sandbox.json(&[&["quarantine", "show", "shop", "2"], more].concat());
    let sealed = shown(&[]);
    assert_eq!(
        (&sealed["offset"], &sealed["payload"]),
        (&events[1]["offset"], &().into())
    );
    let clear = shown(&["--environment", "prod"]);
    assert!(clear["payload"].as_str().unwrap().contains("event"), "{clear}");
    let beyond = sandbox.millrace(&["quarantine", "show", "shop", "999999"]);
    assert!(String::from_utf8_lossy(&beyond.stderr).contains("there is no event 999999"));

    // Its positions planned, and nothing written; then its manifest put, and the ledger not told.
    sandbox.kill("coordinator-1");
    sandbox.coordinator("mortal-1", &[("MILLRACE_CRASH_AT", "planned:1")]);
    sandbox.apply("shop", SOURCE);
    let job = sandbox.json(&["quarantine", "redrive", "shop"]);
    let job = job["job"].as_str().unwrap().to_owned();
    assert_eq!(sandbox.ended("mortal-1"), Some(9), "the fault did not happen");
    sandbox.coordinator_begins("mortal-2", &[("MILLRACE_CRASH_AT", "published:1")]);
    assert_eq!(sandbox.ended("mortal-2"), Some(9), "the fault did not happen");
    sandbox.coordinator("heir", &[]);
    let done = sandbox.done(&job);
    assert_eq!(done["events_read"], EVENTS, "{done}");
    same(&sandbox, &done);

    let again = sandbox.json(&["quarantine", "redrive", "shop", "--wait"]);
    assert_eq!(
        (&again["state"], &again["events_written"]),
        (&"succeeded".into(), &0.into()),
        "{again}"
    );
    same(&sandbox, &done);
}

/// Every good event is in the lake once, and just the broken ones are in quarantine: the checker compares with what was
/// sent, but does not know which quarantine files a redrive has used up.
fn same(sandbox: &Sandbox, done: &Value) {
    let verdict = sandbox.compare("shop", "shop");
    let events = &verdict.events;
    let wrong = [&events.missing, &events.repeated, &events.unknown];
    assert!(wrong.iter().all(|wrong| wrong.count == 0), "{events:?}");
    let broken = verdict.quarantine.expected;
    assert_eq!(verdict.quarantine.missing.count, 0);
    let left = sandbox.json(&["quarantine", "list", "shop"]);
    assert_eq!(
        (&left["quarantined"], &done["quarantined"]),
        (&broken.into(), &broken.into())
    );
    sandbox.verify("shop");
}
