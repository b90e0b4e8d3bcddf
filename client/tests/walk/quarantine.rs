//! Rejected events: every reason and the origin, and a second chance after the pipeline is mended.

use serde_json::Value;

use crate::sandbox::{Sandbox, summary};

const PIPELINE: &str = r#"
version: 1
pipeline: orders
source: {files: {path: sent/events, format: json}}
schema:
  - {name: id, type: string, required: true}
  - {name: at, type: timestamp, required: true}
  - {name: amount, type: AMOUNT}
  - {name: who, type: string, pii: email}
dedup: {key: [id]}
privacy: {clear_in: [prod], hash_key: "${env:MILLRACE_HASH_KEY}"}
partition: {time: at, by: [date, hour]}
lake: {url: ./lake}
"#;

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::with_pipeline(&PIPELINE.replace("AMOUNT", "int64"));
    let lines = [
        r#"{"id":"a","at":"2026-01-01T05:00:00Z","amount":1,"who":"x@example.com"}"#,
        r#"{"id":"b","at":"2026-01-01T05:00:01Z","amount":1.5,"who":"y@example.com"}"#,
        "",
        r#"{"id":"c","at":"2026-01-01T05:00:02Z","amou"#,
        r#"{"at":"yesterday","amount":"many","who":"z@example.com"}"#,
        r#"{"id":"d","at":"2026-01-01T06:00:02Z","amount":2,"who":null}"#,
    ];
    sandbox.input("one.json", lines.join("\n"));
    sandbox
}

fn list(sandbox: &Sandbox) -> Value {
    let output = sandbox
        .command(&["quarantine", "list"], &["--output", "json"])
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn a_rejected_event_carries_every_reason_and_its_origin() {
    let sandbox = sandbox();
    let run = sandbox.run(&[]);
    assert_eq!(
        (run["events_read"].as_u64(), run["quarantined"].as_u64()),
        (Some(5), Some(3))
    );
    let listed = list(&sandbox);
    let events = listed["events"].as_array().unwrap();
    let by_line = |line: u64| {
        events
            .iter()
            .find(|event| event["line"] == line)
            .unwrap_or_else(|| panic!("line {line} of {listed:#}"))
    };
    let kinds = |event: &Value| -> Vec<String> {
        let reasons = event["reasons"].as_array().unwrap();
        reasons
            .iter()
            .map(|r| {
                format!(
                    "{}:{}",
                    r["kind"].as_str().unwrap(),
                    r["column"].as_str().unwrap_or("-")
                )
            })
            .collect()
    };
    assert_eq!(kinds(by_line(2)), ["wrong_type:amount"]);
    assert_eq!(kinds(by_line(4)), ["cut_off:-"]);
    let mut all = kinds(by_line(5));
    all.sort();
    all.dedup();
    for reason in ["missing:id", "wrong_type:amount", "wrong_type:at"] {
        assert!(
            all.iter().any(|found| found == reason),
            "{reason} is not among {all:?}"
        );
    }
    assert!(events.iter().all(|event| event["sealed"] == true));
    assert!(by_line(2)["object"].as_str().unwrap().ends_with("one.json"));
}

#[test]
fn a_record_is_shown_only_where_personal_data_may_be_clear() {
    let sandbox = sandbox();
    sandbox.run(&[]);
    let show = |more: &[&str]| {
        let output = sandbox
            .command(
                &["quarantine", "show"],
                &[&["1", "--output", "json"], more].concat(),
            )
            .output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    let hidden = show(&[]);
    assert!(!hidden.contains("example.com"), "{hidden}");
    assert!(show(&["--environment", "prod"]).contains("example.com"));
}

#[test]
fn what_passes_after_the_pipeline_was_mended_is_written_once() {
    let mut sandbox = sandbox();
    sandbox.run(&[]);
    sandbox.set_pipeline(&PIPELINE.replace("AMOUNT", "float64"));
    let redrive = || {
        let output = sandbox
            .command(&["quarantine", "redrive"], &["--output", "json"])
            .output()
            .unwrap();
        summary(&output)
    };
    let first = redrive();
    assert_eq!(
        (first["events_read"].as_u64(), first["events_written"].as_u64()),
        (Some(3), Some(1))
    );
    let second = redrive();
    assert_eq!(
        (second["events_read"].as_u64(), second["events_written"].as_u64()),
        (Some(2), Some(0))
    );
    assert_eq!(sandbox.rows().len(), 3);
    assert_eq!(list(&sandbox)["quarantined"], 2);
    assert_eq!(sandbox.verify(), Vec::<String>::new());
}
