//! A Python client that is generated from the contract, as Airflow uses it.

use std::path::Path;
use std::process::Command;

use crate::cluster::{Single, files_pipeline};

#[tokio::test(flavor = "multi_thread")]
async fn a_generated_python_client_submits_lists_and_reads_rich_errors() {
    let cluster = Single::start().await;
    cluster.apply(files_pipeline("shop", "/events", "/lake")).await;
    let address = cluster.node.address.to_string();
    let done = tokio::task::spawn_blocking(move || {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let venv = Command::new(root.join("deploy/local/python.sh"))
            .args(["install", "grpcio-tools==1.78.0", "grpcio-status==1.78.0"])
            .output()
            .unwrap();
        assert!(venv.status.success(), "{}", String::from_utf8_lossy(&venv.stderr));
        let python = String::from_utf8(venv.stdout).unwrap();
        let generated = tempfile::tempdir().unwrap();
        let made = Command::new(python.trim())
            .args(["-m", "grpc_tools.protoc", "-I", "."])
            .arg(format!("--python_out={}", generated.path().display()))
            .arg(format!("--grpc_python_out={}", generated.path().display()))
            .args(
                [
                    "job",
                    "pipeline",
                    "cluster",
                    "quarantine",
                    "handoff",
                    "model",
                    "retention",
                ]
                .map(|name| format!("millrace/v1/{name}.proto")),
            )
            .current_dir(root.join("proto"))
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Command::new(python.trim())
            .arg(root.join("client/tests/api/client.py"))
            .arg(address)
            .env("PYTHONPATH", generated.path())
            .output()
            .unwrap()
    })
    .await
    .unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
    assert_eq!(String::from_utf8_lossy(&done.stdout).trim(), "all held", "{said}");
}
