//! Hours and watermarks against their definition, told step by step.

use proptest::prelude::*;

use super::*;

const LATENESS_SECONDS: u64 = 1_800;
const LATENESS_US: i64 = 1_800_000_000;

fn batch(n: usize) -> BatchId {
    BatchId::try_from(format!("b{n:08}")).unwrap()
}

fn partition(n: u8) -> String {
    format!("kafka://t/{n}")
}

fn at(partition: String, time_us: i64) -> PartitionTime {
    PartitionTime {
        partition,
        time_us: Some(time_us),
    }
}

/// A commit of one event.
fn event(partition: String, time_us: i64) -> Told {
    Told {
        lateness_seconds: LATENESS_SECONDS,
        newest: vec![at(partition, time_us)],
        hours: vec![HourChange {
            hour: time_us.div_euclid(HOUR_US),
            rows: 1,
            files: 1,
            bytes: 10,
            replaced: None,
        }],
        ..Told::default()
    }
}

fn state_of(times: &EventTime, hour: i64) -> HourState {
    times.hours[&hour].state
}

#[test]
fn an_hour_waits_for_every_partition_and_the_lateness() {
    let mut times = EventTime::default();
    let none = SplitCounts::default();
    times.commit(&batch(1), &event(partition(0), 10), &none, false);
    times.commit(&batch(2), &event(partition(1), 20), &none, false);
    times.commit(
        &batch(3),
        &event(partition(0), HOUR_US + LATENESS_US),
        &none,
        false,
    );
    assert_eq!(state_of(&times, 0), HourState::Open, "partition 1 is behind");
    times.commit(
        &batch(4),
        &event(partition(1), HOUR_US + LATENESS_US - 1),
        &none,
        false,
    );
    assert_eq!(state_of(&times, 0), HourState::Open, "the lateness is not over");
    times.commit(
        &batch(5),
        &event(partition(1), HOUR_US + LATENESS_US),
        &none,
        false,
    );
    assert_eq!(state_of(&times, 0), HourState::Complete);
    assert_eq!(state_of(&times, 1), HourState::Open);
}

#[test]
fn a_partition_that_has_nothing_left_holds_no_hour_open() {
    let mut times = EventTime::default();
    let none = SplitCounts::default();
    times.commit(&batch(1), &event(partition(0), 10), &none, false);
    times.commit(&batch(2), &event(partition(1), 3 * HOUR_US), &none, false);
    assert_eq!(state_of(&times, 0), HourState::Open);
    let looked = vec![
        at(partition(0), 4 * HOUR_US),
        at(partition(1), 4 * HOUR_US),
        at(partition(2), 4 * HOUR_US),
    ];
    assert!(times.would_complete(&looked));
    times.reach(&looked);
    assert_eq!(state_of(&times, 0), HourState::Complete);
    assert_eq!(
        state_of(&times, 3),
        HourState::Open,
        "the clock has not passed its lateness"
    );
    assert!(!times.would_complete(&looked));
}

#[test]
fn objects_hold_every_hour_open_until_all_of_them_are_committed() {
    let mut times = EventTime::default();
    let none = SplitCounts::default();
    let closed = [at(OBJECTS.to_owned(), i64::MAX)];
    for (n, hour) in [(1, 9), (2, 0)] {
        let told = event(OBJECTS.to_owned(), hour * HOUR_US);
        times.commit(&batch(n), &told, &none, false);
        assert_eq!(times.watermarks.passed(), None);
        assert_eq!(state_of(&times, hour), HourState::Open);
    }
    times.reach(&closed);
    assert_eq!(state_of(&times, 0), HourState::Complete);
    // A later listing: only what it writes to is open again, and only until it is read.
    times.commit(&batch(3), &event(OBJECTS.to_owned(), 5), &none, false);
    assert_eq!(state_of(&times, 0), HourState::Reopened);
    assert_eq!(state_of(&times, 9), HourState::Complete);
    times.reach(&closed);
    assert_eq!(state_of(&times, 0), HourState::Complete);
}

#[test]
fn a_late_event_reopens_an_hour_until_the_lateness_has_passed_once_more() {
    let mut times = EventTime::default();
    let none = SplitCounts::default();
    times.commit(&batch(1), &event(partition(0), 10), &none, false);
    times.commit(&batch(2), &event(partition(0), 5 * HOUR_US), &none, false);
    let compaction = Told {
        compacted: vec![0],
        ..Told::default()
    };
    times.commit(&batch(3), &compaction, &none, true);
    assert_eq!(state_of(&times, 0), HourState::Compacted);
    times.commit(&batch(4), &event(partition(0), 11), &none, false);
    assert_eq!(state_of(&times, 0), HourState::Reopened);
    times.commit(&batch(5), &compaction, &none, true);
    assert_eq!(
        state_of(&times, 0),
        HourState::Reopened,
        "a compaction completes nothing"
    );
    let next = event(partition(0), 5 * HOUR_US + LATENESS_US);
    times.commit(&batch(6), &next, &none, false);
    assert_eq!(state_of(&times, 0), HourState::Complete);
}

#[test]
fn partitions_of_a_topic_that_is_no_longer_read_are_forgotten() {
    let mut times = EventTime::default();
    times.commit(
        &batch(1),
        &event("kafka://old/0".to_owned(), 10),
        &SplitCounts::default(),
        false,
    );
    times.reach(&[at(partition(0), 9 * HOUR_US)]);
    assert_eq!(times.watermarks.passed(), Some(9 * HOUR_US));
    assert_eq!(times.watermarks.of("kafka://old/0"), None);
    assert_eq!(state_of(&times, 0), HourState::Complete);
}

#[derive(Debug, Clone)]
enum Step {
    Event(u8, i64),
    Reached(u8, i64),
    Compacted(i64),
}

fn step() -> impl Strategy<Value = Step> {
    let time = 0..6 * HOUR_US;
    prop_oneof![
        4 => (0u8..3, time.clone()).prop_map(|(p, time)| Step::Event(p, time)),
        2 => (0u8..3, time).prop_map(|(p, time)| Step::Reached(p, time)),
        2 => (0i64..6).prop_map(Step::Compacted),
    ]
}

proptest! {
    /// Against the definition, told step by step without any of the machinery.
    #[test]
    fn every_history_follows_the_definition(steps in proptest::collection::vec(step(), 1..60)) {
        let mut times = EventTime::default();
        let mut passed: BTreeMap<u8, i64> = BTreeMap::new();
        let mut rows: BTreeMap<i64, u64> = BTreeMap::new();
        let mut before = 0;
        for (n, step) in steps.into_iter().enumerate() {
            let was = times.clone();
            let none = SplitCounts::default();
            let mut written = None;
            match step {
                Step::Event(p, time) => {
                    times.commit(&batch(n), &event(partition(p), time), &none, false);
                    let known = passed.entry(p).or_insert(time);
                    *known = (*known).max(time);
                    written = Some(time.div_euclid(HOUR_US));
                    *rows.entry(time.div_euclid(HOUR_US)).or_default() += 1;
                }
                Step::Reached(p, time) => {
                    times.reach(&[at(partition(p), time)]);
                    let known = passed.entry(p).or_insert(time);
                    *known = (*known).max(time);
                }
                Step::Compacted(hour) => {
                    let told = Told { compacted: vec![hour], ..Told::default() };
                    times.commit(&batch(n), &told, &none, true);
                    let complete = was.hours.get(&hour).is_some_and(|record| record.state.is_complete());
                    let compacted = times.hours.get(&hour).is_some_and(|record| record.state == HourState::Compacted);
                    prop_assert_eq!(complete, compacted, "only a complete hour is compacted");
                }
            }
            let watermark = passed.values().min().copied();
            prop_assert_eq!(times.watermarks.passed(), watermark);
            for (hour, record) in &times.hours {
                let due = watermark.is_some_and(|watermark| watermark >= record.due_us);
                prop_assert!(record.due_us >= (hour + 1) * HOUR_US + LATENESS_US);
                let was = was.hours.get(hour).map(|record| record.state);
                match record.state {
                    HourState::Open | HourState::Reopened => prop_assert!(!due, "it is due and not complete"),
                    HourState::Complete | HourState::Compacted if was.is_none_or(|was| !was.is_complete()) => {
                        prop_assert!(due, "it is complete and not due");
                    }
                    HourState::Complete | HourState::Compacted => {
                        prop_assert!(written != Some(*hour) || due, "a late event did not reopen it");
                    }
                }
                prop_assert_eq!(record.rows, rows[hour]);
            }
            let after = times.hours.len();
            prop_assert!(after >= before);
            before = after;
        }
    }
}
