//! A batch under `minimum_clean`: committed and held, or kept out until the pipeline is mended.

use crate::sandbox::{Sandbox, summary};

const PIPELINE: &str = r#"
version: 1
pipeline: orders
source: {files: {path: sent/events, format: json}}
schema:
  - {name: id, type: string, required: true}
  - {name: at, type: timestamp, required: true}
  - {name: amount, type: AMOUNT}
quality: {suite: suite.json, minimum_clean: MINIMUM, on_breach: ON_BREACH}
dedup: {key: [id]}
privacy: {hash_key: "${env:MILLRACE_HASH_KEY}"}
partition: {time: at, by: [date, hour]}
lake: {url: ./lake}
"#;

const SUITE: &str = r#"{"name": "orders", "expectations": [
  {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "id"}, "severity": "critical"}]}"#;

fn pipeline(amount: &str, minimum: &str, on_breach: &str) -> String {
    let pipeline = PIPELINE.replace("AMOUNT", amount).replace("MINIMUM", minimum);
    pipeline.replace("ON_BREACH", on_breach)
}

/// Three good events, one whose amount is no whole number, one that never passes.
fn sandbox(minimum: &str, on_breach: &str) -> Sandbox {
    let sandbox = Sandbox::with_pipeline(&pipeline("int64", minimum, on_breach));
    std::fs::write(sandbox.path("suite.json"), SUITE).unwrap();
    let lines = [
        r#"{"id":"a","at":"2026-01-01T05:00:00Z","amount":1}"#,
        r#"{"id":"b","at":"2026-01-01T05:00:01Z","amount":1.5}"#,
        r#"{"id":"c","at":"2026-01-01T05:00:02Z","amount":2}"#,
        r#"{"id":"d","at":"2026-01-01T06:00:02Z","amount":3}"#,
        r#"{"id":"e","at":"2026-01-01T06:00:02Z","amount":"many"}"#,
    ];
    sandbox.input("one.json", lines.join("\n"));
    sandbox
}

#[test]
fn on_breach_fail_keeps_the_batch_out_until_the_pipeline_is_mended() {
    let mut sandbox = sandbox("0.75", "fail");
    for _ in 0..2 {
        let output = sandbox.run_command(&[]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.contains("on_breach: fail") && said.contains("0.6"), "{said}");
        assert_eq!(sandbox.rows().len(), 0);
        assert_eq!(sandbox.verify(), Vec::<String>::new());
    }
    sandbox.set_pipeline(&pipeline("float64", "0.75", "fail"));
    let mended = sandbox.run(&[]);
    let count = |key: &str| mended[key].as_u64().unwrap();
    assert_eq!(
        (
            count("events_read"),
            count("events_written"),
            count("quarantined")
        ),
        (5, 4, 1)
    );
    assert_eq!(sandbox.rows().len(), 4);
    assert_eq!(sandbox.verify(), Vec::<String>::new());
    assert_eq!(
        sandbox.objects("data").len(),
        2,
        "the attempts before left files behind"
    );
}

#[test]
fn on_breach_hold_commits_the_batch_and_says_so() {
    let sandbox = sandbox("0.75", "hold");
    let output = sandbox.run_command(&[]).output().unwrap();
    assert_eq!(
        output.status.code(),
        Some(3),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(sandbox.rows().len(), 3);
    let again = sandbox.run(&[]);
    assert_eq!(again["events_read"].as_u64(), Some(0));
    assert_eq!(sandbox.verify(), Vec::<String>::new());
}

/// What a redrive reads was judged when it was new.
#[test]
fn a_redrive_is_never_a_breach() {
    let mut sandbox = sandbox("0.55", "fail");
    sandbox.run(&[]);
    sandbox.set_pipeline(&pipeline("float64", "0.55", "fail"));
    for (read, written) in [(2, 1), (1, 0)] {
        let output = sandbox
            .command(&["quarantine", "redrive"], &["--output", "json"])
            .output()
            .unwrap();
        let redrive = summary(&output);
        let count = |key: &str| redrive[key].as_u64().unwrap();
        assert_eq!((count("events_read"), count("events_written")), (read, written));
    }
    assert_eq!(sandbox.rows().len(), 4);
    assert_eq!(sandbox.verify(), Vec::<String>::new());
}
