//! A cluster that speaks TLS everywhere and asks for tokens; and processes that refuse to be open to others.

use std::process::Command;

use millrace_loadtest::papers::Papers;

use crate::sandbox::Sandbox;

const SOURCE: &str = r#"s3: {url: "s3://millrace/raw/shop/", format: json}"#;

#[test]
fn a_cluster_works_over_tls_with_tokens_and_gives_strangers_nothing() {
    let mut sandbox = Sandbox::start(1, 0);
    sandbox.upload("shop", 5_000, 61);
    Papers::issue(&sandbox.path("")).unwrap();
    let hash = |token: &str| blake3::hash(token.as_bytes()).to_hex().to_string();
    let papers = "certificate: server.pem, key: server.key, ca: ca.pem";
    sandbox.more.coordinator = format!(
        "tls: {{{papers}}}\ntokens:\n  - {{name: ada, role: admin, blake3: {}}}\n  \
         - {{name: workers, role: operator, blake3: {}}}\n",
        hash("token of ada"),
        hash("token of workers")
    );
    let ca = sandbox.path("ca.pem").display().to_string();
    sandbox.more.command = vec![("MILLRACE_CA", ca), ("MILLRACE_TOKEN", "token of ada".to_owned())];
    sandbox.more.worker = format!("token: \"${{env:WORKER_TOKEN}}\"\ntls: {{{papers}}}\n");
    sandbox.coordinator("coordinator-1", &[]);
    for worker in ["worker-1", "worker-2"] {
        sandbox.worker(worker, &[("WORKER_TOKEN", "token of workers")]);
    }
    sandbox.has_workers(2);
    // Its token is good; its certificate is a stranger's.
    sandbox.more.worker = sandbox.more.worker.replace("server.", "foreign.");
    sandbox.worker("stranger", &[("WORKER_TOKEN", "token of workers")]);
    sandbox.apply("shop", SOURCE);
    let done = sandbox.done(&sandbox.submit("shop", &[]));
    assert_eq!(done["events_read"], 5_000, "{done}");
    sandbox.until("the stranger notices that it is turned away", |sandbox| {
        (sandbox.logged("stranger", "gives no answer to this worker") > 0).then_some(())
    });
    assert_eq!(sandbox.http("stranger", "/readyz").0, 503);
    let (_, metrics) = sandbox.http("stranger", "/metrics");
    assert!(
        metrics.contains("millrace_step_rows_total{step=\"scan\"} 0"),
        "{metrics}"
    );
    assert_eq!(sandbox.http("worker-1", "/readyz").0, 200);
    sandbox.judge("shop", "shop");
}

#[test]
fn without_tls_nothing_is_served_where_others_reach_it() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |kind: &str, text: &str| {
        let file = folder.path().join("node.yaml");
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_millrace"));
        let output = command.args([kind, "--config"]).arg(&file).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let etcd = "etcd: {endpoints: [\"http://127.0.0.1:9\"]}";
    let worker = format!("name: w\n{etcd}\nwork_dir: w\nlisten: 0.0.0.0:0\nadvertise: 127.0.0.1:9\n");
    let said = refused("worker", &worker);
    assert!(
        said.contains("shuffle data would be served at 0.0.0.0:0") && said.contains("`tls`"),
        "{said}"
    );
    let coordinator = format!(
        "name: c\n{etcd}\nlisten: 127.0.0.1:0\nscheduler_listen: 0.0.0.0:0\nscheduler_advertise: 127.0.0.1:9\n"
    );
    let said = refused("coordinator", &coordinator);
    assert!(
        said.contains("the scheduler would listen on 0.0.0.0:0") && said.contains("`tls`"),
        "{said}"
    );
}
