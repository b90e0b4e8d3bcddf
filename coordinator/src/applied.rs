//! Pipelines that were applied: their text and files from the registry instead of the disk.
//!
//! In: what `ApplyPipeline` brings, or what the registry holds. Out: the pipeline that the data path reads, or
//! every fault with its line.
//!
//! An applied pipeline belongs to no folder, so a relative path in it would be another place on every machine:
//! `lake.url` and `source.files.path` must be absolute or an address. Files that the text names (the suite) travel
//! with it, by the path that names them. `${env:NAME}` is filled in by each process; what one lacks is a fault.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};

use millrace_pipeline::codec::PipelineText;
use millrace_pipeline::spec::model::{Pipeline, Source};
use millrace_pipeline::spec::{self, Report};
use millrace_proto::v1::{self, PipelineFault};
use parking_lot::Mutex;

pub use millrace_pipeline::codec::Environment;

/// The folder that an applied pipeline seems to lie in: deep enough for some `..`, and nowhere real.
const NOWHERE: &str = "/.applied/.applied/.applied/.applied";
/// The start of every path that was relative.
const RELATIVE: &str = "/.applied";

/// Reads an applied pipeline.
///
/// # Errors
/// Every fault of its text, each with its line.
pub fn load(
    text: &str,
    files: &HashMap<String, Vec<u8>>,
    file_name: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Pipeline, Vec<PipelineFault>> {
    let by_path: BTreeMap<PathBuf, &[u8]> = files
        .iter()
        .map(|(name, bytes)| (spec::resolve_path(Path::new(NOWHERE), name), bytes.as_slice()))
        .collect();
    let read = |path: &Path| {
        let missing = || io::Error::new(io::ErrorKind::NotFound, "it was not sent along with the pipeline");
        let bytes = by_path.get(path).ok_or_else(missing)?;
        String::from_utf8(bytes.to_vec()).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    };
    let pipeline =
        spec::load(text, file_name, Path::new(NOWHERE), env, &read).map_err(|report| faults(&report))?;
    match relative_paths(&pipeline, text) {
        faults if faults.is_empty() => Ok(pipeline),
        faults => Err(faults),
    }
}

/// Reads a pipeline of the registry.
///
/// # Errors
/// See [`load`].
pub fn load_stored(
    pipeline: &v1::Pipeline,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Pipeline, Vec<PipelineFault>> {
    load(&pipeline.text, &pipeline.files, &pipeline.name, env)
}

/// A pipeline of the registry as it travels to the workers.
///
/// # Errors
/// When a file that it names is no text.
pub fn text(pipeline: &v1::Pipeline) -> Result<PipelineText, String> {
    let mut files = BTreeMap::new();
    for (name, bytes) in &pipeline.files {
        let text = String::from_utf8(bytes.clone())
            .map_err(|_| format!("the file `{name}` of pipeline `{}` is not UTF-8", pipeline.name))?;
        files.insert(name.clone(), text);
    }
    Ok(PipelineText {
        file: pipeline.name.clone(),
        folder: PathBuf::from(NOWHERE),
        text: pipeline.text.clone(),
        files,
    })
}

/// The files that a pipeline's text names, by the path that names them. One that cannot be read is left out: the
/// check says so with its line. `folder` is the pipeline file's.
#[must_use]
pub fn gather(text: &str, folder: &Path) -> HashMap<String, Vec<u8>> {
    let found = Mutex::new(HashMap::new());
    let read = |path: &Path| {
        let name = named(path);
        let bytes = std::fs::read(folder.join(&name))?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        found.lock().insert(name, bytes);
        Ok(text)
    };
    // Only what it reads is of interest: the coordinators check with their own environment.
    let any = |_: &str| Some("placeholder-of-some-length".to_owned());
    let _ = spec::load(text, "", Path::new(NOWHERE), &any, &read);
    found.into_inner()
}

/// The path that a text used, from the one that it was resolved to.
fn named(path: &Path) -> String {
    let base = Path::new(NOWHERE);
    if !path.starts_with(RELATIVE) {
        return path.to_string_lossy().into_owned();
    }
    let shared = base
        .components()
        .zip(path.components())
        .take_while(|(a, b)| a == b)
        .count();
    let up = std::iter::repeat_n("..".to_owned(), base.components().count() - shared);
    let down = path
        .components()
        .skip(shared)
        .map(|part| part.as_os_str().to_string_lossy().into_owned());
    up.chain(down).collect::<Vec<_>>().join("/")
}

fn faults(report: &Report) -> Vec<PipelineFault> {
    let fault = |fault: &spec::SpecFault| PipelineFault {
        path: fault.key.clone(),
        line: fault.line,
        column: fault.column,
        problem: fault.wrong.clone(),
        help: fault.right.clone(),
    };
    report.faults.iter().map(fault).collect()
}

fn relative_paths(pipeline: &Pipeline, text: &str) -> Vec<PipelineFault> {
    let source = match &pipeline.source {
        Source::Files { path, .. } => Some(("source.files.path", "source", path)),
        Source::S3 { .. } | Source::Kafka { .. } => None,
    };
    let places = source
        .into_iter()
        .chain([("lake.url", "lake", &pipeline.lake.url)]);
    places
        .filter(|(.., place)| {
            place
                .strip_prefix("file://")
                .unwrap_or(place)
                .starts_with(RELATIVE)
        })
        .map(|(path, section, _)| PipelineFault {
            path: path.to_owned(),
            line: line_of(text, section),
            column: 1,
            problem: "a relative path is another place on every machine".to_owned(),
            help: "an address such as `s3://bucket/prefix`, or an absolute path that every worker sees"
                .to_owned(),
        })
        .collect()
}

/// The line in which a section of the file begins.
fn line_of(text: &str, section: &str) -> u32 {
    let begins = |line: &str| {
        line.trim_start()
            .trim_start_matches(['"', '\''])
            .starts_with(section)
    };
    let found = text
        .lines()
        .position(|line| !line.starts_with(' ') && begins(line));
    found.and_then(|line| u32::try_from(line + 1).ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"version: 1
pipeline: shop
source:
  files: {path: /events/, format: json}
schema:
  - {name: id, type: string, required: true}
  - {name: at, type: timestamp, required: true}
quality: {suite: ../suites/shop.json}
privacy: {hash_key: "${env:KEY}"}
partition: {time: at, by: [date, hour]}
lake: {url: "/lake"}
"#;
    const SUITE: &str = r#"{"name": "shop", "expectations": []}"#;

    fn env(name: &str) -> Option<String> {
        (name == "KEY").then(|| "0123456789abcdef0123456789abcdef".to_owned())
    }

    fn suite() -> HashMap<String, Vec<u8>> {
        HashMap::from([("../suites/shop.json".to_owned(), SUITE.as_bytes().to_vec())])
    }

    #[test]
    fn files_come_from_the_request_and_not_from_the_disk() {
        let pipeline = load(TEXT, &suite(), "shop.yaml", &env).unwrap();
        assert_eq!(pipeline.quality.unwrap().suite_text, SUITE);
        let faults = load(TEXT, &HashMap::new(), "shop.yaml", &env).unwrap_err();
        assert_eq!((faults[0].path.as_str(), faults[0].line), ("quality.suite", 8));
        assert!(
            faults[0].problem.contains("not sent along"),
            "{}",
            faults[0].problem
        );
    }

    #[test]
    fn what_a_text_names_is_gathered_by_the_path_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("suites")).unwrap();
        std::fs::create_dir_all(folder.path().join("pipelines")).unwrap();
        std::fs::write(folder.path().join("suites/shop.json"), SUITE).unwrap();
        assert_eq!(gather(TEXT, &folder.path().join("pipelines")), suite());
    }

    #[test]
    fn a_relative_lake_is_refused_with_its_line() {
        let text = TEXT.replace("\"/lake\"", "./lake").replace("/events/", "events/");
        let faults = load(&text, &suite(), "shop.yaml", &env).unwrap_err();
        let places: Vec<_> = faults
            .iter()
            .map(|fault| (fault.path.as_str(), fault.line))
            .collect();
        assert_eq!(places, [("source.files.path", 3), ("lake.url", 11)]);
    }

    #[test]
    fn a_variable_that_this_process_lacks_is_a_fault() {
        let faults = load(TEXT, &suite(), "shop.yaml", &|_| None).unwrap_err();
        assert!(faults[0].problem.contains("KEY"), "{}", faults[0].problem);
    }
}
