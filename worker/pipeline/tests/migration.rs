//! Old formats against an independent oracle: GH Archive's own conversion of the same events, row for row.
//!
//! The data is not part of the repository: without `shared/data` in a folder above it the tests say so and pass.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    missing_docs,
    reason = "a test"
)]

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::buffer::Buffer;
use arrow::compute::concat_batches;
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use chrono::{DateTime, NaiveDateTime};
use flate2::read::GzDecoder;
use millrace_pipeline::decode::json::Decoder;
use millrace_pipeline::map::MapPlan;
use millrace_pipeline::rows::FAULTS;
use millrace_pipeline::spec;
use millrace_pipeline::spec::model::Pipeline;
use serde_json::Value;

/// SHA-1 of nothing: what the oracle's scrubbing made of an empty address.
const SHA1_OF_NOTHING: &str = "da39a3ee5e6b4b0d3255bfef95601890afd80709";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

fn example(name: &str) -> Pipeline {
    let folder = repository().join("client/examples/github");
    let text = std::fs::read_to_string(folder.join(name)).unwrap();
    let env = |_: &str| Some("6d61646520757020666f722074657374732c206e6f7468696e6720656c736521".to_owned());
    let read = |path: &Path| std::fs::read_to_string(path);
    spec::load(&text, name, &folder, &env, &read).unwrap_or_else(|report| panic!("{report:?}"))
}

/// An unpacked file of the shared data; none where the data is absent.
fn shared(name: &str) -> Option<Vec<u8>> {
    let repository = repository();
    let found = repository
        .ancestors()
        .map(|folder| folder.join("shared/data").join(name))
        .find(|path| path.exists());
    let Some(path) = found else {
        eprintln!("shared/data/{name} is absent: nothing is compared");
        return None;
    };
    let mut bytes = Vec::new();
    GzDecoder::new(std::fs::File::open(path).unwrap())
        .read_to_end(&mut bytes)
        .unwrap();
    Some(bytes)
}

fn old_events() -> Option<Vec<u8>> {
    shared("github-2013/2013-02-15-0.scrubbed.json.gz")
}

fn json_lines(bytes: &[u8]) -> Vec<Value> {
    bytes
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

fn run(pipeline: &Pipeline, input: Vec<u8>) -> RecordBatch {
    let plan = MapPlan::new(pipeline).unwrap();
    let mut decoder = Decoder::new(Arc::clone(plan.decode_plan()));
    let mut decoded = Vec::new();
    decoder
        .decode(&Buffer::from_vec(input), 0, 1, 0, &mut decoded)
        .unwrap();
    let mapped: Vec<RecordBatch> = decoded
        .iter()
        .map(|batch| plan.map_batch(batch).unwrap())
        .collect();
    concat_batches(&plan.schema(), &mapped).unwrap()
}

fn text<'a>(batch: &'a RecordBatch, column: &str, row: usize) -> Option<&'a str> {
    let array = batch.column_by_name(column).unwrap().as_string_view();
    array.is_valid(row).then(|| array.value(row))
}

fn integer(batch: &RecordBatch, column: &str, row: usize) -> Option<i64> {
    let array = batch.column_by_name(column).unwrap().as_primitive::<Int64Type>();
    array.is_valid(row).then(|| array.value(row))
}

fn time(batch: &RecordBatch, row: usize) -> i64 {
    let times = batch.column_by_name("event_time").unwrap();
    times.as_primitive::<TimestampMicrosecondType>().value(row)
}

fn faulty_rows(batch: &RecordBatch) -> Vec<&str> {
    batch
        .column_by_name(FAULTS)
        .unwrap()
        .as_string_view()
        .iter()
        .flatten()
        .collect()
}

/// Which fields of a row differ from the oracle's event; a payload by how.
fn differences(batch: &RecordBatch, row: usize, event: &Value) -> Vec<&'static str> {
    let mut found = Vec::new();
    let mut compare = |field, is_equal: bool| {
        if !is_equal {
            found.push(field);
        }
    };
    let created = event["created_at"].as_str().unwrap();
    let created = NaiveDateTime::parse_from_str(created, "%Y-%m-%d %H:%M:%S").unwrap();
    compare(
        "event_time",
        time(batch, row) == created.and_utc().timestamp_micros(),
    );
    compare(
        "actor",
        text(batch, "actor", row) == event["actor"]["login"].as_str(),
    );
    compare(
        "repo_id",
        integer(batch, "repo_id", row) == event["repo"]["id"].as_i64(),
    );
    compare("repo", text(batch, "repo", row) == event["repo"]["name"].as_str());
    compare(
        "repo_url",
        text(batch, "repo_url", row) == event["repo"]["url"].as_str(),
    );
    compare("org", text(batch, "org", row) == event["org"]["login"].as_str());
    compare("kind", text(batch, "kind", row) == event["type"].as_str());
    let public = batch.column_by_name("public").unwrap().as_boolean();
    compare(
        "public",
        public.is_valid(row) && Some(public.value(row)) == event["public"].as_bool(),
    );
    // The oracle keeps the payload as text within a text.
    let theirs = event["payload"].as_str().unwrap();
    let ours = text(batch, "payload", row).map(|text| serde_json::from_str::<Value>(text).unwrap());
    match ours {
        None => compare("payload: absent here, the text `null` there", theirs != "null"),
        Some(ours) if serde_json::from_str::<Value>(theirs).unwrap() == ours => {}
        Some(ours) => {
            let unscrubbed: Value = serde_json::from_str(&theirs.replace(SHA1_OF_NOTHING, "")).unwrap();
            let how = if unscrubbed == ours {
                "payload: an empty address is hashed there"
            } else {
                "payload"
            };
            compare(how, false);
        }
    }
    found
}

#[test]
fn the_timeline_format_becomes_what_gh_archive_made_of_it() {
    let (Some(old), Some(converted)) = (
        old_events(),
        shared("github-2013/2013-02-15-0.transformed.scrubbed.json.gz"),
    ) else {
        return;
    };
    let mapped = run(&example("timeline-2013.yaml"), old);
    let oracle = json_lines(&converted);
    assert_eq!(mapped.num_rows(), oracle.len());
    assert_eq!(faulty_rows(&mapped), [""; 0]);

    let mut counted: BTreeMap<&str, usize> = BTreeMap::new();
    for (row, event) in oracle.iter().enumerate() {
        for difference in differences(&mapped, row, event) {
            *counted.entry(difference).or_default() += 1;
        }
    }
    let expected = BTreeMap::from([
        ("payload: absent here, the text `null` there", 1),
        ("payload: an empty address is hashed there", 3),
    ]);
    assert_eq!(counted, expected);

    let nulls = |column: &str| mapped.column_by_name(column).unwrap().null_count();
    assert_eq!((nulls("actor"), nulls("repo"), nulls("event_id")), (3, 161, 0));
    let ids = mapped.column_by_name("event_id").unwrap().as_string_view();
    let ids: std::collections::HashSet<&str> = ids.iter().flatten().collect();
    assert_eq!(
        ids.len(),
        oracle.len(),
        "events that differ must get ids that differ"
    );
}

#[test]
fn one_pipeline_takes_both_formats_however_they_are_mixed() {
    let (Some(old), Some(new)) = (old_events(), shared("github-2017/events.ndjson.gz")) else {
        return;
    };
    // Alternating lines: every batch mixes the formats.
    let lines = |bytes: &[u8]| -> Vec<Vec<u8>> {
        let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(<[u8]>::to_vec).collect()
    };
    let (old, new) = (lines(&old), lines(&new));
    let (old, new) = (old.iter(), &mut new.iter());
    let mut mixed: Vec<&Vec<u8>> = Vec::new();
    for line in old {
        mixed.push(line);
        mixed.extend(new.next());
    }
    mixed.extend(new);
    let mut input = Vec::new();
    for line in &mixed {
        input.extend_from_slice(line);
        input.push(b'\n');
    }

    let mapped = run(&example("github.yaml"), input);
    assert_eq!(mapped.num_rows(), mixed.len());
    assert_eq!(faulty_rows(&mapped), [""; 0]);
    for (row, line) in mixed.iter().enumerate() {
        let event: Value = serde_json::from_slice(line).unwrap();
        let created = DateTime::parse_from_rfc3339(event["created_at"].as_str().unwrap()).unwrap();
        assert_eq!(time(&mapped, row), created.timestamp_micros(), "row {row}");
        assert_eq!(text(&mapped, "kind", row), event["type"].as_str(), "row {row}");
        let payload = text(&mapped, "payload", row).map(|text| serde_json::from_str::<Value>(text).unwrap());
        assert_eq!(payload.as_ref(), event.get("payload"), "row {row}");
        let is_new = event.get("id").is_some();
        let repository = &event["repository"];
        let full_name = repository["owner"].as_str().zip(repository["name"].as_str());
        let full_name = full_name.map(|(owner, name)| format!("{owner}/{name}"));
        let (actor, repo) = match is_new {
            true => (event["actor"]["login"].as_str(), event["repo"]["name"].as_str()),
            false => (event["actor"].as_str(), full_name.as_deref()),
        };
        assert_eq!(text(&mapped, "actor", row), actor, "row {row}");
        assert_eq!(text(&mapped, "repo", row), repo, "row {row}");
        let bots = mapped.column_by_name("is_bot").unwrap().as_boolean();
        assert_eq!(
            bots.is_valid(row).then(|| bots.value(row)),
            actor.map(|name| name.ends_with("[bot]"))
        );
        if is_new {
            assert_eq!(text(&mapped, "event_id", row), event["id"].as_str(), "row {row}");
        }
    }
}
