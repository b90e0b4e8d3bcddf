//! Input and lake in an S3-compatible store: MinIO, installed and started by `deploy/local/s3.sh`.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::sandbox::{HASH_KEY, Sandbox, root, summary};

/// A server in a folder of its own; stopped when dropped. Buckets are folders below `data`.
struct Server {
    folder: tempfile::TempDir,
    endpoint: String,
}

impl Server {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("data/events")).unwrap();
        let mut server = Self {
            folder,
            endpoint: String::new(),
        };
        server.script("start");
        let endpoint = std::fs::read_to_string(server.folder.path().join("endpoint")).unwrap();
        server.endpoint = endpoint.trim().to_owned();
        server
    }

    fn script(&self, verb: &str) {
        let mut script = Command::new(root().join("deploy/local/s3.sh"));
        let status = script
            .args([verb, "--dir"])
            .arg(self.folder.path())
            .status()
            .unwrap();
        assert!(status.success(), "s3.sh {verb}");
    }

    fn stores(&self) -> millrace_pipeline::source::Stores {
        millrace_pipeline::source::Stores::new(millrace_pipeline::source::S3Options {
            endpoint: Some(self.endpoint.clone()),
            access_key_id: Some("millrace".to_owned()),
            secret_access_key: Some(millrace_pipeline::spec::model::Secret::new(
                "millrace-local-only".to_owned(),
            )),
            ..Default::default()
        })
    }

    /// Uploads a local file.
    fn upload(&self, file: &Path, url: &str) {
        let (store, path) = self.stores().open(url).unwrap();
        let bytes = std::fs::read(file).unwrap();
        let put = object_store::ObjectStoreExt::put(&store, &path, bytes.into());
        tokio::runtime::Runtime::new().unwrap().block_on(put).unwrap();
    }

    fn delete(&self, url: &str) {
        let (store, path) = self.stores().open(url).unwrap();
        let delete = object_store::ObjectStoreExt::delete(&store, &path);
        tokio::runtime::Runtime::new().unwrap().block_on(delete).unwrap();
    }

    fn millrace(&self, arguments: &[&str]) -> Command {
        let mut run = Command::new(env!("CARGO_BIN_EXE_millrace"));
        run.args(arguments)
            .env("MILLRACE_HASH_KEY", HASH_KEY)
            .env_remove("MILLRACE_ENVIRONMENT");
        run.env("AWS_ENDPOINT_URL", &self.endpoint)
            .env("AWS_REGION", "us-east-1");
        run.env("AWS_ACCESS_KEY_ID", "millrace")
            .env("AWS_SECRET_ACCESS_KEY", "millrace-local-only");
        run
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.script("kill");
    }
}

const LAKE: &str = "s3://events/lake";

#[test]
fn input_and_lake_on_s3_are_read_written_proved_and_asked() {
    let server = Server::start();
    let sandbox = Sandbox::shop(20_000, 61);
    for entry in std::fs::read_dir(sandbox.path("sent/events")).unwrap() {
        let file = entry.unwrap().path();
        server.upload(
            &file,
            &format!("s3://events/raw/{}", file.file_name().unwrap().to_string_lossy()),
        );
    }
    let pipeline = sandbox.pipeline().to_str().unwrap();
    let on_s3 = [pipeline, "--lake", LAKE, "--output", "json"];
    let run = || {
        let arguments = [
            &["run"],
            &on_s3[..],
            &["--input", "s3://events/raw/", "--batch", "2"],
        ]
        .concat();
        summary(&server.millrace(&arguments).output().unwrap())
    };
    let first = run();
    let local = sandbox.run(&[]);
    for count in [
        "events_read",
        "events_written",
        "duplicates",
        "quarantined",
        "clean_ratio",
    ] {
        assert_eq!(first[count], local[count], "{count}");
    }
    let again = run();
    assert_eq!(
        (again["events_read"].as_u64(), again["files"].as_u64()),
        (Some(0), Some(0))
    );

    let verify = || -> Vec<String> {
        let output = server
            .millrace(&[&["verify"], &on_s3[..]].concat())
            .output()
            .unwrap();
        let verdict: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        serde_json::from_value(verdict["faults"].clone()).unwrap()
    };
    assert_eq!(verify(), Vec::<String>::new());

    let sql = "SELECT count(*) AS n, count(DISTINCT event_id) AS ids FROM shop";
    let output = server
        .millrace(&["query", sql, "--lake", LAKE, "--output", "json"])
        .output()
        .unwrap();
    let rows: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!(
        (&rows[0]["n"], &rows[0]["ids"]),
        (&first["events_written"], &first["events_written"])
    );

    server.delete(&format!("{LAKE}/manifests/b00000001.json"));
    assert!(verify().iter().any(|fault| fault.contains("b00000001.json")));
}

/// The fence is a conditional put: it must hold on S3 too.
#[test]
fn a_kill_between_manifest_and_ledger_is_mended_on_s3() {
    let server = Server::start();
    let sandbox = Sandbox::shop(5_000, 62);
    let pipeline = sandbox.pipeline().to_str().unwrap();
    let input = sandbox.path("sent/events");
    let arguments = [
        "run",
        pipeline,
        "--lake",
        LAKE,
        "--output",
        "json",
        "--input",
        input.to_str().unwrap(),
        "--batch",
        "1",
    ];
    for moment in ["written", "published:2"] {
        let crashed = server
            .millrace(&arguments)
            .env("MILLRACE_CRASH_AT", moment)
            .output()
            .unwrap();
        assert_eq!(
            crashed.status.code(),
            None,
            "{}",
            String::from_utf8_lossy(&crashed.stderr)
        );
    }
    summary(&server.millrace(&arguments).output().unwrap());
    let again = summary(&server.millrace(&arguments).output().unwrap());
    assert_eq!(again["events_read"].as_u64(), Some(0));
    let expected = sandbox.run(&[]);
    let sql = "SELECT count(*) AS n, count(DISTINCT event_id) AS ids FROM events";
    let output = server
        .millrace(&["query", sql, "--lake", LAKE, "--output", "json"])
        .output()
        .unwrap();
    let rows: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&rows[0]["n"], &rows[0]["ids"]),
        (&expected["events_written"], &expected["events_written"])
    );
}
