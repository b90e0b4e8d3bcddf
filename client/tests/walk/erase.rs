//! One person is erased: from every byte that is stored, and nobody else's rows are touched.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt;

use serde_json::Value;

use crate::database::Database;
use crate::sandbox::{Sandbox, read_parquet};

const ADA: &str = "ada@example.com";

const PIPELINE: &str = "version: 1
pipeline: people
source: {files: {path: sent/events, format: json}}
schema:
  - {name: id, type: string, required: true}
  - {name: at, type: timestamp, required: true}
  - {name: email, type: string, pii: email}
  - {name: friend, type: string, pii: email}
  - {name: ip, type: string, pii: ip}
dedup: {key: [id]}
privacy: {clear_in: [prod], hash_key: \"a-key-for-tests-of-erasure\"}
partition: {time: at, by: [date, hour]}
lake: {url: ./lake}
";

fn event(id: usize, email: &str, friend: &str) -> String {
    let at = format!("2026-01-01T{:02}:{:02}:00Z", id / 20 % 24, id % 60);
    let id = format!("e{id:04}");
    let event = serde_json::json!({"id": id, "at": at, "email": email, "friend": friend, "ip": "10.1.2.3"});
    format!("{event}\n")
}

/// A hundred events in five hours: Ada's own (every tenth), one of a friend of hers, and rejected ones.
fn people(sandbox: &Sandbox) -> BTreeSet<String> {
    let mut hers = BTreeSet::new();
    let mut text = String::new();
    for id in 0..100 {
        let (email, friend) = match id {
            _ if id % 10 == 3 && id < 60 => (ADA.to_owned(), "carol@example.com"),
            45 => ("bob@example.com".to_owned(), ADA),
            _ => (format!("somebody{id}@example.com"), "dave@example.com"),
        };
        if email == ADA || friend == ADA {
            hers.insert(format!("e{id:04}"));
        }
        text.push_str(&event(id, &email, friend));
    }
    text.push_str(&format!("{{\"id\": \"x1\", \"email\": \"{ADA}\"}}\n"));
    text.push_str(&format!(
        "{{\"id\": \"x2\", \"note\": \"ask {ADA}, please\", broken\n"
    ));
    text.push_str("{\"id\": \"x3\", \"email\": \"bob@example.com\"}\n");
    sandbox.input("people.json", text);
    hers
}

fn asked(sandbox: &Sandbox, more: &[&str]) -> Value {
    let more = [&["--pii-id", ADA, "--output", "json"], more].concat();
    let output = sandbox
        .command(&["erase"], &more)
        .env("MILLRACE_LOG", "trace")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(!said.contains(ADA), "the value is in the log");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said}"))
}

fn by_id(sandbox: &Sandbox) -> BTreeMap<String, BTreeMap<String, String>> {
    let rows = sandbox.rows().into_iter();
    rows.map(|row| (row["id"].clone(), row)).collect()
}

/// Files that hold one of some texts, as bytes or in a cell; key files aside.
fn holding(sandbox: &Sandbox, texts: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for path in sandbox.objects("") {
        let mut all = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
        if path.extension().is_some_and(|end| end == "parquet") {
            for row in read_parquet(&path) {
                row.values().for_each(|value| all.push_str(value));
            }
        }
        if texts.iter().any(|text| all.contains(text)) {
            found.push(path.display().to_string());
        }
    }
    found
}

/// What stands for Ada: her address, and the mask that her own events have.
fn marks(sandbox: &Sandbox) -> Vec<String> {
    let rows = by_id(sandbox);
    let mask = rows["e0003"]["email"].clone();
    assert_eq!(rows["e0013"]["email"], mask);
    assert_ne!(rows["e0004"]["email"], mask);
    assert!(!holding(sandbox, &[&mask]).is_empty(), "nothing could be proved");
    vec![ADA.to_owned(), mask]
}

fn erased(
    sandbox: &Sandbox,
    before: &BTreeMap<String, BTreeMap<String, String>>,
    hers: &BTreeSet<String>,
    marks: &[String],
    when: &str,
) {
    let mut expected = before.clone();
    expected.retain(|id, _| !hers.contains(id));
    assert_eq!(by_id(sandbox), expected, "{when}");
    let marks: Vec<&str> = marks.iter().map(String::as_str).collect();
    assert_eq!(holding(sandbox, &marks), Vec::<String>::new(), "{when}");
    assert_eq!(sandbox.verify(), Vec::<String>::new(), "{when}");
}

#[test]
fn a_person_leaves_every_byte_and_a_repeat_does_not_bring_them_back() {
    for environment in [None, Some("prod")] {
        let sandbox = Sandbox::with_pipeline(PIPELINE);
        let hers = people(&sandbox);
        let more: Vec<&str> = environment.map_or_else(Vec::new, |name| vec!["--environment", name]);
        sandbox.run(&more);
        let (before, marks) = (by_id(&sandbox), marks(&sandbox));
        let files = sandbox.files();
        let looked = asked(&sandbox, &[]);
        assert_eq!(
            (&looked["rows"], &looked["quarantined"]),
            (&7.into(), &2.into()),
            "{looked}"
        );
        assert_eq!(
            (&looked["applied"], &looked["remaining"]),
            (&false.into(), &Value::Null)
        );
        assert_eq!(looked["blind_columns"][0], "ip");
        assert_eq!(sandbox.files(), files, "looking changes nothing");

        let done = asked(&sandbox, &["--apply"]);
        assert_eq!(
            (&done["rows"], &done["quarantined"]),
            (&7.into(), &2.into()),
            "{done}"
        );
        assert_eq!((&done["remaining"], &done["applied"]), (&0.into(), &true.into()));
        // Three of five hours hold her; the files of the others are not touched.
        assert_eq!(done["files_rewritten"], 4, "{done}");
        assert_eq!(sandbox.files().intersection(&files).count(), files.len() - 3);
        erased(&sandbox, &before, &hers, &marks, "after an erasure");
        let listed = sandbox
            .command(&["quarantine", "list"], &["--output", "json"])
            .output()
            .unwrap();
        let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
        assert_eq!(listed["quarantined"], 1, "{listed}");
        let verdict = sandbox
            .command(&["verify"], &["--output", "json"])
            .output()
            .unwrap();
        let verdict: Value = serde_json::from_slice(&verdict.stdout).unwrap();
        assert_eq!(
            (&verdict["erased"]["rows"], &verdict["erased"]["quarantined"]),
            (&7.into(), &2.into())
        );

        // Her events are sent again: the key index knows them. Only the rejected ones are new.
        let text = std::fs::read_to_string(sandbox.path("sent/events/people.json")).unwrap();
        let good: String = text.lines().take(100).map(|line| format!("{line}\n")).collect();
        sandbox.input("again.json", good);
        let again = sandbox.run(&more);
        assert_eq!(
            (&again["events_written"], &again["duplicates"]),
            (&0.into(), &100.into()),
            "{again}"
        );
        erased(&sandbox, &before, &hers, &marks, "after a repeat");
        assert_eq!(asked(&sandbox, &["--apply"])["rows"], 0);
    }
}

/// Old files of a compaction hold her too, and count for nobody.
#[test]
fn files_that_count_no_more_are_looked_through_too() {
    let sandbox = Sandbox::with_pipeline(PIPELINE);
    let hers = people(&sandbox);
    sandbox.run(&[]);
    sandbox.input(
        "more.json",
        event(200, "eve@example.com", "") + &event(3, "eve@example.com", "") + &event(201, ADA, ""),
    );
    sandbox.run(&[]);
    let compacted = sandbox.command(&["compact"], &[]).output().unwrap();
    assert!(compacted.status.success());
    let (before, marks) = (by_id(&sandbox), marks(&sandbox));
    let hers = hers.into_iter().chain(["e0201".to_owned()]).collect();
    let done = asked(&sandbox, &["--apply"]);
    assert_eq!(done["rows"], 8, "{done}");
    erased(
        &sandbox,
        &before,
        &hers,
        &marks,
        "after a compaction and an erasure",
    );
}

#[test]
fn a_kill_at_each_step_of_an_erasure_and_asking_again_erases_the_person() {
    for moment in [
        "opened",
        "planned",
        "written",
        "published",
        "committed",
        "swept",
        "finished",
    ] {
        for next_is_a_run in [false, true] {
            let sandbox = Sandbox::with_pipeline(PIPELINE);
            let hers = people(&sandbox);
            sandbox.run(&[]);
            let (before, marks) = (by_id(&sandbox), marks(&sandbox));
            let mut command = sandbox.command(&["erase"], &["--pii-id", ADA, "--apply"]);
            let crashed = command.env("MILLRACE_CRASH_AT", moment).output().unwrap();
            assert_eq!(
                crashed.status.signal(),
                Some(9),
                "the crash at {moment} did not fire"
            );
            let when = format!("killed at {moment}");
            assert_eq!(sandbox.verify(), Vec::<String>::new(), "{when}");
            if next_is_a_run {
                sandbox.run(&[]);
                assert_eq!(sandbox.verify(), Vec::<String>::new(), "{when}");
            }
            assert_eq!(asked(&sandbox, &["--apply"])["remaining"], 0, "{when}");
            erased(&sandbox, &before, &hers, &marks, &when);
        }
    }
}

#[test]
fn a_legal_hold_forbids_an_erasure_and_says_so() {
    let sandbox = Sandbox::with_pipeline(PIPELINE);
    let hers = people(&sandbox);
    sandbox.run(&[]);
    let (before, marks) = (by_id(&sandbox), marks(&sandbox));
    let range = ["--from", "2026-01-01T00:03:00Z", "--to", "2026-01-01T00:03:01Z"];
    let hold = [&range[..], &["--reason", "a court asks"]].concat();
    assert!(
        sandbox
            .command(&["retention", "hold"], &hold)
            .output()
            .unwrap()
            .status
            .success()
    );
    let refused = sandbox
        .command(&["erase"], &["--pii-id", ADA, "--apply"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && said.contains("legal hold (h1)"),
        "{said}"
    );
    assert_eq!(by_id(&sandbox), before);
    let over = sandbox
        .command(&["retention", "release"], &["h1", "--reason", "over"])
        .output()
        .unwrap();
    assert!(over.status.success());
    asked(&sandbox, &["--apply"]);
    erased(&sandbox, &before, &hers, &marks, "after the release");
}

#[test]
fn the_warehouse_forgets_the_person_too_and_no_load_brings_them_back() {
    let mut sandbox = Sandbox::with_pipeline(PIPELINE);
    let warehouse = Database::start(&sandbox);
    let table = format!(
        "warehouse: {{postgres: {{dsn: \"{}\", table: analytics.people}}}}\n",
        warehouse.dsn
    );
    sandbox.set_pipeline(&format!("{PIPELINE}{table}"));
    let hers = people(&sandbox);
    sandbox.run(&["--no-handoff"]);
    let (before, marks) = (by_id(&sandbox), marks(&sandbox));
    let refused = sandbox
        .command(&["erase"], &["--pii-id", ADA, "--apply"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        said.contains("b00000001") && said.contains("handoff load"),
        "{said}"
    );
    assert!(
        sandbox
            .command(&["handoff", "load"], &[])
            .output()
            .unwrap()
            .status
            .success()
    );
    let count = "SELECT count(*) FROM analytics.people";
    assert_eq!(warehouse.sql(count), "100");

    let mut command = sandbox.command(&["erase"], &["--pii-id", ADA, "--apply"]);
    let crashed = command.env("MILLRACE_CRASH_AT", "deleted").output().unwrap();
    assert_eq!(crashed.status.signal(), Some(9), "the fault did not happen");
    assert_eq!(warehouse.sql(count), "100", "the transaction was not committed");
    let done = asked(&sandbox, &["--apply"]);
    assert_eq!(
        (&done["warehouse_rows"], &done["remaining"]),
        (&7.into(), &0.into()),
        "{done}"
    );
    let left = warehouse.sql("SELECT string_agg(id, ',' ORDER BY id) FROM analytics.people");
    let expected: Vec<&str> = before
        .keys()
        .filter(|id| !hers.contains(*id))
        .map(String::as_str)
        .collect();
    assert_eq!(left, expected.join(","));
    let noted =
        warehouse.sql("SELECT why || ' ' || \"rows\" || ' ' || subject FROM analytics.millrace_removals");
    assert_eq!(noted, format!("erased 7 {}", done["subject"].as_str().unwrap()));
    assert!(
        sandbox
            .command(&["handoff", "load"], &[])
            .output()
            .unwrap()
            .status
            .success()
    );
    assert_eq!(warehouse.sql(count), "93");
    erased(
        &sandbox,
        &before,
        &hers,
        &marks,
        "after the erasure in both places",
    );
}
