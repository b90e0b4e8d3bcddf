//! What a user gets wrong meets a message that helps, and an exit code that programs can trust.

use std::process::Command;

use crate::sandbox::{SCALE, Sandbox};

#[test]
fn a_bad_pipeline_file_ends_with_2_and_every_fault() {
    let sandbox = Sandbox::with_pipeline(
        "version: 1\npipeline: x\nsorce: {}\nschema:\n  - {name: at, type: timestamp, required: true}\n\
         partition: {time: nope}\n",
    );
    for command in [&["pipeline", "check"][..], &["run"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_millrace"))
            .args(command)
            .arg(sandbox.pipeline())
            .output()
            .unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("sorce") && said.contains("nope"), "{said}");
    }
}

#[test]
fn an_expectation_that_nothing_can_judge_is_a_fault_of_its_suite() {
    let sandbox = Sandbox::with_pipeline(
        "version: 1\npipeline: x\nsource: {files: {path: in, format: json}}\nschema:\n\
        \x20 - {name: at, type: timestamp, required: true}\n  - {name: price, type: float64}\n\
         quality: {suite: suite.json}\npartition: {time: at, by: [date]}\nlake: {url: ./lake}\n",
    );
    let expectation = |kind: &str, column: &str| {
        format!(
            "{{\"type\": \"expect_column_values_to_{kind}\",\n  \"kwargs\": {{\"column\": \"{column}\"}}}}"
        )
    };
    let check = |expectations: &[String], more: &[&str]| {
        let suite = format!(
            "{{\"name\": \"s\", \"expectations\": [\n{}]}}",
            expectations.join(",\n")
        );
        std::fs::write(sandbox.path("suite.json"), suite).unwrap();
        let mut check = Command::new(env!("CARGO_BIN_EXE_millrace"));
        check
            .args(["pipeline", "check"])
            .arg(sandbox.pipeline())
            .args(more);
        let output = check.output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let sound = expectation("not_be_null", "price");
    assert_eq!(check(std::slice::from_ref(&sound), &[]).0, Some(0));
    let suite = [
        sound,
        expectation("not_be_null", "prize"),
        expectation("be_nice", "price"),
    ];
    let (code, said) = check(&suite, &[]);
    assert_eq!(code, Some(2), "{said}");
    // Each where it stands: the misspelt column in line 5, the unknown type in line 6.
    for part in [
        "suite.json:5:",
        "expectations[1]",
        "`prize`",
        "suite.json:6:",
        "expectations[2]",
        "be_nice",
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    let (code, said) = check(&suite, &["--output", "json"]);
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (code, report["faults"].as_array().map(Vec::len)),
        (Some(2), Some(2))
    );
    assert!(report["file"].as_str().unwrap().ends_with("suite.json"));
}

#[test]
fn a_missing_secret_is_a_fault_with_its_line() {
    let sandbox = Sandbox::example("shop/shop.yaml");
    let mut check = Command::new(env!("CARGO_BIN_EXE_millrace"));
    let output = check
        .args(["pipeline", "check"])
        .arg(sandbox.pipeline())
        .env_remove("MILLRACE_HASH_KEY")
        .output();
    let output = output.unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(said.contains("MILLRACE_HASH_KEY"), "{said}");
}

#[test]
fn an_input_that_is_not_there_is_named() {
    let sandbox = Sandbox::example("shop/shop.yaml");
    let output = sandbox.run_command(&[]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("sent/events"), "{said}");
}

/// What needs services is refused before anything is read, as a bad file is.
#[test]
fn what_needs_a_cluster_is_named_and_ends_with_2() {
    let sandbox = Sandbox::with_pipeline(
        "version: 1\npipeline: x\nsource: {kafka: {brokers: [\"127.0.0.1:1\"], topic: orders, format: json}}\nschema:\n\
        \x20 - {name: at, type: timestamp, required: true}\n\
         partition: {time: at, by: [date]}\nlake: {url: ./lake}\n",
    );
    let output = sandbox.command(&["run"], &[]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("topic `orders`"), "{said}");
}

#[test]
fn a_quality_breach_ends_with_3() {
    let sandbox = Sandbox::shop(5_000, 51);
    let mut bad = String::new();
    for i in 0..1_000 {
        bad.push_str(&format!("{{\"event_id\":\"{i}\"\n"));
    }
    sandbox.input("broken.json", bad);
    let output = sandbox.run_command(&[]).output().unwrap();
    assert_eq!(
        output.status.code(),
        Some(3),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(sandbox.verify(), Vec::<String>::new());
}

#[test]
fn ctrl_c_stops_cleanly_and_a_second_run_goes_on() {
    let sandbox = Sandbox::shop(400_000 / SCALE, 52);
    let mut run = sandbox.run_command(&[]);
    let mut run = run
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    while !sandbox.path("lake/ledger/000000000001.json").exists() {
        assert!(
            run.try_wait().unwrap().is_none(),
            "the run ended before it planned anything"
        );
        std::thread::yield_now();
    }
    let interrupted = Command::new("kill")
        .args(["-INT", &run.id().to_string()])
        .status()
        .unwrap();
    assert!(interrupted.success());
    let output = run.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("goes on from there"), "{said}");
    sandbox.run(&[]);
    crate::shop::assert_lake_is_what_was_sent(&sandbox);
}
