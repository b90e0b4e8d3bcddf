//! Whatever order claims come in and whichever runs die, the runs that count write each key once.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::table::ClaimTable;
use super::{Claim, ClaimBook, ClaimError, ClaimedKeys, keeper_of};

const PLENTY: usize = 1 << 30;

fn claim(attempt: &str, run: u64, split: u32, keys: &[u128]) -> Claim {
    let group = ClaimedKeys {
        split,
        hour: 7,
        keys: keys.to_vec(),
    };
    Claim {
        attempt: attempt.to_owned(),
        run,
        groups: vec![group],
    }
}

fn book() -> (ClaimBook, Instant) {
    (ClaimBook::new(PLENTY), Instant::now())
}

#[test]
fn the_first_row_of_a_key_wins_and_no_other() {
    let (book, now) = book();
    let won = |run, split, keys: &[u128]| book.claim(&claim("a", run, split, keys), now).unwrap();
    assert_eq!(won(1, 0, &[5, 6, 5]), [true, true, false]);
    assert_eq!(won(1, 0, &[6, 7]), [false, true], "the same run");
    assert_eq!(won(1, 1, &[7, 8]), [false, true], "another split of the same run");
    assert_eq!(won(2, 2, &[8, 9]), [false, true], "another run of another split");
}

#[test]
fn a_later_run_of_a_split_takes_over_and_the_earlier_one_is_told() {
    let (book, now) = book();
    let ask = |run, split, keys: &[u128]| book.claim(&claim("a", run, split, keys), now);
    assert_eq!(ask(1, 0, &[5, 6]).unwrap(), [true, true]);
    assert_eq!(ask(9, 1, &[7]).unwrap(), [true]);
    assert_eq!(ask(2, 0, &[5, 6, 7, 5]).unwrap(), [true, true, false, false]);
    assert!(matches!(
        ask(1, 0, &[8]),
        Err(ClaimError::Superseded { split: 0 })
    ));
    assert_eq!(ask(2, 0, &[8]).unwrap(), [true]);
}

#[test]
fn an_attempt_that_was_closed_is_refused_and_takes_no_memory() {
    let (book, now) = book();
    book.claim(&claim("a", 1, 0, &[5]), now).unwrap();
    book.claim(&claim("b", 1, 0, &[5]), now).unwrap();
    let both = book.bytes();
    book.close(&["a".to_owned(), "never heard of".to_owned()]);
    assert_eq!(book.bytes() * 2, both);
    for attempt in ["a", "never heard of"] {
        let refused = book.claim(&claim(attempt, 1, 0, &[6]), now);
        assert!(matches!(refused, Err(ClaimError::Over { .. })), "{attempt}");
    }
    book.close_idle(now + Duration::from_secs(3599));
    assert_eq!(book.claim(&claim("b", 1, 0, &[5]), now).unwrap(), [false]);
    book.close_idle(now + Duration::from_secs(3600));
    let forgotten = book.claim(&claim("b", 1, 0, &[5]), now);
    assert!(matches!(forgotten, Err(ClaimError::Over { .. })));
    assert_eq!(book.bytes(), 0);
}

#[test]
fn claims_past_the_limit_are_refused() {
    let (book, now) = (ClaimBook::new(1), Instant::now());
    book.claim(&claim("a", 1, 0, &[5]), now).unwrap();
    let refused = book.claim(&claim("a", 1, 0, &[6]), now).unwrap_err();
    assert!(matches!(refused, ClaimError::Full { limit: 1 }) && !refused.is_retryable());
}

#[test]
fn each_keeper_has_a_range_of_about_the_same_size() {
    for keepers in [1_usize, 2, 3, 7] {
        let mut kept = vec![0; keepers];
        let mut before = 0;
        for key in (0..=u128::from(u16::MAX)).map(|high| high << 112) {
            let keeper = keeper_of(key, keepers);
            assert!(keeper >= before, "ranges are in order");
            (before, kept[keeper]) = (keeper, kept[keeper] + 1);
        }
        let share = (1 << 16) / keepers;
        assert!(
            kept.iter().all(|kept: &usize| kept.abs_diff(share) <= 1),
            "{kept:?}"
        );
        assert_eq!(keeper_of(u128::MAX, keepers), keepers - 1);
    }
}

/// What happens to a task: it claims its next rows, it dies and is run again, or an earlier run of it wakes and claims.
#[derive(Debug, Clone, Copy)]
enum Step {
    Claims { task: usize, rows: usize },
    Dies { task: usize, is_answer_lost: bool },
    Wakes { task: usize },
}

fn steps(tasks: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..tasks, 1usize..5).prop_map(|(task, rows)| Step::Claims { task, rows }),
        1 => (0..tasks, any::<bool>()).prop_map(|(task, is_answer_lost)| Step::Dies { task, is_answer_lost }),
        1 => (0..tasks).prop_map(|task| Step::Wakes { task }),
    ];
    prop::collection::vec(step, 0..60)
}

/// A run of a task of two splits: which row comes next, and the keys that it writes.
#[derive(Debug, Clone, Default)]
struct RunOf {
    number: u64,
    next: usize,
    written: Vec<u128>,
}

impl RunOf {
    /// Claims the next rows; false when it was refused.
    fn claims(&mut self, book: &ClaimBook, rows: &[(u32, u128)], count: usize, now: Instant) -> bool {
        let end = (self.next + count).min(rows.len());
        for (split, key) in rows.get(self.next..end).unwrap_or_default() {
            match book.claim(&claim("a", self.number, *split, &[*key]), now) {
                Ok(won) => self.written.extend(won[0].then_some(*key)),
                Err(ClaimError::Superseded { .. }) => return false,
                Err(error) => panic!("{error}"),
            }
        }
        self.next = end;
        true
    }
}

proptest! {
    #[test]
    fn runs_that_count_write_each_key_once(
        inputs in prop::collection::vec(prop::collection::vec((0u32..2, 1u128..25), 0..20), 1..4),
        steps in steps(3),
    ) {
        let (book, now) = book();
        let tasks: Vec<Vec<(u32, u128)>> = inputs.iter().enumerate().map(|(task, rows)| {
            let mut rows: Vec<_> = rows.iter().map(|(split, key)| (2 * task as u32 + split, *key)).collect();
            rows.sort_by_key(|(split, _)| *split);
            rows
        }).collect();
        let mut numbers = 0..;
        let mut begins = || RunOf { number: numbers.next().unwrap_or(0), ..RunOf::default() };
        let mut runs: Vec<RunOf> = tasks.iter().map(|_| begins()).collect();
        let mut dead: Vec<Option<RunOf>> = vec![None; tasks.len()];
        for step in steps {
            match step {
                Step::Claims { task, rows } => {
                    let task = task % tasks.len();
                    // A run that was taken for dead before it ever claimed may come last: the other one is run again.
                    if !runs[task].claims(&book, &tasks[task], rows, now) {
                        runs[task] = begins();
                    }
                }
                Step::Dies { task, is_answer_lost } => {
                    let task = task % tasks.len();
                    let mut run = std::mem::replace(&mut runs[task], begins());
                    if is_answer_lost {
                        let asked = run.clone().claims(&book, &tasks[task], 1, now);
                        run.next += usize::from(asked);
                    }
                    dead[task] = Some(run);
                }
                Step::Wakes { task } => {
                    let task = task % tasks.len();
                    if let Some(run) = &mut dead[task] {
                        run.claims(&book, &tasks[task], 3, now);
                    }
                }
            }
        }
        for (run, rows) in runs.iter_mut().zip(&tasks) {
            while !run.claims(&book, rows, rows.len(), now) {
                *run = begins();
            }
        }
        let mut written: BTreeMap<u128, usize> = BTreeMap::new();
        for key in runs.iter().flat_map(|run| &run.written) {
            *written.entry(*key).or_default() += 1;
        }
        let expected: BTreeMap<u128, usize> = tasks.iter().flatten().map(|(_, key)| (*key, 1)).collect();
        prop_assert_eq!(written, expected);
    }

    /// Hashes that crowd one end of the key space are the worst case: probing wraps around.
    #[test]
    fn a_table_knows_who_claimed_what(claims in prop::collection::vec((prop_oneof![
        any::<u128>(), (0..300_u128).prop_map(|n| u128::MAX - n), (0..300_u128).prop_map(|n| n << 64), 0..300_u128,
    ], 0u32..5), 0..400), chunk in 1usize..70) {
        let mut table = ClaimTable::default();
        // 0 and 1 are one key to the table: a chance of 2^-127 for real hashes.
        let mut model: HashMap<u128, u32> = HashMap::new();
        for claims in claims.chunk_by(|a, b| a.1 == b.1).flat_map(|run| run.chunks(chunk)) {
            let me = claims[0].1;
            let keys: Vec<u128> = claims.iter().map(|(key, _)| *key).collect();
            let mut won = Vec::new();
            table.claim(&keys, me, |other| other < me, &mut won);
            for (key, won) in keys.iter().zip(won) {
                let holder = model.get(&(*key).max(1)).copied();
                prop_assert_eq!(won, holder.is_none_or(|holder| holder < me));
                if won {
                    model.insert((*key).max(1), me);
                }
            }
        }
        prop_assert!(table.bytes() <= (model.len().max(43) * 4 / 3 + 100).next_power_of_two() * 20);
    }
}
