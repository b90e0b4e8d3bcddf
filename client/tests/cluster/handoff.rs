//! The handoff of a cluster: rows in the warehouse are the rows in the manifests, whatever fails between.

use millrace_loadtest::proxy::Fault;
use serde_json::Value;

use crate::inputs::topic;
use crate::sandbox::{Sandbox, producer};

const SOURCE: &str = r#"s3: {url: "s3://millrace/raw/shop/", format: json}"#;

/// States of a pipeline's batches.
fn states(sandbox: &Sandbox, pipeline: &str) -> Vec<String> {
    let status = sandbox.handoff_status(pipeline);
    let batches = status["batches"].as_array().unwrap().iter();
    batches
        .map(|batch| batch["state"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_jobs_batches_are_in_the_warehouse_once_and_the_command_tells() {
    let sandbox = Sandbox::start(1, 0).with_warehouse().with(1, 2);
    sandbox.upload("shop", 20_000, 51);
    sandbox.apply_with("shop", SOURCE, &sandbox.table_yaml("shop"));
    let job = sandbox.submit("shop", &[]);
    sandbox.done(&job);
    let batches = sandbox.has_loaded("shop", &job);
    assert!(batches > 1, "{batches}");
    sandbox.judge("shop", "shop");
    sandbox.judge_warehouse("shop", "shop");
    let states = states(&sandbox, "shop");
    assert_eq!(
        states,
        vec!["loaded"; usize::try_from(batches).unwrap()],
        "{states:?}"
    );
    let load = sandbox.millrace(&["handoff", "load", "shop"]);
    assert!(String::from_utf8_lossy(&load.stderr).contains("load by themselves"));
    let report = sandbox.millrace(&["warehouse", "report", "shop", "--output", "json"]);
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    assert_eq!(
        (&report["exists"], &report["waiting"]),
        (&true.into(), &0.into()),
        "{report}"
    );
    assert!(
        report["facts"]["days ahead"] != "0" && report["table"] == "analytics.shop",
        "{report}"
    );
    let rows = sandbox.metric("coordinator-1", "millrace_handoff_rows_total{pipeline=\"shop\"}");
    let there: f64 = sandbox.sql("SELECT count(*) FROM analytics.shop")[0]
        .parse()
        .unwrap();
    assert_eq!(rows, Some(there));
}

#[test]
fn a_job_that_is_handed_off_whole_is_one_transaction_at_its_end() {
    let (sandbox, proxy) = Sandbox::with_one_held(1, 2);
    let sandbox = sandbox.with_warehouse();
    sandbox.upload("shop", 20_000, 52);
    let more = format!("{}\nhandoff: job", sandbox.table_yaml("shop"));
    sandbox.apply_with("shop", SOURCE, &more);
    let job = sandbox.submit("shop", &[]);
    sandbox.at_work("worker-2");
    proxy.set(Fault::None, 1);
    sandbox.done(&job);
    let batches = sandbox.has_loaded("shop", &job);
    assert!(batches > 1, "{batches}");
    // One transaction has one time, and the job's end was before it.
    let times = sandbox.sql("SELECT count(DISTINCT loaded_at), min(loaded_at) FROM analytics.millrace_loads");
    assert!(times[0].starts_with("1|"), "{times:?}");
    let end = sandbox.job(&job)["end_time"].as_str().unwrap().to_owned();
    let after = sandbox.sql(&format!(
        "SELECT bool_and(loaded_at >= '{end}') FROM analytics.millrace_loads"
    ));
    assert_eq!(after, ["t"], "{times:?}, the job ended at {end}");
    sandbox.judge_warehouse("shop", "shop");
}

#[test]
fn a_warehouse_that_crashes_under_a_follow_job_misses_nothing_and_the_lake_goes_on() {
    let mut sandbox = Sandbox::start(1, 1).with_warehouse().with(1, 2);
    sandbox.apply_with("shop", &topic(&sandbox, "shop"), &sandbox.table_yaml("shop"));
    let (folder, brokers) = (sandbox.path("shop"), sandbox.kafka());
    let sending = std::thread::spawn(move || producer(folder, brokers, "shop", 40_000, 53, Some(4_000)));
    sandbox.has_topic("shop");
    let job = sandbox.submit("shop", &["--follow", "--interval", "1s"]);
    sandbox.until("a batch is loaded", |sandbox| {
        (sandbox.batches_loaded("shop")? > 0).then_some(())
    });
    sandbox.crash_warehouse();
    let committed = sandbox.job(&job)["batches"].as_u64().unwrap();
    sandbox.until("the lake goes on", |sandbox| {
        (sandbox.job(&job)["batches"].as_u64()? >= committed + 2).then_some(())
    });
    let metric = |sandbox: &Sandbox, name: &str| {
        sandbox.metric(
            "coordinator-1",
            &format!("millrace_handoff_{name}{{pipeline=\"shop\"}}"),
        )
    };
    sandbox.until("batches wait", |sandbox| {
        (metric(sandbox, "waiting_batches")? >= 2.0).then_some(())
    });
    sandbox.until("the lag is told", |sandbox| {
        (metric(sandbox, "lag_seconds")? > 1.0).then_some(())
    });
    sandbox.until("the lag is alarmed", |sandbox| {
        (sandbox.logged("coordinator-1", "behind its service level") > 0).then_some(())
    });
    sandbox.restart_warehouse();
    let sent = sending.join().unwrap();
    sandbox.has_read(&job, sent.recipe.events);
    sandbox.has_loaded("shop", &job);
    sandbox.until("nothing waits any more", |sandbox| {
        (metric(sandbox, "waiting_batches")? == 0.0 && metric(sandbox, "lag_seconds")? == 0.0).then_some(())
    });
    sandbox.until("the alarm is over", |sandbox| {
        (sandbox.logged("coordinator-1", "within its service level again") > 0).then_some(())
    });
    sandbox.json(&["job", "cancel", &job]);
    sandbox.judge("shop", "shop");
    sandbox.judge_warehouse("shop", "shop");
}

#[test]
fn leaders_may_die_in_every_step_of_a_load() {
    let mut sandbox = Sandbox::start(1, 0).with_warehouse();
    sandbox.upload("shop", 20_000, 54);
    let moments = ["loading", "claimed", "copied", "loaded"];
    sandbox.coordinator(moments[0], &[("MILLRACE_CRASH_AT", moments[0])]);
    let mut sandbox = sandbox.with(0, 2);
    sandbox.apply_with("shop", SOURCE, &sandbox.table_yaml("shop"));
    let job = sandbox.submit("shop", &[]);
    for (at, moment) in moments.iter().enumerate() {
        // The next one is there before this one dies, so that its lease is all that is waited for. Whichever of two
        // leads first, each dies in its step; the heir comes last, or it would take the lead from one of them for good.
        if let Some(next) = moments.get(at + 1) {
            sandbox.coordinator_begins(next, &[("MILLRACE_CRASH_AT", next)]);
        }
        assert_eq!(sandbox.ended(moment), Some(9), "{moment} did not happen");
    }
    sandbox.coordinator("heir", &[]);
    let done = sandbox.done(&job);
    assert_eq!(done["events_read"], 20_000, "{done}");
    sandbox.has_loaded("shop", &job);
    sandbox.judge("shop", "shop");
    sandbox.judge_warehouse("shop", "shop");
}

#[test]
fn a_leader_that_freezes_in_its_load_and_wakes_beside_the_next_one_loads_nothing_twice() {
    let mut sandbox = Sandbox::start(1, 0).with_warehouse();
    sandbox.upload("shop", 20_000, 55);
    sandbox.coordinator("first", &[("MILLRACE_CRASH_AT", "copied:1:STOP")]);
    assert_eq!(sandbox.leader().0, "first");
    sandbox.coordinator("second", &[]);
    let sandbox = sandbox.with(0, 2);
    sandbox.apply_with("shop", SOURCE, &sandbox.table_yaml("shop"));
    let job = sandbox.submit("shop", &[]);
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'millrace shop' AND wait_event_type = 'Lock'";
    sandbox.until("the second one waits for the load of the first one", |sandbox| {
        (sandbox.try_sql(waits)?.first()? == "1").then_some(())
    });
    sandbox.signal("first", "CONT");
    sandbox.until("the first one knows that it was taken over", |sandbox| {
        (sandbox.logged("first", "no longer leads") > 0).then_some(())
    });
    let done = sandbox.done(&job);
    assert_eq!(done["events_read"], 20_000, "{done}");
    sandbox.has_loaded("shop", &job);
    sandbox.judge("shop", "shop");
    sandbox.judge_warehouse("shop", "shop");
}

#[test]
fn held_batches_are_listed_and_released_or_discarded_with_a_reason() {
    let sandbox = Sandbox::start(1, 0).with_warehouse().with(2, 2);
    sandbox.upload("shop", 20_000, 56);
    let more = sandbox
        .table_yaml("shop")
        .replace("minimum_clean: 0.5", "minimum_clean: 1.0");
    sandbox.apply_with("shop", SOURCE, &more);
    let job = sandbox.done(&sandbox.submit("shop", &[]));
    let held = sandbox.json(&["handoff", "status", "shop", "--state", "held"]);
    let held: Vec<Value> = held["batches"].as_array().unwrap().clone();
    assert!(held.len() > 2, "{job}");
    assert_eq!(job["batches_held"], held.len());
    let name = |batch: &Value| batch["batch"].as_str().unwrap().to_owned();
    let decide = |verb: &str, batch: &str| {
        sandbox.millrace(&["handoff", verb, "shop", batch, "--reason", "looked at it"])
    };
    let (discarded, released) = held.split_first().unwrap();
    assert!(decide("discard", &name(discarded)).status.success());
    for batch in released {
        assert!(decide("release", &name(batch)).status.success());
    }
    // The first decision stands, and saying it again is no other one.
    assert!(decide("discard", &name(discarded)).status.success());
    let late = decide("release", &name(discarded));
    let said = String::from_utf8_lossy(&late.stderr).into_owned();
    assert!(
        !late.status.success() && said.contains("was discarded by"),
        "{said}"
    );
    let rows: u64 = released.iter().map(|batch| batch["rows"].as_u64().unwrap()).sum();
    sandbox.until("what was released is loaded", |sandbox| {
        let count = sandbox.try_sql("SELECT count(*) FROM analytics.shop")?;
        (count.first()?.parse::<u64>().ok()? == rows).then_some(())
    });
    let status = sandbox.handoff_status("shop");
    let first = &status["batches"][0];
    assert_eq!(
        (&first["state"], &first["decision"]["reason"]),
        (&Value::from("discarded"), &Value::from("looked at it")),
        "{status}"
    );
    let (leader, _) = sandbox.leader();
    let audited = |what: &str| sandbox.logged(&leader, what);
    assert_eq!(
        audited("ReleaseBatch"),
        held.len(),
        "one for each release, one for the refused one"
    );
    assert_eq!(audited("looked at it"), held.len() + 2, "each with its reason");
}
