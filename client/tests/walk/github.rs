//! Real events: nested, out of order, up to 86 KB each. DuckDB counts the same file as the oracle.

use std::collections::BTreeMap;
use std::io::Read;
use std::process::Command;

use serde_json::Value;

use crate::sandbox::{Sandbox, real_data, root};

/// A Python with DuckDB, installed on first use.
pub(crate) fn python() -> String {
    let output = Command::new(root().join("deploy/local/python.sh"))
        .args(["install", "duckdb==2.0.0"])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Events by kind and hour as DuckDB counts them.
fn counted_by_duckdb(file: &std::path::Path) -> BTreeMap<(String, String), u64> {
    let script = "import duckdb, json, sys\n\
        rows = duckdb.sql(f\"\"\"SELECT type, strftime(created_at::TIMESTAMP, '%Y-%m-%dT%H'), count(*)\n\
        FROM read_json('{sys.argv[1]}', format='newline_delimited', maximum_object_size=100000000,\n\
        columns={{'type': 'VARCHAR', 'created_at': 'VARCHAR'}}) GROUP BY ALL\"\"\").fetchall()\n\
        print(json.dumps(rows))";
    let output = Command::new(python())
        .args(["-c", script])
        .arg(file)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let rows: Vec<(String, String, u64)> = serde_json::from_slice(&output.stdout).unwrap();
    rows.into_iter()
        .map(|(kind, hour, count)| ((kind, hour), count))
        .collect()
}

fn counted_in_the_lake(sandbox: &Sandbox) -> BTreeMap<(String, String), u64> {
    let mut query = Command::new(env!("CARGO_BIN_EXE_millrace"));
    query.args([
        "query",
        "SELECT kind, to_char(date, '%Y-%m-%d') || 'T' || lpad(CAST(hour AS VARCHAR), 2, '0') AS hour, count(*) AS n \
         FROM events GROUP BY kind, date, hour",
        "--output",
        "json",
    ]);
    let output = query.arg("--lake").arg(sandbox.path("lake")).output().unwrap();
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    rows.iter()
        .map(|row| {
            (
                (text(&row["kind"]), text(&row["hour"])),
                row["n"].as_u64().unwrap(),
            )
        })
        .collect()
}

#[test]
fn counts_by_type_and_hour_are_duckdbs_and_a_redelivery_changes_nothing() {
    let Some(file) = real_data("github-2017/events.ndjson.gz") else {
        return;
    };
    let sandbox = Sandbox::example("github/github.yaml");
    std::fs::create_dir_all(sandbox.path("sent/events")).unwrap();
    std::fs::copy(&file, sandbox.path("sent/events/events.ndjson.gz")).unwrap();
    let run = sandbox.run(&[]);
    assert_eq!(run["events_read"].as_u64(), Some(12_001));
    assert_eq!(run["events_written"].as_u64(), Some(12_001), "{run:#}");
    let expected = counted_by_duckdb(&file);
    assert_eq!(counted_in_the_lake(&sandbox), expected);

    // 15% again, in another order and another file.
    let mut text = String::new();
    flate2::read::GzDecoder::new(std::fs::File::open(&file).unwrap())
        .read_to_string(&mut text)
        .unwrap();
    let again: Vec<&str> = text
        .lines()
        .rev()
        .step_by(7)
        .chain(text.lines().take(90))
        .collect();
    sandbox.input("again.json", again.join("\n"));
    let redelivered = sandbox.run(&[]);
    assert_eq!(redelivered["events_read"].as_u64(), Some(again.len() as u64));
    assert_eq!(redelivered["duplicates"], redelivered["events_read"]);
    assert_eq!(counted_in_the_lake(&sandbox), expected);
    assert_eq!(sandbox.verify(), Vec::<String>::new());
}
