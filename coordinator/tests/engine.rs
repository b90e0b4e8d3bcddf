//! The engine across workers: every split is read exactly once, and every repeat is dropped, wherever its copies are read.
//!
//! The oracle counts lines and keys of the input by itself.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on says where by panicking"
)]

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_coordinator::commit;
use millrace_coordinator::engine::EngineError;
use millrace_coordinator::engine::ballista::{Ballista, Work};
use millrace_coordinator::lake::Lake;
use millrace_coordinator::workers::Workers;
use millrace_loadtest::papers::Papers;
use millrace_pipeline::codec::{AttemptSpec, PipelineText, Workplace, WorkplaceOptions};
use millrace_pipeline::dedup::claims::ClaimBook;
use millrace_pipeline::source::{S3Options, Stores, cut, list};
use millrace_proto::ids::{Attempt, BatchId, JobId};
use millrace_proto::manifest::{Manifest, TaskReport};
use millrace_proto::split::Split;
use millrace_proto::tls::Tls;
use millrace_proto::v1;
use millrace_worker::claims::{ClaimCounts, ClaimDesk, Routes};
use millrace_worker::disk::Disk;
use millrace_worker::serving::serve_workers;
use millrace_worker::tenure::{Place, Tenure};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::Code;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

const FILES: usize = 8;
const LINES: usize = 500;
const ATTEMPT: Attempt = Attempt { epoch: 7, number: 1 };

/// Events whose key repeats within and across files; one line in fifty is broken.
fn write_input(folder: &Path) -> (usize, HashSet<String>, usize) {
    let (mut lines, mut keys, mut broken) = (0, HashSet::new(), 0);
    for file in 0..FILES {
        let mut text = String::new();
        for line in 0..LINES {
            lines += 1;
            if line % 50 == 7 {
                broken += 1;
                text.push_str("{\"id\": \"cut off\n");
                continue;
            }
            // Every key stands in two files.
            let key = format!("k{}", (file / 2) * LINES + line);
            text.push_str(&format!(
                "{{\"id\":\"{key}\",\"at\":\"2026-01-01T05:{:02}:00Z\",\"mail\":\"a{line}@example.com\"}}\n",
                line % 60
            ));
            keys.insert(key);
        }
        std::fs::write(folder.join(format!("{file}.json")), text).unwrap();
    }
    (lines, keys, broken)
}

fn pipeline(scope: &str) -> String {
    format!(
        "version: 1
pipeline: engine
source: {{files: {{path: ./in, format: json}}}}
schema:
  - {{name: id, type: string, required: true}}
  - {{name: at, type: timestamp, required: true}}
  - {{name: mail, type: string, pii: email}}
dedup: {{key: [id], scope: {scope}}}
privacy: {{clear_in: [prod], hash_key: \"${{env:KEY}}\"}}
partition: {{time: at, by: [date, hour]}}
lake: {{url: ./lake}}
"
    )
}

fn workplace(runner: &str) -> Workplace {
    Workplace::new(WorkplaceOptions {
        s3: S3Options::default(),
        env: Arc::new(|name| (name == "KEY").then(|| "sixteen bytes or more".to_owned())),
        key_bytes: 64 << 20,
        task_bytes: 64 << 20,
        runner: runner.to_owned(),
    })
}

/// A worker says that it is there.
fn beat(worker: &str, address: &str) -> v1::JoinClusterRequest {
    v1::JoinClusterRequest {
        protocol_version: v1::PROTOCOL_VERSION,
        worker: Some(v1::Worker {
            name: worker.to_owned(),
            executor_id: worker.to_owned(),
            address: address.to_owned(),
            slots: 2,
            ..v1::Worker::default()
        }),
    }
}

struct Cluster {
    engine: Ballista,
    table: Arc<Workers>,
    /// Where each worker takes claims, and its book.
    desks: Vec<(Arc<ClaimDesk>, Arc<ClaimBook>)>,
    /// The workers' heartbeats.
    beating: JoinHandle<()>,
    _workers: Vec<Tenure>,
    _folders: Vec<tempfile::TempDir>,
    /// Where the scheduler and each worker's shuffle data answer.
    doors: Vec<String>,
    /// What each worker claimed with others, and others with it.
    claims: Vec<Arc<ClaimCounts>>,
}

/// A scheduler and `workers` executors of two slots, each with a server of its own for the others.
async fn cluster(workers: usize, tls: Option<&Tls>) -> Cluster {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let table = Arc::<Workers>::default();
    let leader = Arc::new(workplace("leader"));
    let engine = Ballista::start(listener, leader, Arc::clone(&table), tls)
        .await
        .unwrap();
    let (mut tenures, mut folders) = (Vec::new(), Vec::new());
    let (mut doors, mut claims, mut beats) = (vec![address.clone()], Vec::new(), Vec::new());
    let mut desks = Vec::new();
    for worker in 0..workers {
        let folder = tempfile::tempdir().unwrap();
        let work_dir = folder.path().display().to_string();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let counts = Arc::<ClaimCounts>::default();
        let desk = Arc::new(ClaimDesk::new(Arc::clone(&counts)));
        tokio::spawn(serve_workers(listener, work_dir.clone(), Arc::clone(&desk), tls).unwrap());
        doors.push(format!("127.0.0.1:{port}"));
        let place = Place {
            host: "127.0.0.1".to_owned(),
            port,
            slots: 2,
            work_dir: work_dir.clone(),
            tls: tls.cloned(),
            disk: Arc::new(Disk::new("worker", work_dir.into(), None)),
        };
        let id = format!("worker-{worker}");
        let workplace = workplace(&id).with_claims(64 << 20, |book| {
            Arc::new(Routes::new(
                id.clone(),
                book,
                Arc::clone(&counts),
                tls.map(Tls::client),
            ))
        });
        desk.open(id.clone(), workplace.claim_book());
        desks.push((desk, workplace.claim_book()));
        claims.push(counts);
        beats.push(beat(&id, &doors[worker + 1]));
        tenures.push(
            Tenure::begin(&address, id.clone(), &place, Arc::new(workplace))
                .await
                .unwrap(),
        );
        folders.push(folder);
    }
    let join = |table: &Workers, beats: &[v1::JoinClusterRequest]| {
        for beat in beats {
            table.join(beat.clone(), Instant::now()).unwrap();
        }
    };
    join(&table, &beats);
    let joined = Arc::clone(&table);
    let beating = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            join(&joined, &beats);
        }
    });
    Cluster {
        engine,
        table,
        desks,
        beating,
        _workers: tenures,
        _folders: folders,
        doors,
        claims,
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.beating.abort();
    }
}

struct Bench {
    folder: tempfile::TempDir,
    text: PipelineText,
    lake: Lake,
    splits: Vec<Split>,
}

async fn bench(scope: &str) -> (Bench, (usize, HashSet<String>, usize)) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("in")).unwrap();
    std::fs::create_dir_all(folder.path().join("lake")).unwrap();
    let expected = write_input(&folder.path().join("in"));
    let text = PipelineText {
        file: "engine.yaml".to_owned(),
        folder: folder.path().to_owned(),
        text: pipeline(scope),
        files: BTreeMap::new(),
    };
    let parsed = text.load(&|_| Some("sixteen bytes or more".to_owned())).unwrap();
    let stores = Stores::new(S3Options::default());
    let url = parsed.lake.url.clone();
    let (store, root) = stores.open(&url).unwrap();
    let objects = list(&stores, &parsed.source, &[]).await.unwrap();
    let mut splits = cut(&objects, parsed.source.format(), 1 << 30);
    for (index, split) in splits.iter_mut().enumerate() {
        split.index = index as u32;
    }
    assert_eq!(splits.len(), FILES);
    let lake = Lake {
        url,
        store,
        root,
        s3: millrace_pipeline::source::S3Options::default(),
    };
    (
        Bench {
            folder,
            text,
            lake,
            splits,
        },
        expected,
    )
}

/// Runs one attempt of a batch.
async fn attempt(
    cluster: &Cluster,
    bench: &Bench,
    batch: &str,
    committed: &[Manifest],
) -> Result<Vec<TaskReport>, EngineError> {
    let batch = BatchId::try_from(batch.to_owned()).unwrap();
    let spec = AttemptSpec {
        pipeline: bench.text.clone(),
        environment: None,
        job: "j1".to_owned().try_into().unwrap(),
        batch,
        attempt: ATTEMPT,
        watermark_us: None,
        quarantine_date: "2026-01-02".to_owned(),
        trace: None,
        snapshots: Vec::new(),
        keys: None,
    };
    let tasks: Vec<Vec<Split>> = bench.splits.iter().map(|split| vec![split.clone()]).collect();
    let keys: Vec<_> = committed
        .iter()
        .flat_map(|manifest| manifest.keys.clone())
        .collect();
    let (_stop, stopped) = watch::channel(false);
    let work = Work {
        attempt: spec,
        is_follow: false,
        tasks: &tasks,
        committed: &keys,
    };
    let engine = &cluster.engine;
    engine.run(work, &bench.lake, &|_| {}, &stopped).await
}

async fn run(cluster: &Cluster, bench: &Bench, batch: &str, committed: &[Manifest]) -> Manifest {
    let reports = attempt(cluster, bench, batch, committed).await.unwrap();
    let batch = BatchId::try_from(batch.to_owned()).unwrap();
    let pipeline = bench
        .text
        .load(&|_| Some("sixteen bytes or more".to_owned()))
        .unwrap();
    let job = JobId::try_from("j1".to_owned()).unwrap();
    let manifest = commit::join(&pipeline, None, &job, &batch, ATTEMPT, &bench.splits, reports);
    manifest.check().unwrap();
    for file in &manifest.files {
        assert!(bench.folder.path().join("lake").join(&file.object.key).exists());
    }
    manifest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn eight_splits_on_two_workers_of_two_slots_are_read_once_and_repeats_are_dropped() {
    let cluster = cluster(2, None).await;
    let (bench, (lines, keys, broken)) = bench("global").await;
    // An attempt of which nothing is committed leaves no claim behind.
    run(&cluster, &bench, "b0", &[]).await;
    let first = run(&cluster, &bench, "b1", &[]).await;
    let total = first.total();
    assert_eq!(total.read, lines as u64);
    assert_eq!(total.quarantined, broken as u64);
    assert_eq!(total.written, keys.len() as u64);
    assert_eq!(first.counts.len(), FILES);
    assert!(first.counts.iter().all(|count| count.read == LINES as u64));
    assert!(
        cluster.claims.iter().all(|claims| claims.read().0 > 0),
        "each asked the other"
    );
    // The same input again, with the first batch committed: all of it is known.
    let second = run(&cluster, &bench, "b2", std::slice::from_ref(&first)).await;
    assert_eq!(second.total().written, 0);
    assert_eq!(second.total().duplicates, (lines - broken) as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn with_partition_scope_every_task_keeps_its_own_first() {
    let cluster = cluster(2, None).await;
    let (bench, (lines, keys, broken)) = bench("partition").await;
    let total = run(&cluster, &bench, "b1", &[]).await.total();
    assert_eq!(total.read, lines as u64);
    // Every key stands in two files, and here each file is a partition.
    assert_eq!(total.written, 2 * keys.len() as u64);
    assert_eq!(total.quarantined, broken as u64);
}

/// A process that takes the place of a keeper knows none of its claims, so it takes none.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn another_process_at_a_keepers_address_takes_no_claim_for_it() {
    let cluster = cluster(2, None).await;
    let (bench, (lines, keys, _)) = bench("global").await;
    let (desk, book) = &cluster.desks[1];
    desk.open("a later process".to_owned(), Arc::new(ClaimBook::new(1 << 20)));
    let failed = attempt(&cluster, &bench, "b1", &[]).await.unwrap_err();
    let said = failed.to_string();
    assert!(
        said.starts_with("a task failed at step `dedup` over `file:///")
            && said.ends_with("the worker that kept claims as worker-1 is gone"),
        "{said}"
    );
    assert!(!failed.is_final(), "another attempt has other keepers");
    desk.open("worker-1".to_owned(), Arc::clone(book));
    let total = run(&cluster, &bench, "b2", &[]).await.total();
    assert_eq!((total.read, total.written), (lines as u64, keys.len() as u64));
}

/// What a user reads of a task that failed is a sentence: where, over what, why, what to do. It comes from another process, through
/// the engine, which hands on nothing but its own text.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_failed_task_says_at_which_step_over_which_split_and_what_to_do() {
    let cluster = cluster(2, None).await;
    let (bench, _) = bench("global").await;
    let rewritten = bench.folder.path().join("in/3.json");
    std::fs::write(&rewritten, "{\"id\":\"carol@example.com\"}\n").unwrap();
    let failed = attempt(&cluster, &bench, "b1", &[]).await.unwrap_err();
    let said = failed.to_string();
    let url = &bench.splits[3].object.url;
    assert!(url.ends_with("in/3.json"), "{url}");
    let begins = format!(
        "a task failed at step `scan` over `{url}`, bytes 0..{}: `{url}` has changed since it was listed: expected ",
        bench.splits[3].end
    );
    let ends = "; put that version back, or submit the input again to read what is there now";
    assert!(said.starts_with(&begins) && said.ends_with(ends), "{said}");
    for inner in ["Error", "External", "Some(", "{", "\"", "carol"] {
        assert!(!said.contains(inner), "`{inner}` in {said}");
    }
    assert!(failed.is_final(), "waiting does not bring the old object back");
}

/// Nobody waits for an attempt any more, so nobody needs who kept its claims: a worker that drains may go.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_attempt_that_is_dropped_needs_its_keepers_no_longer() {
    let cluster = cluster(2, None).await;
    let (bench, _) = bench("global").await;
    let begun = async {
        while cluster.engine.in_use().await.workers.len() < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        ran = attempt(&cluster, &bench, "b1", &[]) => panic!("it was over too early: {ran:?}"),
        () = begun => {}
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let needed = cluster.engine.in_use().await.workers;
        if needed.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "still needed: {needed:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Its tasks are told too.
    let over = cluster
        .table
        .join(beat("stranger", "127.0.0.1:1"), Instant::now());
    assert_eq!(over.unwrap().over, [format!("engine/b1-{ATTEMPT}")]);
}

/// Who holds a token is in the table of workers; who keeps claims must be known to the scheduler too.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_worker_that_the_scheduler_has_not_heard_keeps_no_claims() {
    let cluster = cluster(1, None).await;
    let (bench, (lines, keys, _)) = bench("global").await;
    let stranger = beat("stranger", "127.0.0.1:1");
    cluster.table.join(stranger, Instant::now()).unwrap();
    let total = run(&cluster, &bench, "b1", &[]).await.total();
    assert_eq!((total.read, total.written), (lines as u64, keys.len() as u64));
}

/// What a caller is told that asks for something that is not there; none where it does not come so far.
async fn asked(door: &str, tls: Option<&Tls>) -> Option<Code> {
    let scheme = if tls.is_some() { "https" } else { "http" };
    let mut endpoint = Endpoint::from_shared(format!("{scheme}://{door}")).unwrap();
    if let Some(tls) = tls {
        endpoint = endpoint.tls_config(tls.client()).unwrap();
    }
    let mut client = HealthClient::new(endpoint.connect().await.ok()?);
    let refused = client.check(HealthCheckRequest::default()).await.unwrap_err();
    Some(refused.code()).filter(|code| *code == Code::Unimplemented)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tasks_claims_and_shuffle_data_go_over_tls_and_to_the_clusters_own_only() {
    let folder = tempfile::tempdir().unwrap();
    let papers = Papers::issue(folder.path()).unwrap();
    let tls = |name: &str, ca: &str| Tls {
        certificate: papers.pem(&format!("{name}.pem")).unwrap(),
        key: papers.pem(&format!("{name}.key")).unwrap(),
        ca: papers.pem(ca).unwrap(),
        client_ca: None,
        domain: None,
    };
    let cluster = cluster(2, Some(&tls("server", "ca.pem"))).await;
    let (bench, (lines, keys, broken)) = bench("global").await;
    let total = run(&cluster, &bench, "b1", &[]).await.total();
    assert_eq!(
        (total.read, total.written, total.quarantined),
        (lines as u64, keys.len() as u64, broken as u64)
    );
    let claims: Vec<_> = cluster.claims.iter().map(|claims| claims.read()).collect();
    assert!(
        claims.iter().all(|(sent, taken)| *sent > 0 && *taken > 0),
        "nothing was claimed between workers: {claims:?}"
    );
    for door in &cluster.doors {
        let member = asked(door, Some(&tls("client", "ca.pem"))).await;
        assert_eq!(member, Some(Code::Unimplemented), "one of the cluster at {door}");
        assert_eq!(
            asked(door, Some(&tls("foreign", "ca.pem"))).await,
            None,
            "a stranger at {door}"
        );
        assert_eq!(
            asked(door, Some(&tls("client", "stranger.pem"))).await,
            None,
            "not trusted: {door}"
        );
        assert_eq!(asked(door, None).await, None, "in the clear at {door}");
    }
}
