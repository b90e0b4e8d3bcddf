//! What `millrace warehouse report` finds: nothing where all is as it is asked for, and each difference with the statement
//! that settles it, which then does.

use millrace_coordinator::handoff::Known;
use millrace_coordinator::handoff::report::{self, Level, Report};
use millrace_loadtest::redshift_sim::Figures;
use millrace_pipeline::spec::model::{Pipeline, RedshiftAccess, Warehouse};

use crate::data_api::ApiStage;
use crate::lakes::{Bench, COLUMNS};
use crate::loads::PATIENCE;
use crate::redshift::Stage;
use crate::server::Server;

async fn look(bench: &Bench, pipeline: &Pipeline) -> Report {
    let known = Known {
        state: bench.state().await,
        ..Known::default()
    };
    report::report(pipeline, &bench.lake, &known).await.unwrap()
}

fn fact<'a>(report: &'a Report, name: &str) -> &'a str {
    let found = report.facts.iter().find(|(there, _)| there == name);
    found.map_or("", |(_, value)| value)
}

fn subjects(report: &Report) -> Vec<&str> {
    report
        .findings
        .iter()
        .map(|finding| finding.what.as_str())
        .collect()
}

#[tokio::test]
async fn postgresqls_partitions_statistics_and_columns_are_told() {
    let server = Server::start().await;
    let narrow =
        "\n  - {name: id, type: string, required: true}\n  - {name: at, type: timestamp, required: true}";
    let mut bench = Bench::new(narrow, "");
    bench.fill(0, 2, 30).await;
    let table = server.table();
    let pipeline = bench.pipeline_into(&server.dsn, &table);
    let report = look(&bench, &pipeline).await;
    assert!(!report.exists && report.waiting == 2, "{report:?}");
    bench
        .handoff(&server.dsn, &table)
        .round(&bench.state().await)
        .await
        .unwrap();
    // Statistics of PostgreSQL come a little later.
    server.sql(&format!("ANALYZE {table}")).await;
    let report = look(&bench, &pipeline).await;
    assert_eq!((report.exists, report.waiting), (true, 0));
    assert_eq!(fact(&report, "partitions"), "6 days, 2026-01-01 to 2026-01-06");
    assert_eq!(fact(&report, "days ahead"), "3");
    assert!(!subjects(&report).contains(&"days ahead"), "{report:?}");

    let strange = format!(
        "INSERT INTO {table} (id, at, \"date\", hour) VALUES ('far', '2026-01-06 12:00+00', '2026-01-06', 12)"
    );
    server.sql(&strange).await;
    server
        .sql(&format!(
            "ALTER TABLE {table} ALTER COLUMN id TYPE varchar(9), ADD COLUMN theirs int"
        ))
        .await;
    bench.write(
        "in/absurd.json",
        "{\"id\":\"absurd\",\"at\":\"1900-01-01T00:00:00Z\"}\n",
    );
    bench.run().await;
    bench.declare(COLUMNS, "");
    let pipeline = bench.pipeline_into(&server.dsn, &table);
    let report = look(&bench, &pipeline).await;
    assert_eq!(report.waiting, 1);
    let subjects = subjects(&report);
    for wanted in ["column `id`", "column flag", "column \"user\"", "days ahead"] {
        assert!(subjects.contains(&wanted), "{wanted}: {subjects:?}");
    }
    let fault = report
        .findings
        .iter()
        .find(|finding| finding.what == "column `id`")
        .unwrap();
    assert_eq!(fault.level, Level::Fault);
    server.sql(&fault.statement).await;
    bench
        .handoff(&server.dsn, &table)
        .settle(&bench.state().await, PATIENCE)
        .await
        .unwrap();
    let report = look(&bench, &pipeline).await;
    let default = report
        .findings
        .iter()
        .find(|finding| finding.what == "rows of no day")
        .unwrap();
    assert!(default.found.starts_with("1 rows in"), "{default:?}");
    assert!(
        report
            .findings
            .iter()
            .all(|finding| finding.level == Level::Advice),
        "{report:?}"
    );
}

#[tokio::test]
async fn a_table_that_is_not_cut_by_day_is_told() {
    let (server, bench) = (Server::start().await, Bench::new(COLUMNS, ""));
    let (model, table) = (server.table(), server.table());
    let empty = millrace_coordinator::ledger::State::default();
    bench.handoff(&server.dsn, &model).round(&empty).await.unwrap();
    let (schema, _) = table.split_once('.').unwrap();
    server
        .sql(&format!(
            "CREATE SCHEMA {schema}; CREATE TABLE {table} (LIKE {model})"
        ))
        .await;
    let report = look(&bench, &bench.pipeline_into(&server.dsn, &table)).await;
    assert_eq!(subjects(&report), ["partitions"]);
}

/// Everything that differs is told, and nothing more once its statements were run.
async fn redshift_by(stage: &Stage, access: RedshiftAccess) {
    let table = stage.server.table();
    let state = stage.bench.state().await;
    stage
        .handoff_by(access.clone(), &table)
        .settle(&state, PATIENCE)
        .await
        .unwrap();
    let mut pipeline = stage.pipeline_by(access, &table);
    let report = look(&stage.bench, &pipeline).await;
    assert!(report.findings.is_empty(), "{report:#?}");
    assert_eq!(fact(&report, "rows"), "60");
    assert_eq!(fact(&report, "sort key"), "at");

    // The pipeline asks for other keys now, and the table was used for long.
    if let Some(Warehouse::Redshift {
        sort_key, dist_key, ..
    }) = &mut pipeline.warehouse
    {
        *sort_key = vec!["day".to_owned(), "at".to_owned()];
        *dist_key = Some("user".to_owned());
    }
    let figures = Figures {
        unsorted: 42.0,
        stats_off: 17.5,
        skew_rows: 1.5,
        deleted: 40,
    };
    stage.simulator.has_come_to(&table, figures);
    let report = look(&stage.bench, &pipeline).await;
    let expected = [
        "sort key",
        "distribution key",
        "encoding of at",
        "encoding of day",
        "vacuum",
        "statistics",
    ];
    assert_eq!(subjects(&report), expected, "{report:#?}");
    for finding in &report.findings {
        assert_eq!(finding.level, Level::Advice);
        stage.ask(&[&finding.statement]).await;
    }
    let report = look(&stage.bench, &pipeline).await;
    assert!(report.findings.is_empty(), "{report:#?}");
}

/// Twelve thousand events of so many users.
async fn add(bench: &Bench, file: &str, users: usize) {
    let line = |row: usize| {
        let (hour, user) = (row % 24, row % users);
        format!(
            "{{\"id\":\"{file}{row}\",\"at\":\"2026-01-01T{hour:02}:00:00Z\",\"user\":\"user-{user}\"}}\n"
        )
    };
    bench.write(
        &format!("in/{file}.json"),
        &(0..12_000).map(line).collect::<String>(),
    );
    bench.run().await;
}

/// A table is made by what the lake says of its values, and what the lake says later is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redshifts_encodings_go_by_the_lakes_values() {
    let stage = Stage::set(1).await;
    let (few, table) = (stage.server.table(), stage.server.table());
    let state = stage.bench.state().await;
    stage
        .handoff_by(stage.by_dsn(), &few)
        .settle(&state, PATIENCE)
        .await
        .unwrap();
    add(&stage.bench, "a", 7).await;
    // What was made when there were few rows is to be otherwise...
    let report = look(&stage.bench, &stage.pipeline_by(stage.by_dsn(), &few)).await;
    let [finding] = &report.findings[..] else {
        panic!("{report:#?}");
    };
    assert_eq!(
        (finding.what.as_str(), finding.found.as_str()),
        ("encoding of \"user\"", "zstd")
    );
    let (encoding, why) = finding.wanted.split_once(": at most ").unwrap();
    assert!(
        encoding == "bytedict" && why.contains(" values of ") && why.contains(" in 120"),
        "{why}"
    );
    // ... and what is made now is.
    let state = stage.bench.state().await;
    stage
        .handoff_by(stage.by_dsn(), &table)
        .settle(&state, PATIENCE)
        .await
        .unwrap();
    let pipeline = stage.pipeline_by(stage.by_dsn(), &table);
    let report = look(&stage.bench, &pipeline).await;
    assert!(report.findings.is_empty(), "{report:#?}");
    let look_at = format!("SET search_path TO {}", table.split('.').next().unwrap());
    let encoding = "SELECT encoding FROM pg_table_def WHERE tablename = 'events' AND \"column\" = 'user'";
    assert_eq!(stage.ask(&[&look_at, encoding]).await, ["bytedict"]);

    // More users come, and a block's dictionary would not hold them.
    add(&stage.bench, "b", 600).await;
    let report = look(&stage.bench, &pipeline).await;
    let [finding] = &report.findings[..] else {
        panic!("{report:#?}");
    };
    assert_eq!(finding.found, "bytedict");
    assert!(finding.wanted.starts_with("zstd: at most 6"), "{finding:?}");
    stage.ask(&[&finding.statement]).await;
    assert!(look(&stage.bench, &pipeline).await.findings.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redshifts_keys_encodings_and_upkeep_are_told_by_either_way() {
    let api = ApiStage::set(3).await;
    redshift_by(&api.stage, api.stage.by_dsn()).await;
    redshift_by(&api.stage, api.access()).await;
}
