//! What is too old leaves, what is held stays, and a person is erased, while jobs go on and leaders die.

use std::collections::{BTreeMap, BTreeSet};

use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::Value;

use crate::inputs::topic;
use crate::sandbox::Sandbox;

const SOURCE: &str = r#"s3: {url: "s3://millrace/raw/shop/", format: json}"#;
/// 2020-01-01T00:00:00Z: long over, whatever the clock says.
const OLD_MS: u64 = 1_577_836_800_000;

/// Seconds that a command has to find the next leader on a machine that is busy.
const PATIENCE: &str = "120";

/// Column `what` of the shop's events by id.
fn by_id(sandbox: &Sandbox, what: &str) -> BTreeMap<String, String> {
    let sql = format!("SELECT event_id, CAST({what} AS VARCHAR) AS what FROM shop");
    let rows = sandbox.json(&["query", &sql, "--pipeline", "shop"]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let rows = rows.as_array().unwrap().iter();
    rows.map(|row| (text(&row["event_id"]), text(&row["what"])))
        .collect()
}

fn in_warehouse(sandbox: &Sandbox) -> BTreeSet<String> {
    sandbox
        .sql("SELECT event_id FROM analytics.shop")
        .into_iter()
        .collect()
}

/// The leader dies in the warehouse's transaction, with the lake's expiry committed: the next one does the rest.
#[test]
fn old_hours_leave_beside_a_follow_job_a_held_one_stays_and_a_leader_may_die_in_it() {
    let mut sandbox = Sandbox::start(1, 1).with_warehouse();
    sandbox.coordinator("mortal", &[("MILLRACE_CRASH_AT", "deleted")]);
    let mut sandbox = sandbox.with(0, 2);
    let sent = sandbox.produce_at("shop", 15_000, 61, OLD_MS, 5.0);
    let more = format!(
        "{}\nretention: {{lake: 30d, warehouse: 10d}}",
        sandbox.table_yaml("shop")
    );
    sandbox.apply_with("shop", &topic(&sandbox, "shop"), &more);
    let follow = sandbox.submit("shop", &["--follow", "--interval", "1s"]);
    sandbox.has_read(&follow, sent.recipe.events);
    sandbox.has_loaded("shop", &follow);
    let before = by_id(&sandbox, "event_time");
    let range = ["--from", "2020-01-01T02:00:00Z", "--to", "2020-01-01T03:00:00Z"];
    let hold = [
        &["retention", "hold", "shop", "--reason", "a court asks"],
        &range[..],
    ]
    .concat();
    assert_eq!(sandbox.json(&hold)["hold"], "h1");
    let held = |at: &String| at.contains("T02:") || at.contains(" 02:");
    let kept: BTreeSet<String> = before
        .iter()
        .filter(|(_, at)| held(at))
        .map(|(id, _)| id.clone())
        .collect();
    assert!(
        kept.len() > 100 && kept.len() < before.len() / 2,
        "{} of {}",
        kept.len(),
        before.len()
    );
    let planned = sandbox.json(&["retention", "plan", "shop"]);
    assert_eq!(planned["waiting"]["rows"], 0, "everything is loaded: {planned}");
    assert_eq!(planned["holds"][0]["reason"], "a court asks");
    let leaving = planned["lake"]["expired"]["rows"].as_u64().unwrap();
    assert_eq!(leaving, (before.len() - kept.len()) as u64, "{planned}");

    sandbox.coordinator("heir", &[]);
    let done = sandbox.json(&["retention", "apply", "shop", "--timeout", PATIENCE]);
    assert_eq!(sandbox.ended("mortal"), Some(9), "the fault did not happen");
    assert_eq!(done["warehouse"]["rows"].as_u64(), Some(leaving), "{done}");
    let left: BTreeSet<String> = by_id(&sandbox, "event_time").into_keys().collect();
    assert_eq!(left, kept);
    assert_eq!(in_warehouse(&sandbox), kept);
    sandbox.verify("shop");
    assert_eq!(sandbox.job(&follow)["state"], "running");
    let removed = sandbox.metric(
        "heir",
        "millrace_removed_rows_total{pipeline=\"shop\",place=\"warehouse\",why=\"expired\"}",
    );
    assert_eq!(removed, Some(leaving as f64));
    let released = sandbox.json(&["retention", "release", "shop", "h1", "--reason", "over"]);
    assert_eq!(released["released"]["reason"], "over");
    sandbox.json(&["retention", "apply", "shop"]);
    assert_eq!(in_warehouse(&sandbox), BTreeSet::new());
    sandbox.verify("shop");
}

/// The leader dies with the old objects deleted and the ledger not told.
#[test]
fn a_person_is_erased_through_a_dead_leader_and_stands_in_no_log() {
    let mut sandbox = Sandbox::start(1, 0);
    sandbox.coordinator("mortal", &[("MILLRACE_CRASH_AT", "swept")]);
    let mut sandbox = sandbox.with(0, 2);
    sandbox.upload("shop", 10_000, 62);
    sandbox.apply("shop", SOURCE);
    sandbox.done(&sandbox.submit("shop", &[]));
    let before = by_id(&sandbox, "email");
    let (email, mask) = somebody(&sandbox, &before);
    let expected: BTreeSet<&String> = before
        .iter()
        .filter(|(_, masked)| **masked != mask)
        .map(|(id, _)| id)
        .collect();
    let hers = before.len() - expected.len();
    let looked = sandbox.json(&["erase", "shop", "--pii-id", &email]);
    assert_eq!(
        (&looked["rows"], &looked["applied"]),
        (&hers.into(), &false.into()),
        "{looked}"
    );

    sandbox.coordinator("heir", &[]);
    let done = sandbox.json(&[
        "erase",
        "shop",
        "--pii-id",
        &email,
        "--column",
        "email",
        "--apply",
        "--timeout",
        PATIENCE,
    ]);
    assert_eq!(sandbox.ended("mortal"), Some(9), "the fault did not happen");
    assert_eq!(done["remaining"], 0, "{done}");
    let after = by_id(&sandbox, "email");
    assert_eq!(after.keys().collect::<BTreeSet<_>>(), expected);
    sandbox.verify("shop");
    let again = sandbox.done(&sandbox.submit("shop", &["--prefix", "s3://millrace/raw/shop/"]));
    assert_eq!(again["events_read"], 0, "{again}");
    for coordinator in ["mortal", "heir"] {
        assert_eq!(
            sandbox.logged(coordinator, &email),
            0,
            "{coordinator} logged the value"
        );
    }
    assert!(sandbox.logged("mortal", looked["subject"].as_str().unwrap()) > 0);
    let jobs = sandbox.json(&["job", "list"]);
    assert!(!jobs.to_string().contains(&email));
}

/// The leader dies when the ledger says that the snapshot is erased, and it lies there still.
#[test]
fn a_person_is_erased_from_copies_through_a_dead_leader_and_the_next_batch_looks_up_anew() {
    let mut sandbox = Sandbox::start(1, 0).with_warehouse();
    sandbox.coordinator("mortal", &[("MILLRACE_CRASH_AT", "forgotten")]);
    let mut sandbox = sandbox.with(0, 2);
    for (name, events) in [("shop", 6_000), ("more", 1_000), ("again", 1_000)] {
        sandbox.upload(name, events, events + 3);
    }
    sandbox.sql(
        "CREATE TABLE contacts (id bigint, address text); INSERT INTO contacts VALUES (2, 'bob@example.com')",
    );
    let more = format!(
        "{}
enrich: [{{name: contacts, from: {{postgres: {{dsn: \"{}\", table: contacts}}}}, key: {{user_id: id}}, add: {{address: address}}}}]
models:
  - {{name: buyers, every: day, sql: \"SELECT email AS buyer, count(*) AS n FROM shop GROUP BY 1\", warehouse: {{table: analytics.buyers}}}}",
        sandbox.table_yaml("shop"),
        sandbox.warehouse_dsn()
    );
    sandbox.apply_with("shop", SOURCE, &more);
    let read = |sandbox: &Sandbox, name: &str| {
        let job = sandbox.submit("shop", &["--prefix", &format!("s3://millrace/raw/{name}/")]);
        sandbox.done(&job);
        sandbox.has_loaded("shop", &job);
    };
    read(&sandbox, "shop");
    let (email, mask) = somebody(&sandbox, &by_id(&sandbox, "email"));
    let without = snapshots(&sandbox);
    // Nobody sends events as this customer: just the snapshot holds the address for it.
    sandbox.sql(&format!("INSERT INTO contacts VALUES (1, '{email}')"));
    read(&sandbox, "more");
    let with = snapshots(&sandbox);
    assert_eq!((without.len(), with.len()), (1, 2));
    let buyers = "SELECT coalesce(buyer, '') || ' ' || n FROM analytics.buyers ORDER BY 1";
    let rows = "SELECT count(DISTINCT email), sum(1) FILTER (WHERE email IS NOT NULL) FROM analytics.shop";
    let all = "SELECT count(buyer), sum(n) FILTER (WHERE buyer IS NOT NULL) FROM analytics.buyers";
    sandbox.until("the model is loaded", |sandbox| {
        (sandbox.try_sql(all)? == sandbox.try_sql(rows)?).then_some(())
    });
    let mut expected = sandbox.sql(buyers);
    let before = expected.len();
    expected.retain(|row| !row.starts_with(&mask));
    assert_eq!(expected.len(), before - 1);
    assert_eq!(
        folders_with(&sandbox, &mask),
        BTreeSet::from(["data", "models"].map(str::to_owned))
    );
    sandbox.sql("DELETE FROM contacts WHERE id = 1; INSERT INTO contacts VALUES (3, 'carol@example.com')");

    sandbox.coordinator("heir", &[]);
    let done = sandbox.json(&[
        "erase",
        "shop",
        "--pii-id",
        &email,
        "--apply",
        "--timeout",
        PATIENCE,
    ]);
    assert_eq!(sandbox.ended("mortal"), Some(9), "the fault did not happen");
    assert_eq!(done["remaining"], 0, "{done}");
    assert!(
        done["copies"].as_u64() >= Some(2),
        "the snapshot and the result: {done}"
    );
    assert_eq!(snapshots(&sandbox), without);
    assert_eq!(folders_with(&sandbox, &mask), BTreeSet::new());
    assert_eq!(sandbox.sql(buyers), expected);
    sandbox.verify("shop");

    read(&sandbox, "again");
    let taken = snapshots(&sandbox);
    assert!(
        taken.len() == 2 && taken.is_superset(&without) && taken != with,
        "{taken:?}"
    );
    sandbox.verify("shop");
    for coordinator in ["mortal", "heir"] {
        assert_eq!(
            sandbox.logged(coordinator, &email),
            0,
            "{coordinator} logged the value"
        );
    }
}

/// Folders of the lake with a Parquet file of which a row has a text.
fn folders_with(sandbox: &Sandbox, text: &str) -> BTreeSet<String> {
    let lake = sandbox.lake("shop");
    let has = |path: &std::path::Path| {
        let reader = SerializedFileReader::new(std::fs::File::open(path).unwrap()).unwrap();
        let mut rows = reader.get_row_iter(None).unwrap();
        rows.any(|row| row.unwrap().to_string().contains(text))
    };
    let mut found = BTreeSet::new();
    for folder in ["data", "models", "quarantine"] {
        let pattern = lake.folder().join(folder).join("**/*.parquet");
        let mut files = glob::glob(pattern.to_str().unwrap()).unwrap().flatten();
        if files.any(|path| has(&path)) {
            found.insert(folder.to_owned());
        }
    }
    found
}

/// Keys of the snapshots that lie in the lake.
fn snapshots(sandbox: &Sandbox) -> BTreeSet<String> {
    let lake = sandbox.lake("shop");
    let pattern = lake.folder().join("enrich/**/*.*");
    let found = glob::glob(pattern.to_str().unwrap()).unwrap().flatten();
    let names = found.map(|path| path.file_name().unwrap().to_string_lossy().into_owned());
    names.collect()
}

/// An address with several events, as it was sent, and its mask.
fn somebody(sandbox: &Sandbox, before: &BTreeMap<String, String>) -> (String, String) {
    let mut times: BTreeMap<&String, usize> = BTreeMap::new();
    for mask in before.values().filter(|mask| !mask.is_empty()) {
        *times.entry(mask).or_default() += 1;
    }
    for entry in std::fs::read_dir(sandbox.path("shop").join("events")).unwrap() {
        for line in std::fs::read_to_string(entry.unwrap().path())
            .unwrap_or_default()
            .lines()
        {
            let Ok(event) = serde_json::from_str::<Value>(line) else {
                continue;
            };
            let mask = event["event_id"].as_str().and_then(|id| before.get(id));
            if let (Some(email), Some(mask)) = (event["email"].as_str(), mask)
                && times.get(mask).is_some_and(|times| *times > 2)
            {
                return (email.to_owned(), mask.clone());
            }
        }
    }
    panic!("nobody has three events")
}
