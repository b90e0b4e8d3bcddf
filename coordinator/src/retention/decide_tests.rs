//! Expiries by hand and by the definition, event by event.

use millrace_proto::ids::{Attempt, JobId, PipelineName};
use millrace_proto::manifest::{Removed, Replaced};
use proptest::prelude::*;

use super::*;

fn object(key: String, rows: u64) -> WrittenObject {
    WrittenObject {
        key,
        bytes: rows * 10,
        rows,
        digest: String::new(),
    }
}

fn manifest(batch: u64) -> Manifest {
    Manifest {
        version: 1,
        pipeline: PipelineName::try_from("p".to_owned()).unwrap(),
        pipeline_digest: String::new(),
        job: JobId::try_from("j".to_owned()).unwrap(),
        batch: BatchId::try_from(format!("b{batch:08}")).unwrap(),
        attempt: Attempt { epoch: 1, number: 1 },
        environment: None,
        splits: Vec::new(),
        counts: Vec::new(),
        files: Vec::new(),
        quarantine: Vec::new(),
        keys: Vec::new(),
        quality: Vec::new(),
        reasons: BTreeMap::new(),
        replaces: Replaced::default(),
        removed: Removed::default(),
        enrich: Vec::new(),
        unmatched: BTreeMap::new(),
    }
}

/// A batch with one file of events at these times.
fn wrote(batch: u64, first_us: i64, last_us: i64) -> Manifest {
    let mut manifest = manifest(batch);
    manifest.files.push(DataFile {
        object: object(format!("data/x/{}-e1a1-0-0.parquet", manifest.batch), 1),
        partition: Vec::new(),
        time_min: first_us,
        time_max: last_us,
    });
    manifest
}

fn hold(from_us: i64, to_us: i64) -> LegalHold {
    LegalHold {
        id: "h1".to_owned(),
        from_us,
        to_us,
        reason: "a court asks".to_owned(),
        by: "ada".to_owned(),
        at_us: 0,
        released: None,
    }
}

fn free() -> Kept<'static> {
    static NONE: BTreeSet<BatchId> = BTreeSet::new();
    Kept {
        holds: &[],
        waiting: &NONE,
    }
}

#[test]
fn an_hour_is_too_old_when_its_last_microsecond_is() {
    let retention = Retention {
        lake_seconds: Some(2 * 3600),
        quarantine_seconds: Some(86_400),
        warehouse_seconds: Some(3600),
        keys_seconds: Some(4 * 3600),
        ..Retention::default()
    };
    let cutoffs = Cutoffs::of(&retention, 10 * HOUR_US);
    assert_eq!(cutoffs.data_before, Some(8));
    assert_eq!(Cutoffs::of(&retention, 10 * HOUR_US - 1).data_before, Some(7));
    assert_eq!(cutoffs.warehouse_before_us, Some(9 * HOUR_US));
    assert_eq!(cutoffs.quarantine_before, Some(-1));
    assert_eq!(cutoffs.keys_before, Some(6));
    assert_eq!(
        Cutoffs::of(&Retention::default(), 10 * HOUR_US),
        Cutoffs::default()
    );
    let files = [
        wrote(1, 7 * HOUR_US, 8 * HOUR_US - 1),
        wrote(2, 7 * HOUR_US, 8 * HOUR_US),
    ];
    let found = expiring(&files, &cutoffs, free());
    assert_eq!(found.files, files[0].files);
}

#[test]
fn quarantine_leaves_by_the_day_it_was_written_on() {
    let mut both = manifest(1);
    for (day, n) in [("2026-01-01", 0), ("2026-01-02", 1)] {
        both.quarantine.push(object(
            format!("quarantine/date={day}/b00000001-e1a1-0-{n}.parquet"),
            3,
        ));
    }
    let second = i64::from(NaiveDate::from_ymd_opt(2026, 1, 2).unwrap().to_epoch_days());
    let cutoffs = Cutoffs {
        quarantine_before: Some(second),
        ..Cutoffs::default()
    };
    let manifests = [both];
    let found = expiring(&manifests, &cutoffs, free());
    assert_eq!(found.quarantine, manifests[0].quarantine[..1]);
    assert_eq!(
        found.rejects(),
        Share {
            spans: 1,
            files: 1,
            bytes: 30,
            rows: 3
        }
    );
    // An event of the first day was rejected on that day, or later.
    let held = [hold((second - 1) * DAY_US + 5, (second - 1) * DAY_US + 6)];
    let found = expiring(
        &manifests,
        &cutoffs,
        Kept {
            holds: &held,
            ..free()
        },
    );
    assert!(found.is_empty());
    assert_eq!(found.held.rows, 3);
    let later = [hold(second * DAY_US, second * DAY_US + 6)];
    assert_eq!(
        expiring(
            &manifests,
            &cutoffs,
            Kept {
                holds: &later,
                ..free()
            }
        )
        .held
        .rows,
        0
    );
}

/// A batch with a key file for each of some hours.
fn indexed(batch: u64, hours: &[i64]) -> Manifest {
    let mut manifest = manifest(batch);
    let file = |hour: &i64| KeyFile {
        object: object(format!("keys/hour={hour}/{}-e1a1-0.parquet", manifest.batch), 7),
        hour: *hour,
    };
    manifest.keys = hours.iter().map(file).collect();
    manifest
}

fn hours_of(keys: &[KeyFile]) -> Vec<i64> {
    keys.iter().map(|file| file.hour).collect()
}

/// A file of hours 2 to 4 stays for its last hour, and with it the keys of all three.
#[test]
fn keys_leave_with_the_last_data_of_their_hour_and_not_before() {
    let manifests = [
        wrote(1, 0, HOUR_US + 5),
        wrote(2, 2 * HOUR_US, 4 * HOUR_US),
        indexed(3, &[0, 1, 2, 3, 4, 5, 9]),
    ];
    let cutoffs = |data| Cutoffs {
        data_before: Some(data),
        keys_before: Some(6),
        ..Cutoffs::default()
    };
    let found = expiring(&manifests, &cutoffs(4), free());
    assert_eq!((found.files.len(), hours_of(&found.keys)), (1, vec![0, 1, 5]));
    assert_eq!(
        found.index(),
        Share {
            spans: 3,
            files: 3,
            bytes: 210,
            rows: 21
        }
    );
    let held = [hold(HOUR_US + 5, HOUR_US + 6)];
    let kept = Kept {
        holds: &held,
        ..free()
    };
    let found = expiring(&manifests, &cutoffs(6), kept);
    assert_eq!((found.files.len(), hours_of(&found.keys)), (1, vec![2, 3, 4, 5]));
    let all = expiring(&manifests, &cutoffs(6), free());
    assert_eq!(hours_of(&all.keys), [0, 1, 2, 3, 4, 5]);
    let first = all.clone().first(1);
    assert_eq!((first.files.len(), first.keys.len()), (1, 0), "data goes first");
    let never = Cutoffs {
        keys_before: None,
        ..cutoffs(6)
    };
    assert!(expiring(&manifests, &never, free()).keys.is_empty());
}

proptest! {
    /// Every file is exactly one of: young, held, waited for, gone. Nothing of a held range goes, nothing that the
    /// warehouse waits for, nothing that is young; what was expired once is not again.
    #[test]
    fn what_leaves_is_old_and_nobody_keeps_it(
        spans in proptest::collection::vec((0i64..200, 0i64..30), 1..30),
        holds in proptest::collection::vec((0i64..200, 1i64..40), 0..4),
        waiting in proptest::collection::btree_set(0u64..30, 0..6),
        before in 0i64..12,
    ) {
        let unit = HOUR_US / 20; // files and holds cut through hours
        let manifests: Vec<Manifest> = spans
            .iter()
            .enumerate()
            .map(|(n, (first, length))| wrote(n as u64, first * unit, (first + length) * unit))
            .collect();
        let holds: Vec<LegalHold> = holds.iter().map(|(from, length)| hold(from * unit, (from + length) * unit)).collect();
        let waiting: BTreeSet<BatchId> = waiting.iter().map(|n| BatchId::try_from(format!("b{n:08}")).unwrap()).collect();
        let cutoffs = Cutoffs { data_before: Some(before), ..Cutoffs::default() };
        let found = expiring(&manifests, &cutoffs, Kept { holds: &holds, waiting: &waiting });
        let gone: BTreeSet<&str> = found.files.iter().map(|file| file.object.key.as_str()).collect();
        let (mut held, mut waits) = (0, 0);
        for (n, (first, length)) in spans.iter().enumerate() {
            let file = &manifests[n].files[0];
            // By hand, event by event of the file's grid.
            let events: Vec<i64> = (*first..=first + length).map(|at| at * unit).collect();
            let is_old = events.iter().all(|at| at / HOUR_US < before);
            let is_held = holds.iter().any(|hold| events[0] < hold.to_us && *events.last().unwrap() >= hold.from_us);
            let is_waited_for = waiting.contains(&manifests[n].batch);
            held += u64::from(is_old && is_held);
            waits += u64::from(is_old && !is_held && is_waited_for);
            let leaves = is_old && !is_held && !is_waited_for;
            prop_assert_eq!(leaves, gone.contains(file.object.key.as_str()));
        }
        prop_assert_eq!((found.held.files, found.waiting.files), (held, waits));
        let mut after = manifests.clone();
        let mut expiry = manifest(99);
        expiry.removed.rows = found.data().rows;
        expiry.replaces.files = found.files;
        prop_assert_eq!(expiry.check(), Ok(()));
        after.push(expiry);
        let again = expiring(&after, &cutoffs, Kept { holds: &holds, waiting: &waiting });
        prop_assert!(again.is_empty());
    }
}
