//! Planning against a plain model: a set of offsets.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn partition(number: i32, id: &str, low: u64, high: u64) -> PartitionOffsets {
    let place = TopicPartition {
        topic: "t".to_owned(),
        partition: number,
    };
    PartitionOffsets {
        object: place.object(id),
        partition: number,
        low,
        high,
    }
}

fn small(split_bytes: u64) -> Sizing {
    Sizing {
        split_bytes,
        split_events_max: 7,
        event_bytes: 10,
    }
}

/// What of `start..end` is in no range of `covered`.
fn left(covered: &[(u64, u64)], start: u64, end: u64) -> Vec<(u64, u64)> {
    let mut left = Vec::new();
    for offset in start..end {
        if covered.iter().any(|(from, to)| (*from..*to).contains(&offset)) {
            continue;
        }
        match left.last_mut() {
            Some((_, end)) if *end == offset => *end += 1,
            _ => left.push((offset, offset + 1)),
        }
    }
    left
}

proptest! {
    /// Every offset of the range is planned once, planned before, or in a gap: never two of them, never none.
    #[test]
    fn an_offset_is_planned_covered_or_in_a_gap(
        bounds in proptest::collection::vec((0u64..40, 0u64..40, 0u64..40, 0u64..40), 1..5),
        covered in proptest::collection::vec((0u64..40, 1u64..10), 0..4),
        split_bytes in 1u64..300,
    ) {
        let covered: Vec<(u64, u64)> = covered.into_iter().map(|(start, length)| (start, start + length)).collect();
        let mut partitions = Vec::new();
        let mut ranges = Vec::new();
        for (number, (a, b, c, d)) in bounds.into_iter().enumerate() {
            let held = partition(i32::try_from(number).unwrap(), "id", a.min(b), a.max(b));
            let (start, end) = (c.min(d), c.max(d).min(held.high));
            ranges.push(OffsetRange { object: held.object.clone(), start, end: end.max(start) });
            partitions.push(held);
        }
        let range = TopicRange { ranges, open: false };
        let plan = plan_range(&range, &partitions, &|_, start, end| left(&covered, start, end), small(split_bytes));
        for (index, split) in plan.splits.iter().enumerate() {
            prop_assert_eq!(split.index as usize, index);
            prop_assert!(split.start < split.end && split.end - split.start <= 7);
        }
        for (wanted, held) in range.ranges.iter().zip(&partitions) {
            let mut seen = BTreeSet::new();
            let splits = plan.splits.iter().filter(|split| split.object == wanted.object);
            for offset in splits.flat_map(|split| split.start..split.end) {
                prop_assert!(seen.insert(offset), "{} twice", offset);
                prop_assert!(held.low <= offset && offset < held.high);
            }
            let gaps = plan.gaps.iter().filter(|gap| gap.object == wanted.object);
            for offset in gaps.flat_map(|gap| gap.start..gap.end) {
                prop_assert!(seen.insert(offset), "{} planned and lost", offset);
                prop_assert!(offset < held.low);
            }
            let before = covered.iter().flat_map(|(start, end)| *start..*end);
            for offset in before.filter(|offset| (wanted.start..wanted.end).contains(offset)) {
                seen.insert(offset);
            }
            let readable = wanted.start..wanted.end.min(held.high).max(wanted.start);
            prop_assert_eq!(seen.into_iter().collect::<Vec<_>>(), readable.collect::<Vec<_>>());
        }
    }
}

#[test]
fn partitions_take_turns_and_splits_keep_to_their_size() {
    let partitions = [partition(0, "id", 0, 20), partition(1, "id", 5, 10)];
    let range = everything(&partitions);
    let plan = plan_range(
        &range,
        &partitions,
        &|_, start, end| vec![(start, end)],
        small(50),
    );
    let shape: Vec<(&str, u64, u64)> = plan
        .splits
        .iter()
        .map(|split| (split.object.url.as_str(), split.start, split.end))
        .collect();
    let expected = [
        ("kafka://t/0", 0, 5),
        ("kafka://t/1", 5, 10),
        ("kafka://t/0", 5, 10),
        ("kafka://t/0", 10, 15),
        ("kafka://t/0", 15, 20),
    ];
    assert_eq!((shape.as_slice(), plan.gaps.len()), (expected.as_slice(), 0));
}

#[test]
fn an_hour_ends_where_the_next_begins_or_where_the_log_does() {
    let partitions = [
        partition(0, "id", 0, 100),
        partition(1, "id", 50, 80),
        partition(2, "id", 0, 9),
        partition(3, "id", 0, 30),
    ];
    let from = [Some(10), Some(60), None, Some(20)];
    // The last partition's times do not rise with its offsets, and an offset came after the watermark was read.
    let to = [Some(40), None, None, Some(15)];
    let range = between(&partitions, &from, &to, false);
    let bounds: Vec<(u64, u64)> = range
        .ranges
        .iter()
        .map(|range| (range.start, range.end))
        .collect();
    assert_eq!(bounds, [(10, 40), (60, 80), (9, 9), (20, 20)]);
    assert!(range.open && !between(&partitions, &from, &to, true).open);
}

#[test]
fn following_goes_on_where_planning_stopped_and_names_what_is_lost() {
    let before = [
        partition(0, "old", 0, 10),
        partition(1, "old", 0, 10),
        partition(2, "old", 0, 10),
    ];
    let planned: Vec<(InputObject, u64)> = before.iter().map(|p| (p.object.clone(), p.high)).collect();
    // Retention took 10..15 of the first, the second lost its end, the third is as it was, the fourth is new.
    let now = [
        partition(0, "old", 15, 20),
        partition(1, "old", 0, 7),
        partition(2, "old", 0, 12),
        partition(3, "old", 2, 4),
    ];
    let (range, gaps) = onward(&now, &planned, Begin::Latest);
    assert_eq!(gaps, [gap(&before[1].object, 7, 10, Reason::Truncated)]);
    let plan = plan_range(
        &range,
        &now,
        &|_, start, end| vec![(start, end)],
        Sizing::default(),
    );
    let splits: Vec<(&str, u64, u64)> = plan
        .splits
        .iter()
        .map(|s| (s.object.url.as_str(), s.start, s.end))
        .collect();
    assert_eq!(
        splits,
        [
            ("kafka://t/0", 15, 20),
            ("kafka://t/2", 10, 12),
            ("kafka://t/3", 2, 4)
        ]
    );
    let lost = [
        gap(&now[0].object, 10, 15, Reason::Retention),
        gap(&now[3].object, 0, 2, Reason::Retention),
    ];
    assert_eq!(plan.gaps, lost);
}

#[test]
fn a_topic_made_anew_is_a_gap_of_the_old_one_and_is_read_from_its_start() {
    let old = partition(0, "old", 0, 10);
    let new = [partition(0, "new", 0, 3)];
    let (range, gaps) = onward(&new, &[(old.object.clone(), 10)], Begin::Latest);
    assert_eq!(gaps, [gap(&old.object, 10, 10, Reason::Recreated)]);
    assert_eq!(
        range.ranges,
        [OffsetRange {
            object: new[0].object.clone(),
            start: 0,
            end: 3
        }]
    );
    // A range that was taken before the topic was made anew is a gap whole.
    let stale = everything(&[old]);
    let plan = plan_range(
        &stale,
        &new,
        &|_, start, end| vec![(start, end)],
        Sizing::default(),
    );
    assert!(plan.splits.is_empty());
    assert_eq!(
        (plan.gaps[0].start, plan.gaps[0].end, plan.gaps[0].reason),
        (0, 10, Reason::Recreated)
    );
}

#[test]
fn splits_are_sized_by_what_messages_were_seen_to_weigh() {
    let sizing = Sizing::default().learned(1_000_000, 1000);
    assert_eq!(sizing.event_bytes, 1000);
    assert_eq!(Sizing::default().learned(5, 0), Sizing::default());
    let held = [partition(0, "id", 0, 100_000)];
    let plan = plan_range(
        &everything(&held),
        &held,
        &|_, start, end| vec![(start, end)],
        sizing,
    );
    assert!(plan.splits.iter().all(|split| sizing.bytes(split) <= 16 << 20));
    assert_eq!(plan.splits.len(), 6);
}
