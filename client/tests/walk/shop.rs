//! The shop example from end to end.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

use crate::sandbox::{HASH_KEY, SCALE, Sandbox};

/// Ids of the good lines, by an oracle that parses the input itself: the first good copy of each.
fn sent_ids(sandbox: &Sandbox) -> BTreeSet<String> {
    let ledger = millrace_loadtest::ledger::Ledger::open(&sandbox.path("sent")).unwrap();
    let mut good = BTreeSet::new();
    ledger
        .for_each(|line| {
            if line.entry.damage.is_none() {
                good.insert(uuid(line.entry.id));
            }
        })
        .unwrap();
    good
}

fn uuid(id: u128) -> String {
    let hex = format!("{id:032x}");
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

/// Ids in the lake, and how often each stands there.
pub(crate) fn assert_lake_is_what_was_sent(sandbox: &Sandbox) {
    let mut seen: HashMap<String, u32> = HashMap::new();
    for row in sandbox.rows() {
        *seen.entry(row["event_id"].clone()).or_default() += 1;
    }
    let twice: Vec<_> = seen.iter().filter(|(_, times)| **times > 1).take(3).collect();
    assert!(twice.is_empty(), "written more than once: {twice:?}");
    let sent = sent_ids(sandbox);
    let lost: Vec<_> = sent.iter().filter(|id| !seen.contains_key(*id)).take(3).collect();
    assert!(lost.is_empty(), "sent and not written: {lost:?}");
    let strange: Vec<_> = seen.keys().filter(|id| !sent.contains(*id)).take(3).collect();
    assert!(
        strange.is_empty(),
        "written and never sent as a good event: {strange:?}"
    );
}

#[test]
fn every_good_event_is_in_the_lake_exactly_once() {
    let sandbox = Sandbox::shop(150_000 / SCALE, 11);
    let summary = sandbox.run(&[]);
    assert_eq!(summary["events_read"].as_u64(), Some(150_000 / SCALE));
    assert_lake_is_what_was_sent(&sandbox);
    assert_eq!(sandbox.verify(), Vec::<String>::new());
}

#[test]
fn a_second_run_over_the_same_input_writes_nothing_new() {
    let sandbox = Sandbox::shop(30_000, 12);
    sandbox.run(&[]);
    let before = sandbox.objects("data");
    let again = sandbox.run(&[]);
    assert_eq!(again["events_read"].as_u64(), Some(0));
    assert_eq!(again["events_written"].as_u64(), Some(0));
    assert_eq!(sandbox.objects("data"), before);
}

#[test]
fn redelivered_files_change_nothing() {
    let sandbox = Sandbox::shop(30_000, 13);
    let first = sandbox.run(&[]);
    for entry in std::fs::read_dir(sandbox.path("sent/events")).unwrap() {
        let path = entry.unwrap().path();
        let again = path.with_file_name(format!("again-{}", path.file_name().unwrap().to_string_lossy()));
        std::fs::copy(&path, again).unwrap();
    }
    let again = sandbox.run(&[]);
    assert_eq!(again["events_read"], first["events_read"]);
    assert_eq!(again["events_written"].as_u64(), Some(0));
    assert_lake_is_what_was_sent(&sandbox);
    assert_eq!(sandbox.verify(), Vec::<String>::new());
}

#[test]
fn the_result_does_not_depend_on_threads_or_batches() {
    let sandbox = Sandbox::shop(60_000 / SCALE, 14);
    let mut results: Vec<Value> = Vec::new();
    for (threads, batch) in [("1", "1000"), ("2", "4"), ("4", "9")] {
        let lake = sandbox.path(&format!("lake-{threads}"));
        let more = [
            "--lake",
            lake.to_str().unwrap(),
            "--output",
            "json",
            "--threads",
            threads,
            "--batch",
            batch,
        ];
        let mut run = std::process::Command::new(env!("CARGO_BIN_EXE_millrace"));
        run.arg("run")
            .arg(sandbox.pipeline())
            .arg("--input")
            .arg(sandbox.path("sent/events"))
            .args(more);
        run.env("MILLRACE_HASH_KEY", crate::sandbox::HASH_KEY);
        results.push(crate::sandbox::summary(&run.output().unwrap()));
    }
    for key in [
        "events_read",
        "events_written",
        "duplicates",
        "quarantined",
        "clean_ratio",
    ] {
        assert!(
            results.iter().all(|result| result[key] == results[0][key]),
            "{key}: {results:#?}"
        );
    }
}

#[test]
fn a_query_sees_what_was_committed() {
    let sandbox = Sandbox::shop(20_000, 15);
    let summary = sandbox.run(&[]);
    let mut query = std::process::Command::new(env!("CARGO_BIN_EXE_millrace"));
    query.args([
        "query",
        "SELECT count(*) AS n, count(DISTINCT event_id) AS ids FROM events",
        "--output",
        "json",
    ]);
    let output = query.arg("--lake").arg(sandbox.path("lake")).output().unwrap();
    let rows: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!(rows[0]["n"], summary["events_written"]);
    assert_eq!(rows[0]["ids"], summary["events_written"]);
}

/// Texts of few values get a dictionary in Redshift, others do not; without a lake nobody knows.
#[test]
fn encodings_of_redshift_go_by_the_lakes_values() {
    let sandbox = Sandbox::shop(40_000, 71);
    let mut run = sandbox.command(&["run"], &["--threads", "2", "--batch", "64", "--input"]);
    let run = run.arg(sandbox.path("sent/events")).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let statements = |with_lake: bool| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_millrace"));
        command.args(["pipeline", "ddl", "--dialect", "redshift"]);
        command.arg(sandbox.pipeline()).env("MILLRACE_HASH_KEY", HASH_KEY);
        if with_lake {
            command.arg("--lake").arg(sandbox.path("lake"));
        }
        let output = command.output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    let (with_lake, without) = (statements(true), statements(false));
    let mut values: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for row in sandbox.rows() {
        for (name, value) in row {
            values.entry(name).or_default().insert(value);
        }
    }
    let (mut few, mut many) = (0, 0);
    for (name, values) in values {
        let encoded = |encoding: &str| format!("    {name} VARCHAR(65535) ENCODE {encoding}");
        if !without.contains(&encoded("zstd")) {
            continue;
        }
        // A null is the empty text here; a file of few rows may have them in no dictionary.
        match values.len() {
            ..=40 => {
                few += 1;
                assert!(with_lake.contains(&encoded("bytedict")), "{name}: {with_lake}");
                let why = format!("-- Encoding of {name}: bytedict, at most ");
                assert!(with_lake.contains(&why) && !without.contains(&why), "{with_lake}");
            }
            2_000.. => {
                many += 1;
                assert!(with_lake.contains(&encoded("zstd")), "{name}: {with_lake}");
            }
            _ => {}
        }
    }
    assert!(few > 1 && many > 1, "{few} and {many}: {with_lake}");
}
