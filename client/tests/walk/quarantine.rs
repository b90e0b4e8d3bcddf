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

const STRICT: &str = r#"
version: 1
pipeline: strict
source: {files: {path: sent/events, format: json}}
schema:
  - {name: id, type: string, required: true}
  - {name: at, type: timestamp, required: true}
  - {name: amount, type: int64}
  - {name: extra, type: json}
  - {name: code, type: string}
  - {name: number, type: int64, sql: "CAST(code AS BIGINT)"}
quality: {suite: suite.json, minimum_clean: 0, on_breach: hold}
partition: {time: at, by: [date]}
lake: {url: ./lake}
limits: {record_bytes: 1KiB, depth: 8}
"#;

const SUITE: &str = r#"{"name": "strict", "expectations": [{"type": "expect_column_values_to_be_between",
  "kwargs": {"column": "amount", "min_value": 0}, "severity": "critical"}]}"#;

/// Each kind of fault stands at its own line, with its own reason, and its neighbours are not harmed.
#[test]
fn every_kind_of_fault_is_named_and_harms_no_neighbour() {
    let sandbox = Sandbox::with_pipeline(STRICT);
    std::fs::write(sandbox.path("suite.json"), SUITE).unwrap();
    let with = |more: &str| format!(r#"{{"id":"x","at":"2026-01-01T05:00:00Z",{more}}}"#).into_bytes();
    let faulty: [(&str, Vec<u8>); 9] = [
        ("cut_off:-", br#"{"id":"x","at":"2026-01-01T05:0"#.to_vec()),
        (
            "encoding:-",
            [
                &br#"{"id":"x","at":"2026-01-01T05:00:00Z","code":""#[..],
                b"\xff\xfe\"}",
            ]
            .concat(),
        ),
        ("syntax:-", br#"{"id" "x","at":"2026-01-01T05:00:00Z"}"#.to_vec()),
        ("too_large:-", with(&format!(r#""code":"{}""#, "1".repeat(2_000)))),
        (
            "too_deep:-",
            with(&format!(r#""extra":{}{}"#, "[".repeat(40), "]".repeat(40))),
        ),
        ("wrong_type:amount", with(r#""amount":"many""#)),
        ("missing:id", br#"{"at":"2026-01-01T05:00:00Z"}"#.to_vec()),
        ("conversion:number", with(r#""code":"seven""#)),
        ("expectation:amount", with(r#""amount":-1"#)),
    ];
    let mut input = Vec::new();
    for (n, (_, line)) in faulty.iter().enumerate() {
        let good = format!(r#"{{"id":"good {n}","at":"2026-01-01T05:00:00Z","amount":1,"code":"7"}}"#);
        input.extend([good.as_bytes(), b"\n", line, b"\n"].concat());
    }
    sandbox.input("one.json", input);
    let run = sandbox.run(&[]);
    assert_eq!(
        (run["events_written"].as_u64(), run["quarantined"].as_u64()),
        (Some(9), Some(9))
    );
    let ids: std::collections::BTreeSet<String> =
        sandbox.rows().iter().map(|row| row["id"].clone()).collect();
    assert_eq!(ids, (0..9).map(|n| format!("good {n}")).collect());
    let listed = list(&sandbox);
    for (n, (reason, _)) in faulty.iter().enumerate() {
        let event = listed["events"]
            .as_array()
            .unwrap()
            .iter()
            .find(|event| event["line"] == 2 * n + 2);
        let event = event.unwrap_or_else(|| panic!("no event of line {}: {listed:#}", 2 * n + 2));
        let reasons = event["reasons"].as_array().unwrap();
        let named = |r: &Value| {
            format!(
                "{}:{}",
                r["kind"].as_str().unwrap(),
                r["column"].as_str().unwrap_or("-")
            ) == *reason
        };
        assert!(reasons.iter().any(named), "{reason} is not among {reasons:?}");
    }
    assert_eq!(sandbox.verify(), Vec::<String>::new());
}
