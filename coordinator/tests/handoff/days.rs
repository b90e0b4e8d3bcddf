//! PostgreSQL's day partitions: there when rows come, whoever else makes them, drops them or reads; tables cut in another way.

use std::collections::BTreeSet;
use std::sync::Arc;

use millrace_coordinator::handoff::{Handoff, HandoffError, Round, removal};
use millrace_coordinator::ledger::{LegalHold, State};
use millrace_coordinator::lifecycle::Hook;
use tokio_postgres::{Client, NoTls};

use crate::lakes::{Bench, COLUMNS};
use crate::loads::PATIENCE;
use crate::server::Server;

/// 2026-01-02T00:00:00Z, microseconds since 1970.
const SECOND_DAY_US: i64 = 1_767_312_000_000_000;
const DAY_US: i64 = 86_400_000_000;

/// A PostgreSQL, a lake, and the table that it is loaded into.
struct Stage {
    server: Server,
    bench: Bench,
    table: String,
}

impl Stage {
    /// `batches` files of `rows` events each, of three days.
    async fn set(batches: usize, rows: usize) -> Self {
        let (server, bench) = (Server::start().await, Bench::new(COLUMNS, ""));
        if batches > 0 {
            bench.fill(0, batches, rows).await;
        }
        let table = server.table();
        Self { server, bench, table }
    }

    fn schema(&self) -> &str {
        self.table.split('.').next().unwrap()
    }

    /// One more event.
    async fn add(&self, id: &str, at: &str) {
        self.bench.write(&format!("in/{id}.json"), &event(id, at));
        self.bench.run().await;
    }

    fn handoff(&self) -> Handoff {
        self.bench.handoff(&self.server.dsn, &self.table)
    }

    /// Loads what is committed, in a session of its own.
    async fn load(&self) -> Round {
        self.handoff().round(&self.bench.state().await).await.unwrap()
    }

    /// Makes the table and loads nothing.
    async fn make(&self) {
        self.handoff().round(&State::default()).await.unwrap();
    }

    async fn expire(&self, before_us: i64, holds: &[LegalHold]) -> Result<Option<u64>, HandoffError> {
        let pipeline = self.bench.pipeline_into(&self.server.dsn, &self.table);
        let hook: Hook = Arc::new(|_| {});
        removal::expire(&pipeline, &self.bench.lake, before_us, holds, "ada", &hook).await
    }

    async fn partitions(&self) -> Vec<String> {
        let sql = format!(
            "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
             WHERE i.inhparent = '{}'::regclass ORDER BY 1",
            self.table
        );
        self.server.sql(&sql).await
    }

    async fn has_partition(&self, name: &str) -> bool {
        self.partitions().await.iter().any(|there| there == name)
    }

    async fn loaded(&self) -> Vec<String> {
        let sql = format!("SELECT id FROM {} ORDER BY id COLLATE \"C\"", self.table);
        self.server.sql(&sql).await
    }

    /// Ids in a partition.
    async fn ids_in(&self, partition: &str) -> Vec<String> {
        let sql = format!("SELECT id FROM {}.{partition} ORDER BY id", self.schema());
        self.server.sql(&sql).await
    }

    /// Rows of the table for which something holds.
    async fn rows(&self, condition: &str) -> u64 {
        self.number(&format!("SELECT count(*) FROM {} WHERE {condition}", self.table))
            .await
    }

    async fn number(&self, sql: &str) -> u64 {
        self.server.sql(sql).await[0].parse().unwrap()
    }

    /// Another client, in a transaction that has read the table and lasts until it is dropped.
    async fn reader(&self) -> Client {
        let (client, connection) = tokio_postgres::connect(&self.server.dsn, NoTls).await.unwrap();
        tokio::spawn(connection);
        let sql = format!("BEGIN; SELECT count(*) FROM {}", self.table);
        client.batch_execute(&sql).await.unwrap();
        client
    }
}

fn event(id: &str, at: &str) -> String {
    format!("{{\"id\":\"{id}\",\"at\":\"{at}\"}}\n")
}

#[tokio::test]
async fn rows_lie_in_the_partition_of_their_day_and_some_days_are_ahead() {
    let stage = Stage::set(2, 30).await;
    let mut handoff = stage.handoff();
    handoff.round(&stage.bench.state().await).await.unwrap();
    let days: Vec<String> = (1..=6).map(|day| format!("events_2026010{day}")).collect();
    assert_eq!(stage.partitions().await, days);
    for day in 1..=3 {
        let all = stage.rows(&format!("\"date\" = '2026-01-0{day}'")).await;
        let there = stage.ids_in(&format!("events_2026010{day}")).await.len() as u64;
        assert!(all > 0 && all == there, "day {day}: {there} of {all}");
    }
    assert_eq!(stage.loaded().await, stage.bench.ids().await);
    // The fourth is there already: a load at midnight makes nothing.
    stage.add("next", "2026-01-04T00:00:00Z").await;
    let before = "SELECT max(oid) FROM pg_class";
    let newest = stage.server.sql(before).await;
    handoff.round(&stage.bench.state().await).await.unwrap();
    assert_eq!(stage.server.sql(before).await, newest);
    assert_eq!(stage.ids_in("events_20260104").await, ["next"]);
}

/// Loaders of one table that meet its first rows at once make each day once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loaders_that_race_for_new_days_make_each_once() {
    let mut stage = Stage::set(0, 0).await;
    let mut benches = Vec::new();
    for number in 0..3 {
        let mut bench = Bench::new(COLUMNS, "");
        // Pipelines of their own, so that the load ledger does not make them take turns.
        bench.pipeline.name = format!("events{number}").try_into().unwrap();
        let lines = |day: usize| {
            event(
                &format!("e{number}-{day}"),
                &format!("2026-02-{day:02}T00:00:00Z"),
            )
        };
        bench.write("in/1.json", &(1..=20).map(lines).collect::<String>());
        bench.write(
            "in/2.json",
            &event(&format!("e{number}-old"), "1900-01-01T00:00:00Z"),
        );
        bench.run().await;
        benches.push(bench);
    }
    for _ in 0..15 {
        stage.table = stage.server.table();
        stage.make().await;
        let each = benches.iter().map(async |bench| {
            let state = bench.state().await;
            let mut handoff = bench.handoff(&stage.server.dsn, &stage.table);
            handoff.settle(&state, PATIENCE).await
        });
        for round in futures::future::join_all(each).await {
            assert_eq!(round.unwrap().rows, 21);
        }
        let days: BTreeSet<String> = stage.partitions().await.into_iter().collect();
        // Twenty days, three ahead, and the default.
        assert_eq!(days.len(), 24, "{days:?}");
        assert_eq!(stage.loaded().await.len(), 63);
    }
}

/// What is of no day goes into the default partition; a day whose rows are there is made, and they move.
#[tokio::test]
async fn a_day_whose_rows_are_in_the_default_partition_is_made_and_they_move() {
    let stage = Stage::set(0, 0).await;
    let absurd = [
        "0001-01-01T00:00:00Z",
        "1969-12-31T23:59:59Z",
        "9999-12-31T23:59:59Z",
    ];
    let lines = absurd
        .iter()
        .enumerate()
        .map(|(at, time)| event(&format!("absurd{at}"), time));
    stage.bench.write("in/1.json", &lines.collect::<String>());
    stage.bench.run().await;
    let mut handoff = stage.handoff();
    handoff.round(&stage.bench.state().await).await.unwrap();
    assert_eq!(stage.partitions().await, ["events_default"]);
    // Somebody else's row of a day that nobody loaded yet.
    let row = format!(
        "INSERT INTO {} (id, at, \"date\", hour, big) VALUES ('early', '2026-03-01 12:00+00', '2026-03-01', 12, 7)",
        stage.table
    );
    stage.server.sql(&row).await;
    assert_eq!(
        stage.ids_in("events_default").await,
        ["absurd0", "absurd1", "absurd2", "early"]
    );
    stage.add("late", "2026-03-01T13:00:00Z").await;
    handoff.round(&stage.bench.state().await).await.unwrap();
    let day = format!(
        "SELECT id, big FROM {}.events_20260301 ORDER BY id",
        stage.schema()
    );
    assert_eq!(stage.server.sql(&day).await, ["early|7", "late|<null>"]);
    assert_eq!(
        stage.ids_in("events_default").await,
        ["absurd0", "absurd1", "absurd2"]
    );
}

/// A dashboard that does not end holds the default partition: the load goes on without the day.
#[tokio::test]
async fn readers_of_the_default_partition_do_not_stop_a_load() {
    let stage = Stage::set(0, 0).await;
    stage.add("absurd", "1900-01-01T00:00:00Z").await;
    let mut handoff = stage.handoff();
    handoff.round(&stage.bench.state().await).await.unwrap();
    let reader = stage.reader().await;
    stage.add("new", "2026-03-01T12:00:00Z").await;
    handoff.round(&stage.bench.state().await).await.unwrap();
    assert_eq!(stage.ids_in("events_default").await, ["absurd", "new"]);
    drop(reader);
    stage.add("newer", "2026-03-01T12:00:01Z").await;
    handoff
        .settle(&stage.bench.state().await, PATIENCE)
        .await
        .unwrap();
    assert_eq!(stage.ids_in("events_default").await, ["absurd"]);
    assert_eq!(stage.ids_in("events_20260301").await, ["new", "newer"]);
}

/// Without a default partition, nobody who reads is waited for.
#[tokio::test]
async fn a_new_day_waits_for_no_reader() {
    let stage = Stage::set(1, 5).await;
    let mut handoff = stage.handoff();
    handoff.round(&stage.bench.state().await).await.unwrap();
    let _reader = stage.reader().await;
    stage.add("new", "2026-03-01T12:00:00Z").await;
    handoff.round(&stage.bench.state().await).await.unwrap();
    assert!(stage.has_partition("events_20260301").await);
    assert!(!stage.has_partition("events_default").await);
}

/// Tables of an earlier version, of a person, of another scheme.
#[tokio::test]
async fn a_table_that_is_cut_in_another_way_is_loaded_as_it_is() {
    let mut stage = Stage::set(2, 30).await;
    let expected = stage.bench.ids().await;
    stage.make().await;
    let model = stage.table.clone();
    let months = "PARTITION BY RANGE (at); CREATE TABLE TABLE_m PARTITION OF TABLE FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')";
    let zone = "PARTITION BY RANGE (at); CREATE TABLE TABLE_all PARTITION OF TABLE FOR VALUES FROM (MINVALUE) TO (MAXVALUE)";
    let list = "PARTITION BY LIST (hour); CREATE TABLE TABLE_all PARTITION OF TABLE DEFAULT";
    for (cut, parts) in [("", 0), (months, 1), (zone, 1), (list, 1)] {
        stage.table = stage.server.table();
        let (schema, table) = (stage.schema(), &stage.table);
        let cut = cut
            .replace("TABLE_", &format!("{table}_"))
            .replace("OF TABLE", &format!("OF {table}"));
        let made = format!("CREATE SCHEMA {schema}; CREATE TABLE {table} (LIKE {model}) {cut}");
        stage.server.sql(&made).await;
        assert_eq!(stage.load().await.batches, 2);
        assert_eq!(stage.loaded().await, expected, "{cut}");
        assert_eq!(stage.partitions().await.len(), parts, "{cut}");
        // An expiry deletes row by row there.
        let gone = stage.expire(SECOND_DAY_US, &[]).await;
        assert_eq!(gone.unwrap(), Some(20), "{cut}");
        assert_eq!(stage.partitions().await.len(), parts, "{cut}");
    }
}

/// A name that is taken does not stand in the way, and a wider schema reaches every day.
#[tokio::test]
async fn a_day_that_a_person_detached_is_made_anew_and_widening_reaches_all() {
    let narrow =
        "\n  - {name: id, type: string, required: true}\n  - {name: at, type: timestamp, required: true}";
    let mut stage = Stage::set(0, 0).await;
    stage.bench.declare(narrow, "");
    stage.bench.fill(0, 1, 6).await;
    stage.load().await;
    let (schema, table) = (stage.schema().to_owned(), &stage.table);
    let detach = format!("ALTER TABLE {table} DETACH PARTITION {schema}.events_20260101");
    stage.server.sql(&detach).await;
    stage.bench.declare(COLUMNS, "");
    stage.bench.fill(1, 1, 6).await;
    stage.load().await;
    assert_eq!(stage.ids_in("events_20260101").await.len(), 2);
    let anew = format!("SELECT count(\"user\") FROM {schema}.events_20260101_2");
    assert_eq!(stage.number(&anew).await, 2);
    let widened = format!("SELECT count(\"user\"), count(*) FROM {schema}.events_20260102");
    assert_eq!(stage.server.sql(&widened).await, ["2|4"]);
}

/// Days of which every row is too old are dropped; what is held, and the rest of a day, is not; all are counted.
#[tokio::test]
async fn an_expiry_drops_whole_days_and_counts_their_rows() {
    let stage = Stage::set(2, 60).await;
    stage.add("absurd", "1900-01-01T00:00:00Z").await;
    stage.load().await;
    let held = |from_us: i64, to_us: i64| LegalHold {
        id: "h1".to_owned(),
        from_us,
        to_us,
        reason: "a court asks".to_owned(),
        by: "ada".to_owned(),
        at_us: 0,
        released: None,
    };
    let hour_us = DAY_US / 24;
    // The first day is old, and an hour of it is held: it stays, but for its other hours.
    let holds = [held(SECOND_DAY_US - DAY_US, SECOND_DAY_US - DAY_US + hour_us)];
    let before_us = SECOND_DAY_US + 12 * hour_us;
    let leaving =
        "at < '2026-01-02 12:00+00' AND NOT (at >= '2026-01-01 00:00+00' AND at < '2026-01-01 01:00+00')";
    let (leaving, all) = (stage.rows(leaving).await, stage.rows("true").await);
    let pipeline = stage.bench.pipeline_into(&stage.server.dsn, &stage.table);
    let planned = removal::count_expired(&pipeline, &stage.bench.lake, before_us, &holds).await;
    assert_eq!(planned.unwrap(), Some(leaving));
    assert_eq!(stage.expire(before_us, &holds).await.unwrap(), Some(leaving));
    assert!(stage.has_partition("events_20260101").await && stage.has_partition("events_20260102").await);
    let left = stage.rows("true").await;
    assert_eq!(left, all - leaving);
    // Now nothing is held, and two days are whole.
    let gone = stage.expire(SECOND_DAY_US + DAY_US, &[]).await.unwrap();
    assert!(!stage.has_partition("events_20260101").await && !stage.has_partition("events_20260102").await);
    let rest = stage.rows("true").await;
    assert_eq!(gone, Some(left - rest));
    assert_eq!(stage.rows("at < '2026-01-03'").await, 0);
    let noted = format!(
        "SELECT sum(\"rows\") FROM {}.millrace_removals WHERE why = 'expired' AND asked_by = 'ada'",
        stage.schema()
    );
    assert_eq!(stage.number(&noted).await, all - rest);
    // A late event of a day that is gone has a place again.
    stage.add("late", "2026-01-01T05:00:00Z").await;
    stage.load().await;
    assert_eq!(stage.ids_in("events_20260101").await, ["late"]);
}

/// A reader or a view that holds a day: its rows are deleted instead.
#[tokio::test]
async fn a_day_that_cannot_be_dropped_is_emptied() {
    let stage = Stage::set(1, 60).await;
    stage.load().await;
    let schema = stage.schema();
    let view = format!("CREATE VIEW {schema}.first AS SELECT id FROM {schema}.events_20260101");
    stage.server.sql(&view).await;
    assert_eq!(stage.expire(SECOND_DAY_US, &[]).await.unwrap(), Some(20));
    assert!(stage.has_partition("events_20260101").await);
    let _reader = stage.reader().await;
    let gone = stage.expire(SECOND_DAY_US + DAY_US, &[]).await;
    assert_eq!(gone.unwrap(), Some(20));
    assert_eq!(stage.rows("true").await, 20);
    let noted = format!("SELECT \"rows\" FROM {schema}.millrace_removals");
    assert_eq!(stage.server.sql(&noted).await, ["20", "20"]);
}

/// Loads and expiries of the same days at once: each event is there or counted as gone, none twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loads_and_expiries_at_once_lose_and_double_nothing() {
    let mut stage = Stage::set(12, 30).await;
    let (state, total) = (stage.bench.state().await, stage.bench.ids().await.len() as u64);
    for _ in 0..4 {
        stage.table = stage.server.table();
        stage.make().await;
        let expiries = async {
            let mut gone = 0;
            for _ in 0..10 {
                match stage.expire(SECOND_DAY_US, &[]).await {
                    Ok(rows) => gone += rows.unwrap(),
                    Err(error) => assert!(error.is_retryable(), "{}", error.text()),
                }
            }
            gone
        };
        let mut handoff = stage.handoff();
        let (gone, round) = tokio::join!(expiries, handoff.settle(&state, PATIENCE));
        assert_eq!(round.unwrap().rows, total);
        let there = stage.rows("true").await;
        let distinct = format!("SELECT count(DISTINCT id) FROM {}", stage.table);
        let distinct = stage.number(&distinct).await;
        assert_eq!((there, distinct), (total - gone, total - gone));
    }
}
