//! A PostgreSQL of a story's own, asked by `psql`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::sandbox::{Sandbox, root};

/// Gone when it is dropped.
pub(crate) struct Database {
    folder: PathBuf,
    pub(crate) dsn: String,
}

impl Database {
    pub(crate) fn start(sandbox: &Sandbox) -> Self {
        let folder = sandbox.path("postgres");
        assert!(script(&folder, "start").status.success());
        let dsn = std::fs::read_to_string(folder.join("endpoint")).unwrap();
        let dsn = dsn.trim().to_owned();
        Self { folder, dsn }
    }

    /// Crashes it.
    pub(crate) fn kill(&self) {
        script(&self.folder, "kill");
    }

    /// Starts it again on the same data and port, once the processes of the old one are gone.
    pub(crate) fn restart(&self) {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(180);
        while !script(&self.folder, "start").status.success() {
            assert!(std::time::Instant::now() < end, "the database does not come back");
        }
    }

    pub(crate) fn sql(&self, sql: &str) -> String {
        let asked = Command::new("psql")
            .args(["-XAtq", "-d", &self.dsn, "-c", sql])
            .output();
        let output = asked.unwrap();
        assert!(output.status.success(), "{sql}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.kill();
        if let Ok(data) = std::fs::canonicalize(self.folder.join("data")) {
            let _ = std::fs::remove_dir_all(data);
        }
    }
}

fn script(folder: &Path, verb: &str) -> Output {
    let mut command = Command::new(root().join("deploy/local/postgres.sh"));
    command.arg(verb).arg("--dir").arg(folder).output().unwrap()
}
