//! What a cluster tells of itself: logs, metrics, traces.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::collector::{Collector, Span};
use crate::sandbox::Sandbox;

const EVENTS: u64 = 20_000;

/// The value of the first sample that begins so.
fn sample(metrics: &str, begins: &str) -> f64 {
    let line = metrics.lines().find(|line| line.starts_with(begins));
    let line = line.unwrap_or_else(|| panic!("no `{begins}` in\n{metrics}"));
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

#[test]
fn a_job_is_seen_in_logs_and_metrics_and_is_one_trace_and_a_dead_collector_harms_nobody() {
    let collector = Collector::start();
    // Takes connections and never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nowhere = format!("http://{}", silent.local_addr().unwrap());
    let told = |endpoint| {
        [
            ("MILLRACE_LOG_FORMAT", "json"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
        ]
    };
    let mut sandbox = Sandbox::start(1, 0);
    sandbox.upload("shop", EVENTS, 41);
    sandbox.coordinator("coordinator-1", &told(&collector.endpoint));
    sandbox.worker("worker-1", &told(&collector.endpoint));
    sandbox.worker("worker-2", &told(&nowhere));
    sandbox.has_workers(2);
    sandbox.apply("shop", r#"s3: {url: "s3://millrace/raw/shop/", format: json}"#);
    let job = sandbox.submit("shop", &[]);
    let done = sandbox.done(&job);
    assert_eq!(done["events_read"], EVENTS, "{done}");

    for process in ["coordinator-1", "worker-1", "worker-2"] {
        let (status, answer) = sandbox.http(process, "/readyz");
        assert_eq!(status, 200, "{process}: {answer}");
    }
    counted(&sandbox);
    logged(&sandbox, &job);
    traced(&sandbox, &collector, &job);

    sandbox.signal("worker-2", "TERM");
    assert_eq!(sandbox.ended("worker-2"), None, "it left by itself");
    sandbox.judge("shop", "shop");
}

fn counted(sandbox: &Sandbox) {
    let (status, metrics) = sandbox.http("coordinator-1", "/metrics");
    assert_eq!(status, 200);
    assert_eq!(sample(&metrics, "millrace_leader "), 1.0);
    assert_eq!(sample(&metrics, "millrace_cluster_slots "), 2.0);
    let events = |outcome: &str| {
        let labels = format!("millrace_events_total{{pipeline=\"shop\",outcome=\"{outcome}\"}}");
        sample(&metrics, &labels)
    };
    assert_eq!(events("read"), EVENTS as f64);
    assert!(events("quarantined") > 0.0);
    let reasons = metrics
        .lines()
        .filter(|line| line.starts_with("millrace_quarantined_events_total{"));
    let reasons: f64 = reasons.map(|line| sample(line, "")).sum();
    assert!(reasons >= events("quarantined"), "{metrics}");
    assert!(sample(&metrics, "millrace_ledger_append_seconds_count") > 0.0);
    let phases = ["plan", "run", "publish"];
    for phase in phases {
        let of = format!("millrace_batch_phase_seconds_count{{phase=\"{phase}\"}}");
        assert!(sample(&metrics, &of) > 0.0);
    }
    let mut claimed = 0.0;
    for worker in ["worker-1", "worker-2"] {
        let (_, metrics) = sandbox.http(worker, "/metrics");
        claimed += sample(&metrics, "millrace_claims_sent_total");
        assert!(sample(&metrics, "process_resident_memory_bytes") > 1e6);
        assert_eq!(
            sample(&metrics, "millrace_memory_limit_bytes"),
            f64::from(256 << 20)
        );
    }
    assert!(claimed > 0.0);
}

fn logged(sandbox: &Sandbox, job: &str) {
    let lines = |process: &str| -> Vec<Value> {
        let log = std::fs::read_to_string(sandbox.path(&format!("{process}.log"))).unwrap();
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{process}: {line}"));
        log.lines().map(parse).collect()
    };
    let of_coordinator = lines("coordinator-1");
    let committed = of_coordinator
        .iter()
        .find(|line| line["message"] == "a batch is committed")
        .unwrap();
    assert_eq!(committed["job"], job, "{committed}");
    assert!(committed["batch"].is_string() && committed["attempt"].is_string());
    assert!(
        committed["epoch"].is_u64() && committed["pipeline"] == "shop",
        "{committed}"
    );
    for worker in ["worker-1", "worker-2"] {
        assert!(lines(worker).iter().any(|line| line["message"] == "following"));
    }
    let lost = lines("worker-2");
    let lost = lost
        .iter()
        .filter(|line| line["level"] == "warn" && line["endpoint"].is_string());
    assert!(lost.count() <= 1, "a dead collector is told of once");
}

fn traced(sandbox: &Sandbox, collector: &Collector, job: &str) {
    let root = sandbox.until("the job's span comes", |_| {
        let spans = collector.spans();
        spans
            .into_iter()
            .find(|span| span.name == "job" && span.text("job") == Some(job))
    });
    assert!(root.parent.is_empty() && root.nanos > 0);
    let of_trace = || -> Vec<Span> {
        let spans = collector.spans().into_iter();
        spans.filter(|span| span.trace == root.trace).collect()
    };
    sandbox.until("a worker's task comes", |_| {
        of_trace().into_iter().find(|span| span.process == "worker-1")
    });
    let spans = of_trace();
    let named = |name: &'static str| spans.iter().filter(move |span| span.name == name);
    let ids =
        |name: &'static str| -> BTreeSet<&[u8]> { named(name).map(|span| span.id.as_slice()).collect() };
    let (batches, attempts) = (ids("batch"), ids("attempt"));
    assert!(!batches.is_empty() && !attempts.is_empty());
    assert!(named("batch").all(|span| span.parent == root.id && span.text("batch").is_some()));
    assert!(named("attempt").all(|span| batches.contains(span.parent.as_slice())));
    assert!(named("plan").all(|span| batches.contains(span.parent.as_slice())));
    // Beside the batch's attempt: the next one may run already.
    assert!(
        named("publish")
            .all(|span| batches.contains(span.parent.as_slice()) && span.text("attempt").is_some())
    );
    assert_eq!(
        (named("plan").count(), named("publish").count()),
        (batches.len(), attempts.len())
    );
    for task in named("task") {
        assert!(attempts.contains(task.parent.as_slice()), "{task:?}");
        assert_eq!(task.text("job"), Some(job));
    }
}
