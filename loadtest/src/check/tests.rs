//! Tiny lakes, written with the public Parquet crate, each wrong in one way.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, UInt64Array};
use parquet::arrow::ArrowWriter;
use tempfile::TempDir;

use super::*;
use crate::generate::event::Event;
use crate::generate::files::{Compress, Output, generate};
use crate::generate::plan::{Plan, Recipe};

/// What a lake is to hold, before it is written.
struct Draft {
    folder: TempDir,
    rows: Vec<(Partition, String)>,
    rejects: Vec<(String, u64)>,
}

impl Draft {
    /// Exactly what the ledger says.
    fn perfect() -> Self {
        let folder = TempDir::new().unwrap();
        let recipe = Recipe {
            events: 5_000,
            hours: 3.0,
            broken: 0.02,
            seed: 11,
            ..Recipe::default()
        };
        let output = Output {
            folder: folder.path().join("sent"),
            files: 3,
            compress: Compress::None,
            threads: 2,
            overwrite: false,
        };
        generate(&recipe, &output).unwrap();
        let (plan, ledger) = (Plan::new(&recipe), Ledger::open(&output.folder).unwrap());
        let (mut rows, mut rejects) = (Vec::new(), Vec::new());
        let each = |line: crate::ledger::Line| {
            if line.entry.damage.is_some() {
                let name = &ledger.sent.files[line.file].name;
                rejects.push((format!("file:///somewhere/{name}"), line.offset));
            } else if line.entry.copy.is_none() {
                rows.push((
                    Partition::of(&Event::of(&plan, line.number)),
                    uuid_text(line.entry.id),
                ));
            }
        };
        ledger.for_each(each).unwrap();
        Self {
            folder,
            rows,
            rejects,
        }
    }

    fn sent(&self) -> PathBuf {
        self.folder.path().join("sent")
    }

    /// Writes the lake with one manifest and checks it.
    fn verdict(&self) -> Verdict {
        let lake = self.folder.path().join("lake");
        std::fs::create_dir_all(lake.join("manifests")).unwrap();
        let mut partitions: BTreeMap<&Partition, Vec<&str>> = BTreeMap::new();
        for (partition, id) in &self.rows {
            partitions.entry(partition).or_default().push(id);
        }
        let mut files = Vec::new();
        for (index, (partition, ids)) in partitions.into_iter().enumerate() {
            let key = format!("data/{index}.parquet");
            let rows = ids.len();
            write(
                &lake.join(&key),
                vec![("event_id", Arc::new(StringArray::from(ids)))],
            );
            files.push(serde_json::json!({
                "object": {"key": key, "bytes": 1, "rows": rows, "digest": ""},
                "partition": [["date", partition.date], ["hour", partition.hour], ["source", partition.source]],
                "time_min": 0, "time_max": 0,
            }));
        }
        let objects: Vec<&str> = self.rejects.iter().map(|(object, _)| object.as_str()).collect();
        let offsets: Vec<u64> = self.rejects.iter().map(|(_, offset)| *offset).collect();
        let rows = objects.len();
        let reasons = vec![r#"[{"kind":"syntax","detail":"x"}]"#; rows];
        write(
            &lake.join("quarantine/0.parquet"),
            vec![
                ("object", Arc::new(StringArray::from(objects))),
                ("offset", Arc::new(UInt64Array::from(offsets))),
                ("reasons", Arc::new(StringArray::from(reasons))),
            ],
        );
        let quarantine = serde_json::json!([{"key": "quarantine/0.parquet", "rows": rows}]);
        let manifest = serde_json::json!({"version": 1, "files": files, "quarantine": quarantine});
        std::fs::write(lake.join("manifests/b1.json"), manifest.to_string()).unwrap();
        check(&self.sent(), &lake).unwrap()
    }
}

fn write(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer =
        ArrowWriter::try_new(std::fs::File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn uuid_text(id: u128) -> String {
    let hex = format!("{id:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[test]
fn a_lake_that_holds_exactly_what_was_sent_passes() {
    let verdict = Draft::perfect().verdict();
    assert!(verdict.ok, "{verdict:?}");
    assert!(verdict.events.expected > 4_000 && verdict.quarantine.expected > 50);
    assert_eq!(verdict.events.expected, verdict.events.found);
}

#[test]
fn a_removed_event_is_missing() {
    let mut draft = Draft::perfect();
    let (_, id) = draft.rows.swap_remove(700);
    let verdict = draft.verdict();
    assert!(!verdict.ok);
    assert_eq!(verdict.events.missing.count, 1);
    assert_eq!(verdict.events.missing.first, [id.replace('-', "")]);
    assert_eq!(verdict.wrong_partitions.len(), 1);
}

#[test]
fn a_doubled_event_is_repeated_even_where_counts_agree() {
    let mut draft = Draft::perfect();
    draft.rows[700] = draft.rows[701].clone();
    let verdict = draft.verdict();
    assert_eq!(verdict.events.expected, verdict.events.found);
    assert!(!verdict.ok);
    assert_eq!(
        (verdict.events.missing.count, verdict.events.repeated.count),
        (1, 1)
    );
}

#[test]
fn an_added_event_is_unknown() {
    let mut draft = Draft::perfect();
    let partition = draft.rows[0].0.clone();
    draft.rows.push((partition, uuid_text(42)));
    let verdict = draft.verdict();
    assert!(!verdict.ok);
    assert_eq!(verdict.events.unknown.count, 1);
    assert!(verdict.broken_in_data.is_empty());
}

#[test]
fn a_broken_line_taken_for_an_event_is_named_by_its_damage() {
    let mut draft = Draft::perfect();
    let mut broken = None;
    let each = |line: crate::ledger::Line| {
        if line.entry.damage == Some(Damage::OutOfRange) {
            broken = Some(line.entry.id);
        }
    };
    Ledger::open(&draft.sent()).unwrap().for_each(each).unwrap();
    let partition = draft.rows[0].0.clone();
    draft.rows.push((partition, uuid_text(broken.unwrap())));
    let verdict = draft.verdict();
    assert!(!verdict.ok);
    assert_eq!(verdict.broken_in_data, BTreeMap::from([("out_of_range", 1)]));
}

#[test]
fn an_event_in_another_partition_is_found() {
    let mut draft = Draft::perfect();
    let other = draft
        .rows
        .iter()
        .map(|(partition, _)| partition)
        .find(|&name| *name != draft.rows[0].0)
        .cloned();
    draft.rows[0].0 = other.unwrap();
    let verdict = draft.verdict();
    assert!(!verdict.ok);
    assert!(verdict.events.is_clean());
    assert_eq!(verdict.wrong_partitions.len(), 2);
}

#[test]
fn a_broken_line_must_be_in_quarantine_once_and_a_good_one_never() {
    let mut draft = Draft::perfect();
    let (object, offset) = draft.rejects[3].clone();
    draft.rejects[4] = (object.clone(), offset);
    draft.rejects.push((object, offset + 1));
    draft
        .rejects
        .push(("file:///somewhere/else.ndjson".to_owned(), 0));
    let verdict = draft.verdict();
    assert!(!verdict.ok && verdict.events.is_clean());
    let findings = &verdict.quarantine;
    assert_eq!(
        (
            findings.missing.count,
            findings.repeated.count,
            findings.unknown.count
        ),
        (1, 1, 2)
    );
}

#[test]
fn a_missing_file_is_a_finding_and_a_missing_lake_an_error() {
    let draft = Draft::perfect();
    assert!(draft.verdict().ok);
    let lake = draft.folder.path().join("lake");
    std::fs::remove_file(lake.join("data/0.parquet")).unwrap();
    let verdict = check(&draft.sent(), &lake).unwrap();
    assert!(!verdict.ok);
    assert_eq!(verdict.bad_files.len(), 1);
    assert!(verdict.events.missing.count > 0);
    assert!(matches!(
        check(&draft.sent(), Path::new("/nowhere")),
        Err(CheckError::Lake(_))
    ));
}

#[test]
fn equal_counts_do_not_hide_a_loss_beside_a_repeat() {
    let findings = compare(&[1, 2, 3], &[1, 1, 3], |n| n.to_string(), &mut Vec::new());
    assert_eq!(findings.expected, findings.found);
    assert_eq!(findings.missing.first, ["2"]);
    assert_eq!(findings.repeated.first, ["1"]);
    assert_eq!(findings.unknown.count, 0);
}

#[test]
fn every_difference_of_small_sets_is_found() {
    for bits in 0..256_u32 {
        let (expected, found) = (bits & 15, bits >> 4);
        let members = |set: u32| (0..4).filter(|n| set >> n & 1 == 1).collect::<Vec<u32>>();
        let findings = compare(
            &members(expected),
            &members(found),
            |n| n.to_string(),
            &mut Vec::new(),
        );
        assert_eq!(
            findings.missing.count,
            u64::from((expected & !found).count_ones())
        );
        assert_eq!(
            findings.unknown.count,
            u64::from((found & !expected).count_ones())
        );
        assert_eq!(findings.repeated.count, 0);
    }
}
