//! PostgreSQL's day partitions: there when rows come, whoever else makes them, drops them or reads; tables cut in another way.

use std::collections::BTreeSet;
use std::sync::Arc;

use millrace_coordinator::handoff::removal;
use millrace_coordinator::ledger::{LegalHold, State};
use millrace_coordinator::lifecycle::Hook;
use tokio_postgres::{Client, NoTls};

use crate::lakes::{Bench, COLUMNS};
use crate::loads::PATIENCE;
use crate::server::Server;

/// 2026-01-02T00:00:00Z, microseconds since 1970.
const SECOND_DAY_US: i64 = 1_767_312_000_000_000;
const DAY_US: i64 = 86_400_000_000;

async fn partitions(server: &Server, table: &str) -> Vec<String> {
    let sql = format!(
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
         WHERE i.inhparent = '{table}'::regclass ORDER BY 1"
    );
    server.sql(&sql).await
}

async fn loaded(server: &Server, table: &str) -> Vec<String> {
    let sql = format!("SELECT id FROM {table} ORDER BY id COLLATE \"C\"");
    server.sql(&sql).await
}

async fn number(server: &Server, sql: &str) -> u64 {
    server.sql(sql).await[0].parse().unwrap()
}

/// Another client, in a transaction of its own until it is dropped.
async fn session(server: &Server, sql: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(&server.dsn, NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute(sql).await.unwrap();
    client
}

fn event(id: &str, at: &str) -> String {
    format!("{{\"id\":\"{id}\",\"at\":\"{at}\"}}\n")
}

#[tokio::test]
async fn rows_lie_in_the_partition_of_their_day_and_some_days_are_ahead() {
    let (server, bench) = (Server::start().await, Bench::new(COLUMNS, ""));
    bench.fill(0, 2, 30).await;
    let table = server.table();
    let mut handoff = bench.handoff(&server.dsn, &table);
    handoff.round(&bench.state().await).await.unwrap();
    let days: Vec<String> = (1..=6).map(|day| format!("events_2026010{day}")).collect();
    assert_eq!(partitions(&server, &table).await, days);
    let schema = table.split('.').next().unwrap();
    for day in 1..=3 {
        let all = format!("SELECT count(*) FROM {table} WHERE \"date\" = '2026-01-0{day}'");
        let there = format!("SELECT count(*) FROM {schema}.events_2026010{day}");
        let (all, there) = (number(&server, &all).await, number(&server, &there).await);
        assert!(all > 0 && all == there, "day {day}: {there} of {all}");
    }
    assert_eq!(loaded(&server, &table).await, bench.ids().await);
    // The fourth is there already: a load at midnight makes nothing.
    bench.write("in/next.json", &event("next", "2026-01-04T00:00:00Z"));
    bench.run().await;
    let before = "SELECT max(oid) FROM pg_class";
    let newest = server.sql(before).await;
    handoff.round(&bench.state().await).await.unwrap();
    assert_eq!(server.sql(before).await, newest);
    let there = format!("SELECT id FROM {schema}.events_20260104");
    assert_eq!(server.sql(&there).await, ["next"]);
}

/// Loaders of one table that meet its first rows at once make each day once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loaders_that_race_for_new_days_make_each_once() {
    let server = Server::start().await;
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
        let table = server.table();
        let empty = State::default();
        benches[0]
            .handoff(&server.dsn, &table)
            .round(&empty)
            .await
            .unwrap();
        let each = benches.iter().map(async |bench| {
            let state = bench.state().await;
            bench.handoff(&server.dsn, &table).settle(&state, PATIENCE).await
        });
        for round in futures::future::join_all(each).await {
            assert_eq!(round.unwrap().rows, 21);
        }
        let days: BTreeSet<String> = partitions(&server, &table).await.into_iter().collect();
        // Twenty days, three ahead, and the default.
        assert_eq!(days.len(), 24, "{days:?}");
        assert_eq!(loaded(&server, &table).await.len(), 63);
    }
}

/// What is of no day goes into the default partition; a day whose rows are there is made, and they move.
#[tokio::test]
async fn a_day_whose_rows_are_in_the_default_partition_is_made_and_they_move() {
    let (server, bench) = (Server::start().await, Bench::new(COLUMNS, ""));
    let table = server.table();
    let schema = table.split('.').next().unwrap();
    let absurd = [
        "0001-01-01T00:00:00Z",
        "1969-12-31T23:59:59Z",
        "9999-12-31T23:59:59Z",
    ];
    let lines = absurd
        .iter()
        .enumerate()
        .map(|(at, time)| event(&format!("absurd{at}"), time));
    bench.write("in/1.json", &lines.collect::<String>());
    bench.run().await;
    let mut handoff = bench.handoff(&server.dsn, &table);
    handoff.round(&bench.state().await).await.unwrap();
    assert_eq!(partitions(&server, &table).await, ["events_default"]);
    // Somebody else's row of a day that nobody loaded yet.
    let row = format!(
        "INSERT INTO {table} (id, at, \"date\", hour, big) VALUES ('early', '2026-03-01 12:00+00', '2026-03-01', 12, 7)"
    );
    server.sql(&row).await;
    let default = format!("SELECT id FROM {schema}.events_default ORDER BY id");
    assert_eq!(
        server.sql(&default).await,
        ["absurd0", "absurd1", "absurd2", "early"]
    );
    bench.write("in/2.json", &event("late", "2026-03-01T13:00:00Z"));
    bench.run().await;
    handoff.round(&bench.state().await).await.unwrap();
    let day = format!("SELECT id, big FROM {schema}.events_20260301 ORDER BY id");
    assert_eq!(server.sql(&day).await, ["early|7", "late|<null>"]);
    assert_eq!(server.sql(&default).await, ["absurd0", "absurd1", "absurd2"]);
}

/// A dashboard that does not end holds the default partition: the load goes on without the day.
#[tokio::test]
async fn readers_of_the_default_partition_do_not_stop_a_load() {
    let (server, bench) = (Server::start().await, Bench::new(COLUMNS, ""));
    let table = server.table();
    let schema = table.split('.').next().unwrap();
    bench.write("in/1.json", &event("absurd", "1900-01-01T00:00:00Z"));
    bench.run().await;
    let mut handoff = bench.handoff(&server.dsn, &table);
    handoff.round(&bench.state().await).await.unwrap();
    let reader = session(&server, &format!("BEGIN; SELECT count(*) FROM {table}")).await;
    bench.write("in/2.json", &event("new", "2026-03-01T12:00:00Z"));
    bench.run().await;
    handoff.round(&bench.state().await).await.unwrap();
    let default = format!("SELECT id FROM {schema}.events_default ORDER BY id");
    assert_eq!(server.sql(&default).await, ["absurd", "new"]);
    drop(reader);
    bench.write("in/3.json", &event("newer", "2026-03-01T12:00:01Z"));
    bench.run().await;
    handoff.settle(&bench.state().await, PATIENCE).await.unwrap();
    assert_eq!(server.sql(&default).await, ["absurd"]);
    let day = format!("SELECT id FROM {schema}.events_20260301 ORDER BY id");
    assert_eq!(server.sql(&day).await, ["new", "newer"]);
}

/// Without a default partition, nobody who reads is waited for.
#[tokio::test]
async fn a_new_day_waits_for_no_reader() {
    let (server, bench) = (Server::start().await, Bench::new(COLUMNS, ""));
    let table = server.table();
    bench.fill(0, 1, 5).await;
    let mut handoff = bench.handoff(&server.dsn, &table);
    handoff.round(&bench.state().await).await.unwrap();
    let _reader = session(&server, &format!("BEGIN; SELECT count(*) FROM {table}")).await;
    bench.write("in/new.json", &event("new", "2026-03-01T12:00:00Z"));
    bench.run().await;
    handoff.round(&bench.state().await).await.unwrap();
    let days = partitions(&server, &table).await;
    assert!(days.contains(&"events_20260301".to_owned()), "{days:?}");
    assert!(!days.contains(&"events_default".to_owned()), "{days:?}");
}

/// Tables of an earlier version, of a person, of another scheme.
#[tokio::test]
async fn a_table_that_is_cut_in_another_way_is_loaded_as_it_is() {
    let (server, bench) = (Server::start().await, Bench::new(COLUMNS, ""));
    bench.fill(0, 2, 30).await;
    let (state, expected) = (bench.state().await, bench.ids().await);
    let model = server.table();
    bench
        .handoff(&server.dsn, &model)
        .round(&State::default())
        .await
        .unwrap();
    let months = "PARTITION BY RANGE (at); CREATE TABLE TABLE_m PARTITION OF TABLE FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')";
    let zone = "PARTITION BY RANGE (at); CREATE TABLE TABLE_all PARTITION OF TABLE FOR VALUES FROM (MINVALUE) TO (MAXVALUE)";
    let list = "PARTITION BY LIST (hour); CREATE TABLE TABLE_all PARTITION OF TABLE DEFAULT";
    for (cut, parts) in [("", 0), (months, 1), (zone, 1), (list, 1)] {
        let table = server.table();
        let (schema, _) = table.split_once('.').unwrap();
        let cut = cut
            .replace("TABLE_", &format!("{table}_"))
            .replace("OF TABLE", &format!("OF {table}"));
        let made = format!("CREATE SCHEMA {schema}; CREATE TABLE {table} (LIKE {model}) {cut}");
        server.sql(&made).await;
        let round = bench.handoff(&server.dsn, &table).round(&state).await.unwrap();
        assert_eq!(round.batches, 2);
        assert_eq!(loaded(&server, &table).await, expected, "{cut}");
        assert_eq!(partitions(&server, &table).await.len(), parts, "{cut}");
        // An expiry deletes row by row there.
        let pipeline = bench.pipeline_into(&server.dsn, &table);
        let hook: Hook = Arc::new(|_| {});
        let gone = removal::expire(&pipeline, &bench.lake, SECOND_DAY_US, &[], "ada", &hook).await;
        assert_eq!(gone.unwrap(), Some(20), "{cut}");
        assert_eq!(partitions(&server, &table).await.len(), parts, "{cut}");
    }
}

/// A name that is taken does not stand in the way, and a wider schema reaches every day.
#[tokio::test]
async fn a_day_that_a_person_detached_is_made_anew_and_widening_reaches_all() {
    let server = Server::start().await;
    let narrow =
        "\n  - {name: id, type: string, required: true}\n  - {name: at, type: timestamp, required: true}";
    let mut bench = Bench::new(narrow, "");
    bench.fill(0, 1, 6).await;
    let table = server.table();
    bench
        .handoff(&server.dsn, &table)
        .round(&bench.state().await)
        .await
        .unwrap();
    let (schema, _) = table.split_once('.').unwrap();
    server
        .sql(&format!(
            "ALTER TABLE {table} DETACH PARTITION {schema}.events_20260101"
        ))
        .await;
    bench.declare(COLUMNS, "");
    bench.fill(1, 1, 6).await;
    bench
        .handoff(&server.dsn, &table)
        .round(&bench.state().await)
        .await
        .unwrap();
    let kept = format!("SELECT count(*) FROM {schema}.events_20260101");
    assert_eq!(number(&server, &kept).await, 2);
    let anew = format!("SELECT count(\"user\") FROM {schema}.events_20260101_2");
    assert_eq!(number(&server, &anew).await, 2);
    let widened = format!("SELECT count(\"user\"), count(*) FROM {schema}.events_20260102");
    assert_eq!(server.sql(&widened).await, ["2|4"]);
}

/// Days of which every row is too old are dropped; what is held, and the rest of a day, is not; all are counted.
#[tokio::test]
async fn an_expiry_drops_whole_days_and_counts_their_rows() {
    let (server, bench) = (Server::start().await, Bench::new(COLUMNS, ""));
    bench.fill(0, 2, 60).await;
    bench.write("in/absurd.json", &event("absurd", "1900-01-01T00:00:00Z"));
    bench.run().await;
    let table = server.table();
    bench
        .handoff(&server.dsn, &table)
        .round(&bench.state().await)
        .await
        .unwrap();
    let pipeline = bench.pipeline_into(&server.dsn, &table);
    let hook: Hook = Arc::new(|_| {});
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
    let leaving = number(&server, &format!("SELECT count(*) FROM {table} WHERE {leaving}")).await;
    let all = number(&server, &format!("SELECT count(*) FROM {table}")).await;
    let planned = removal::count_expired(&pipeline, &bench.lake, before_us, &holds)
        .await
        .unwrap();
    assert_eq!(planned, Some(leaving));
    let gone = removal::expire(&pipeline, &bench.lake, before_us, &holds, "ada", &hook)
        .await
        .unwrap();
    assert_eq!(gone, Some(leaving));
    let days = partitions(&server, &table).await;
    assert!(days.contains(&"events_20260101".to_owned()) && days.contains(&"events_20260102".to_owned()));
    let left = number(&server, &format!("SELECT count(*) FROM {table}")).await;
    assert_eq!(left, all - leaving);
    // Now nothing is held, and two days are whole.
    let gone = removal::expire(&pipeline, &bench.lake, SECOND_DAY_US + DAY_US, &[], "ada", &hook)
        .await
        .unwrap();
    let days = partitions(&server, &table).await;
    assert!(
        !days.contains(&"events_20260101".to_owned()) && !days.contains(&"events_20260102".to_owned()),
        "{days:?}"
    );
    let rest = number(&server, &format!("SELECT count(*) FROM {table}")).await;
    assert_eq!(gone, Some(left - rest));
    assert_eq!(
        number(
            &server,
            &format!("SELECT count(*) FROM {table} WHERE at < '2026-01-03'")
        )
        .await,
        0
    );
    let (schema, _) = table.split_once('.').unwrap();
    let noted = format!(
        "SELECT sum(\"rows\") FROM {schema}.millrace_removals WHERE why = 'expired' AND asked_by = 'ada'"
    );
    assert_eq!(number(&server, &noted).await, all - rest);
    // A late event of a day that is gone has a place again.
    bench.write("in/late.json", &event("late", "2026-01-01T05:00:00Z"));
    bench.run().await;
    bench
        .handoff(&server.dsn, &table)
        .round(&bench.state().await)
        .await
        .unwrap();
    assert_eq!(
        number(&server, &format!("SELECT count(*) FROM {schema}.events_20260101")).await,
        1
    );
}

/// A reader or a view that holds a day: its rows are deleted instead.
#[tokio::test]
async fn a_day_that_cannot_be_dropped_is_emptied() {
    let (server, bench) = (Server::start().await, Bench::new(COLUMNS, ""));
    bench.fill(0, 1, 60).await;
    let table = server.table();
    bench
        .handoff(&server.dsn, &table)
        .round(&bench.state().await)
        .await
        .unwrap();
    let (schema, _) = table.split_once('.').unwrap();
    server
        .sql(&format!(
            "CREATE VIEW {schema}.first AS SELECT id FROM {schema}.events_20260101"
        ))
        .await;
    let pipeline = bench.pipeline_into(&server.dsn, &table);
    let hook: Hook = Arc::new(|_| {});
    let expire = async |before_us| {
        removal::expire(&pipeline, &bench.lake, before_us, &[], "ada", &hook)
            .await
            .unwrap()
    };
    assert_eq!(expire(SECOND_DAY_US).await, Some(20));
    let days = partitions(&server, &table).await;
    assert!(days.contains(&"events_20260101".to_owned()), "{days:?}");
    let _reader = session(&server, &format!("BEGIN; SELECT count(*) FROM {table}")).await;
    assert_eq!(expire(SECOND_DAY_US + DAY_US).await, Some(20));
    assert_eq!(
        number(&server, &format!("SELECT count(*) FROM {table}")).await,
        20
    );
    let noted = format!("SELECT \"rows\" FROM {schema}.millrace_removals");
    assert_eq!(server.sql(&noted).await, ["20", "20"]);
}

/// Loads and expiries of the same days at once: each event is there or counted as gone, none twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loads_and_expiries_at_once_lose_and_double_nothing() {
    let (server, bench) = (Server::start().await, Bench::new(COLUMNS, ""));
    bench.fill(0, 12, 30).await;
    let (state, total) = (bench.state().await, bench.ids().await.len() as u64);
    for _ in 0..4 {
        let table = server.table();
        bench
            .handoff(&server.dsn, &table)
            .round(&State::default())
            .await
            .unwrap();
        let pipeline = bench.pipeline_into(&server.dsn, &table);
        let hook: Hook = Arc::new(|_| {});
        let expiries = async {
            let mut gone = 0;
            for _ in 0..10 {
                let expired = removal::expire(&pipeline, &bench.lake, SECOND_DAY_US, &[], "ada", &hook).await;
                match expired {
                    Ok(rows) => gone += rows.unwrap(),
                    Err(error) => assert!(error.is_retryable(), "{}", error.text()),
                }
            }
            gone
        };
        let mut handoff = bench.handoff(&server.dsn, &table);
        let (gone, round) = tokio::join!(expiries, handoff.settle(&state, PATIENCE));
        assert_eq!(round.unwrap().rows, total);
        let there = number(&server, &format!("SELECT count(*) FROM {table}")).await;
        let distinct = number(&server, &format!("SELECT count(DISTINCT id) FROM {table}")).await;
        assert_eq!((there, distinct), (total - gone, total - gone));
    }
}
