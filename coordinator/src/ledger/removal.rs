//! What is taken away for good, and what may not be: entries of the ledger beside its batches.

use serde::{Deserialize, Serialize};

/// Why a batch takes away what earlier batches wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// It is older than the pipeline keeps it.
    Expired,
    /// A person asked for it.
    Erased,
}

impl Why {
    /// In a word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Erased => "erased",
        }
    }
}

/// An expiry or an erasure, as it was planned. What it took stands in its manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Removal {
    /// Why.
    pub why: Why,
    /// Who asked for it.
    pub by: String,
    /// When, microseconds since 1970 UTC.
    pub at_us: i64,
    /// Of an erasure: a keyed hash of the person's value, never the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
}

/// Nothing of a time range is removed while it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LegalHold {
    /// `h1`, `h2`, ...: unique in the ledger.
    pub id: String,
    /// First event time, microseconds since 1970 UTC.
    pub from_us: i64,
    /// First event time after it.
    pub to_us: i64,
    /// Why.
    pub reason: String,
    /// Who placed it.
    pub by: String,
    /// When, microseconds since 1970 UTC.
    pub at_us: i64,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released: Option<Released>,
}

/// How a legal hold ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Released {
    /// Why.
    pub reason: String,
    /// Who said so.
    pub by: String,
    /// When, microseconds since 1970 UTC.
    pub at_us: i64,
}

impl LegalHold {
    /// Whether an event of a time span may lie in it; both ends of the span are in it.
    #[must_use]
    pub fn touches(&self, first_us: i64, last_us: i64) -> bool {
        first_us < self.to_us && last_us >= self.from_us
    }
}
