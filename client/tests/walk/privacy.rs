//! Outside a `clear_in` environment no clear personal data is written or printed (invariant 8).

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::sandbox::{Sandbox, read_parquet};

/// Clear emails and addresses of the input, taken with serde_json.
fn clear_values(sandbox: &Sandbox) -> BTreeSet<String> {
    let mut clear = BTreeSet::new();
    for entry in fs::read_dir(sandbox.path("sent/events")).unwrap() {
        let text = fs::read(entry.unwrap().path()).unwrap();
        for line in text.split(|byte| *byte == b'\n') {
            let Ok(event) = serde_json::from_slice::<Value>(line) else {
                continue;
            };
            for column in ["email", "ip"] {
                // An address that ends in .0 is its own network: masking leaves it, so it proves nothing.
                clear.extend(
                    event[column]
                        .as_str()
                        .filter(|ip| !ip.ends_with(".0"))
                        .map(str::to_owned),
                );
            }
        }
    }
    assert!(
        clear.len() > 500,
        "too few values to prove anything: {}",
        clear.len()
    );
    clear
}

/// Everything that a run left or said: files as they are, and Parquet files' columns unpacked.
pub(crate) fn everything_written(sandbox: &Sandbox) -> Vec<u8> {
    let mut all = Vec::new();
    for path in sandbox.objects("") {
        all.extend(fs::read(&path).unwrap());
        if path.extension().is_some_and(|end| end == "parquet") {
            for row in read_parquet(&path) {
                for value in row.values() {
                    all.push(b'\n');
                    all.extend(value.as_bytes());
                }
            }
        }
    }
    all
}

/// The clear values that stand in some bytes.
fn leaks(clear: &BTreeSet<String>, haystack: &[u8]) -> BTreeSet<String> {
    let found = aho_corasick::AhoCorasick::new(clear).unwrap();
    let bounded = |at: &aho_corasick::Match| {
        // `1.2.3.4` inside `11.2.3.45` is another address.
        let digit = |i: usize| {
            haystack
                .get(i)
                .is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'.')
        };
        let has_before = at.start() > 0 && digit(at.start() - 1);
        !has_before && !digit(at.end())
    };
    found
        .find_overlapping_iter(haystack)
        .filter(bounded)
        .map(|at| String::from_utf8_lossy(&haystack[at.range()]).into_owned())
        .collect()
}

#[test]
fn no_clear_value_is_written_or_printed_outside_a_clear_environment() {
    let sandbox = Sandbox::shop(20_000, 41);
    let clear = clear_values(&sandbox);
    let run = sandbox
        .run_command(&[])
        .env("MILLRACE_LOG", "trace")
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let mut printed = [run.stdout, run.stderr].concat();
    for command in [&["quarantine", "list"][..], &["verify"]] {
        let output = sandbox.command(command, &[]).output().unwrap();
        printed.extend([output.stdout, output.stderr].concat());
    }
    let output = sandbox.command(&["quarantine", "show"], &["1"]).output().unwrap();
    printed.extend([output.stdout, output.stderr].concat());
    assert_eq!(leaks(&clear, &printed), BTreeSet::new(), "printed");
    assert_eq!(
        leaks(&clear, &everything_written(&sandbox)),
        BTreeSet::new(),
        "written"
    );
}

/// The same search finds every value where they are meant to be clear: the test can fail.
#[test]
fn in_a_clear_environment_the_same_search_finds_them() {
    let sandbox = Sandbox::shop(20_000, 41);
    let clear = clear_values(&sandbox);
    sandbox.run(&["--environment", "prod"]);
    let found = leaks(&clear, &everything_written(&sandbox));
    let missed: Vec<_> = clear.difference(&found).take(5).collect();
    assert!(missed.is_empty(), "the search misses {missed:?}");
}
