//! What is too old leaves, nothing else does, and every event is still accounted for, whoever is killed when.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;

use chrono::{DateTime, Duration, Utc};
use millrace_coordinator::lake::Lake;
use millrace_coordinator::retention::apply;
use millrace_pipeline::spec;
use object_store::local::LocalFileSystem;
use serde_json::Value;

use crate::database::Database;
use crate::sandbox::Sandbox;

/// Events of four old hours, two of them in one file, and of this hour; two broken ones.
const OLD: [&str; 4] = ["00:10", "00:50", "01:10", "03:10"];

const PIPELINE: &str = "version: 1
pipeline: orders
source: {files: {path: sent/events, format: json}}
schema:
  - {name: id, type: string, required: true}
  - {name: at, type: timestamp, required: true}
dedup: {key: [id]}
privacy: {clear_in: [prod], hash_key: \"a-key-for-tests-of-retention\"}
partition: {time: at, by: [date, hour]}
lake: {url: ./lake}
";

fn event(id: &str, at: &str) -> String {
    format!("{{\"id\": \"{id}\", \"at\": \"{at}\"}}\n")
}

fn now() -> String {
    Utc::now().to_rfc3339()
}

/// A lake of old and new events, written in two runs.
fn filled(policy: &str) -> Sandbox {
    let sandbox = Sandbox::with_pipeline(&format!("{PIPELINE}retention: {{{policy}}}\n"));
    let mut old = String::new();
    for (n, at) in OLD.iter().enumerate() {
        old.push_str(&event(&format!("old-{n}"), &format!("2020-01-01T{at}:00Z")));
    }
    old.push_str("{\"id\": \"broken\"}\n");
    sandbox.input("old.json", old);
    sandbox.run(&[]);
    sandbox.input("new.json", event("new", &now()) + "{\"at\": \"never\"}\n");
    sandbox.run(&[]);
    sandbox
}

fn asked(sandbox: &Sandbox, command: &[&str], more: &[&str]) -> Value {
    let more = [&["--output", "json"], more].concat();
    let output = sandbox.command(command, &more).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said}"))
}

fn plan(sandbox: &Sandbox) -> Value {
    asked(sandbox, &["retention", "plan"], &[])
}

fn let_go(sandbox: &Sandbox) -> Value {
    asked(sandbox, &["retention", "apply"], &[])
}

fn ids(sandbox: &Sandbox) -> BTreeSet<String> {
    sandbox.rows().iter().map(|row| row["id"].clone()).collect()
}

fn only_new(sandbox: &Sandbox, when: &str) {
    assert_eq!(ids(sandbox), BTreeSet::from(["new".to_owned()]), "{when}");
    assert_eq!(sandbox.verify(), Vec::<String>::new(), "{when}");
}

#[test]
fn old_hours_leave_new_ones_stay_and_a_repeat_of_what_left_is_still_a_repeat() {
    let mut sandbox = filled("lake: 30d");
    let all = ids(&sandbox);
    let planned = plan(&sandbox);
    let expired = &planned["lake"]["expired"];
    assert_eq!(
        (&expired["rows"], &expired["spans"], &expired["files"]),
        (&4.into(), &3.into(), &3.into())
    );
    assert_eq!(planned["lake"]["hours"][0]["rows"], 2, "{planned}");
    assert_eq!(ids(&sandbox), all, "a plan changes nothing");
    let objects = sandbox.objects("");
    plan(&sandbox);
    assert_eq!(sandbox.objects(""), objects, "not even the ledger");

    let done = let_go(&sandbox);
    assert_eq!(
        (&done["lake"]["expired"], &done["batches"]),
        (expired, &1.into()),
        "{done}"
    );
    only_new(&sandbox, "after an expiry");
    let verdict = asked(&sandbox, &["verify"], &[]);
    assert_eq!(verdict["expired"]["rows"], 4, "{verdict}");
    assert_eq!(
        (&verdict["events"]["written"], &verdict["erased"]["rows"]),
        (&5.into(), &0.into())
    );
    let again = let_go(&sandbox);
    assert_eq!(
        (&again["batches"], &again["lake"]["expired"]["rows"]),
        (&0.into(), &0.into())
    );

    // The files stay for whoever reads them, for a day as a rule.
    assert_eq!(sandbox.objects("data").len(), 4);
    sandbox.set_pipeline(&format!("{PIPELINE}retention: {{lake: 30d, replaced: 1s}}\n"));
    std::thread::sleep(std::time::Duration::from_millis(1100)); // what `replaced` says
    assert_eq!(let_go(&sandbox)["deleted_files"], 3);
    assert_eq!(sandbox.objects("data").len(), 1);
    only_new(&sandbox, "after the old files are gone");

    // The same events under another name, and one of an expired hour that was never there.
    let text = std::fs::read_to_string(sandbox.path("sent/events/old.json")).unwrap();
    sandbox.input("again.json", text + &event("late", "2020-01-01T00:30:00Z"));
    let run = sandbox.run(&[]);
    assert_eq!(
        (&run["events_written"], &run["duplicates"]),
        (&1.into(), &4.into()),
        "{run}"
    );
    assert_eq!(let_go(&sandbox)["lake"]["expired"]["rows"], 1);
    only_new(&sandbox, "after a late event has expired too");
    asked(&sandbox, &["compact"], &[]);
    only_new(&sandbox, "after a compaction of what is left");
}

/// Until then it is a repeat. Its new copy leaves like any other event.
#[test]
fn a_repeat_that_comes_after_its_keys_have_left_is_a_new_event() {
    let sandbox = filled("lake: 30d, keys: 60d, replaced: 1s");
    let keys = |sandbox: &Sandbox| sandbox.objects("keys").len();
    let planned = plan(&sandbox);
    let expired = &planned["keys"]["expired"];
    assert_eq!(
        (&expired["rows"], &expired["spans"], &expired["files"]),
        (&4.into(), &3.into(), &3.into()),
        "{planned}"
    );
    let before = keys(&sandbox);
    let done = let_go(&sandbox);
    assert_eq!(
        (&done["keys"]["expired"], &done["batches"]),
        (expired, &1.into()),
        "{done}"
    );
    only_new(&sandbox, "after the keys have left");
    let verdict = asked(&sandbox, &["verify"], &[]);
    assert_eq!(
        (&verdict["expired"]["rows"], &verdict["expired"]["keys"]),
        (&4.into(), &4.into()),
        "{verdict}"
    );
    std::thread::sleep(std::time::Duration::from_millis(1100)); // what `replaced` says
    assert_eq!(let_go(&sandbox)["deleted_files"], 6, "data and keys");
    assert_eq!(keys(&sandbox), before - 3);

    let text = std::fs::read_to_string(sandbox.path("sent/events/old.json")).unwrap();
    sandbox.input("again.json", text.clone());
    let run = sandbox.run(&[]);
    assert_eq!(
        (&run["events_written"], &run["duplicates"]),
        (&4.into(), &0.into()),
        "{run}"
    );
    assert_eq!(sandbox.verify(), Vec::<String>::new());
    sandbox.input("once-more.json", text);
    assert_eq!(sandbox.run(&[])["duplicates"], 4, "it is known again");
    assert_eq!(let_go(&sandbox)["keys"]["expired"]["rows"], 4);
    only_new(&sandbox, "after the new copies have expired too");
    asked(&sandbox, &["compact"], &[]);
    only_new(&sandbox, "after a compaction of what is left");
}

/// What a repeat would stand beside keeps its keys: here the data is under legal hold.
#[test]
fn keys_stay_for_as_long_as_data_of_their_hour_does() {
    let sandbox = filled("lake: 30d, keys: 30d");
    let range = ["--from", "2020-01-01T01:00:00Z", "--to", "2020-01-01T01:30:00Z"];
    let hold = [&range[..], &["--reason", "a court asks"]].concat();
    asked(&sandbox, &["retention", "hold"], &hold);
    let done = let_go(&sandbox);
    assert_eq!(
        (&done["lake"]["expired"]["rows"], &done["keys"]["expired"]["rows"]),
        (&3.into(), &3.into()),
        "{done}"
    );
    let text = std::fs::read_to_string(sandbox.path("sent/events/old.json")).unwrap();
    sandbox.input("again.json", text);
    let run = sandbox.run(&[]);
    assert_eq!(
        (&run["events_written"], &run["duplicates"]),
        (&3.into(), &1.into()),
        "{run}"
    );
    assert_eq!(sandbox.verify(), Vec::<String>::new());
}

/// Also a run comes across what a killed expiry left.
#[test]
fn a_kill_at_each_step_of_an_expiry_changes_nothing() {
    for moment in ["opened", "planned", "written", "published", "committed", "swept"] {
        for next_is_a_run in [false, true] {
            let sandbox = filled("lake: 30d, keys: 30d, replaced: 1s");
            let before = ids(&sandbox);
            if moment == "swept" {
                let_go(&sandbox);
                std::thread::sleep(std::time::Duration::from_millis(1100)); // what `replaced` says
            }
            let mut command = sandbox.command(&["retention", "apply"], &[]);
            let crashed = command.env("MILLRACE_CRASH_AT", moment).output().unwrap();
            assert_eq!(
                crashed.status.signal(),
                Some(9),
                "the crash at {moment} did not fire"
            );
            let when = format!("killed at {moment}");
            assert_eq!(sandbox.verify(), Vec::<String>::new(), "{when}");
            let now = ids(&sandbox);
            assert!(
                now == before || now.len() == 1,
                "all of it or nothing: {now:?} {when}"
            );
            if next_is_a_run {
                assert_eq!(sandbox.run(&[])["events_written"], 0, "{when}");
                assert_eq!(sandbox.verify(), Vec::<String>::new(), "{when}");
            }
            let_go(&sandbox);
            only_new(&sandbox, &when);
        }
    }
}

#[test]
fn nothing_of_a_held_range_leaves_until_it_is_released() {
    let sandbox = filled("lake: 30d");
    let range = ["--from", "2020-01-01T01:00:00Z", "--to", "2020-01-01T01:30:00Z"];
    let hold = [&range[..], &["--reason", "a court asks", "--by", "ada"]].concat();
    let placed = asked(&sandbox, &["retention", "hold"], &hold);
    assert_eq!((&placed["hold"], &placed["by"]), (&"h1".into(), &"ada".into()));
    assert_eq!(
        asked(&sandbox, &["retention", "hold"], &hold)["hold"],
        "h1",
        "asked twice"
    );
    let planned = plan(&sandbox);
    assert_eq!(planned["holds"][0]["reason"], "a court asks");
    assert_eq!(
        (&planned["held"]["rows"], &planned["lake"]["expired"]["rows"]),
        (&1.into(), &3.into())
    );
    let_go(&sandbox);
    assert_eq!(
        ids(&sandbox),
        BTreeSet::from(["new".to_owned(), "old-2".to_owned()])
    );
    assert_eq!(sandbox.verify(), Vec::<String>::new());
    let unknown = sandbox
        .command(&["retention", "release"], &["h9", "--reason", "over"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&unknown.stderr);
    assert!(said.contains("`h9`") && said.contains("h1"), "{said}");
    let released = asked(
        &sandbox,
        &["retention", "release"],
        &["h1", "--reason", "it is over", "--by", "bob"],
    );
    assert_eq!(released["released"]["by"], "bob");
    assert_eq!(plan(&sandbox)["holds"].as_array().map(Vec::len), Some(0));
    let_go(&sandbox);
    only_new(&sandbox, "after the release");
}

/// Forty days on: both days' quarantine is too old, and the new events are too.
#[test]
fn quarantine_leaves_by_its_own_policy_and_is_neither_listed_nor_redriven_then() {
    let sandbox = filled("lake: 60d, quarantine: 20d");
    let listed = |sandbox: &Sandbox| asked(sandbox, &["quarantine", "list"], &[])["quarantined"].clone();
    assert_eq!(listed(&sandbox), 2);
    assert_eq!(
        plan(&sandbox)["quarantine"]["expired"]["rows"],
        0,
        "it was written today"
    );
    let later = Utc::now() + Duration::days(40);
    let done = apply_at(&sandbox, later);
    assert_eq!((done.quarantine.rows, done.quarantine.files), (2, 2));
    assert_eq!(done.data.rows, 4, "the new event is 40 days old");
    assert_eq!(listed(&sandbox), 0);
    assert_eq!(sandbox.verify(), Vec::<String>::new());
    let verdict = asked(&sandbox, &["verify"], &[]);
    assert_eq!(verdict["expired"]["quarantined"], 2, "{verdict}");
    let redriven = asked(&sandbox, &["quarantine", "redrive"], &[]);
    assert_eq!(redriven["events_read"], 0, "{redriven}");
}

/// The same as `retention apply`, at another time.
fn apply_at(sandbox: &Sandbox, at: DateTime<Utc>) -> millrace_coordinator::retention::Outcome {
    let text = std::fs::read_to_string(sandbox.pipeline()).unwrap();
    let none = |_: &str| None;
    let read = |path: &std::path::Path| std::fs::read_to_string(path);
    let pipeline = spec::load(&text, "p.yaml", &sandbox.path(""), &none, &read).unwrap();
    let folder = sandbox.path("lake");
    let lake = Lake {
        url: format!("file://{}", folder.display()),
        store: Arc::new(LocalFileSystem::new()),
        root: object_store::path::Path::from_absolute_path(&folder).unwrap(),
        s3: millrace_pipeline::source::S3Options::default(),
    };
    let applying = apply(
        Arc::new(pipeline),
        lake,
        "test",
        at.timestamp_micros(),
        Arc::new(|_| {}),
    );
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(applying).unwrap()
}

#[test]
fn the_warehouse_lets_go_of_old_rows_in_one_transaction_and_what_it_waits_for_stays_in_the_lake() {
    let mut sandbox = Sandbox::with_pipeline(PIPELINE);
    let warehouse = Database::start(&sandbox);
    let table = format!(
        "warehouse: {{postgres: {{dsn: \"{}\", table: analytics.orders}}}}\nretention: {{lake: 30d, warehouse: 10d}}\n",
        warehouse.dsn
    );
    sandbox.set_pipeline(&format!("{PIPELINE}{table}"));
    let old = Utc::now() - Duration::days(20);
    sandbox.input(
        "old.json",
        event("old", "2020-01-01T00:10:00Z") + &event("middle", &old.to_rfc3339()),
    );
    sandbox.input("new.json", event("new", &now()));
    sandbox.run(&["--no-handoff"]);
    let planned = plan(&sandbox);
    assert_eq!(
        (&planned["lake"]["expired"]["rows"], &planned["waiting"]["rows"]),
        (&0.into(), &1.into()),
        "the warehouse waits for it: {planned}"
    );
    assert_eq!(let_go(&sandbox)["batches"], 0);
    let loaded = sandbox.command(&["handoff", "load"], &[]).output().unwrap();
    assert!(loaded.status.success());
    let rows = "SELECT string_agg(id, ',' ORDER BY id) FROM analytics.orders";
    assert_eq!(warehouse.sql(rows), "middle,new,old");
    assert_eq!(plan(&sandbox)["warehouse"]["rows"], 2);

    let mut command = sandbox.command(&["retention", "apply"], &[]);
    let crashed = command.env("MILLRACE_CRASH_AT", "deleted").output().unwrap();
    assert_eq!(crashed.status.signal(), Some(9), "the fault did not happen");
    assert_eq!(
        warehouse.sql(rows),
        "middle,new,old",
        "the transaction was not committed"
    );
    let hold = [
        "--from",
        &old.to_rfc3339(),
        "--to",
        &now(),
        "--reason",
        "a court asks",
    ]
    .map(str::to_owned);
    let hold: Vec<&str> = hold.iter().map(String::as_str).collect();
    asked(&sandbox, &["retention", "hold"], &hold);
    let done = let_go(&sandbox);
    assert_eq!(done["warehouse"]["rows"], 1, "{done}");
    assert_eq!(warehouse.sql(rows), "middle,new", "one is held");
    let noted = "SELECT string_agg(why || ':' || \"rows\", ',') FROM analytics.millrace_removals";
    assert_eq!(warehouse.sql(noted), "expired:1");
    assert_eq!(
        ids(&sandbox),
        BTreeSet::from(["middle".to_owned(), "new".to_owned()])
    );
    assert_eq!(sandbox.verify(), Vec::<String>::new());
    assert_eq!(let_go(&sandbox)["warehouse"]["rows"], 0);
    let again = sandbox.command(&["handoff", "load"], &[]).output().unwrap();
    assert!(again.status.success());
    assert_eq!(warehouse.sql(rows), "middle,new", "nothing is loaded again");
}
