//! A folder with a pipeline, its input and its lake, and the binary to run over them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use millrace_loadtest::generate::files::{Compress, Output as Files, generate};
use millrace_loadtest::generate::plan::Recipe;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use serde_json::Value;
use tempfile::TempDir;

/// Inputs are sized for the release profile; a debug build gets a fifth of them.
pub(crate) const SCALE: u64 = if cfg!(debug_assertions) { 5 } else { 1 };

/// MiB that are committed at once: small enough that every shop has several batches.
const BATCH: &str = if cfg!(debug_assertions) { "2" } else { "10" };

/// The key of every test's hashes.
pub(crate) const HASH_KEY: &str = "a-key-for-tests-only";

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_path_buf()
}

/// Real events, where they are at hand: in `shared/data` of any folder above the repository.
pub(crate) fn real_data(name: &str) -> Option<PathBuf> {
    let root = root();
    let above = root.ancestors().skip(1);
    let found = above
        .map(|folder| folder.join("shared/data").join(name))
        .find(|path| path.exists());
    if found.is_none() {
        eprintln!("real events are not at hand: there is no `shared/data/{name}` above the repository");
    }
    found
}

pub(crate) struct Sandbox {
    folder: TempDir,
    pipeline: PathBuf,
}

impl Sandbox {
    /// The shop example over `events` generated ones.
    pub(crate) fn shop(events: u64, seed: u64) -> Self {
        Self::generated("shop/shop.yaml", events, seed)
    }

    /// An example pipeline of the shop over `events` generated ones.
    pub(crate) fn generated(example: &str, events: u64, seed: u64) -> Self {
        let sandbox = Self::example(example);
        sandbox.send(events, seed);
        sandbox
    }

    /// Generates events of the shop as input.
    pub(crate) fn send(&self, events: u64, seed: u64) {
        eprintln!("events: {events}, seed: {seed}");
        let recipe = Recipe {
            seed,
            events,
            ..Recipe::default()
        };
        let files = Files {
            folder: self.path("sent"),
            files: 2,
            compress: Compress::None,
            threads: 2,
            overwrite: false,
        };
        generate(&recipe, &files).unwrap();
    }

    /// An example pipeline of the repository, without input.
    pub(crate) fn example(name: &str) -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            pipeline: root().join("client/examples").join(name),
        }
    }

    /// A pipeline of its own, over files in `sent/events`.
    pub(crate) fn with_pipeline(yaml: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pipeline = folder.path().join("pipeline.yaml");
        std::fs::write(&pipeline, yaml).unwrap();
        std::fs::create_dir_all(folder.path().join("sent/events")).unwrap();
        Self { folder, pipeline }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes an input file.
    pub(crate) fn input(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let folder = self.path("sent/events");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(name), bytes).unwrap();
    }

    pub(crate) fn set_pipeline(&mut self, yaml: &str) {
        self.pipeline = self.path("pipeline.yaml");
        std::fs::write(&self.pipeline, yaml).unwrap();
    }

    pub(crate) fn pipeline(&self) -> &Path {
        &self.pipeline
    }

    /// `millrace <command> PIPELINE --lake LAKE <more>`.
    pub(crate) fn command(&self, command: &[&str], more: &[&str]) -> Command {
        let mut run = Command::new(env!("CARGO_BIN_EXE_millrace"));
        run.args(command)
            .arg(&self.pipeline)
            .arg("--lake")
            .arg(self.path("lake"))
            .args(more);
        run.env("MILLRACE_HASH_KEY", HASH_KEY)
            .env_remove("MILLRACE_ENVIRONMENT");
        run
    }

    /// `millrace run` over the sent events, in small batches so that there are several.
    pub(crate) fn run_command(&self, more: &[&str]) -> Command {
        let mut run = self.command(
            &["run"],
            &["--output", "json", "--threads", "2", "--batch", BATCH],
        );
        run.arg("--input").arg(self.path("sent/events")).args(more);
        run
    }

    /// Runs it; its summary.
    pub(crate) fn run(&self, more: &[&str]) -> Value {
        summary(&self.run_command(more).output().unwrap())
    }

    /// Every fault that `verify` finds.
    pub(crate) fn verify(&self) -> Vec<String> {
        let output = self.command(&["verify"], &["--output", "json"]).output().unwrap();
        let verdict: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("verify said: {}", String::from_utf8_lossy(&output.stderr)));
        let faults: Vec<String> = serde_json::from_value(verdict["faults"].clone()).unwrap();
        assert_eq!(output.status.success(), faults.is_empty());
        faults
    }

    /// Keys of all objects of the lake below a folder.
    pub(crate) fn objects(&self, folder: &str) -> Vec<PathBuf> {
        self.objects_of(&format!("lake/{folder}"))
    }

    /// All files below a folder.
    pub(crate) fn objects_of(&self, folder: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        collect(&self.path(folder), &mut found);
        found.sort();
        found
    }

    /// Committed data rows as text by column name: the manifests say which files count. Read with the
    /// public Parquet reader only.
    pub(crate) fn rows(&self) -> Vec<BTreeMap<String, String>> {
        let files = self.files();
        files
            .iter()
            .flat_map(|key| read_parquet(&self.path("lake").join(key)))
            .collect()
    }

    /// Keys of the data files that count: those that manifests name and none replaces.
    pub(crate) fn files(&self) -> BTreeSet<String> {
        let (mut named, mut gone) = (BTreeSet::new(), BTreeSet::new());
        for manifest in self.objects("manifests") {
            let manifest: Value = serde_json::from_slice(&std::fs::read(manifest).unwrap()).unwrap();
            for (files, into) in [
                (&manifest["files"], &mut named),
                (&manifest["replaces"]["files"], &mut gone),
            ] {
                let keys = files.as_array().into_iter().flatten();
                into.extend(keys.map(|file| file["object"]["key"].as_str().unwrap().to_owned()));
            }
        }
        named.difference(&gone).cloned().collect()
    }
}

/// Rows of one Parquet file as text by column name; nulls left out.
pub(crate) fn read_parquet(path: &Path) -> Vec<BTreeMap<String, String>> {
    let reader = SerializedFileReader::new(std::fs::File::open(path).unwrap()).unwrap();
    let rows = reader.get_row_iter(None).unwrap();
    rows.map(|row| {
        let row = row.unwrap();
        let columns = row
            .get_column_iter()
            .filter(|(_, field)| !matches!(field, Field::Null));
        columns
            .map(|(name, field)| {
                let text = if let Field::Str(text) = field {
                    text.clone()
                } else if let Field::Bytes(bytes) = field {
                    String::from_utf8_lossy(bytes.data()).into_owned()
                } else {
                    field.to_string()
                };
                (name.clone(), text)
            })
            .collect()
    })
    .collect()
}

/// The summary of a run that succeeded.
pub(crate) fn summary(output: &Output) -> Value {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "exit {:?}: {stderr}",
        output.status.code()
    );
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{stderr}"));
    let count = |key: &str| {
        summary[key]
            .as_u64()
            .unwrap_or_else(|| panic!("no `{key}` in {summary}"))
    };
    let accounted = count("events_written") + count("duplicates") + count("quarantined");
    assert_eq!(count("events_read"), accounted, "{summary}");
    summary
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else if !is_staged(&path) {
            found.push(path);
        }
    }
}

/// Whether a file is what a put that was cut off left behind: `name#1`, which stores on disk do not show.
fn is_staged(path: &Path) -> bool {
    let name = path.file_name().unwrap().to_str().unwrap();
    name.split_once('#')
        .is_some_and(|(_, number)| number.parse::<u64>().is_ok())
}
