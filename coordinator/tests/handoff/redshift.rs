//! The handoff into Redshift, as the simulator plays it: several batches in one COPY, each event once; models' periods replaced.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use millrace_coordinator::handoff::{self, Handoff, Watched, removal};
use millrace_coordinator::ledger::LegalHold;
use millrace_coordinator::lifecycle::Hook;
use millrace_loadtest::redshift_sim::{Fault, Simulator};
use millrace_pipeline::spec::model::{Pipeline, RedshiftAccess, Secret, Warehouse};
use object_store::ObjectStore;

use crate::lakes::{Bench, COLUMNS};
use crate::loads::PATIENCE;
use crate::server::Server;

/// The role that COPY is told.
pub(crate) const ROLE: &str = "arn:aws:iam::123456789012:role/load";

pub(crate) struct Stage {
    pub(crate) server: Server,
    pub(crate) simulator: Simulator,
    pub(crate) bench: Bench,
}

impl Stage {
    pub(crate) async fn set(batches: usize) -> Self {
        let bench = Bench::new(COLUMNS, "");
        bench.fill(0, batches, 20).await;
        Self::over(bench).await
    }

    /// The same over a lake.
    pub(crate) async fn over(mut bench: Bench) -> Self {
        let server = Server::start().await;
        bench.lake.url = "s3://lake/of-the-test".to_owned();
        let store: Arc<dyn ObjectStore> = Arc::clone(&bench.lake.store);
        let buckets = HashMap::from([("lake".to_owned(), store)]);
        let listen = "127.0.0.1:0".parse().unwrap();
        let simulator = Simulator::start(listen, server.dsn.clone(), buckets)
            .await
            .unwrap();
        Self {
            server,
            simulator,
            bench,
        }
    }

    fn handoff(&self, table: &str) -> Handoff {
        self.handoff_by(self.by_dsn(), table)
    }

    pub(crate) fn by_dsn(&self) -> RedshiftAccess {
        let dsn = format!("postgres://loader@{}/dev", self.simulator.address);
        RedshiftAccess::Dsn(Secret::new(dsn))
    }

    pub(crate) fn handoff_by(&self, access: RedshiftAccess, table: &str) -> Handoff {
        let pipeline = Arc::new(self.pipeline_by(access, table));
        Handoff::new(pipeline, self.bench.lake.clone(), Watched::default()).unwrap()
    }

    pub(crate) fn pipeline_by(&self, access: RedshiftAccess, table: &str) -> Pipeline {
        let mut pipeline = self.bench.pipeline.clone();
        pipeline.warehouse = Some(Warehouse::Redshift {
            access,
            table: table.to_owned(),
            sort_key: Vec::new(),
            dist_key: None,
            iam_role: Some(ROLE.to_owned()),
        });
        pipeline
    }

    /// Runs statements in a session with the simulator; the first column of what the last one gives.
    pub(crate) async fn ask(&self, statements: &[&str]) -> Vec<String> {
        let dsn = format!("postgres://loader@{}/dev", self.simulator.address);
        let (client, connection) = tokio_postgres::connect(&dsn, tokio_postgres::NoTls)
            .await
            .unwrap();
        let running = tokio::spawn(connection);
        let mut answer = Vec::new();
        for sql in statements {
            answer = client.simple_query(sql).await.unwrap();
        }
        running.abort();
        let first = |message| {
            let tokio_postgres::SimpleQueryMessage::Row(row) = message else {
                return None;
            };
            row.get(0).map(str::to_owned)
        };
        answer.into_iter().filter_map(first).collect()
    }

    pub(crate) async fn loaded(&self, table: &str) -> Vec<String> {
        let sql = format!("SELECT id FROM {table} ORDER BY id COLLATE \"C\"");
        self.server.sql(&sql).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_that_wait_share_one_copy_and_arrive_once() {
    let stage = Stage::set(5).await;
    let table = stage.server.table();
    let state = stage.bench.state().await;
    let round = stage.handoff(&table).settle(&state, PATIENCE).await.unwrap();
    assert_eq!((round.batches, round.rows), (5, 100));
    assert_eq!(stage.loaded(&table).await, stage.bench.ids().await);
    let lists = stage.bench.lake.list("loads").await.unwrap();
    assert_eq!(lists.len(), 1, "{lists:?}");
    let again = stage.handoff(&table).settle(&state, PATIENCE).await.unwrap();
    assert_eq!(again.batches, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_or_a_conflict_loads_each_event_once() {
    let stage = Stage::set(3).await;
    let (state, expected) = (stage.bench.state().await, stage.bench.ids().await);
    let slow = Fault::Slow(Duration::from_millis(50));
    for fault in [
        Fault::LoseBeforeCommit,
        Fault::LoseAfterCommit,
        Fault::Conflict,
        slow,
    ] {
        for round in 0..10 {
            let table = stage.server.table();
            stage.simulator.arm(fault);
            stage.handoff(&table).settle(&state, PATIENCE).await.unwrap();
            assert!(stage.simulator.has_happened(), "{fault:?}");
            assert_eq!(stage.loaded(&table).await, expected, "{fault:?} {round}");
        }
    }
}

/// Keys are not enforced there: the lock is the fence.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_loaders_at_once_take_turns() {
    let stage = Stage::set(3).await;
    let (state, expected) = (stage.bench.state().await, stage.bench.ids().await);
    for _ in 0..10 {
        let table = stage.server.table();
        let empty = millrace_coordinator::ledger::State::default();
        stage.handoff(&table).round(&empty).await.unwrap();
        let (mut one, mut two) = (stage.handoff(&table), stage.handoff(&table));
        let (one, two) = tokio::join!(one.settle(&state, PATIENCE), two.settle(&state, PATIENCE));
        assert_eq!(one.unwrap().batches + two.unwrap().batches, 3);
        assert_eq!(stage.loaded(&table).await, expected);
    }
}

/// 2026-01-02T00:00:00Z, microseconds since 1970.
const SECOND_DAY_US: i64 = 1_767_312_000_000_000;
const DAY_US: i64 = 86_400_000_000;

/// The events are of three days: the first one leaves, but for what is held. `faults` say whether it is done in spite of them.
pub(crate) async fn expire_through(stage: &Stage, access: &RedshiftAccess, faults: &[(Fault, bool)]) {
    let table = stage.server.table();
    let state = stage.bench.state().await;
    let mut handoff = stage.handoff_by(access.clone(), &table);
    handoff.settle(&state, PATIENCE).await.unwrap();
    let (pipeline, lake) = (stage.pipeline_by(access.clone(), &table), &stage.bench.lake);
    let held = LegalHold {
        id: "h1".to_owned(),
        from_us: SECOND_DAY_US - DAY_US,
        to_us: SECOND_DAY_US - DAY_US + 3_600_000_000,
        reason: "a court asks".to_owned(),
        by: "ada".to_owned(),
        at_us: 0,
        released: None,
    };
    let old = format!("SELECT count(*) FROM {table} WHERE at < '2026-01-02'");
    let kept = format!("{old} AND at < '2026-01-01 01:00+00'");
    let (all, kept_before) = (stage.server.sql(&old).await, stage.server.sql(&kept).await);
    let number = |rows: &[String]| rows[0].parse::<u64>().unwrap();
    let (all, kept_before) = (number(&all), number(&kept_before));
    assert!(all > kept_before && kept_before > 0);
    let holds = [held];
    let counted = removal::count_expired(&pipeline, lake, SECOND_DAY_US, &holds).await;
    assert_eq!(counted.unwrap(), Some(all - kept_before));
    let hook: Hook = Arc::new(|_| {});
    for (fault, is_done) in faults {
        stage.simulator.arm(*fault);
        let lost = removal::expire(&pipeline, lake, SECOND_DAY_US, &holds, "ada", &hook).await;
        assert!(lost.is_err() && stage.simulator.has_happened(), "{fault:?}");
        let expected = if *is_done { kept_before } else { all };
        // What was accepted runs on by itself.
        let deadline = std::time::Instant::now() + PATIENCE;
        while number(&stage.server.sql(&old).await) != expected {
            assert!(std::time::Instant::now() < deadline, "{fault:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let done_before = faults.iter().any(|(_, is_done)| *is_done);
    let expected = if done_before { 0 } else { all - kept_before };
    for rows in [expected, 0] {
        let again = removal::expire(&pipeline, lake, SECOND_DAY_US, &holds, "ada", &hook).await;
        assert_eq!(again.unwrap(), Some(rows));
    }
    let schema = table.split('.').next().unwrap();
    let noted = format!("SELECT why, asked_by, \"rows\" FROM {schema}.millrace_removals");
    let expected = format!("expired|ada|{}", all - kept_before);
    assert_eq!(stage.server.sql(&noted).await, [expected]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_are_too_old_leave_in_one_transaction() {
    let stage = Stage::set(3).await;
    let faults = [(Fault::LoseBeforeCommit, false), (Fault::LoseAfterCommit, true)];
    expire_through(&stage, &stage.by_dsn(), &faults).await;
}

/// Somebody empties the warehouse and loads it again from the beginning.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_expired_in_the_lake_is_not_loaded_again() {
    let mut stage = Stage::set(3).await;
    stage.bench.pipeline.retention.lake_seconds = Some(86_400);
    stage.bench.pipeline.retention.replaced_seconds = 0;
    let all = stage.bench.ids().await.len() as u64;
    let expired = stage.bench.expire_at(SECOND_DAY_US + DAY_US).await;
    assert!(expired > 0 && expired < all, "{expired} of {all}");
    let table = stage.server.table();
    let state = stage.bench.state().await;
    let round = stage.handoff(&table).settle(&state, PATIENCE).await.unwrap();
    assert_eq!((round.batches, round.rows), (3, all - expired));
    let old = format!("SELECT count(*) FROM {table} WHERE at < '2026-01-02'");
    assert_eq!(stage.server.sql(&old).await, ["0"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_copy_names_file_column_and_rule() {
    let stage = Stage::set(1).await;
    let long = "x".repeat(70_000);
    let line = format!("{{\"id\":\"long\",\"at\":\"2026-01-01T00:00:00Z\",\"user\":\"{long}\"}}\n");
    stage.bench.write("in/long.json", &line);
    stage.bench.run().await;
    let table = stage.server.table();
    let refused = stage
        .handoff(&table)
        .settle(&stage.bench.state().await, PATIENCE)
        .await;
    let error = refused.unwrap_err();
    let text = error.text();
    assert!(!error.is_retryable(), "{text}");
    for part in [
        "column `user`",
        "70000 bytes, the most is 65535",
        "data/date=2026-01-01/hour=00/",
    ] {
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(stage.loaded(&table).await, Vec::<String>::new());
}

const MODELS: &str = "models:
  - {name: daily, every: day, sql: \"SELECT \\\"user\\\" AS who, count(*) AS n, sum(price) AS spent FROM events GROUP BY 1\", warehouse: {table: TABLE}}";

/// Each period is replaced in one transaction, whatever happens on the way. `access` is what the pipeline file says of it,
/// `batches` are there.
pub(crate) async fn replace_periods_through(
    stage: &mut Stage,
    access: &str,
    faults: &[Fault],
    mut batches: usize,
) {
    let hook: Hook = Arc::new(|_| {});
    for fault in faults {
        let (events, table) = (stage.server.table(), stage.server.table());
        let warehouse =
            format!("warehouse: {{redshift: {{{access}, table: {events}, iam_role: \"{ROLE}\"}}}}");
        let models = MODELS.replace("TABLE", &table);
        stage.bench.declare(COLUMNS, &format!("{warehouse}\n{models}"));
        let pipeline = Arc::new(stage.bench.pipeline.clone());
        for is_late in [false, true] {
            if is_late {
                stage.bench.fill(batches, 1, 20).await;
                batches += 1;
            }
            stage.bench.compute().await;
            let state = stage.bench.state().await;
            stage.simulator.arm(*fault);
            let settled = handoff::marts::settle(&pipeline, &stage.bench.lake, &state, &hook).await;
            settled.unwrap();
            assert!(stage.simulator.has_happened(), "{fault:?}");
            let rows = stage.server.sql(&format!("SELECT sum(n) FROM {table}")).await;
            let events = stage.bench.ids().await.len();
            assert_eq!(rows, [events.to_string()], "{fault:?}, late: {is_late}");
            let (schema, _) = table.split_once('.').unwrap();
            let twice = format!("SELECT count(*) - count(DISTINCT period) FROM {schema}.millrace_models");
            assert_eq!(stage.server.sql(&twice).await, ["0"], "{fault:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_models_periods_are_replaced_once_through_lost_connections() {
    let mut stage = Stage::set(2).await;
    let access = format!("dsn: \"postgres://loader@{}/dev\"", stage.simulator.address);
    let faults = [Fault::LoseBeforeCommit, Fault::LoseAfterCommit, Fault::Conflict];
    replace_periods_through(&mut stage, &access, &faults, 2).await;
}
