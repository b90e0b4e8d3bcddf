//! An etcd cluster of one's own, on loopback, gone when it is dropped.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use etcd_client::ConnectOptions;
use millrace_coordinator::election::{Candidate, Identity, Leadership};
use millrace_coordinator::etcd::Etcd;
use tempfile::TempDir;

/// The lease of leaders in tests: what a coordinator uses by default.
pub(crate) const LEASE: Duration = Duration::from_secs(3);
pub(crate) const PREFIX: &str = "millrace-test";

pub(crate) struct Server {
    folder: TempDir,
    pub(crate) endpoints: Vec<String>,
}

impl Server {
    pub(crate) async fn start(members: u32) -> Self {
        Self::start_with(members, 2 << 30).await
    }

    /// The same with so many bytes for each member's store.
    pub(crate) async fn start_with(members: u32, quota: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        std::fs::write(path.join("quota"), quota.to_string()).unwrap();
        let start = move || script(&path, &["start", "--nodes", &members.to_string()]);
        tokio::task::spawn_blocking(start).await.unwrap();
        let endpoints = std::fs::read_to_string(folder.path().join("endpoints")).unwrap();
        let endpoints = endpoints.trim().split(',').map(str::to_owned).collect();
        Self { folder, endpoints }
    }

    pub(crate) async fn etcd(&self) -> Etcd {
        Etcd::connect(&self.endpoints, ConnectOptions::new())
            .await
            .unwrap()
    }

    /// A client that is not ours, to look and to meddle.
    pub(crate) async fn raw(&self) -> etcd_client::Client {
        etcd_client::Client::connect(&self.endpoints[..1], None)
            .await
            .unwrap()
    }

    /// `kill`, `pause`, `resume` or `start` of one member, from 1.
    pub(crate) async fn member(&self, verb: &'static str, member: u32) {
        let path = self.folder.path().to_owned();
        let run = move || script(&path, &[verb, "--node", &member.to_string()]);
        tokio::task::spawn_blocking(run).await.unwrap();
    }

    pub(crate) async fn lead(&self, name: &str) -> Leadership {
        candidate(self.etcd().await, name).campaign().await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = run(self.folder.path(), &["resume"]);
        let _ = run(self.folder.path(), &["kill"]);
    }
}

pub(crate) fn candidate(etcd: Etcd, name: &str) -> Candidate {
    let me = Identity {
        name: name.to_owned(),
        address: format!("{name}:1"),
        scheduler_address: format!("{name}:2"),
    };
    Candidate::new(etcd, PREFIX, me, LEASE)
}

fn script(folder: &Path, arguments: &[&str]) {
    let output = run(folder, arguments).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "etcd.sh {arguments:?}: {said}");
}

fn run(folder: &Path, arguments: &[&str]) -> std::io::Result<std::process::Output> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/local/etcd.sh");
    let log = std::fs::File::create(folder.join("script.log"))?;
    // Into a file: a pipe would stay open as long as the servers live.
    let status = Command::new(script)
        .args(arguments)
        .arg("--dir")
        .arg(folder)
        .env("ETCD_QUOTA", std::fs::read_to_string(folder.join("quota"))?)
        .stdout(log.try_clone()?)
        .stderr(log)
        .status()?;
    let stderr = std::fs::read(folder.join("script.log"))?;
    Ok(std::process::Output {
        status,
        stdout: Vec::new(),
        stderr,
    })
}

/// Polls until the condition holds; gives how long that took.
pub(crate) async fn eventually(
    what: &str,
    within: Duration,
    mut holds: impl AsyncFnMut() -> bool,
) -> Duration {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < within, "not within {within:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    begun.elapsed()
}
