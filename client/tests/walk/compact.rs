//! Complete hours are compacted: the same events in fewer files, whoever is killed when.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::sandbox::{SCALE, Sandbox, root};
use crate::shop::assert_lake_is_what_was_sent;

const EVENTS: u64 = 60_000 / SCALE;

const EXAMPLE: &str = "client/examples/shop";

/// A shop whose replaced files stay for a day.
fn shop(events: u64, seed: u64) -> Sandbox {
    let sandbox = Sandbox::shop(events, seed);
    let suite = root().join(EXAMPLE).join("suite.json");
    std::fs::copy(suite, sandbox.path("suite.json")).unwrap();
    sandbox
}

/// From now on they stay for a second.
fn keep_short(sandbox: &mut Sandbox) {
    let text = std::fs::read_to_string(root().join(EXAMPLE).join("shop.yaml")).unwrap();
    let text = text.replace("retention: {", "retention: {replaced: 1s, ");
    assert!(text.contains("replaced: 1s"));
    sandbox.set_pipeline(&text);
}

/// Asks until there is something.
fn until(what: &str, mut found: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !found() {
        assert!(Instant::now() < end, "gave up: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn compact(sandbox: &Sandbox) -> Value {
    let output = sandbox
        .command(&["compact"], &["--output", "json"])
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Hour folders, and how many files that count each has.
fn partitions(sandbox: &Sandbox) -> (usize, usize) {
    let files = sandbox.files();
    let folders: BTreeSet<&str> = files.iter().map(|key| &key[..key.rfind('/').unwrap()]).collect();
    (folders.len(), files.len())
}

fn assert_sound(sandbox: &Sandbox, when: &str) {
    assert_lake_is_what_was_sent(sandbox);
    assert_eq!(sandbox.verify(), Vec::<String>::new(), "{when}");
}

#[test]
fn every_partition_is_one_file_afterwards_and_a_repeat_is_still_a_repeat() {
    let mut sandbox = shop(EVENTS, 31);
    let run = sandbox.run(&[]);
    let (folders, files) = partitions(&sandbox);
    assert!(files > folders, "{files} files in {folders} folders");
    let before: BTreeSet<_> = sandbox.rows().into_iter().collect();
    let done = compact(&sandbox);
    assert_eq!(done["open_hours"], 0, "{done}");
    assert!(
        done["key_files_before"].as_u64() > done["key_files_after"].as_u64(),
        "{done}"
    );
    assert_eq!(partitions(&sandbox), (folders, folders), "{done}");
    assert_eq!(sandbox.rows().into_iter().collect::<BTreeSet<_>>(), before);
    assert_sound(&sandbox, "after a compaction");
    assert_eq!(compact(&sandbox)["batches"], 0, "nothing is left to be compacted");
    // The old files are gone some time, and readers see no difference.
    keep_short(&mut sandbox);
    until("replaced files are deleted", || compact(&sandbox)["deleted"] != 0);
    let stored = sandbox.objects("data").len();
    assert_eq!(stored, folders, "what was replaced is deleted");
    assert_sound(&sandbox, "after the old files are gone");
    let rows = sandbox
        .command(&["verify"], &["--output", "json"])
        .output()
        .unwrap();
    let verdict: Value = serde_json::from_slice(&rows.stdout).unwrap();
    assert_eq!(
        verdict["leftovers"].as_array().map(Vec::len),
        Some(0),
        "{verdict}"
    );
    // The same events under another name: the merged keys know each of them.
    for file in sandbox.objects_of("sent/events") {
        std::fs::copy(&file, file.with_extension("again.ndjson")).unwrap();
    }
    let again = sandbox.run(&[]);
    assert_eq!(again["events_written"], 0, "{again}");
    assert_eq!(again["events_read"], run["events_read"]);
    assert_sound(&sandbox, "after a repeat of everything");
}

#[test]
fn a_late_event_reopens_its_hour_and_the_next_compaction_takes_it_in() {
    let event = |id: &str, at: &str| format!("{{\"id\": \"{id}\", \"at\": \"{at}\"}}\n");
    let sandbox = Sandbox::with_pipeline(
        "version: 1
pipeline: orders
source: {files: {path: sent/events, format: json}}
schema:
  - {name: id, type: string, required: true}
  - {name: at, type: timestamp, required: true}
dedup: {key: [id]}
partition: {time: at, by: [date]}
lake: {url: ./lake}
",
    );
    for n in 0..4 {
        sandbox.input(
            &format!("{n}.json"),
            event(&format!("e{n}"), &format!("2026-01-01T0{n}:10:00Z")),
        );
        sandbox.run(&[]);
    }
    let done = compact(&sandbox);
    assert_eq!(
        (&done["hours"], &done["files_before"], &done["files_after"]),
        (&4.into(), &4.into(), &1.into()),
        "one folder a day: {done}"
    );
    sandbox.input("late.json", event("late", "2026-01-01T01:20:00Z"));
    sandbox.run(&[]);
    let done = compact(&sandbox);
    assert_eq!(
        (&done["hours"], &done["files_before"], &done["files_after"]),
        (&1.into(), &2.into(), &1.into()),
        "{done}"
    );
    let ids: BTreeSet<_> = sandbox.rows().iter().map(|row| row["id"].clone()).collect();
    assert_eq!(ids.len(), 5, "{ids:?}");
    assert_eq!(sandbox.rows().len(), 5);
    assert_eq!(sandbox.verify(), Vec::<String>::new());
}

/// Also a run comes across what a killed compaction left.
#[test]
fn a_kill_at_each_step_of_a_compaction_changes_nothing() {
    for (moment, next_is_a_run) in [
        ("opened", false),
        ("planned", false),
        ("planned", true),
        ("written", true),
        ("published", false),
        ("published", true),
        ("committed", false),
        ("swept", false),
    ] {
        let mut sandbox = shop(EVENTS / 4, 32);
        sandbox.run(&[]);
        let when = format!("killed at {moment}");
        if moment == "swept" {
            compact(&sandbox);
            keep_short(&mut sandbox);
        }
        until(&when, || {
            let mut command = sandbox.command(&["compact"], &[]);
            let crashed = command.env("MILLRACE_CRASH_AT", moment).output().unwrap();
            let signal = std::os::unix::process::ExitStatusExt::signal(&crashed.status);
            assert!(
                moment == "swept" || signal == Some(9),
                "the crash at {moment} did not fire"
            );
            signal == Some(9)
        });
        assert_sound(&sandbox, &when);
        if next_is_a_run {
            sandbox.run(&[]);
            assert_sound(&sandbox, &when);
        }
        compact(&sandbox);
        let (folders, files) = partitions(&sandbox);
        assert_eq!(files, folders, "{when}");
        assert_sound(&sandbox, &when);
    }
}
