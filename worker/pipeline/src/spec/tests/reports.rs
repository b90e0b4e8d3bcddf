//! What a report looks like, and what it never holds.

use proptest::prelude::*;

use super::*;

const BAD: &str = include_str!("bad.yaml");

#[test]
fn one_report_holds_every_fault_of_a_file_as_a_person_reads_it() {
    let shown = check(BAD).unwrap_err().to_string();
    let golden = include_str!("bad.report.txt");
    assert_eq!(shown.trim_end(), golden.trim_end(), "\n{shown}\n");
}

#[test]
fn a_report_for_programs_holds_the_same_faults() {
    let report = check(BAD).unwrap_err();
    let json = report.to_json();
    assert_eq!(json["file"], "pipeline.yaml");
    let faults = json["faults"].as_array().unwrap();
    assert_eq!(faults.len(), report.faults.len());
    for fault in faults {
        let keys: Vec<&String> = fault.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["line", "column", "key", "text", "wrong", "right"]);
    }
}

/// Everything that a load shows, of the pipeline or of the report.
fn shown(text: &str) -> String {
    match check(text) {
        Ok(pipeline) => format!("{pipeline:?}"),
        Err(report) => format!("{report}\n{report:?}\n{}", report.to_json()),
    }
}

#[test]
fn no_resolved_value_and_no_secret_of_the_file_is_ever_shown() {
    let literal = DESIGN.replace("\"${env:WAREHOUSE_DSN}\"", "\"postgres://u:clear-literal@h/d\"");
    let literal = literal.replace("\"${env:MILLRACE_HASH_KEY}\"", "clear-literal-hash-key");
    let sabotages = [
        ("", ""),
        ("analytics.github", "github, clear: 1"),
        ("dist_key: actor", "dist_key: \"${env:COLUMN}\""),
        ("name: labels,", "name: \"${env:COLUMN}\", tpye: a,"),
        ("type: bool", "type: \"${env:COLUMN}\""),
        ("pipeline: github", "pipeline: \"${env:DSN}\""),
        ("256MiB", "\"${env:COLUMN}\""),
        ("actor LIKE", "${env:COLUMN} LIKE"),
        ("source: kind,", "source: \"${env:COLUMN}\","),
        ("\"./lake\"", "\"${env:DSN}\""),
        ("suites/github.json", "\"${env:COLUMN}\""),
        ("hash_key:", "hash-key:"),
        ("hash_key:", "haskey:"),
        ("dsn:", "dns:"),
        ("warehouse: {", "warehouse: {{"),
        ("privacy:   {", "privacy:   {]"),
        ("limits:    {", "limits: \"${env:COLUMN}\" {"),
        ("  files: {", "  files: {{ # postgres://u:clear-comment@h\n"),
    ];
    for text in [DESIGN, &literal] {
        for (from, to) in sabotages {
            assert!(text.contains(from) || text != DESIGN, "{from}");
            let text = text.replace(from, to) + "# postgres://a:clear-comment@c\n";
            let shown = shown(&text);
            let refused = check(&text).is_err();
            let leaks = shown.contains("clear-") || (refused && shown.contains("clear_column"));
            assert!(!leaks, "{from} -> {to}:\n{shown}");
            assert_eq!(refused, !from.is_empty(), "{from} -> {to}");
        }
    }
}

#[test]
fn options_of_kafka_are_not_shown() {
    let kafka = "kafka: {brokers: [\"a:1\"], topic: t, format: json, options: {sasl.password: clear-literal, ssl.x: \"${env:DSN}\"}}";
    let text = SMALLEST.replace("files: {path: events/, format: json}", kafka);
    assert!(check(&text).is_ok());
    assert!(!shown(&text).contains("clear-"), "{}", shown(&text));
    let refused = shown(&text.replace("topic: t", "topic: \"a b\""));
    assert!(
        refused.contains("[secret]") && !refused.contains("clear-"),
        "{refused}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_file_without_some_of_its_lines_never_panics(gone in prop::collection::vec(0usize..40, 0..6), bad in any::<bool>()) {
        let text = if bad { BAD } else { DESIGN };
        let kept: Vec<&str> = text.lines().enumerate().filter(|(i, _)| !gone.contains(i)).map(|(_, line)| line).collect();
        let _ = shown(&kept.join("\n"));
    }

    #[test]
    fn a_file_with_damaged_bytes_never_panics(
        damage in prop::collection::vec((any::<prop::sample::Index>(), "[ -~\u{e9}\t\n]{0,4}"), 1..8),
        bad in any::<bool>(),
    ) {
        let mut text = if bad { BAD } else { DESIGN }.to_owned();
        for (at, with) in damage {
            let start = at.index(text.len());
            if text.is_char_boundary(start) && text.is_char_boundary(start + 1) {
                text.replace_range(start..=start, &with);
            }
        }
        let _ = shown(&text);
    }

    #[test]
    fn any_text_never_panics(text in "[\\-\\[\\]{}:,&*!|>'\"#%a-c \n\t$é]{0,200}") {
        let _ = shown(&text);
    }
}
