//! The handoff into Redshift by the Data API, as the simulator plays it: what the PostgreSQL protocol does, and what can
//! happen on this way only.

use std::net::SocketAddr;
use std::time::Duration;

use millrace_coordinator::handoff::Handoff;
use millrace_loadtest::redshift_sim::{Fault, Key};
use millrace_pipeline::source::S3Options;
use millrace_pipeline::spec::model::{DataApi, RedshiftAccess, RedshiftTarget, Secret};

use crate::lakes::COLUMNS;
use crate::loads::PATIENCE;
use crate::redshift::{Stage, expire_through, replace_periods_through};

pub(crate) struct ApiStage {
    pub(crate) stage: Stage,
    pub(crate) address: SocketAddr,
}

impl ApiStage {
    pub(crate) async fn set(batches: usize) -> Self {
        Self::on(Stage::set(batches).await).await
    }

    pub(crate) async fn on(mut stage: Stage) -> Self {
        let listen = "127.0.0.1:0".parse().unwrap();
        let key = Key {
            id: "loader".to_owned(),
            secret: "secret".to_owned(),
        };
        let address = stage.simulator.serve_http(listen, key).await.unwrap();
        stage.bench.lake.s3 = S3Options {
            region: Some("eu-central-1".to_owned()),
            access_key_id: Some("loader".to_owned()),
            secret_access_key: Some(Secret::new("secret".to_owned())),
            ..S3Options::default()
        };
        Self { stage, address }
    }

    fn handoff(&self, table: &str) -> Handoff {
        self.stage.handoff_by(self.access(), table)
    }

    /// What a pipeline file says of it.
    pub(crate) fn declared(&self) -> String {
        format!(
            "data_api: {{workgroup: analytics, database: dev, endpoint: \"http://{}\"}}",
            self.address
        )
    }

    pub(crate) fn access(&self) -> RedshiftAccess {
        RedshiftAccess::DataApi(DataApi {
            target: RedshiftTarget::Workgroup("analytics".to_owned()),
            database: "dev".to_owned(),
            secret_arn: None,
            region: None,
            endpoint: Some(format!("http://{}", self.address)),
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_that_wait_share_one_batch_of_statements_and_arrive_once() {
    let api = ApiStage::set(5).await;
    let stage = &api.stage;
    let table = stage.server.table();
    let state = stage.bench.state().await;
    let round = api.handoff(&table).settle(&state, PATIENCE).await.unwrap();
    assert_eq!((round.batches, round.rows), (5, 100));
    assert_eq!(stage.loaded(&table).await, stage.bench.ids().await);
    let lists = stage.bench.lake.list("loads").await.unwrap();
    assert_eq!(lists.len(), 1, "{lists:?}");
    let again = api.handoff(&table).settle(&state, PATIENCE).await.unwrap();
    assert_eq!(again.batches, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_a_refusal_or_a_conflict_loads_each_event_once() {
    let api = ApiStage::set(3).await;
    let stage = &api.stage;
    let (state, expected) = (stage.bench.state().await, stage.bench.ids().await);
    let slow = Fault::Slow(Duration::from_millis(50));
    for fault in [
        Fault::LoseAnswer,
        Fault::Throttle,
        Fault::TooMany,
        Fault::Conflict,
        slow,
    ] {
        for round in 0..10 {
            let table = stage.server.table();
            let mut handoff = api.handoff(&table);
            // The table is there before the fault is armed: it is to meet the load.
            let empty = millrace_coordinator::ledger::State::default();
            handoff.round(&empty).await.unwrap();
            stage.simulator.arm(fault);
            handoff.settle(&state, PATIENCE).await.unwrap();
            assert!(stage.simulator.has_happened(), "{fault:?}");
            assert_eq!(stage.loaded(&table).await, expected, "{fault:?} {round}");
        }
    }
}

/// The other process comes while the statement runs: its token is the same, and so is the statement.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_loaders_at_once_load_each_batch_once() {
    let api = ApiStage::set(3).await;
    let stage = &api.stage;
    let (state, expected) = (stage.bench.state().await, stage.bench.ids().await);
    for _ in 0..10 {
        let table = stage.server.table();
        let empty = millrace_coordinator::ledger::State::default();
        api.handoff(&table).round(&empty).await.unwrap();
        let (mut one, mut two) = (api.handoff(&table), api.handoff(&table));
        let (one, two) = tokio::join!(one.settle(&state, PATIENCE), two.settle(&state, PATIENCE));
        one.unwrap();
        two.unwrap();
        assert_eq!(stage.loaded(&table).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ways_at_once_load_each_batch_once() {
    let api = ApiStage::set(3).await;
    let stage = &api.stage;
    let (state, expected) = (stage.bench.state().await, stage.bench.ids().await);
    let dsn = format!("postgres://loader@{}/dev", stage.simulator.address);
    for _ in 0..10 {
        let table = stage.server.table();
        let empty = millrace_coordinator::ledger::State::default();
        api.handoff(&table).round(&empty).await.unwrap();
        let access = RedshiftAccess::Dsn(Secret::new(dsn.clone()));
        let (mut one, mut two) = (api.handoff(&table), stage.handoff_by(access, &table));
        let (one, two) = tokio::join!(one.settle(&state, PATIENCE), two.settle(&state, PATIENCE));
        assert_eq!(one.unwrap().batches + two.unwrap().batches, 3);
        assert_eq!(stage.loaded(&table).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_copy_names_file_column_and_rule() {
    let api = ApiStage::set(1).await;
    let stage = &api.stage;
    let long = "x".repeat(70_000);
    let line = format!("{{\"id\":\"long\",\"at\":\"2026-01-01T00:00:00Z\",\"user\":\"{long}\"}}\n");
    stage.bench.write("in/long.json", &line);
    stage.bench.run().await;
    let table = stage.server.table();
    let state = stage.bench.state().await;
    let error = api.handoff(&table).settle(&state, PATIENCE).await.unwrap_err();
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

/// The token of the first load is remembered for hours, and what it stands for is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_a_person_emptied_is_loaded_again() {
    let api = ApiStage::set(2).await;
    let stage = &api.stage;
    let (state, expected) = (stage.bench.state().await, stage.bench.ids().await);
    let table = stage.server.table();
    api.handoff(&table).settle(&state, PATIENCE).await.unwrap();
    let (schema, _) = table.split_once('.').unwrap();
    let emptied = format!("TRUNCATE {table}; TRUNCATE {schema}.millrace_loads");
    stage.server.sql(&emptied).await;
    let again = api.handoff(&table).settle(&state, PATIENCE).await.unwrap();
    assert_eq!(again.batches, 2);
    assert_eq!(stage.loaded(&table).await, expected);
}

/// A batch whose answer is lost was accepted: it is done once, and noted once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_are_too_old_leave_in_one_batch_of_statements() {
    let api = ApiStage::set(3).await;
    let faults = [(Fault::Throttle, false), (Fault::TooMany, false)];
    expire_through(&api.stage, &api.access(), &faults).await;
    expire_through(&api.stage, &api.access(), &[(Fault::LoseAnswer, true)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_models_periods_are_replaced_once_through_lost_answers() {
    let mut api = ApiStage::set(2).await;
    let access = api.declared();
    let faults = [
        Fault::LoseAnswer,
        Fault::Throttle,
        Fault::TooMany,
        Fault::Conflict,
    ];
    replace_periods_through(&mut api.stage, &access, &faults, 2).await;
}

/// A batch takes 40 statements: a table of more described columns is made by several.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_of_many_described_columns_is_made() {
    let mut api = ApiStage::set(1).await;
    let more: String = (0..60)
        .map(|at| format!("\n  - {{name: extra{at}, type: string, description: \"column {at}\"}}"))
        .collect();
    api.stage.bench.declare(&format!("{COLUMNS}{more}"), "");
    let table = api.stage.server.table();
    let state = api.stage.bench.state().await;
    let round = api.handoff(&table).settle(&state, PATIENCE).await.unwrap();
    assert_eq!(round.rows, 20);
    let comment = format!("SELECT col_description('{table}'::regclass, 72)");
    assert_eq!(api.stage.server.sql(&comment).await, ["column 59"]);
}
