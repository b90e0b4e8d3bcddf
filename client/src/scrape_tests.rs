//! What is served is what `deploy/metrics.md` says, by the conventions of OpenMetrics.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use millrace_coordinator::ledger::Why;
use millrace_coordinator::marts::due::{Period, Standing};
use millrace_coordinator::metrics::Metrics;
use millrace_coordinator::metrics::handoff::Behind;
use millrace_pipeline::spec::marts::{Every, Mart};
use millrace_proto::ids::Attempt;
use millrace_proto::manifest::{Manifest, Removed, Replaced};
use millrace_worker::metrics::WorkerMetrics;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

const DOCUMENT: &str = include_str!("../../deploy/metrics.md");

/// A metric as it is served: name with its labels, kind, help.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Served {
    kind: String,
    help: String,
    unit: String,
    labels: BTreeSet<String>,
}

/// Every family of a registry.
fn served(mut registry: Registry) -> BTreeMap<String, Served> {
    registry.register_collector(Box::new(Process));
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    let mut families: BTreeMap<String, Served> = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words.as_slice() {
            ["#", "HELP", name, help] => {
                current = (*name).to_owned();
                families.entry(current.clone()).or_default().help = (*help).to_owned();
            }
            ["#", "TYPE", name, kind] => {
                current = (*name).to_owned();
                families.entry(current.clone()).or_default().kind = (*kind).to_owned();
            }
            ["#", "UNIT", name, unit] => {
                families.entry((*name).to_owned()).or_default().unit = (*unit).to_owned();
            }
            _ => {
                let Some((_, labels)) = line.split_once('{') else {
                    continue;
                };
                let labels = labels.split('}').next().unwrap().split(',');
                let names = labels.filter_map(|label| label.split('=').next());
                let known = &mut families.get_mut(&current).unwrap().labels;
                known.extend(names.filter(|name| *name != "le").map(str::to_owned));
            }
        }
    }
    families
}

fn mart() -> Mart {
    Mart {
        name: "funnel".to_owned(),
        every: Every::Hour,
        look_back_hours: 0,
        timeout_seconds: 7_200,
        sql: String::new(),
        file: None,
        description: None,
        columns: Vec::new(),
        uses: BTreeSet::new(),
        reads_events: true,
        table: None,
        digest: String::new(),
    }
}

fn period() -> Period {
    Period {
        mart: 0,
        from_hour: 0,
        hours: 1,
        window_hour: 0,
        standing: Standing::Current,
        input: String::new(),
        expired: false,
        run: None,
    }
}

/// Everything that a coordinator may count, once.
fn coordinator() -> BTreeMap<String, Served> {
    let metrics = Metrics::default();
    metrics.leads(Some(7));
    let manifest = Manifest {
        replaces: Replaced::default(),
        enrich: Vec::new(),
        unmatched: BTreeMap::from([("customers".to_owned(), 1)]),
        removed: Removed::default(),
        version: 1,
        pipeline: "shop".to_owned().try_into().unwrap(),
        pipeline_digest: String::new(),
        job: "j1".to_owned().try_into().unwrap(),
        batch: "b1".to_owned().try_into().unwrap(),
        attempt: Attempt { epoch: 7, number: 1 },
        environment: None,
        splits: Vec::new(),
        counts: Vec::new(),
        files: Vec::new(),
        quarantine: Vec::new(),
        keys: Vec::new(),
        quality: Vec::new(),
        reasons: BTreeMap::from([("wrong_type".to_owned(), 1)]),
    };
    metrics.committed(&manifest, Some(1), true);
    metrics.dropped("shop");
    metrics.read_ahead("shop");
    metrics.attempt_failed("shop");
    metrics.lost("shop", "retention", 1);
    metrics.removed("shop", "lake", Why::Expired, 1);
    metrics.phase("run", Duration::from_secs(1));
    metrics.lag("shop", 1);
    metrics.followed("shop", 0, 2, 1, Duration::ZERO);
    metrics.jobs(1, 1);
    metrics.enrich.uses("shop", "customers", 1);
    metrics.enrich.waits("shop", "customers", true);
    metrics.enrich.failed("shop", "customers");
    metrics.models.stand("shop", &[mart()], &[period()]);
    metrics.models.took("shop", "funnel", Duration::from_secs(1));
    metrics.models.failed("shop", "funnel");
    metrics.handoff.behind("shop", Behind::default());
    metrics.handoff.loaded("shop", 1);
    metrics.handoff.took("shop", Duration::from_secs(1));
    metrics.handoff.failed("shop", "connection");
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    served(registry)
}

fn worker() -> BTreeMap<String, Served> {
    let mut registry = Registry::default();
    Arc::new(WorkerMetrics::default()).register(&mut registry);
    served(registry)
}

/// The rows of the document's table for what is served.
fn rows() -> Vec<String> {
    let (coordinator, worker) = (coordinator(), worker());
    let names: BTreeSet<&String> = coordinator.keys().chain(worker.keys()).collect();
    let row = |name: &String| {
        let of = match (coordinator.get(name), worker.get(name)) {
            (Some(one), Some(other)) => {
                assert_eq!(one, other, "{name}");
                (one, "both")
            }
            (Some(one), None) => (one, "coordinator"),
            (None, Some(one)) => (one, "worker"),
            (None, None) => unreachable!(),
        };
        let (served, whose) = of;
        let labels: Vec<&str> = served.labels.iter().map(String::as_str).collect();
        let labels = match labels.as_slice() {
            [] => String::new(),
            labels => format!("{{{}}}", labels.join(",")),
        };
        let total = if served.kind == "counter" { "_total" } else { "" };
        format!(
            "| `{name}{total}{labels}` | {} | {whose} | {} |",
            served.kind, served.help
        )
    };
    names.into_iter().map(row).collect()
}

#[test]
fn the_document_lists_every_metric_that_is_served_and_no_other() {
    let rows = rows();
    let listed: Vec<&str> = DOCUMENT.lines().filter(|line| line.starts_with("| `")).collect();
    assert_eq!(listed, rows, "the table should be:\n{}\n", rows.join("\n"));
}

#[test]
fn names_tell_units_and_help_is_a_sentence() {
    for (name, served) in coordinator().into_iter().chain(worker()) {
        assert!(
            name.starts_with("millrace_") || name.starts_with("process_"),
            "{name}"
        );
        assert!(!name.ends_with("_total"), "{name}: counters get it by themselves");
        assert!(
            served.help.ends_with('.') && !served.help.ends_with("..") && served.help.len() > 10,
            "{name}: {}",
            served.help
        );
        for unit in ["seconds", "bytes"] {
            assert_eq!(
                name.ends_with(unit),
                served.unit == unit,
                "{name}: {}",
                served.unit
            );
        }
    }
}

/// The answer to a request, status line first.
async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn alive_is_not_ready_and_both_are_told() {
    let ready = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let asked = Arc::clone(&ready);
    let is_ready = move || asked.load(std::sync::atomic::Ordering::SeqCst);
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let address = serve(listen, Registry::default(), is_ready).await.unwrap();
    assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 503"));
    ready.store(true, std::sync::atomic::Ordering::SeqCst);
    assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
    let metrics = get(address, "/metrics").await;
    assert!(
        metrics.contains("application/openmetrics-text") && metrics.contains("# EOF"),
        "{metrics}"
    );
    assert!(get(address, "/nothing").await.starts_with("HTTP/1.1 404"));
}
