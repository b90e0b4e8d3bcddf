//! What can go wrong for a caller, with what the server said about it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt;

/// The server's `ErrorInfo` domain.
const DOMAIN: &str = "millrace";

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No address was given.
    #[error("no coordinator was named; give at least one `host:port`")]
    NoAddress,
    /// An address is none, or TLS is set up wrongly.
    #[error("the coordinator's address `{address}` cannot be used")]
    Address {
        /// As given.
        address: String,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
    /// The token holds what no header can.
    #[error("the token holds characters that a header cannot carry")]
    Token,
    /// Nobody answered in time.
    #[error("no coordinator answered within {} s; tried {}", .waited.as_secs_f64(), .addresses.join(", "))]
    Unreachable {
        /// Who was tried.
        addresses: Vec<String>,
        /// How long.
        waited: Duration,
        /// The last thing that went wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// An answer of another release.
    #[error("the answer lacks `{field}`")]
    Incomplete {
        /// What is missing.
        field: &'static str,
    },
}

impl ClientError {
    /// What the server said, if it said something.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            Self::NoAddress
            | Self::Address { .. }
            | Self::Token
            | Self::Unreachable { .. }
            | Self::Incomplete { .. } => None,
        }
    }

    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused(refusal) => refusal.retry_after.is_some(),
            Self::NoAddress | Self::Address { .. } | Self::Token | Self::Incomplete { .. } => false,
        }
    }
}

/// The server's no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// gRPC's code.
    pub code: Code,
    /// Why, for programs: `JOB_NOT_FOUND`. Empty from a server that is not ours.
    pub reason: String,
    /// Why, for people.
    pub message: String,
    /// Fields that are wrong.
    pub violations: Vec<Violation>,
    /// What else a program may want to know.
    pub facts: BTreeMap<String, String>,
    /// When trying again makes sense.
    pub retry_after: Option<Duration>,
}

/// A field that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Its path in the request: `input.hour.hour`; for pipeline files the key and the line.
    pub field: String,
    /// What is wrong or would be right.
    pub description: String,
}

impl Refusal {
    /// What a status says.
    #[must_use]
    pub fn of(status: &Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info();
        let violations = details.bad_request().map(|bad| {
            let violation = |one: &tonic_types::FieldViolation| Violation {
                field: one.field.clone(),
                description: one.description.clone(),
            };
            bad.field_violations.iter().map(violation).collect()
        });
        Self {
            code: status.code(),
            reason: info.map(|info| info.reason.clone()).unwrap_or_default(),
            message: status.message().to_owned(),
            violations: violations.unwrap_or_default(),
            facts: info
                .map(|info| info.metadata.clone().into_iter().collect())
                .unwrap_or_default(),
            retry_after: details.retry_info().and_then(|retry| retry.retry_delay),
        }
    }
}

impl std::error::Error for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.violations.is_empty() {
            return f.write_str(&self.message);
        }
        f.write_str("the request was refused")?;
        for Violation { field, description } in &self.violations {
            write!(f, "\n  {field}: {description}")?;
        }
        Ok(())
    }
}

/// Whether a status is the server's own word; else something on the way broke.
pub(crate) fn is_ours(status: &Status) -> bool {
    status
        .get_details_error_info()
        .is_some_and(|info| info.domain == DOMAIN)
}
