//! One person's rows leave Redshift, by either way: from columns of every kind, nobody else's, noted once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_coordinator::erasure;
use millrace_coordinator::handoff::removal;
use millrace_coordinator::lifecycle::Hook;
use millrace_loadtest::redshift_sim::Fault;
use millrace_pipeline::privacy::Subject;
use millrace_pipeline::spec::model::RedshiftAccess;
use serde_json::{Value, json};

use crate::data_api::ApiStage;
use crate::lakes::Bench;
use crate::loads::PATIENCE;
use crate::redshift::Stage;

/// A name that has to be escaped wherever it can be.
const WHO: &str = "it's \"a\\b\", é";
/// Another person.
const NUMBER: &str = "4711";
/// Who asks, as some directories name people.
const BY: &str = "OFFICE\\ada";

const COLUMNS: &str = "
  - {name: id, type: string, required: true}
  - {name: at, type: timestamp, required: true}
  - {name: email, type: string, pii: email}
  - {name: handle, type: string, pii: id}
  - {name: number, type: int64, pii: id}
  - {name: friends, type: \"list<string>\", pii: id}
  - {name: numbers, type: \"list<int64>\", pii: id}
  - {name: profile, type: json, pii: id}";

const PRIVACY: &str =
    "privacy: {clear_in: [prod], hash_key: \"a-key-for-tests-of-erasure\", strategies: {id: keep}}";

/// Events with the personal part of each: the first ones are those of [`WHO`], then those of [`NUMBER`], then everybody's.
fn people() -> [Vec<Value>; 3] {
    // Longer than a VARCHAR when it is written as a scalar, and no person.
    let long: Vec<&str> = vec![""; 15_000];
    let written = Value::from(WHO).to_string();
    [
        vec![
            json!({"email": WHO}),
            json!({"handle": WHO}),
            json!({"friends": ["bob", WHO]}),
            json!({"friends": [WHO]}),
            json!({"profile": WHO}),
        ],
        vec![
            json!({"handle": NUMBER}),
            json!({"number": 4711}),
            json!({"numbers": [1, 4711]}),
            json!({"profile": 4711}),
            json!({"profile": NUMBER}),
        ],
        vec![
            json!({"email": "bob@example.com", "handle": "bob"}),
            json!({"handle": format!("{WHO} too"), "number": 471}),
            json!({"handle": "it's"}),
            json!({"friends": [format!("{WHO} too"), format!("x,{written},y")]}),
            json!({"numbers": [47, 11, 14_711, 47_110]}),
            json!({"friends": [], "numbers": []}),
            json!({"profile": {"name": WHO}}),
            json!({"profile": [4711]}),
            json!({"profile": long}),
            json!({}),
        ],
    ]
}

struct People {
    api: ApiStage,
    /// Ids of the three kinds of rows.
    ids: [BTreeSet<String>; 3],
}

impl People {
    async fn set() -> Self {
        let bench = Bench::new(COLUMNS, PRIVACY);
        let (mut lines, mut ids) = (String::new(), [const { BTreeSet::new() }; 3]);
        for (kind, events) in people().into_iter().enumerate() {
            for (number, mut event) in events.into_iter().enumerate() {
                let id = format!("e{kind}-{number}");
                event["id"] = json!(id);
                event["at"] = json!(format!("2026-01-01T{number:02}:00:00Z"));
                lines.push_str(&format!("{event}\n"));
                ids[kind].insert(id);
            }
        }
        bench.write("in/people.json", &lines);
        bench.run().await;
        let api = ApiStage::on(Stage::over(bench).await).await;
        Self { api, ids }
    }

    fn stage(&self) -> &Stage {
        &self.api.stage
    }

    fn accesses(&self) -> [RedshiftAccess; 2] {
        [self.stage().by_dsn(), self.api.access()]
    }

    /// A table with everybody in it.
    async fn loaded(&self, access: &RedshiftAccess) -> String {
        let table = self.stage().server.table();
        let state = self.stage().bench.state().await;
        let mut handoff = self.stage().handoff_by(access.clone(), &table);
        handoff.settle(&state, PATIENCE).await.unwrap();
        table
    }

    fn subject(&self, who: &str) -> Subject {
        Subject::new(&self.stage().bench.pipeline, who, None).unwrap()
    }

    async fn noted(&self, table: &str) -> Vec<String> {
        let (schema, _) = table.split_once('.').unwrap();
        let noted = format!("SELECT why, subject, asked_by, \"rows\" FROM {schema}.millrace_removals");
        self.stage().server.sql(&noted).await
    }

    /// Waits until the table holds these rows.
    async fn holds(&self, table: &str, kinds: &[usize], when: &str) {
        let expected: BTreeSet<&String> = kinds.iter().flat_map(|kind| &self.ids[*kind]).collect();
        let expected: Vec<&String> = expected.into_iter().collect();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self.stage().loaded(table).await;
            if found.iter().eq(expected.iter().copied()) {
                return;
            }
            assert!(Instant::now() < deadline, "{when}: {found:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn unwatched() -> Hook {
    Arc::new(|_| {})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_persons_rows_leave_by_either_way_whatever_is_lost() {
    let people = People::set().await;
    let lake = &people.stage().bench.lake;
    let faults = [
        vec![(Fault::LoseBeforeCommit, false), (Fault::LoseAfterCommit, true)],
        vec![
            (Fault::Throttle, false),
            (Fault::TooMany, false),
            (Fault::LoseAnswer, true),
        ],
    ];
    for (access, faults) in people.accesses().into_iter().zip(faults) {
        let table = people.loaded(&access).await;
        let pipeline = people.stage().pipeline_by(access, &table);
        let subject = people.subject(WHO);
        let counted = removal::count_subject(&pipeline, lake, &subject).await.unwrap();
        assert_eq!(counted, Some(5));
        for (fault, is_done) in faults {
            people.stage().simulator.arm(fault);
            let lost = removal::erase_subject(&pipeline, lake, &subject, BY, &unwatched()).await;
            assert!(
                lost.is_err() && people.stage().simulator.has_happened(),
                "{fault:?}"
            );
            let kinds: &[usize] = if is_done { &[1, 2] } else { &[0, 1, 2] };
            people.holds(&table, kinds, &format!("{fault:?}")).await;
        }
        let again = removal::erase_subject(&pipeline, lake, &subject, BY, &unwatched()).await;
        assert_eq!(again.unwrap(), Some(0));
        let first = format!("erased|{}|{BY}|5", subject.id());
        assert_eq!(people.noted(&table).await, std::slice::from_ref(&first));

        // Somebody of numbers, and a name that nulls are written as.
        let subject = people.subject(NUMBER);
        let erased = removal::erase_subject(&pipeline, lake, &subject, BY, &unwatched()).await;
        assert_eq!(erased.unwrap(), Some(5));
        people.holds(&table, &[2], "the second person").await;
        let second = format!("erased|{}|{BY}|5", subject.id());
        assert_eq!(people.noted(&table).await, [first, second]);
        let nobody = removal::erase_subject(&pipeline, lake, &people.subject("null"), BY, &unwatched()).await;
        assert_eq!(nobody.unwrap(), Some(0));
        people.holds(&table, &[2], "nobody").await;
    }
}

/// What is noted is what left, whoever comes at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_erasures_at_once_are_noted_once() {
    let people = People::set().await;
    let lake = &people.stage().bench.lake;
    for access in people.accesses() {
        for _ in 0..10 {
            let table = people.loaded(&access).await;
            let pipeline = people.stage().pipeline_by(access.clone(), &table);
            let (subject, hook) = (people.subject(WHO), unwatched());
            let (one, two) = tokio::join!(
                removal::erase_subject(&pipeline, lake, &subject, "one", &hook),
                removal::erase_subject(&pipeline, lake, &subject, "two", &hook)
            );
            assert_eq!(one.unwrap().unwrap() + two.unwrap().unwrap(), 5);
            people.holds(&table, &[1, 2], "two at once").await;
            assert_eq!(people.noted(&table).await.len(), 1);
        }
    }
}

/// Lake and warehouse agree on whose a row is, and no load brings the person back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_leaves_lake_and_warehouse_by_the_data_api() {
    let people = People::set().await;
    let (bench, access) = (&people.stage().bench, people.api.access());
    let table = people.stage().server.table();
    let pipeline = Arc::new(people.stage().pipeline_by(access.clone(), &table));
    let subject = people.subject(WHO);
    let erase = || {
        let (pipeline, lake) = (Arc::clone(&pipeline), bench.lake.clone());
        erasure::erase_embedded(pipeline, lake, &subject, BY, unwatched())
    };
    let refused = erase().await.unwrap_err();
    assert!(refused.is_passing(), "{refused}");

    let mut handoff = people.stage().handoff_by(access, &table);
    handoff.settle(&bench.state().await, PATIENCE).await.unwrap();
    people.holds(&table, &[0, 1, 2], "before").await;
    let looked = erasure::look_embedded(&pipeline, &bench.lake, &subject)
        .await
        .unwrap();
    assert_eq!(
        (looked.rows, looked.warehouse, looked.remaining),
        (5, Some(5), None)
    );
    let done = erase().await.unwrap();
    assert_eq!((done.rows, done.warehouse, done.remaining), (5, Some(5), Some(0)));
    people.holds(&table, &[1, 2], "after").await;
    let in_lake: Vec<&String> = people.ids[1].iter().chain(&people.ids[2]).collect();
    assert!(bench.ids_stored().await.iter().eq(in_lake));

    handoff.settle(&bench.state().await, PATIENCE).await.unwrap();
    people.holds(&table, &[1, 2], "after another load").await;
    assert_eq!(erase().await.unwrap().warehouse, Some(0));
}
