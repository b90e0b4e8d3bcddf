//! Connections that break anywhere, loaders that race, a warehouse that crashes: each event once, by its id.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use millrace_coordinator::handoff::{Known, Watched};
use millrace_coordinator::lifecycle::{Hook, Moment};
use tokio::sync::watch;

use crate::lakes::{Bench, COLUMNS};
use crate::loads::PATIENCE;
use crate::proxy::{Cut, Proxy};
use crate::server::Server;

const SEEDS: u64 = 100;

/// Small, so that a hundred seeds are quick: three batches of some files each.
async fn bench() -> Bench {
    let bench = Bench::new(COLUMNS, "");
    bench.fill(0, 3, 20).await;
    bench
}

async fn loaded(server: &Server, table: &str) -> Vec<String> {
    server
        .sql(&format!("SELECT id FROM {table} ORDER BY id COLLATE \"C\""))
        .await
}

/// A number that only the seed decides.
fn random(seed: u64) -> u64 {
    let mut x = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

async fn lose(cut: impl Fn(u64) -> Cut) {
    let (server, bench) = (Server::start().await, bench().await);
    let (state, expected) = (bench.state().await, bench.ids().await);
    let proxy = Proxy::start(&server.address()).await;
    for seed in 0..SEEDS {
        let table = server.table();
        // The table is there before, so that the fault meets loads and not the table's making.
        let empty = millrace_coordinator::ledger::State::default();
        bench.handoff(&server.dsn, &table).round(&empty).await.unwrap();
        let before = proxy.cuts();
        proxy.arm(cut(seed));
        let mut handoff = bench.handoff(&proxy.dsn, &table);
        handoff
            .settle(&state, PATIENCE)
            .await
            .unwrap_or_else(|error| panic!("seed {seed}: {}", error.text()));
        assert_eq!(proxy.cuts(), before + 1, "seed {seed}: nothing was cut");
        assert_eq!(loaded(&server, &table).await, expected, "seed {seed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_lost_before_the_commit_loads_each_event_once() {
    lose(|_| Cut::BeforeCommit).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_lost_during_the_commit_loads_each_event_once() {
    lose(|_| Cut::DuringCommit).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_lost_after_the_commit_loads_each_event_once() {
    lose(|_| Cut::AfterCommit).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_lost_anywhere_loads_each_event_once() {
    let (server, bench) = (Server::start().await, bench().await);
    let proxy = Proxy::start(&server.address()).await;
    // An undisturbed load tells how many bytes there are to be cut at.
    proxy.arm(Cut::After(u64::MAX));
    let mut handoff = bench.handoff(&proxy.dsn, &server.table());
    handoff.settle(&bench.state().await, PATIENCE).await.unwrap();
    // The table's making comes first; with the table there, less is sent.
    let bytes = proxy.bytes() * 2 / 3;
    drop(server);
    lose(move |seed| Cut::After(1 + random(seed) % bytes)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_loaders_at_once_load_each_event_once() {
    let (server, bench) = (Server::start().await, bench().await);
    let (state, expected) = (bench.state().await, bench.ids().await);
    for _ in 0..30 {
        let table = server.table();
        // Both also race for the table.
        let (mut one, mut two) = (
            bench.handoff(&server.dsn, &table),
            bench.handoff(&server.dsn, &table),
        );
        let (one, two) = tokio::join!(one.settle(&state, PATIENCE), two.settle(&state, PATIENCE));
        assert_eq!(one.unwrap().batches + two.unwrap().batches, 3);
        assert_eq!(loaded(&server, &table).await, expected);
    }
}

/// The warehouse crashes again and again while batches are committed and loaded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_warehouse_that_crashes_gets_each_event_once() {
    let (server, bench) = (Server::start().await, Bench::new(COLUMNS, ""));
    let table = server.table();
    let (told, known) = watch::channel(Arc::default());
    let loop_ = tokio::spawn(bench.handoff(&server.dsn, &table).follow(known));
    for round in 0..5 {
        bench.fill(round * 4, 4, 200).await;
        let state = bench.state().await;
        told.send_replace(Arc::new(Known {
            state,
            ..Known::default()
        }));
        tokio::time::sleep(Duration::from_millis(random(round as u64) % 120)).await;
        server.crash().await;
    }
    let expected = bench.ids().await;
    let deadline = Instant::now() + Duration::from_secs(60);
    while loaded(&server, &table).await.len() < expected.len() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(loaded(&server, &table).await, expected);
    loop_.abort();
}

/// Stopped or killed in every step of a load.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_warehouse_that_restarts_in_any_step_of_a_load_gets_each_event_once() {
    let (server, bench) = (Arc::new(Server::start().await), bench().await);
    let (state, expected) = (bench.state().await, bench.ids().await);
    for verb in ["stop", "kill"] {
        for step in [Moment::Loading, Moment::Claimed, Moment::Copied, Moment::Loaded] {
            let table = server.table();
            let empty = millrace_coordinator::ledger::State::default();
            bench.handoff(&server.dsn, &table).round(&empty).await.unwrap();
            let armed = Arc::new(AtomicBool::new(true));
            let (of_hook, there) = (Arc::clone(&armed), Arc::clone(&server));
            let hook: Hook = Arc::new(move |moment| {
                if moment == step && of_hook.swap(false, Ordering::SeqCst) {
                    there.restart_now(verb);
                }
            });
            let watched = Watched {
                hook,
                ..Watched::default()
            };
            let mut handoff = bench.watched(&server.dsn, &table, watched);
            let settled = handoff.settle(&state, PATIENCE).await;
            settled.unwrap_or_else(|error| panic!("{verb} {step:?}: {}", error.text()));
            assert!(!armed.load(Ordering::SeqCst), "{verb} {step:?} never came");
            assert_eq!(loaded(&server, &table).await, expected, "{verb} {step:?}");
        }
    }
}

/// The warehouse's disk is full: loads wait and the lake goes on; when there is room again, everything arrives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_warehouse_whose_disk_is_full_gets_each_event_once() {
    let Some(server) = Server::on_small_disk(192).await else {
        eprintln!("this user may not mount a file system: a full disk was not tried");
        return;
    };
    let bench = Bench::new(COLUMNS, "");
    let table = server.table();
    let (told, known) = watch::channel(Arc::default());
    let loop_ = tokio::spawn(bench.handoff(&server.dsn, &table).follow(known));
    let tell = async || {
        let state = bench.state().await;
        told.send_replace(Arc::new(Known {
            state,
            ..Known::default()
        }));
    };
    bench.fill(0, 1, 100).await;
    tell().await;
    let first = bench.ids().await;
    await_rows(&server, &table, first.len()).await;
    let ballast = server.fill_disk(1 << 20);
    bench.fill(1, 4, 10_000).await;
    tell().await;
    let deadline = Instant::now() + Duration::from_secs(60);
    while !server.log().contains("No space left on device") {
        assert!(Instant::now() < deadline, "the disk was never full");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    std::fs::remove_file(ballast).unwrap();
    // PostgreSQL gives up where it finds no room for its own log.
    server.revive().await;
    let expected = bench.ids().await;
    await_rows(&server, &table, expected.len()).await;
    assert_eq!(loaded(&server, &table).await, expected);
    let (schema, _) = table.split_once('.').unwrap();
    let noted = format!("SELECT count(*), sum(\"rows\") FROM {schema}.millrace_loads");
    assert_eq!(server.sql(&noted).await, [format!("5|{}", expected.len())]);
    loop_.abort();
}

/// Polls until the table has as many rows.
async fn await_rows(server: &Server, table: &str, rows: usize) {
    let deadline = Instant::now() + Duration::from_secs(120);
    let sql = format!("SELECT count(*) FROM {table}");
    while server.try_sql(&sql).await != Some(vec![rows.to_string()]) {
        assert!(Instant::now() < deadline, "{rows} rows never came");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
