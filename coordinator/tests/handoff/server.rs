//! A PostgreSQL of one's own, on loopback, gone when it is dropped; and a client that is not the handoff's.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio_postgres::{NoTls, SimpleQueryMessage};

pub(crate) struct Server {
    folder: TempDir,
    pub(crate) dsn: String,
    schemas: AtomicU32,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        script(folder.path(), "start").await;
        let dsn = std::fs::read_to_string(folder.path().join("endpoint")).unwrap();
        let dsn = dsn.trim().to_owned();
        Self {
            folder,
            dsn,
            schemas: AtomicU32::new(0),
        }
    }

    /// One whose disk is a file system of so many MiB in memory; none where this process may not mount one.
    pub(crate) async fn on_small_disk(mib: u32) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        std::fs::create_dir(&data).unwrap();
        // The server is another user.
        let everybody = Permissions::from_mode(0o755);
        std::fs::set_permissions(folder.path(), everybody).unwrap();
        let size = format!("size={mib}m,mode=0700");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&data);
        if !mount.output().is_ok_and(|done| done.status.success()) {
            return None;
        }
        let owned = Command::new("chown").arg("postgres:").arg(&data).output();
        assert!(owned.unwrap().status.success());
        script(folder.path(), "start").await;
        let dsn = std::fs::read_to_string(folder.path().join("endpoint")).unwrap();
        Some(Self {
            dsn: dsn.trim().to_owned(),
            folder,
            schemas: AtomicU32::new(0),
        })
    }

    /// Takes all of the disk but so many bytes, until the file that is given is gone.
    pub(crate) fn fill_disk(&self, left: u64) -> std::path::PathBuf {
        let ballast = self.folder.path().join("data/ballast");
        let free = Command::new("stat")
            .args(["-f", "-c", "%a %S"])
            .arg(self.folder.path().join("data"))
            .output();
        let free = String::from_utf8(free.unwrap().stdout).unwrap();
        let (blocks, size) = free.trim().split_once(' ').unwrap();
        let free = blocks.parse::<u64>().unwrap() * size.parse::<u64>().unwrap();
        let bytes = vec![0; usize::try_from(free.saturating_sub(left)).unwrap()];
        std::fs::write(&ballast, bytes).unwrap();
        ballast
    }

    /// What the server wrote to its log.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// Starts it again, if it is down.
    pub(crate) async fn revive(&self) {
        let deadline = Instant::now() + Duration::from_secs(180);
        while !run(self.folder.path(), "start").await.status.success() {
            assert!(Instant::now() < deadline, "PostgreSQL does not come back");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Ends it, by `stop` or `kill`, and starts it again on the same data, at once.
    pub(crate) fn restart_now(&self, verb: &str) {
        let deadline = Instant::now() + Duration::from_secs(180);
        assert!(
            command(self.folder.path(), verb)
                .output()
                .unwrap()
                .status
                .success()
        );
        while !command(self.folder.path(), "start")
            .output()
            .unwrap()
            .status
            .success()
        {
            assert!(Instant::now() < deadline, "PostgreSQL does not come back");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// `host:port`.
    pub(crate) fn address(&self) -> String {
        let (_, rest) = self.dsn.split_once('@').unwrap();
        rest.split('/').next().unwrap().to_owned()
    }

    /// A crash, and a new start on the same data.
    pub(crate) async fn crash(&self) {
        script(self.folder.path(), "kill").await;
        // The new server waits for the processes of the old one to be gone.
        self.revive().await;
    }

    fn is_mounted(&self) -> bool {
        let data = self.folder.path().join("data");
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
        mounts.contains(&format!(" {} ", data.display()))
    }

    /// A table that no other test has.
    pub(crate) fn table(&self) -> String {
        let number = self.schemas.fetch_add(1, Ordering::Relaxed);
        format!("warehouse_{number}.events")
    }

    /// Runs SQL; the rows, each with its columns joined by `|`.
    pub(crate) async fn sql(&self, sql: &str) -> Vec<String> {
        self.query(sql).await.unwrap()
    }

    /// The same; none when it fails.
    pub(crate) async fn try_sql(&self, sql: &str) -> Option<Vec<String>> {
        self.query(sql).await.ok()
    }

    async fn query(&self, sql: &str) -> Result<Vec<String>, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::connect(&self.dsn, NoTls).await?;
        let running = tokio::spawn(connection);
        let answer = client.simple_query(sql).await;
        running.abort();
        let row = |message| {
            let SimpleQueryMessage::Row(row) = message else {
                return None;
            };
            let cells: Vec<&str> = (0..row.len()).map(|at| row.get(at).unwrap_or("<null>")).collect();
            Some(cells.join("|"))
        };
        Ok(answer?.into_iter().filter_map(row).collect())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = command(self.folder.path(), "kill").status();
        if self.is_mounted() {
            let data = self.folder.path().join("data");
            let _ = Command::new("umount").arg("--lazy").arg(data).status();
        } else if let Ok(data) = std::fs::canonicalize(self.folder.path().join("data")) {
            let _ = std::fs::remove_dir_all(data);
        }
    }
}

async fn script(folder: &Path, verb: &'static str) {
    let output = run(folder, verb).await;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "postgres.sh {verb}: {errors}");
}

async fn run(folder: &Path, verb: &'static str) -> Output {
    let folder = folder.to_owned();
    let ran = tokio::task::spawn_blocking(move || command(&folder, verb).output().unwrap());
    ran.await.unwrap()
}

fn command(folder: &Path, verb: &str) -> Command {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/local/postgres.sh");
    let mut command = Command::new("bash");
    command.arg(script).arg(verb).arg("--dir").arg(folder);
    command
}
