//! What is due, against histories of hours: by hand, and by chance against the rule told in other words.

use std::collections::{BTreeMap, BTreeSet};

use millrace_pipeline::spec::marts::{Every, Mart};
use millrace_proto::ids::BatchId;
use millrace_proto::manifest::{SplitCounts, WrittenObject};
use proptest::prelude::*;

use super::*;
use crate::hours::{HOUR_US, HourChange, PartitionTime, Told};

const PARTITION: &str = "kafka://t/0";

fn mart(name: &str, every: Every, look_back_hours: i64, uses: &[&str]) -> Mart {
    Mart {
        name: name.to_owned(),
        every,
        look_back_hours,
        timeout_seconds: 7_200,
        sql: String::new(),
        file: None,
        description: None,
        columns: Vec::new(),
        uses: uses.iter().map(|name| (*name).to_owned()).collect(),
        reads_events: uses.is_empty(),
        table: None,
        digest: format!("{name}-1"),
    }
}

/// A ledger's state that hours are written to, and that runs are taken into.
#[derive(Default)]
struct History {
    state: State,
    batches: u32,
    lateness_seconds: u64,
}

impl History {
    /// A batch writes events of these hours.
    fn write(&mut self, hours: &[i64]) {
        self.batches += 1;
        let change = |hour: &i64| HourChange {
            hour: *hour,
            rows: 1,
            files: 1,
            bytes: 1,
            replaced: None,
        };
        let told = Told {
            hours: hours.iter().map(change).collect(),
            lateness_seconds: self.lateness_seconds,
            ..Told::default()
        };
        let batch = BatchId::try_from(format!("b{:08}", self.batches)).unwrap();
        self.state
            .event_time
            .commit(&batch, &told, &SplitCounts::default(), false);
    }

    /// Everything before this hour has passed.
    fn pass(&mut self, hour: i64) {
        let reached = PartitionTime {
            partition: PARTITION.to_owned(),
            time_us: Some(hour * HOUR_US),
        };
        self.state.event_time.reach(&[reached]);
    }

    /// Computes what is due until nothing is; in which order.
    fn run(&mut self, marts: &[Mart]) -> Vec<(String, i64)> {
        let mut done = Vec::new();
        loop {
            let all = periods(&self.state, marts, self.lateness_seconds);
            let Some(period) = next(&all, &|_| true) else {
                return done;
            };
            assert!(done.len() < 10_000, "it never ends");
            let mart = &marts[period.mart];
            done.push((mart.name.clone(), period.from_hour));
            let run = MartRun {
                mart: mart.name.clone(),
                from_hour: period.from_hour,
                hours: period.hours,
                version: self.state.marts.versions + 1,
                object: WrittenObject {
                    key: String::new(),
                    bytes: 0,
                    rows: 0,
                    digest: String::new(),
                },
                input: period.input.clone(),
                definition: mart.digest.clone(),
                job: None,
                at_us: 0,
            };
            self.state.marts.take(&run);
        }
    }

    fn standings(&self, marts: &[Mart]) -> BTreeMap<(String, i64), Standing> {
        let all = periods(&self.state, marts, self.lateness_seconds);
        all.iter()
            .map(|period| {
                (
                    (marts[period.mart].name.clone(), period.from_hour),
                    period.standing,
                )
            })
            .collect()
    }
}

fn runs(of: &[(&str, i64)]) -> Vec<(String, i64)> {
    of.iter()
        .map(|(name, from)| ((*name).to_owned(), *from))
        .collect()
}

#[test]
fn a_day_is_due_when_all_of_its_hours_have_passed_and_not_before() {
    let marts = [mart("daily", Every::Day, 0, &[])];
    let mut history = History::default();
    history.write(&[0, 5, 30]);
    history.pass(23);
    assert_eq!(history.run(&marts), []);
    history.pass(24);
    assert_eq!(history.run(&marts), runs(&[("daily", 0)]));
    assert_eq!(
        history.standings(&marts),
        BTreeMap::from([
            (("daily".to_owned(), 0), Standing::Current),
            (("daily".to_owned(), 24), Standing::Waiting)
        ])
    );
}

#[test]
fn a_late_event_brings_its_periods_back_when_its_hour_is_complete_again_and_no_others() {
    let marts = [
        mart("daily", Every::Day, 0, &[]),
        mart("hourly", Every::Hour, 0, &[]),
        mart("weekly", Every::Day, 24, &["daily"]),
    ];
    let mut history = History {
        lateness_seconds: 3600,
        ..History::default()
    };
    history.write(&[1, 25, 49]);
    history.pass(73);
    assert_eq!(history.run(&marts).len(), 3 + 3 + 3);
    history.write(&[1]);
    assert_eq!(history.run(&marts), [], "the hour is open again");
    history.pass(74);
    let mut again = history.run(&marts);
    again.sort();
    assert_eq!(
        again,
        runs(&[("daily", 0), ("hourly", 1), ("weekly", 0), ("weekly", 24)])
    );
}

#[test]
fn a_window_over_midnight_makes_a_period_without_events_of_its_own() {
    let marts = [mart("sessions", Every::Day, 2, &[])];
    let mut history = History::default();
    history.write(&[22]);
    history.pass(24);
    assert_eq!(history.run(&marts), runs(&[("sessions", 0)]));
    history.pass(48);
    assert_eq!(history.run(&marts), runs(&[("sessions", 24)]));
    history.pass(96);
    assert_eq!(history.run(&marts), []);
}

/// The sums of last year outlive its events: nothing is computed again over what is left of them.
#[test]
fn what_was_computed_of_an_hour_stays_when_its_events_expire() {
    let marts = [mart("daily", Every::Day, 0, &[])];
    let mut history = History::default();
    history.write(&[0, 5, 30]);
    history.pass(24);
    assert_eq!(history.run(&marts), runs(&[("daily", 0)]));
    let gone = |hour| HourChange {
        hour,
        replaced: Some(crate::hours::ReplacedFiles {
            rows: 1,
            files: 1,
            bytes: 1,
        }),
        ..HourChange::default()
    };
    let told = Told {
        hours: vec![gone(5), gone(30)],
        ..Told::default()
    };
    let batch = BatchId::try_from("b00000099".to_owned()).unwrap();
    let event_time = &mut history.state.event_time;
    event_time.commit(&batch, &told, &SplitCounts::default(), true);
    event_time.expire(&told);
    history.pass(48);
    assert_eq!(history.run(&marts), []);
    history.write(&[0]);
    history.pass(72);
    assert_eq!(history.run(&marts), []);
    let standings = history.standings(&marts);
    assert_eq!(standings[&("daily".to_owned(), 0)], Standing::Current);
    assert_eq!(standings[&("daily".to_owned(), 24)], Standing::Waiting);
}

#[test]
fn a_changed_query_leaves_what_was_computed_until_it_is_asked_for() {
    let mut marts = [mart("daily", Every::Day, 0, &[])];
    let mut history = History::default();
    history.write(&[3]);
    history.pass(24);
    history.run(&marts);
    marts[0].digest = "daily-2".to_owned();
    assert_eq!(history.run(&marts), []);
    assert_eq!(
        history.standings(&marts)[&("daily".to_owned(), 0)],
        Standing::Outdated
    );
}

#[test]
fn periods_of_another_length_replace_those_that_they_overlap() {
    let mut history = History::default();
    history.write(&[3, 30]);
    history.pass(48);
    history.run(&[mart("m", Every::Day, 0, &[])]);
    assert_eq!(history.state.marts.of("m").count(), 2);
    let hourly = [mart("m", Every::Hour, 0, &[])];
    assert_eq!(history.run(&hourly), runs(&[("m", 3), ("m", 30)]));
    let left: Vec<i64> = history.state.marts.of("m").map(|run| run.hours).collect();
    assert_eq!(left, [1, 1]);
}

/// Hours with events in a mart's window, and which of them some write has changed, told without the code above.
fn window(mart: &Mart, from: i64) -> std::ops::Range<i64> {
    from - mart.look_back_hours..from + mart.every.hours()
}

proptest! {
    /// After any history: nothing is due twice; what is current is what the watermark has passed; a write makes due again just
    /// the periods whose windows hold its hours, and what reads them.
    #[test]
    fn only_what_a_write_touched_is_computed_again(
        look_back in 0i64..30,
        writes in proptest::collection::vec(0i64..80, 1..12),
        passed in 60i64..130,
        late in 0i64..80,
    ) {
        let marts = [
            mart("hourly", Every::Hour, look_back % 5, &[]),
            mart("daily", Every::Day, look_back, &[]),
            mart("over", Every::Day, 0, &["hourly"]),
        ];
        let mut history = History::default();
        for hour in &writes {
            history.write(&[*hour]);
        }
        history.pass(passed);
        history.run(&marts);
        prop_assert_eq!(history.run(&marts), vec![]);
        let before = history.standings(&marts);
        for mart in &marts[..2] {
            let hours = mart.every.hours();
            for from in (0..200).step_by(usize::try_from(hours).unwrap()) {
                let has_events = writes.iter().any(|hour| window(mart, from).contains(hour));
                let expected = has_events.then(|| {
                    if window(mart, from).end <= passed { Standing::Current } else { Standing::Waiting }
                });
                prop_assert_eq!(before.get(&(mart.name.clone(), from)).copied(), expected, "{} {}", mart.name, from);
            }
        }
        history.write(&[late]);
        history.pass(passed + 1);
        history.pass(200);
        history.run(&marts);
        let all: BTreeSet<(String, i64)> = history.run(&marts).into_iter().collect();
        prop_assert!(all.is_empty());
        // Once more, with all current: just its own.
        history.write(&[late]);
        history.pass(300);
        let again: BTreeSet<(String, i64)> = history.run(&marts).into_iter().collect();
        for mart in &marts[..2] {
            for (name, from) in history.standings(&marts).keys().filter(|(name, _)| *name == mart.name) {
                let touched = window(mart, *from).contains(&late);
                prop_assert_eq!(again.contains(&(name.clone(), *from)), touched, "{} {}", name, from);
            }
        }
        let hourly: Vec<i64> = again.iter().filter(|(name, _)| name == "hourly").map(|(_, from)| *from).collect();
        for (_, from) in again.iter().filter(|(name, _)| name == "over") {
            prop_assert!(hourly.iter().any(|hour| (*from..*from + 24).contains(hour)));
        }
    }

    /// A model is never computed before what it reads.
    #[test]
    fn what_is_read_comes_first(writes in proptest::collection::vec(0i64..60, 1..8)) {
        let marts = [
            mart("a", Every::Hour, 0, &[]),
            mart("b", Every::Hour, 1, &["a"]),
            mart("c", Every::Day, 0, &["a", "b"]),
        ];
        let mut history = History::default();
        for hour in &writes {
            history.write(&[*hour]);
        }
        history.pass(100);
        let order = history.run(&marts);
        let mut once = BTreeSet::new();
        for (name, from) in &order {
            prop_assert!(once.insert((name.clone(), *from)), "{} {} twice", name, from);
            let place = marts.iter().position(|mart| mart.name == *name).unwrap();
            for used in &marts[place].uses {
                let read = window(&marts[place], *from);
                let later = order.iter().skip(once.len()).any(|(other, at)| other == used && read.contains(at));
                prop_assert!(!later, "{} {} before {}", name, from, used);
            }
        }
    }
}
