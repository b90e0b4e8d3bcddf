//! What is wrong with a pipeline file, all of it at once.
//!
//! For people by `Display`, for programs by [`Report::to_json`]. Both show the file's own text, with
//! secrets that stand in it masked, and never what an `${env:...}` stands for.

use std::fmt;

use serde::Serialize;

/// Every fault of one pipeline file, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The file, as the caller named it.
    pub file: String,
    /// The faults; never empty.
    pub faults: Vec<SpecFault>,
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SpecFault {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// The key, dotted: `schema[3].type`. Empty where the file as a whole is meant.
    pub key: String,
    /// The offending text as it stands in the file, its first line; secrets are masked.
    pub text: String,
    /// What is wrong.
    pub wrong: String,
    /// What would be right.
    pub right: String,
    /// The line it stands in.
    #[serde(skip)]
    pub(super) excerpt: Excerpt,
}

/// A line of the file, fit for a terminal, and what to underline in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Excerpt {
    pub(super) line: String,
    /// Characters before the underline.
    pub(super) before: usize,
    /// Characters underlined.
    pub(super) width: usize,
}

impl Report {
    /// The report for programs: `{"file", "faults": [{"line", "column", "key", "text", "wrong", "right"}]}`.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({ "file": self.file, "faults": self.faults })
    }
}

impl std::error::Error for Report {}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for fault in &self.faults {
            let SpecFault {
                line, column, key, ..
            } = fault;
            write!(f, "{}:{line}:{column}", self.file)?;
            writeln!(f, "{}{key}", if key.is_empty() { "" } else { ": " })?;
            fault.excerpt.write(*line, f)?;
            writeln!(f, "  wrong: {}", fault.wrong)?;
            writeln!(f, "  right: {}\n", fault.right)?;
        }
        match self.faults.len() {
            1 => write!(f, "1 fault"),
            many => write!(f, "{many} faults"),
        }
    }
}

impl Excerpt {
    fn write(&self, line: u32, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line.trim().is_empty() {
            return Ok(());
        }
        writeln!(f, "{line:>5} | {}", self.line)?;
        let (before, width) = (self.before, self.width.max(1));
        writeln!(f, "      | {:before$}{}", "", "^".repeat(width))
    }
}
