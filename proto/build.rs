//! Generates the API's types, clients and servers from `millrace/v1/*.proto`.

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    const FILES: [&str; 8] = [
        "claim",
        "cluster",
        "handoff",
        "job",
        "model",
        "pipeline",
        "quarantine",
        "retention",
    ];
    let files: Vec<String> = FILES
        .iter()
        .map(|file| format!("millrace/v1/{file}.proto"))
        .collect();
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    tonic_prost_build::configure()
        .file_descriptor_set_path(out.join("millrace.v1.bin"))
        .compile_protos(&files, &[".".to_owned()])
}
