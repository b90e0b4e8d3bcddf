//! Loaders that froze, credentials that ended, jobs that have not: what waits, and what goes on by itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_coordinator::handoff::{Known, Standing};
use millrace_pipeline::spec::model::HandoffUnit;
use millrace_proto::ids::JobId;
use tokio::sync::watch;
use tokio_postgres::NoTls;

use crate::lakes::{Bench, COLUMNS};
use crate::loads::PATIENCE;
use crate::server::Server;

/// Polls until the table has so many rows.
async fn has_rows(server: &Server, table: &str, rows: usize) {
    let deadline = Instant::now() + PATIENCE;
    let sql = format!("SELECT count(*) FROM {table}");
    while server.try_sql(&sql).await != Some(vec![rows.to_string()]) {
        assert!(Instant::now() < deadline, "{rows} rows never came");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// While rows are being sent no timeout of PostgreSQL's counts: whoever waits ends the session.
#[tokio::test]
async fn a_loader_that_froze_amid_its_rows_is_ended_by_the_next_one() {
    let (server, bench) = (Server::start().await, Bench::new(COLUMNS, ""));
    bench.fill(0, 1, 5).await;
    let (table, state) = (server.table(), bench.state().await);
    let empty = millrace_coordinator::ledger::State::default();
    bench.handoff(&server.dsn, &table).round(&empty).await.unwrap();
    let (frozen, connection) = tokio_postgres::connect(&server.dsn, NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let batch = state.committed().next().unwrap().0.clone();
    let ledger = format!("{}.millrace_loads", table.split('.').next().unwrap());
    frozen
        .batch_execute(&format!(
            "SET application_name = 'millrace events'; BEGIN; INSERT INTO {ledger} VALUES ('events', '{batch}', 'e1a1', 'd', 5)"
        ))
        .await
        .unwrap();
    let copy = format!("COPY {table} (id) FROM STDIN");
    let rows = frozen.copy_in::<_, bytes::Bytes>(&copy).await.unwrap();
    let round = bench
        .handoff(&server.dsn, &table)
        .settle(&state, PATIENCE)
        .await
        .unwrap();
    assert_eq!((round.batches, round.rows), (1, 5));
    assert!(connection.await.unwrap().is_err(), "the frozen session goes on");
    drop(rows);
    has_rows(&server, &table, 5).await;
}

/// The batches of a job that is at work wait; those of one that has ended do not, and come together.
#[tokio::test]
async fn a_job_is_handed_off_whole_when_it_has_ended() {
    let (server, mut bench) = (Server::start().await, Bench::new(COLUMNS, ""));
    bench.pipeline.handoff = HandoffUnit::Job;
    bench.fill(0, 3, 5).await;
    bench.fill(3, 2, 5).await;
    let (table, state) = (server.table(), bench.state().await);
    let jobs: Vec<JobId> = state.committed().map(|(_, batch)| batch.job.clone()).collect();
    let (first, second) = (&jobs[0], &jobs[4]);
    assert_ne!(first, second);
    let open = |jobs: &[&JobId]| {
        Arc::new(Known {
            state: state.clone(),
            open: jobs.iter().map(|job| (*job).clone()).collect(),
        })
    };
    let (told, known) = watch::channel(open(&[first]));
    let loop_ = tokio::spawn(bench.handoff(&server.dsn, &table).follow(known));
    has_rows(&server, &table, 10).await;
    let standings = bench.standings(&server.dsn, &table, &open(&[first])).await;
    let unfinished = standings
        .iter()
        .filter(|one| one.standing == Standing::Unfinished);
    assert_eq!(unfinished.count(), 3);
    told.send_replace(open(&[]));
    has_rows(&server, &table, 25).await;
    let ledger = format!("{}.millrace_loads", table.split('.').next().unwrap());
    let transactions = server
        .sql(&format!("SELECT count(DISTINCT xmin::text) FROM {ledger}"))
        .await;
    assert_eq!(transactions, ["2"], "one for each job");
    loop_.abort();
}

#[tokio::test]
async fn credentials_that_ended_are_told_as_such_and_loading_goes_on_with_new_ones() {
    let (server, bench) = (Server::start().await, Bench::new(COLUMNS, ""));
    bench.fill(0, 1, 5).await;
    let (table, state) = (server.table(), bench.state().await);
    server
        .sql("CREATE ROLE loader LOGIN; GRANT CREATE ON DATABASE postgres TO loader")
        .await;
    let dsn = server.dsn.replace("postgres@", "loader@");
    let mut handoff = bench.handoff(&dsn, &table);
    server.sql("ALTER ROLE loader NOLOGIN").await;
    let error = handoff.round(&state).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.is_retryable()),
        ("credentials", false),
        "{}",
        error.text()
    );
    server.sql("ALTER ROLE loader LOGIN").await;
    assert_eq!(handoff.round(&state).await.unwrap().rows, 5);
}
