//! Any text as a pipeline file: it loads or gives a report with a fault in it, and neither shows what the environment said.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use millrace_pipeline_fuzz::spec::load;

/// What every environment variable holds.
const SECRET: &str = "postgres://u:clear-value-0123456789@h/d";

fuzz_target!(|text: &str| {
    if text.contains("clear-value") {
        return;
    }
    let env = |_: &str| Some(SECRET.to_owned());
    let read = |_: &Path| Ok(String::from("{\"expectations\": []}"));
    if let Err(report) = load(text, "pipeline.yaml", Path::new("/pipelines"), &env, &read) {
        assert!(!report.faults.is_empty());
        let shown = format!("{report}\n{report:?}\n{}", report.to_json());
        assert!(!shown.contains("clear-value"), "a resolved value is shown");
    }
});
