//! Lookups on a cluster: one snapshot for a batch whoever dies, and what happens without the database.
//!
//! The oracle is a map made of `psql`'s answer, and the manifests: nothing of the lookup is used here.

use std::collections::BTreeMap;

use millrace_loadtest::fetch::{Access, fetch};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use serde_json::Value;

use crate::sandbox::Sandbox;

const SOURCE: &str = r#"s3: {url: "s3://millrace/raw/shop/", format: json}"#;

/// A lookup's YAML, with more in it.
fn lookup(sandbox: &Sandbox, more: &str) -> String {
    let dsn = sandbox.warehouse_dsn();
    format!(
        "enrich: [{{name: customers, from: {{postgres: {{dsn: \"{dsn}\", table: customers}}}}, key: {{user_id: id}}, add: {{segment: segment}}{more}}}]"
    )
}

/// Every user number of the generator in three gets a segment of this generation.
fn customers(sandbox: &Sandbox, generation: &str) {
    sandbox.sql(&format!(
        "BEGIN; CREATE TABLE IF NOT EXISTS customers (id bigint PRIMARY KEY, segment text); TRUNCATE customers;
         INSERT INTO customers SELECT 100000 + ((rank::bigint * 10368889) & 16777215), '{generation} ' || rank % 9
         FROM generate_series(0, 20000, 3) rank; COMMIT"
    ));
}

fn segments(sandbox: &Sandbox) -> BTreeMap<i64, String> {
    let rows = sandbox.sql("SELECT id, segment FROM customers");
    let pair = |row: &String| {
        let (id, segment) = row.split_once('|').unwrap();
        (id.parse().unwrap(), segment.to_owned())
    };
    rows.iter().map(pair).collect()
}

/// A row's user and segment.
type Row = (Option<i64>, Option<String>);

/// By batch: its manifest, and its rows.
fn batches(sandbox: &Sandbox) -> Vec<(Value, Vec<Row>)> {
    let access = Access {
        endpoint: Some(sandbox.s3().to_owned()),
        keys: Some(("millrace".to_owned(), "millrace-local-only".to_owned())),
    };
    let lake = fetch("s3://millrace/shop", &access).unwrap();
    let pattern = lake.folder().join("manifests/*.json");
    let manifests = glob::glob(pattern.to_str().unwrap()).unwrap().flatten();
    let read = |path| {
        let manifest: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let files = manifest["files"].as_array().unwrap().iter();
        let keys = files.map(|file| file["object"]["key"].as_str().unwrap().to_owned());
        let rows = keys.flat_map(|key| rows(&lake.folder().join(key))).collect();
        (manifest, rows)
    };
    let mut batches: Vec<_> = manifests.map(read).collect();
    batches.retain(|(manifest, _)| !manifest["splits"].as_array().unwrap().is_empty());
    batches
}

fn rows(path: &std::path::Path) -> Vec<Row> {
    let reader = SerializedFileReader::new(std::fs::File::open(path).unwrap()).unwrap();
    let rows = reader.get_row_iter(None).unwrap();
    let row = |row: parquet::record::Row| {
        let (mut user, mut segment) = (None, None);
        for (name, field) in row.get_column_iter() {
            match (name.as_str(), field) {
                ("user_id", Field::Long(id)) => user = Some(*id),
                ("segment", Field::Str(text)) => segment = Some(text.clone()),
                _ => {}
            }
        }
        (user, segment)
    };
    rows.map(|one| row(one.unwrap())).collect()
}

fn assert_joined(rows: &[Row], segments: &BTreeMap<i64, String>) {
    for (user, segment) in rows {
        let expected = user.and_then(|user| segments.get(&user));
        assert_eq!(segment.as_ref(), expected, "{user:?}");
    }
    let found = rows.iter().filter(|(_, segment)| segment.is_some()).count();
    assert!(found > 0 && found < rows.len(), "{found} of {}", rows.len());
}

#[test]
fn a_batch_of_a_dead_leader_looks_up_in_its_snapshot_and_the_next_in_the_changed_table() {
    let mut sandbox = Sandbox::start(1, 0).with_warehouse();
    sandbox.coordinator("mortal", &[("MILLRACE_CRASH_AT", "planned:2")]);
    for worker in ["worker-1", "worker-2"] {
        sandbox.worker(worker, &[]);
    }
    sandbox.has_workers(2);
    sandbox.upload("shop", 14_000, 81);
    customers(&sandbox, "old");
    let old = segments(&sandbox);
    sandbox.apply_with("shop", SOURCE, &lookup(&sandbox, ""));
    let job = sandbox.submit("shop", &[]);
    assert_eq!(sandbox.ended("mortal"), Some(9), "the fault did not happen");
    customers(&sandbox, "new");
    let new = segments(&sandbox);
    sandbox.coordinator("heir", &[]);
    let done = sandbox.done(&job);
    assert_eq!(done["events_read"], 14_000, "{done}");
    sandbox.judge("shop", "shop");

    let batches = batches(&sandbox);
    assert!(batches.len() > 2, "{}", batches.len());
    let mut unmatched = 0;
    for (i, (manifest, rows)) in batches.iter().enumerate() {
        assert_joined(rows, if i < 2 { &old } else { &new });
        let snapshot = &manifest["enrich"][0]["object"]["key"];
        assert_eq!(
            snapshot == &batches[0].0["enrich"][0]["object"]["key"],
            i < 2,
            "{snapshot}"
        );
        assert!(snapshot.as_str().unwrap().ends_with(".sealed"), "{snapshot}");
        unmatched += manifest["unmatched"]["customers"].as_u64().unwrap();
    }
    let strangers = batches.iter().flat_map(|(_, rows)| rows);
    let strangers = strangers.filter(|(user, segment)| user.is_some() && segment.is_none());
    assert!(unmatched >= strangers.count() as u64, "{unmatched}");
}

#[test]
fn a_task_of_a_dead_worker_looks_up_in_the_same_snapshot_elsewhere() {
    let (sandbox, _proxy) = Sandbox::with_one_held(1, 2);
    let mut sandbox = sandbox.with_warehouse();
    sandbox.upload("shop", 8_000, 85);
    customers(&sandbox, "old");
    let old = segments(&sandbox);
    sandbox.apply_with("shop", SOURCE, &lookup(&sandbox, ""));
    let job = sandbox.submit("shop", &[]);
    sandbox.at_work("worker-2");
    customers(&sandbox, "new");
    let new = segments(&sandbox);
    sandbox.kill("worker-2");
    sandbox.done(&job);
    sandbox.judge("shop", "shop");
    let batches = batches(&sandbox);
    assert!(batches.len() > 1, "{}", batches.len());
    for (i, (_, rows)) in batches.iter().enumerate() {
        assert_joined(rows, if i == 0 { &old } else { &new });
    }
}

#[test]
fn without_the_database_the_last_snapshot_is_used_and_alarmed_or_the_job_waits() {
    let mut sandbox = Sandbox::start(1, 0).with_warehouse().with(1, 1);
    for (name, seed) in [("one", 82), ("two", 83), ("three", 84)] {
        sandbox.upload(name, 2_000, seed);
    }
    let submit = |sandbox: &Sandbox, name: &str| {
        let prefix = format!("s3://millrace/raw/{name}/");
        sandbox.submit("shop", &["--prefix", &prefix])
    };
    customers(&sandbox, "old");
    let known = segments(&sandbox);
    sandbox.apply_with("shop", SOURCE, &lookup(&sandbox, ", max_age: 0s"));
    sandbox.done(&submit(&sandbox, "one"));
    sandbox.crash_warehouse();
    sandbox.done(&submit(&sandbox, "two"));
    let alarms = sandbox.logged("coordinator-1", "the last snapshot is used, and it is too old");
    assert!(alarms > 0, "nobody was told");
    let age = "millrace_enrich_snapshot_age_seconds{pipeline=\"shop\",lookup=\"customers\"}";
    let first = sandbox.metric("coordinator-1", age).unwrap();
    sandbox.until("its age grows", |sandbox| {
        (sandbox.metric("coordinator-1", age)? > first).then_some(())
    });
    let failures = "millrace_enrich_failures_total{pipeline=\"shop\",lookup=\"customers\"}";
    assert!(sandbox.metric("coordinator-1", failures).unwrap() >= 1.0);

    sandbox.apply_with("shop", SOURCE, &lookup(&sandbox, ", on_down: wait"));
    let job = submit(&sandbox, "three");
    sandbox.until("the job waits", |sandbox| {
        let job = sandbox.try_json(&["job", "show", &job])?;
        (job["progress"]["phase"] == "waiting for customers").then_some(())
    });
    let waiting = "millrace_enrich_waiting{pipeline=\"shop\",lookup=\"customers\"}";
    assert_eq!(sandbox.metric("coordinator-1", waiting), Some(1.0));
    sandbox.restart_warehouse();
    let done = sandbox.done(&job);
    assert_eq!(done["events_read"], 2_000, "{done}");
    assert_eq!(sandbox.metric("coordinator-1", waiting), Some(0.0));
    for (_, rows) in batches(&sandbox) {
        assert_joined(&rows, &known);
    }
    sandbox.verify("shop");
}
