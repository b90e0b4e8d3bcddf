//! What stands in the input: packed and plain files side by side, CSV, late events, events without a key.

use std::collections::BTreeSet;
use std::io::Write;

use crate::sandbox::Sandbox;

const PIPELINE: &str = r#"
version: 1
pipeline: orders
source: {files: {path: sent/events, format: FORMAT}}
schema:
  - {name: id, type: string}
  - {name: at, type: timestamp, required: true}
  - {name: note, type: string}
dedup: {key: [id]}
partition: {time: at, by: [date, hour], lateness: 1h}
lake: {url: ./lake}
"#;

fn sandbox(format: &str) -> Sandbox {
    Sandbox::with_pipeline(&PIPELINE.replace("FORMAT", format))
}

fn ids(sandbox: &Sandbox) -> BTreeSet<String> {
    sandbox.rows().iter().map(|row| row["id"].clone()).collect()
}

/// The same text three ways; `line` makes the text of event `n`.
fn plain_gz_and_zst(sandbox: &Sandbox, end: &str, header: &str, line: impl Fn(usize) -> String) {
    let text = |from: usize| -> String {
        let lines: Vec<String> = (from..from + 1_000).map(&line).collect();
        format!("{header}{}\n", lines.join("\n"))
    };
    sandbox.input(&format!("a.{end}"), text(0));
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(text(900).as_bytes()).unwrap();
    sandbox.input(&format!("b.{end}.gz"), gz.finish().unwrap());
    sandbox.input(
        &format!("c.{end}.zst"),
        zstd::encode_all(text(1_800).as_bytes(), 1).unwrap(),
    );
}

#[test]
fn plain_gz_and_zst_files_lie_side_by_side() {
    let sandbox = sandbox("json");
    plain_gz_and_zst(&sandbox, "json", "", |n| {
        format!(
            r#"{{"id":"{n}","at":"2026-01-01T0{}:00:00Z","note":"n\n{n}"}}"#,
            n % 5
        )
    });
    let run = sandbox.run(&[]);
    let count = |key: &str| run[key].as_u64().unwrap();
    assert_eq!(
        (count("events_read"), count("events_written"), count("duplicates")),
        (3_000, 2_800, 200)
    );
    assert_eq!(ids(&sandbox), (0..2_800).map(|n| n.to_string()).collect());
    assert_eq!(sandbox.run(&[])["events_read"].as_u64(), Some(0));
    assert_eq!(sandbox.verify(), Vec::<String>::new());
}

#[test]
fn csv_is_read_by_its_header_with_quoted_lines() {
    let sandbox = sandbox("csv");
    plain_gz_and_zst(&sandbox, "csv", "note,id,at\n", |n| {
        format!("\"one, \"\"two\"\"\nthree {n}\",{n},2026-01-01T0{}:00:00Z", n % 5)
    });
    let run = sandbox.run(&[]);
    let count = |key: &str| run[key].as_u64().unwrap();
    assert_eq!(
        (count("events_read"), count("events_written"), count("duplicates")),
        (3_000, 2_800, 200)
    );
    assert_eq!(ids(&sandbox), (0..2_800).map(|n| n.to_string()).collect());
    for row in sandbox.rows() {
        assert_eq!(row["note"], format!("one, \"two\"\nthree {}", row["id"]));
    }
    assert_eq!(sandbox.verify(), Vec::<String>::new());
}

#[test]
fn events_behind_the_watermark_and_the_lateness_are_written_and_counted_late() {
    let sandbox = sandbox("json");
    let event = |id: &str, at: &str| format!(r#"{{"id":"{id}","at":"2026-01-01T{at}Z"}}"#);
    sandbox.input("one.json", event("a", "12:00:00"));
    assert_eq!(sandbox.run(&[])["late"].as_u64(), Some(0));
    let later = [
        event("b", "10:59:59"),
        event("c", "11:00:00"),
        event("d", "13:00:00"),
        event("e", "09:00:00"),
    ];
    sandbox.input("two.json", later.join("\n"));
    let run = sandbox.run(&[]);
    assert_eq!(
        (run["events_written"].as_u64(), run["late"].as_u64()),
        (Some(4), Some(2))
    );
    assert_eq!(sandbox.rows().len(), 5);
    assert_eq!(sandbox.verify(), Vec::<String>::new());
}

/// Two events without a key are not the same event; those with one still are.
#[test]
fn events_without_a_key_are_all_kept() {
    let sandbox = sandbox("json");
    let nameless = r#"{"at":"2026-01-01T05:00:00Z","note":"x"}"#;
    let named = r#"{"id":"a","at":"2026-01-01T05:00:00Z","note":"x"}"#;
    sandbox.input("one.json", [nameless, named, nameless, named].join("\n"));
    let run = sandbox.run(&[]);
    assert_eq!(
        (run["events_written"].as_u64(), run["duplicates"].as_u64()),
        (Some(3), Some(1))
    );
    assert_eq!(sandbox.verify(), Vec::<String>::new());
}
