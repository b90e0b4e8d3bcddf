//! What lies in S3 for jobs to read.

use std::path::{Path, PathBuf};

use millrace_loadtest::generate::files::{Compress, Output as Files, generate};
use millrace_loadtest::ledger::Sent;

use crate::sandbox::{Sandbox, recipe};

impl Sandbox {
    /// Events as four files in S3 below `raw/<name>/`, their ledger in the folder `name`.
    pub(crate) fn upload(&self, name: &str, events: u64, seed: u64) -> Sent {
        self.upload_files(name, events, seed, 4)
    }

    /// The same as so many files.
    pub(crate) fn upload_files(&self, name: &str, events: u64, seed: u64, files: usize) -> Sent {
        self.upload_below(name, name, events, seed, files)
    }

    /// Other events beside those of `name`, with a ledger in a folder of their own.
    pub(crate) fn upload_beside(&self, name: &str, folder: &str, events: u64, seed: u64) -> Sent {
        self.upload_below(&format!("{name}/{folder}"), folder, events, seed, 1)
    }

    /// Events as files below `raw/<prefix>/`, their ledger in a folder.
    fn upload_below(&self, prefix: &str, folder: &str, events: u64, seed: u64, files: usize) -> Sent {
        let recipe = recipe(events, seed);
        let files = Files {
            folder: self.path(folder),
            files,
            compress: Compress::None,
            threads: 2,
            overwrite: false,
        };
        let sent = generate(&recipe, &files).unwrap();
        for file in self.event_files(folder) {
            let bytes = std::fs::read(&file).unwrap();
            self.put(&format!("raw/{prefix}/{}", file_name(&file)), bytes);
        }
        sent
    }

    /// Puts the first object below `raw/<name>/` again with one line less; its name.
    pub(crate) fn rewrite(&self, name: &str) -> String {
        let file = self.event_files(name).remove(0);
        let bytes = std::fs::read(&file).unwrap();
        let first = bytes.iter().position(|byte| *byte == b'\n').unwrap();
        self.put(
            &format!("raw/{name}/{}", file_name(&file)),
            bytes[first + 1..].into(),
        );
        file_name(&file)
    }

    fn event_files(&self, folder: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.path(folder).join("events")).unwrap();
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    fn put(&self, key: &str, bytes: Vec<u8>) {
        let store = object_store::aws::AmazonS3Builder::new()
            .with_bucket_name("millrace")
            .with_endpoint(self.text("s3/endpoint"))
            .with_allow_http(true)
            .with_region("us-east-1")
            .with_access_key_id("millrace")
            .with_secret_access_key("millrace-local-only")
            .build()
            .unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let key = object_store::path::Path::from(key);
        let put = object_store::ObjectStoreExt::put(&store, &key, bytes.into());
        runtime.block_on(put).unwrap();
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}
