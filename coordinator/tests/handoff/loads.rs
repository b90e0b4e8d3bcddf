//! What arrives in the warehouse when nothing breaks, and what is refused before anything is loaded.

use std::time::Duration;

use millrace_coordinator::handoff::hold::{self, Decision, Verdict};
use millrace_coordinator::handoff::{HandoffError, Known, Standing};
use millrace_proto::ids::BatchId;

use crate::lakes::{Bench, COLUMNS};
use crate::server::Server;

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn every_type_arrives_as_it_was() {
    let server = Server::start().await;
    let bench = Bench::new(COLUMNS, "");
    bench.write(
        "in/1.json",
        r#"{"id":"full","at":"2026-01-01T05:06:07.123456Z","flag":true,"small":-5,"big":9007199254740993,"ratio":-0.1,"price":-1234567.891,"wide":1234567890123456789.0123456789,"day":"1999-12-31","payload":{"a":[1,"x\u0000y"],"b":"\ud83d\ude00"},"tags":["q\"uote","é"],"user":"Ünï"}
{"id":"empty","at":"2026-01-01T05:06:08Z"}
{"id":"zero","at":"1900-01-01T00:00:00Z","flag":false,"small":0,"big":-1,"ratio":1e300,"price":0,"wide":-0.0000000001,"day":"2026-02-28","payload":[],"tags":[],"user":""}
"#,
    );
    bench.run().await;
    let table = server.table();
    let round = bench
        .handoff(&server.dsn, &table)
        .round(&bench.state().await)
        .await
        .unwrap();
    assert_eq!((round.batches, round.rows), (1, 3));
    let rows = server
        .sql(&format!(
            "SET timezone = 'UTC'; SET datestyle = iso; SELECT * FROM {table} ORDER BY id"
        ))
        .await;
    let null = "<null>|".repeat(9) + "<null>";
    assert_eq!(
        rows,
        [
            format!("empty|2026-01-01 05:06:08+00|{null}|2026-01-01|5"),
            "full|2026-01-01 05:06:07.123456+00|t|-5|9007199254740993|-0.1|-1234567.891|1234567890123456789.0123456789|1999-12-31|{\"a\": [1, \"x\u{fffd}y\"], \"b\": \"\u{1f600}\"}|[\"q\\\"uote\", \"é\"]|Ünï|2026-01-01|5".to_owned(),
            "zero|1900-01-01 00:00:00+00|f|0|-1|1e+300|0.000|-0.0000000001|2026-02-28|[]|[]||1900-01-01|0".to_owned(),
        ]
    );
    let loads = server
        .sql(&format!(
            "SELECT pipeline, \"rows\", length(manifest_digest), attempt ~ '^e[0-9]+a[0-9]+$' FROM {}.millrace_loads",
            table.split('.').next().unwrap()
        ))
        .await;
    assert_eq!(loads, ["events|3|64|t"]);
}

#[tokio::test]
async fn a_wider_schema_widens_the_table_and_older_rows_are_null() {
    let server = Server::start().await;
    let table = server.table();
    let mut bench = Bench::new(
        "\n  - {name: id, type: string, required: true}\n  - {name: at, type: timestamp, required: true}",
        "",
    );
    bench.fill(0, 2, 5).await;
    let handoff = |bench: &Bench| bench.handoff(&server.dsn, &table);
    handoff(&bench).round(&bench.state().await).await.unwrap();
    bench.fill(2, 1, 5).await;
    bench.declare(COLUMNS, "");
    bench.fill(3, 1, 5).await;
    // One batch of the narrow schema and one of the wide one wait.
    let round = handoff(&bench).round(&bench.state().await).await.unwrap();
    assert_eq!(round.batches, 2);
    let counts = server
        .sql(&format!(
            "SELECT count(*), count(\"user\"), count(payload) FROM {table}"
        ))
        .await;
    assert_eq!(counts, ["20|5|5"]);
}

#[tokio::test]
async fn a_table_that_differs_is_reported_by_column_and_nothing_is_loaded() {
    let server = Server::start().await;
    let table = server.table();
    let schema = table.split('.').next().unwrap().to_owned();
    server
        .sql(&format!(
            "CREATE SCHEMA {schema}; CREATE TABLE {table} (id text, at timestamp, price numeric(10,3), theirs int NOT NULL)"
        ))
        .await;
    let bench = Bench::new(COLUMNS, "");
    bench.fill(0, 1, 5).await;
    let error = bench
        .handoff(&server.dsn, &table)
        .round(&bench.state().await)
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, HandoffError::Table { .. }), "{text}");
    for part in [
        "column `at`: it is timestamp without time zone, the pipeline says timestamptz",
        "ALTER COLUMN price TYPE numeric(12,3)",
        "column `theirs`: it is NOT NULL without a default",
    ] {
        assert!(text.contains(part), "{text}");
    }
    let columns = "SELECT count(*) FROM information_schema.columns WHERE table_name = 'events'";
    assert_eq!(server.sql(columns).await, ["4"]);
}

#[tokio::test]
async fn a_table_that_was_dropped_is_not_taken_for_a_loaded_one() {
    let server = Server::start().await;
    let table = server.table();
    let bench = Bench::new(COLUMNS, "");
    bench.fill(0, 1, 5).await;
    bench
        .handoff(&server.dsn, &table)
        .round(&bench.state().await)
        .await
        .unwrap();
    server.sql(&format!("DROP TABLE {table}")).await;
    let error = bench
        .handoff(&server.dsn, &table)
        .round(&bench.state().await)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("DELETE FROM"), "{error}");
}

#[tokio::test]
async fn a_table_of_another_lake_is_left_alone() {
    let server = Server::start().await;
    let table = server.table();
    for first in [true, false] {
        let bench = Bench::new(COLUMNS, "");
        bench.fill(0, 1, if first { 5 } else { 6 }).await;
        let loaded = bench
            .handoff(&server.dsn, &table)
            .round(&bench.state().await)
            .await;
        assert_eq!(loaded.is_ok(), first, "{loaded:?}");
    }
    assert_eq!(server.sql(&format!("SELECT count(*) FROM {table}")).await, ["5"]);
}

/// A refusal names the file and the column, and quotes no value.
#[tokio::test]
async fn a_refusal_names_file_and_column() {
    let server = Server::start().await;
    let table = server.table();
    let bench = Bench::new(COLUMNS, "");
    bench.fill(0, 1, 5).await;
    bench
        .handoff(&server.dsn, &table)
        .round(&bench.state().await)
        .await
        .unwrap();
    server
        .sql(&format!(
            "ALTER TABLE {table} ADD CONSTRAINT odd CHECK (big <> 3) NOT VALID"
        ))
        .await;
    bench.fill(1, 1, 5).await;
    let error = bench
        .handoff(&server.dsn, &table)
        .round(&bench.state().await)
        .await
        .unwrap_err();
    let text = error.text();
    assert!(!error.is_retryable(), "{text}");
    // Row 3 of 5 is the only one of its hour, so its file is known.
    assert!(text.contains("hour=03/") && text.contains("23514"), "{text}");
    assert!(!text.contains("e1-3"), "{text}");
    assert_eq!(server.sql(&format!("SELECT count(*) FROM {table}")).await, ["5"]);
}

#[tokio::test]
async fn a_held_batch_waits_for_a_decision_and_the_first_one_stands() {
    let server = Server::start().await;
    let table = server.table();
    let mut bench = Bench::new(COLUMNS, "");
    bench.write("suite.json", r#"{"name":"s","expectations":[{"type":"expect_column_values_to_not_be_null","kwargs":{"column":"user"},"meta":{},"severity":"critical"}]}"#);
    bench.declare(
        COLUMNS,
        "quality: {suite: ./suite.json, minimum_clean: 0.9, on_breach: hold}\n",
    );
    for (name, user) in [("1", "u"), ("2", ""), ("3", ""), ("4", "u")] {
        let bad = if user.is_empty() { "" } else { ",\"user\":\"u\"" };
        let line = |n| {
            format!(
                "{{\"id\":\"{name}-{n}\",\"at\":\"2026-01-01T00:00:00Z\"{}}}\n",
                if n == 0 { bad } else { ",\"user\":\"u\"" }
            )
        };
        bench.write(&format!("in/{name}.json"), &(0..3).map(line).collect::<String>());
    }
    bench.run().await;
    let state = bench.state().await;
    let mut handoff = bench.handoff(&server.dsn, &table);
    let round = handoff.round(&state).await.unwrap();
    assert_eq!((round.batches, round.rows, round.held), (2, 6, 2));

    let known = Known {
        state: state.clone(),
        ..Known::default()
    };
    let held: Vec<BatchId> = bench
        .standings(&server.dsn, &table, &known)
        .await
        .into_iter()
        .filter(|one| one.standing == Standing::Held)
        .map(|one| one.batch)
        .collect();
    let decision = |verdict| Decision {
        verdict,
        reason: "looked at it".to_owned(),
        by: "ada".to_owned(),
        at: chrono::Utc::now(),
    };
    hold::decide(&bench.lake, &state, &held[0], &decision(Verdict::Released))
        .await
        .unwrap();
    hold::decide(&bench.lake, &state, &held[1], &decision(Verdict::Discarded))
        .await
        .unwrap();
    // Saying the same again is no other decision.
    hold::decide(&bench.lake, &state, &held[1], &decision(Verdict::Discarded))
        .await
        .unwrap();
    let late = hold::decide(&bench.lake, &state, &held[1], &decision(Verdict::Released)).await;
    assert!(late.unwrap_err().to_string().contains("was discarded by ada"));
    let not_held = state
        .committed()
        .map(|(id, _)| id)
        .find(|id| !held.contains(id))
        .unwrap();
    assert!(
        hold::decide(&bench.lake, &state, not_held, &decision(Verdict::Discarded))
            .await
            .is_err()
    );

    let round = handoff.round(&state).await.unwrap();
    assert_eq!((round.batches, round.rows, round.held), (1, 2, 0));
    assert_eq!(server.sql(&format!("SELECT count(*) FROM {table}")).await, ["8"]);
}
