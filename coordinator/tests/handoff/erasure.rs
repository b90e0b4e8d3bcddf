//! One person leaves a warehouse: the pipeline's table and those of models, by every way to it, whatever breaks between.
//!
//! What stands where is asked by another client, for ids and for the person's own words.

use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use millrace_coordinator::erasure::{ErasureError, Outcome, erase_embedded, look_embedded};
use millrace_coordinator::handoff::{self, Handoff, Watched};
use millrace_coordinator::lifecycle::{Hook, Moment};
use millrace_loadtest::redshift_sim::{Fault, Simulator};
use millrace_pipeline::privacy::Subject;

use crate::data_api::ApiStage;
use crate::lakes::Bench;
use crate::loads::PATIENCE;
use crate::redshift::{ROLE, Stage};
use crate::server::Server;

const ADA: &str = "ada@example.com";
/// Her number, which she sends beside her address.
const NUMBER: &str = "7234567890123";
/// Events of hers; every third one.
const HERS: [&str; 4] = ["e0", "e3", "e6", "e9"];

const PEOPLE: &str = "
  - {name: id, type: string, required: true}
  - {name: at, type: timestamp, required: true}
  - {name: number, type: int64, pii: id}
  - {name: tags, type: \"list<string>\"}
  - {name: note, type: string}
  - {name: email, type: string, pii: email}";

const PRIVACY: &str = "privacy: {clear_in: [prod], hash_key: \"a-key-for-tests-of-erasure\"}";

/// Ten events of a day. Others' addresses contain hers, and are none of hers.
async fn people() -> Bench {
    let bench = Bench::new(PEOPLE, PRIVACY);
    let event = |n: usize| {
        let (email, tag, number) = match n % 3 {
            0 => (ADA.to_owned(), ADA, NUMBER.to_owned()),
            1 => (format!("x{ADA}"), "ada@example.community", format!("{n}")),
            _ => (format!("somebody{n}@example.com"), "b", format!("{n}")),
        };
        format!(
            "{{\"id\":\"e{n}\",\"at\":\"2026-01-01T0{n}:00:00Z\",\"number\":{number},\"tags\":[\"a\",\"{tag}\"],\"note\":\"to {tag}.\",\"email\":\"{email}\"}}\n"
        )
    };
    bench.write("in/people.json", &(0..10).map(event).collect::<String>());
    bench.run().await;
    bench
}

/// Everything loaded: the events, and what models made of them.
struct Loaded {
    events: String,
    buyers: String,
    notes: String,
}

impl Loaded {
    /// Into a warehouse, as a pipeline file begins and ends to say it.
    async fn set(bench: &mut Bench, server: &Server, begins: &str, ends: &str) -> Self {
        let (events, buyers, notes) = (server.table(), server.table(), server.table());
        // Other names than the events have, and lists and words.
        let declared = format!(
            "{PRIVACY}
warehouse: {{{begins}, table: {events}{ends}}}}}
models:
  - {{name: buyers, every: day, sql: \"SELECT id, email AS buyer, number AS account FROM events\", warehouse: {{table: {buyers}}}}}
  - {{name: notes, every: day, sql: \"SELECT id, tags, note FROM events\", warehouse: {{table: {notes}}}}}"
        );
        bench.declare(PEOPLE, &declared);
        let pipeline = Arc::new(bench.pipeline.clone());
        let hook: Hook = Arc::new(|_| {});
        let lake = bench.lake.clone();
        bench.compute().await;
        let mut handoff = Handoff::new(Arc::clone(&pipeline), lake.clone(), Watched::default()).unwrap();
        let state = bench.state().await;
        handoff.settle(&state, PATIENCE).await.unwrap();
        handoff::marts::settle(&pipeline, &lake, &state, &hook)
            .await
            .unwrap();
        Self {
            events,
            buyers,
            notes,
        }
    }
}

async fn ids(server: &Server, table: &str) -> Vec<String> {
    server.sql(&format!("SELECT id FROM {table} ORDER BY id")).await
}

async fn erase(bench: &Bench, value: &str, hook: Hook) -> Result<Outcome, ErasureError> {
    let pipeline = Arc::new(bench.pipeline.clone());
    let subject = Subject::new(&pipeline, value, None).unwrap();
    erase_embedded(pipeline, bench.lake.clone(), &subject, "her keeper", hook).await
}

fn all() -> Vec<String> {
    (0..10).map(|n| format!("e{n}")).collect()
}

fn others() -> Vec<String> {
    all()
        .into_iter()
        .filter(|id| !HERS.contains(&id.as_str()))
        .collect()
}

type Faults<'a> = Vec<(&'a Simulator, Fault)>;

/// Each fault may keep an erasure from its end; asking again comes to the same.
async fn erase_through(bench: &Bench, server: &Server, loaded: &Loaded, value: &str, faults: &Faults<'_>) {
    let (events, buyers, notes) = (&loaded.events, &loaded.buyers, &loaded.notes);
    for table in [events, buyers, notes] {
        assert_eq!(ids(server, table).await, all(), "{table}");
    }
    // Rows that no result stands for: the model had periods of another length once.
    let columns = "id, buyer, account";
    let strays = format!(
        "INSERT INTO {buyers} ({columns}, period) SELECT {columns}, period - interval '1 year' FROM {buyers}"
    );
    server.sql(&strays).await;
    let subject = Subject::new(&bench.pipeline, value, None).unwrap();
    let looked = look_embedded(&bench.pipeline, &bench.lake, &subject)
        .await
        .unwrap();
    let in_notes = if value == ADA { 4 } else { 0 };
    assert_eq!(
        (looked.warehouse, looked.model_rows, looked.applied),
        (Some(4), Some(8 + in_notes), false),
        "{looked:?}"
    );
    let quiet: Hook = Arc::new(|_| {});
    for (simulator, fault) in faults {
        simulator.arm(*fault);
        // Whether it was done in spite of that is for the last one to say.
        let _ = erase(bench, value, Arc::clone(&quiet)).await;
        assert!(simulator.has_happened(), "{fault:?}");
    }
    let done = erase(bench, value, quiet).await.unwrap();
    assert_eq!((done.remaining, done.applied), (Some(0), true), "{done:?}");
    assert_eq!(ids(server, events).await, others());
    let twice: Vec<String> = others().into_iter().flat_map(|id| [id.clone(), id]).collect();
    assert_eq!(ids(server, buyers).await, twice);
    // Her number does not stand there.
    let left = if value == ADA { others() } else { all() };
    assert_eq!(ids(server, notes).await, left);
    let (schema, _) = events.split_once('.').unwrap();
    let noted = format!("SELECT DISTINCT why, subject, asked_by FROM {schema}.millrace_removals");
    let expected = format!("erased|{}|her keeper", subject.id());
    assert_eq!(server.sql(&noted).await, [expected]);
    let strays = format!("SELECT \"rows\" FROM {schema}.millrace_removals ORDER BY removed_at");
    assert_eq!(
        server.sql(&strays).await,
        ["4", "4"],
        "of the events, of rows that no result stands for"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_forgets_a_person_in_models_tables_too() {
    let server = Server::start().await;
    for value in [ADA, NUMBER] {
        let mut bench = people().await;
        let warehouse = format!("postgres: {{dsn: \"{}\"", server.dsn);
        let loaded = Loaded::set(&mut bench, &server, &warehouse, "").await;
        erase_through(&bench, &server, &loaded, value, &Faults::new()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redshift_forgets_a_person_in_models_tables_too() {
    for value in [ADA, NUMBER] {
        let mut stage = Stage::over(people().await).await;
        let warehouse = format!(
            "redshift: {{dsn: \"postgres://loader@{}/dev\"",
            stage.simulator.address
        );
        let loaded = Loaded::set(&mut stage.bench, &stage.server, &warehouse, &role()).await;
        let faults = [Fault::LoseBeforeCommit, Fault::LoseAfterCommit, Fault::Conflict];
        let faults = faults.map(|fault| (&stage.simulator, fault)).to_vec();
        erase_through(&stage.bench, &stage.server, &loaded, value, &faults).await;
    }
}

/// The way that has no connection to hold a transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redshift_forgets_a_person_by_the_data_api() {
    for value in [ADA, NUMBER] {
        let mut api = ApiStage::on(Stage::over(people().await).await).await;
        let warehouse = format!("redshift: {{{}", api.declared());
        let stage = &mut api.stage;
        let loaded = Loaded::set(&mut stage.bench, &stage.server, &warehouse, &role()).await;
        let faults = [Fault::Throttle, Fault::LoseAnswer, Fault::TooMany];
        let faults = faults.map(|fault| (&stage.simulator, fault)).to_vec();
        erase_through(&stage.bench, &stage.server, &loaded, value, &faults).await;
    }
}

fn role() -> String {
    format!(", iam_role: \"{ROLE}\"")
}

/// A loader stands before its commit with the rows of a result that is about to be written again.
#[tokio::test]
async fn a_load_that_is_under_way_brings_nobody_back() {
    let server = Server::start().await;
    let mut bench = people().await;
    let warehouse = format!("postgres: {{dsn: \"{}\"", server.dsn);
    let loaded = Loaded::set(&mut bench, &server, &warehouse, "").await;
    let (buyers, (schema, _)) = (&loaded.buyers, loaded.buyers.split_once('.').unwrap());
    // As if it had never been loaded.
    server
        .sql(&format!(
            "DELETE FROM {buyers}; DELETE FROM {schema}.millrace_models"
        ))
        .await;
    let (stands, is_standing) = mpsc::channel();
    let (go, may_go) = mpsc::channel::<()>();
    let may_go = Mutex::new(may_go);
    let slow: Hook = Arc::new(move |moment| {
        if moment == Moment::Copied {
            let _ = stands.send(());
            let _ = may_go.lock().unwrap().recv();
        }
    });
    let (pipeline, lake) = (bench.pipeline.clone(), bench.lake.clone());
    let state = bench.state().await;
    // In a runtime of its own: while it stands nothing else of it goes on.
    let load = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime
            .unwrap()
            .block_on(handoff::marts::settle(&pipeline, &lake, &state, &slow))
    });
    tokio::task::spawn_blocking(move || is_standing.recv())
        .await
        .unwrap()
        .unwrap();

    let erasure = async { erase(&bench, ADA, Arc::new(|_| {})).await.unwrap() };
    let released = async {
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%millrace_models%'";
        let deadline = Instant::now() + PATIENCE;
        while server.sql(waits).await != ["1"] {
            assert!(
                Instant::now() < deadline,
                "the erasure does not wait for the load"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        drop(go);
    };
    let (done, ()) = tokio::join!(erasure, released);
    load.await.unwrap().unwrap();
    assert_eq!(done.remaining, Some(0), "{done:?}");
    assert_eq!(ids(&server, buyers).await, others());
}
