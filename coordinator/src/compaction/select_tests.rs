//! What is selected, and that compaction after compaction comes to an end and keeps every row.

use millrace_proto::ids::{Attempt, BatchId, JobId, PipelineName};
use millrace_proto::manifest::{Removed, Replaced, WrittenObject};
use proptest::prelude::*;

use super::*;
use crate::hours::HOUR_US;

const LIMITS: Limits = Limits {
    file_bytes: 1_000,
    step_bytes: 1_000,
};

fn object(key: String, bytes: u64) -> WrittenObject {
    WrittenObject {
        key,
        bytes,
        rows: bytes,
        digest: String::new(),
    }
}

fn file(name: &str, partition: &str, hours: (i64, i64), bytes: u64) -> DataFile {
    DataFile {
        object: object(format!("data/{partition}/{name}"), bytes),
        partition: vec![("hour".to_owned(), partition.to_owned())],
        time_min: hours.0 * HOUR_US,
        time_max: hours.1 * HOUR_US + 1,
    }
}

fn manifest(n: usize, files: Vec<DataFile>, replaces: Replaced) -> Manifest {
    let keys = files.iter().map(|file| KeyFile {
        object: object(
            format!("keys/{}/b{n}-{}", first_hour(file), file.object.key),
            file.object.rows,
        ),
        hour: first_hour(file),
    });
    Manifest {
        enrich: Vec::new(),
        unmatched: Default::default(),
        version: 1,
        pipeline: PipelineName::try_from("p".to_owned()).unwrap(),
        pipeline_digest: String::new(),
        job: JobId::try_from("j".to_owned()).unwrap(),
        batch: BatchId::try_from(format!("b{n:08}")).unwrap(),
        attempt: Attempt { epoch: 1, number: 1 },
        environment: None,
        splits: Vec::new(),
        counts: Vec::new(),
        keys: keys.collect(),
        files,
        quarantine: Vec::new(),
        quality: Vec::new(),
        reasons: BTreeMap::new(),
        replaces,
        removed: Removed::default(),
    }
}

fn names(files: &[DataFile]) -> Vec<&str> {
    let name = |file: &'_ DataFile| file.object.key.rfind('/').map(|at| at + 1).unwrap_or(0);
    files.iter().map(|file| &file.object.key[name(file)..]).collect()
}

#[test]
fn small_files_of_a_partition_are_taken_and_others_stay() {
    let manifests = [
        manifest(
            1,
            vec![
                file("a", "0", (0, 0), 100),
                file("alone", "1", (1, 1), 100),
                file("large", "0", (0, 0), 600),
            ],
            Replaced::default(),
        ),
        manifest(2, vec![file("b", "0", (0, 0), 100)], Replaced::default()),
    ];
    let selection = select(&manifests, &[0, 1], &|_| false, LIMITS);
    assert_eq!(names(&selection.files), ["a", "b"]);
    assert_eq!(selection.finished, [0, 1]);
    assert_eq!(
        selection.keys.iter().map(|file| file.hour).collect::<Vec<_>>(),
        [0, 0, 0]
    );
}

#[test]
fn a_step_takes_partitions_until_it_has_enough_and_the_next_one_goes_on() {
    let two = |partition: &'static str, hour, bytes| {
        let of = |name: &str| file(&format!("{name}{partition}"), partition, (hour, hour), bytes);
        [of("a"), of("b")]
    };
    let files = [two("0", 0, 20), two("1", 1, 100), two("2", 2, 20)].concat();
    let manifests = [manifest(1, files, Replaced::default())];
    let limits = Limits {
        step_bytes: 150,
        ..LIMITS
    };
    let selection = select(&manifests, &[0, 1, 2], &|_| false, limits);
    assert_eq!(names(&selection.files), ["a0", "b0", "a1", "b1"]);
    assert_eq!(selection.finished, [0, 1]);
    let limits = Limits {
        step_bytes: 0,
        ..LIMITS
    };
    let selection = select(&manifests, &[0, 1, 2], &|_| false, limits);
    assert_eq!(names(&selection.files), ["a0", "b0"], "at least one");
}

#[test]
fn a_file_that_reaches_into_an_open_hour_waits_for_it() {
    let day = |name| file(name, "day", (3, 5), 100);
    let manifests = [manifest(1, vec![day("a"), day("b")], Replaced::default())];
    let selection = select(&manifests, &[3], &|hour| hour == 4, LIMITS);
    assert!(selection.files.is_empty() && selection.finished == [3]);
    let selection = select(&manifests, &[5], &|hour| hour < 5, LIMITS);
    assert_eq!(names(&selection.files), ["a", "b"]);
}

#[test]
fn what_was_replaced_is_not_taken_again_and_what_came_out_small_only_with_something_new() {
    let replaced = Replaced {
        files: vec![file("a", "0", (0, 0), 100), file("b", "0", (0, 0), 100)],
        ..Replaced::default()
    };
    let mut manifests = vec![
        manifest(
            1,
            vec![file("a", "0", (0, 0), 100), file("b", "0", (0, 0), 100)],
            Replaced::default(),
        ),
        manifest(
            2,
            vec![file("c", "0", (0, 0), 90), file("d", "0", (0, 0), 90)],
            replaced,
        ),
    ];
    let selection = select(&manifests, &[0], &|_| true, LIMITS);
    assert!(selection.files.is_empty());
    manifests.push(manifest(
        3,
        vec![file("late", "0", (0, 0), 1)],
        Replaced::default(),
    ));
    let selection = select(&manifests, &[0], &|_| true, LIMITS);
    assert_eq!(names(&selection.files), ["late", "c", "d"]);
}

/// Rewrites the selection as files of at most `split` bytes, as if memory did not allow more.
fn apply(manifests: &mut Vec<Manifest>, selection: Selection, split: u64) {
    let n = manifests.len();
    let mut partitions: BTreeMap<Vec<(String, String)>, (u64, i64, i64)> = BTreeMap::new();
    for file in &selection.files {
        let entry = partitions
            .entry(file.partition.clone())
            .or_insert((0, file.time_min, file.time_max));
        entry.0 += file.object.bytes;
        entry.1 = entry.1.min(file.time_min);
        entry.2 = entry.2.max(file.time_max);
    }
    let mut files = Vec::new();
    for (partition, (mut bytes, time_min, time_max)) in partitions {
        while bytes > 0 {
            let size = bytes.min(split);
            bytes -= size;
            let key = format!("data/{n}-{}", files.len());
            let object = object(key, size);
            files.push(DataFile {
                object,
                partition: partition.clone(),
                time_min,
                time_max,
            });
        }
    }
    let replaces = Replaced {
        quarantine: Vec::new(),
        files: selection.files,
        keys: selection.keys,
        hours: selection.finished,
    };
    manifests.push(manifest(n, files, replaces));
}

proptest! {
    /// Whatever the files are and however they come out, compaction comes to an end, loses no byte and takes nothing twice.
    #[test]
    fn compaction_ends_and_keeps_every_row(
        files in proptest::collection::vec((0usize..3, 0i64..3, 1u64..1_500), 1..60),
        split in 20u64..1_500,
    ) {
        let all: Vec<DataFile> = files
            .iter()
            .enumerate()
            .map(|(n, (source, hour, bytes))| file(&n.to_string(), &format!("{hour}/{source}"), (*hour, *hour), *bytes))
            .collect();
        let mut manifests = vec![manifest(0, all, Replaced::default())];
        let rows = |manifests: &[Manifest]| live::files(manifests).iter().map(|(_, file)| file.object.rows).sum::<u64>();
        let before = rows(&manifests);
        let mut left: Vec<i64> = vec![0, 1, 2];
        let mut rounds = 0;
        while !left.is_empty() {
            let selection = select(&manifests, &left, &|_| true, LIMITS);
            prop_assert!(!selection.finished.is_empty() || selection.files.len() > 1, "nothing is done");
            let bytes: u64 = selection.files.iter().map(|file| file.object.bytes).sum();
            prop_assert!(bytes <= LIMITS.file_bytes * 2, "{bytes} at once");
            left.retain(|hour| !selection.finished.contains(hour));
            apply(&mut manifests, selection, split);
            prop_assert_eq!(rows(&manifests), before);
            rounds += 1;
            prop_assert!(rounds <= 61, "it does not end");
        }
        let mut small: BTreeMap<&[(String, String)], usize> = BTreeMap::new();
        for (manifest, file) in live::files(&manifests) {
            if file.object.bytes < LIMITS.file_bytes / 2 && manifest.replaces.is_empty() {
                *small.entry(&file.partition).or_default() += 1;
            }
        }
        prop_assert!(small.values().all(|count| *count <= 1), "small files are left: {small:?}");
    }
}
