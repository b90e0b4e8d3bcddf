//! What the user declared: one YAML file, validated whole, every fault named with its line.
//!
//! In: the text of a pipeline file. Out: a [`model::Pipeline`] that every step reads, or a [`Report`] with
//! every fault, each with its line, what is wrong and what would be right.
//!
//! ```text
//! text -> tree (YAML, places) -> sections (one reader each) -> check (what sections must agree on) -> Pipeline
//! ```
//!
//! The reference of every key is [`json_schema`], which editors read too. Rules that go across keys:
//!
//! | rule                                                                        | why                                        |
//! |------------------------------------------------------------------------------|--------------------------------------------|
//! | `${env:NAME}` in any value is resolved, in keys not                           | a key names a thing of the file            |
//! | paths are relative to the pipeline file's folder                              | the file runs from anywhere                |
//! | `privacy.hash_key` is required with a `privacy` section or a `pii` column     | it masks, and it seals the quarantine      |
//! | without both, a pipeline declares that its records hold no personal data      | then nothing is masked or sealed           |
//! | the `partition.time` column is a timestamp with `required: true`              | an event without a time belongs to no hour |
//! | no column is called like a level of `partition.by`                            | those stand in the file too                |
//! | a model's query is planned over the table and the models that it reads      | what cannot run is found before it is due  |
//! | a lookup's column takes type and class from a schema column without a value   | else it is appended, as a string           |
//! | YAML anchors work, tags, merge keys and second documents do not               | what a key says stands where the key is    |
//!
//! The library reads nothing itself: the environment and the suite's file come in as functions.

mod check;
mod draft;
mod expressions;
mod fields;
pub mod marts;
pub mod model;
mod nearest;
mod reader;
mod report;
mod schema;
mod sections;
mod source_text;
mod tree;
mod units;

#[cfg(test)]
mod tests;

use std::path::Path;

pub use report::{Report, SpecFault};
pub use schema::json_schema;

use fields::Field;
use model::Pipeline;
use reader::Reader;
use source_text::SourceText;

/// Reads a pipeline file.
///
/// `file` is how the report calls it; `base_dir` is its folder, absolute. `env` says what an environment
/// variable holds; `read` gives a file's text, it is asked for the quality suite and the files of models.
///
/// # Errors
/// A report with every fault of the file. Where the text is no YAML, that is the only one.
pub fn load(
    text: &str,
    file: &str,
    base_dir: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    read: &dyn Fn(&Path) -> std::io::Result<String>,
) -> Result<Pipeline, Report> {
    let report = |faults| Report {
        file: file.to_owned(),
        faults,
    };
    let (root, slips) = tree::parse(text);
    let source = SourceText::new(text, root.as_ref());
    let mut reader = Reader::new(source, root.as_ref(), env);
    for slip in slips {
        let key = reader::join(&reader.key_at(&slip.place), &slip.name);
        reader.fault_at(slip.place, &key, slip.wrong, slip.right);
    }
    let Some(root) = root else {
        if !reader.has_faults() {
            reader.fault(
                "",
                "the file is empty",
                "a pipeline: `version: 1`, `pipeline: a-name`, `source: ...`",
            );
        }
        return Err(report(reader.into_faults()));
    };
    let mut draft = sections::pipeline(&Field::root(&root), base_dir, read, &mut reader);
    check::check(&mut draft, &mut reader);
    expressions::check(&draft, &mut reader);
    let suite = draft.quality.as_ref().map(|quality| quality.suite_text.clone());
    let marts = marts::check(&draft, &mut reader);
    let digest = digest(text, suite.as_deref());
    let pipeline = draft.finish(digest, marts);
    match pipeline {
        Some(pipeline) if !reader.has_faults() => Ok(pipeline),
        Some(_) | None => Err(report(reader.into_faults())),
    }
}

/// A report on a pipeline's suite: each fault by the position of its expectation, from 0, and the path in it.
pub(crate) fn report_on_suite(quality: &model::Quality, faults: Vec<(String, String, &str)>) -> Report {
    // JSON is YAML, so its places are found as those of a pipeline file are.
    let (root, _) = tree::parse(&quality.suite_text);
    let source = SourceText::new(&quality.suite_text, root.as_ref());
    let mut reader = Reader::new(source, root.as_ref(), &|_| None);
    for (key, wrong, right) in faults {
        reader.fault(&key, wrong, right);
    }
    Report {
        file: quality.suite.clone(),
        faults: reader.into_faults(),
    }
}

/// The path that a text of a pipeline file stands for, as `read` of [`load`] gets it.
#[must_use]
pub fn resolve_path(base_dir: &Path, path: &str) -> std::path::PathBuf {
    sections::absolute(base_dir, path)
}

/// BLAKE3 of what names this version of a pipeline: its text with `${env:...}` unresolved, and its suite.
fn digest(text: &str, suite: Option<&str>) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(text.len() as u64).to_le_bytes());
    hasher.update(text.as_bytes());
    hasher.update(suite.unwrap_or_default().as_bytes());
    hasher.finalize().to_hex().to_string()
}
