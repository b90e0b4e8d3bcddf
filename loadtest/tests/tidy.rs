//! What a machine can judge of the code's order: purposes are stated, arrows point one way, folders
//! are named for what is inside, and the project names nothing of the machine that it was built on.
#![expect(
    clippy::unwrap_used,
    reason = "clippy excepts test functions only, not what they share"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Files of more lines than this are two things.
const LINES_MAX: usize = 700;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_path_buf()
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !matches!(name.as_str(), ".git" | "target" | ".cache" | "node_modules") {
                walk(&path, found);
            }
        } else {
            found.push(path);
        }
    }
}

fn files(ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    walk(&root(), &mut found);
    found.retain(|path| path.to_string_lossy().ends_with(ending));
    found.sort();
    assert!(!found.is_empty(), "no {ending} files below {}", root().display());
    found
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().display().to_string()
}

#[test]
fn every_module_opens_with_its_purpose() {
    let silent: Vec<String> = files(".rs")
        .iter()
        .filter(|path| {
            let text = fs::read_to_string(path).unwrap();
            let first = text
                .lines()
                .find(|line| !line.trim().is_empty() && !line.starts_with("#!["));
            !first.is_some_and(|line| line.starts_with("//!") && line.len() > 12)
        })
        .map(|path| shown(path))
        .collect();
    assert!(
        silent.is_empty(),
        "these files do not open with `//!` and a purpose: {silent:#?}"
    );
}

#[test]
fn no_file_is_an_orchestrator_of_everything() {
    let long: Vec<String> = files(".rs")
        .iter()
        .filter_map(|path| {
            let lines = fs::read_to_string(path).unwrap().lines().count();
            (lines > LINES_MAX).then(|| format!("{}: {lines} lines", shown(path)))
        })
        .collect();
    assert!(long.is_empty(), "ask which two things these are: {long:#?}");
}

#[test]
fn no_folder_or_module_is_a_catch_all() {
    let banned = ["utils", "util", "common", "helpers", "helper", "types", "misc"];
    let vague: Vec<String> = files("")
        .iter()
        .map(|path| shown(path))
        .filter(|path| {
            path.split('/')
                .any(|part| banned.contains(&part.trim_end_matches(".rs").trim_end_matches(".py")))
        })
        .collect();
    assert!(vague.is_empty(), "a name says what is inside: {vague:#?}");
}

/// `proto <- pipeline <- {worker, coordinator} <- client`; loadtest judges from outside.
#[test]
fn dependencies_point_one_way() {
    let allowed: [(&str, &[&str]); 6] = [
        ("proto", &[]),
        ("worker/pipeline", &["millrace-proto"]),
        ("coordinator", &["millrace-proto", "millrace-pipeline"]),
        ("worker", &["millrace-proto", "millrace-pipeline"]),
        (
            "client",
            &[
                "millrace-proto",
                "millrace-pipeline",
                "millrace-worker",
                "millrace-coordinator",
            ],
        ),
        ("loadtest", &[]),
    ];
    for (folder, allowed) in allowed {
        let text = fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
        let dependencies = text.split("[dependencies]").nth(1).unwrap_or_default();
        let dependencies = dependencies.split("\n[").next().unwrap_or_default();
        let ours: BTreeSet<&str> = dependencies
            .lines()
            .filter_map(|line| line.split(['.', ' ', '=']).next())
            .filter(|name| name.starts_with("millrace-"))
            .collect();
        let wrong: Vec<_> = ours.iter().filter(|name| !allowed.contains(name)).collect();
        assert!(wrong.is_empty(), "{folder} must not depend on {wrong:?}");
    }
}

#[test]
fn every_crate_obeys_the_one_lint_table() {
    for path in files("Cargo.toml") {
        let text = fs::read_to_string(&path).unwrap();
        // A crate in a workspace of its own (fuzz targets) cannot inherit the table.
        let is_apart = path.ancestors().skip(1).any(|folder| {
            folder != root()
                && fs::read_to_string(folder.join("Cargo.toml"))
                    .is_ok_and(|text| text.contains("[workspace]"))
        });
        if text.contains("[package]") && !is_apart {
            assert!(
                text.contains("[lints]\nworkspace = true"),
                "{} has lints of its own",
                shown(&path)
            );
        }
    }
}

/// Unsafe code stands in modules that say why.
#[test]
fn unsafe_code_is_allowed_by_name_and_with_a_reason() {
    for path in files(".rs") {
        let text = fs::read_to_string(&path).unwrap();
        for line in text
            .lines()
            .filter(|line| line.contains("allow(unsafe_code") && !line.contains("contains("))
        {
            let reason = line.contains("reason =") || text.to_lowercase().contains("why unsafe");
            assert!(reason, "{}: `{}` gives no reason", shown(&path), line.trim());
        }
    }
}

#[test]
fn the_top_level_is_what_the_design_says() {
    let known = [
        ".cargo",
        ".ci",
        ".git",
        ".gitignore",
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE",
        "Makefile",
        "README.md",
        "client",
        "clippy.toml",
        "coordinator",
        "deploy",
        "loadtest",
        "proto",
        "rust-toolchain.toml",
        "rustfmt.toml",
        "worker",
        "target",
    ];
    for entry in fs::read_dir(root()).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        assert!(
            known.contains(&name.as_str()),
            "`{name}` does not belong at the top"
        );
    }
}

/// Licences under which others may take what we ship, without asking and without opening their own code.
const LICENCES: [&str; 13] = [
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
    // BSD-like, of the original bzip2.
    "bzip2-1.0.6",
];

/// An SPDX expression is fine when each part that is demanded offers a licence of the list.
fn may_be_shipped(expression: &str) -> bool {
    expression.replace('/', " OR ").split(" AND ").all(|part| {
        part.trim_matches(['(', ')', ' ']).split(" OR ").any(|choice| {
            let name = choice
                .split(" WITH ")
                .next()
                .unwrap_or_default()
                .trim_matches(['(', ')', ' ']);
            LICENCES.contains(&name)
        })
    })
}

#[test]
fn every_dependency_has_a_permissive_licence() {
    assert!(may_be_shipped("(MIT OR Apache-2.0) AND Unicode-3.0") && !may_be_shipped("MIT AND GPL-3.0"));
    let arguments = ["metadata", "--format-version", "1", "--locked"];
    let output = std::process::Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let refused: Vec<String> = packages
        .iter()
        .filter(|package| !package["license"].as_str().is_some_and(may_be_shipped))
        .map(|package| format!("{}: {}", package["name"], package["license"]))
        .collect();
    assert!(packages.len() > 100 && refused.is_empty(), "{refused:#?}");
}
