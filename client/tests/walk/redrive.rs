//! A second chance for records of every format: what quarantine keeps of one is enough to read it again, also when
//! its object is gone.

use std::sync::Arc;

use arrow::array::{Float64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;

use crate::sandbox::{Sandbox, summary};

const PIPELINE: &str = r#"
version: 1
pipeline: orders
source: {files: {path: sent/events, format: FORMAT}}
schema:
  - {name: id, type: string, required: true}
  - {name: at, type: timestamp, required: true}
  - {name: amount, type: AMOUNT}
  - {name: who, type: string, pii: email}
quality: {suite: suite.json, minimum_clean: 0}
dedup: {key: [id]}
privacy: {clear_in: [prod], hash_key: "${env:MILLRACE_HASH_KEY}"}
partition: {time: at, by: [date, hour]}
lake: {url: ./lake}
"#;

const SUITE: &str = r#"{"name": "orders", "expectations": [{"type": "expect_column_values_to_be_between",
  "kwargs": {"column": "amount", "min_value": LEAST}, "severity": "critical"}]}"#;

const IDS: [&str; 5] = ["a", "b", "c", "d", "e"];
const AMOUNTS: [f64; 5] = [1.0, 1.5, -3.0, 2.0, -4.5];

/// The same five orders in a format: the second has half an amount, the third a negative one, the last both.
fn object(format: &str) -> Vec<u8> {
    let who: Vec<String> = IDS
        .iter()
        .map(|id| format!("\"{id}\",\n{id}@example.com"))
        .collect();
    if format == "csv" {
        let quoted = |n: usize| who[n].replace('"', "\"\"");
        let line = |n: usize| {
            format!(
                "{},\"{}\",2026-01-01T05:00:0{n}Z,{}\n",
                IDS[n],
                quoted(n),
                AMOUNTS[n]
            )
        };
        return format!("id,who,at,amount\n{}", (0..5).map(line).collect::<String>()).into_bytes();
    }
    let times: Vec<String> = (0..5).map(|n| format!("2026-01-01T05:00:0{n}Z")).collect();
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    let amount = Field::new("amount", DataType::Float64, false);
    let schema = Arc::new(Schema::new(vec![text("id"), text("who"), text("at"), amount]));
    let events = RecordBatch::try_new(
        Arc::clone(&schema),
        vec![
            Arc::new(StringArray::from_iter_values(IDS)),
            Arc::new(StringArray::from_iter_values(who)),
            Arc::new(StringArray::from_iter_values(times)),
            Arc::new(Float64Array::from_iter_values(AMOUNTS)),
        ],
    )
    .unwrap();
    if format == "avro" {
        let mut writer = arrow_avro::writer::AvroWriter::new(Vec::new(), schema.as_ref().clone()).unwrap();
        writer.write(&events).unwrap();
        writer.finish().unwrap();
        return writer.into_inner();
    }
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, None).unwrap();
    writer.write(&events).unwrap();
    writer.into_inner().unwrap()
}

fn redrive(format: &str) {
    let mut sandbox = Sandbox::with_pipeline(&PIPELINE.replace("FORMAT", format).replace("AMOUNT", "int64"));
    std::fs::write(sandbox.path("suite.json"), SUITE.replace("LEAST", "0")).unwrap();
    sandbox.input(&format!("one.{format}"), object(format));
    let run = sandbox.run(&[]);
    let count = |summary: &serde_json::Value, key: &str| summary[key].as_u64().unwrap();
    assert_eq!(
        (count(&run, "events_written"), count(&run, "quarantined")),
        (2, 3)
    );

    let show = |more: &[&str]| {
        let output = sandbox.command(&["quarantine", "show"], &[&["1"], more].concat());
        String::from_utf8({ output }.output().unwrap().stdout).unwrap()
    };
    assert!(!show(&[]).contains("example.com"));
    let shown = show(&["--environment", "prod"]);
    assert!(
        shown.contains("@example.com") && shown.contains("amount"),
        "{shown}"
    );

    // The lake is all that is left, and the file is mended half.
    std::fs::remove_dir_all(sandbox.path("sent/events")).unwrap();
    std::fs::create_dir_all(sandbox.path("sent/events")).unwrap();
    sandbox.set_pipeline(&PIPELINE.replace("FORMAT", format).replace("AMOUNT", "float64"));
    let redrive = || {
        let mut command = sandbox.command(&["quarantine", "redrive"], &["--output", "json"]);
        summary(&command.output().unwrap())
    };
    let first = redrive();
    assert_eq!(
        (count(&first, "events_read"), count(&first, "events_written")),
        (3, 1)
    );
    // What failed again is kept as it was: the rest of the mending lets it pass.
    std::fs::write(sandbox.path("suite.json"), SUITE.replace("LEAST", "-5")).unwrap();
    let second = redrive();
    assert_eq!(
        (count(&second, "events_read"), count(&second, "events_written")),
        (2, 2)
    );

    let mut rows: Vec<(String, f64)> = sandbox
        .rows()
        .iter()
        .map(|row| (row["id"].clone(), row["amount"].parse().unwrap_or(f64::NAN)))
        .collect();
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(rows.len(), 5);
    // The first run wrote whole amounts as integers; the others are exact.
    for ((id, amount), (wanted_id, wanted)) in rows.iter().zip(IDS.iter().zip(AMOUNTS)) {
        assert_eq!((id.as_str(), *amount), (*wanted_id, wanted));
    }
    assert_eq!(sandbox.verify(), Vec::<String>::new());
}

#[test]
fn a_csv_record_is_read_again_without_its_file() {
    redrive("csv");
}

#[test]
fn an_avro_record_is_read_again_without_its_file() {
    redrive("avro");
}

#[test]
fn a_parquet_record_is_read_again_without_its_file() {
    redrive("parquet");
}
