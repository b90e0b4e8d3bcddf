//! What goes wrong, as gRPC tells it (AIP-193): a code, a text for people, and details for programs.
//!
//! Every status carries an `ErrorInfo` with a [`Reason`] and the domain `millrace`. A bad request names every
//! field that is wrong, not the first one. What may be tried again says when (`RetryInfo`).

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

/// The domain of every `ErrorInfo`.
pub const DOMAIN: &str = "millrace";

/// Set on the answer of a coordinator that was taken for the leader and is not.
pub(crate) const NOT_LEADER_HEADER: &str = "millrace-not-leader";

/// Why a call failed, for programs. The names are a contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Some fields are wrong; `BadRequest` names them.
    InvalidFields,
    /// The pipeline file has faults; `BadRequest` names them, with lines.
    PipelineFaults,
    /// No such job.
    JobNotFound,
    /// No such pipeline, or no such version of it.
    PipelineNotFound,
    /// No such worker.
    WorkerNotFound,
    /// The job is in a state in which that cannot be done.
    WrongState,
    /// The request's id was used for another request.
    RequestIdReused,
    /// Jobs still run the pipeline.
    PipelineInUse,
    /// A worker of another protocol version.
    ProtocolMismatch,
    /// Too many calls.
    RateLimited,
    /// No leader was elected in time.
    NoLeader,
    /// This coordinator does not lead (any more).
    NotLeader,
    /// The registry's store did not answer.
    RegistryUnavailable,
    /// The lake could not be read.
    LakeUnavailable,
    /// The pipeline has no warehouse.
    NoWarehouse,
    /// The warehouse does not answer.
    WarehouseUnavailable,
    /// The warehouse answers, and a person must act before it can be read.
    WarehouseRefused,
    /// The batch is not held, or was decided upon otherwise.
    BatchNotHeld,
    /// The caller's deadline has passed.
    DeadlineExceeded,
    /// A call without a token.
    TokenMissing,
    /// A token that nobody was given.
    TokenUnknown,
    /// A token whose role does not allow it.
    RoleTooLow,
    /// A message over the limit.
    MessageTooLarge,
    /// Something that should not happen.
    Internal,
}

impl Reason {
    /// Its name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::InvalidFields => "INVALID_FIELDS",
            Self::PipelineFaults => "PIPELINE_FAULTS",
            Self::JobNotFound => "JOB_NOT_FOUND",
            Self::PipelineNotFound => "PIPELINE_NOT_FOUND",
            Self::WorkerNotFound => "WORKER_NOT_FOUND",
            Self::WrongState => "WRONG_STATE",
            Self::RequestIdReused => "REQUEST_ID_REUSED",
            Self::PipelineInUse => "PIPELINE_IN_USE",
            Self::ProtocolMismatch => "PROTOCOL_MISMATCH",
            Self::RateLimited => "RATE_LIMITED",
            Self::NoLeader => "NO_LEADER",
            Self::NotLeader => "NOT_LEADER",
            Self::RegistryUnavailable => "REGISTRY_UNAVAILABLE",
            Self::LakeUnavailable => "LAKE_UNAVAILABLE",
            Self::NoWarehouse => "NO_WAREHOUSE",
            Self::WarehouseUnavailable => "WAREHOUSE_UNAVAILABLE",
            Self::WarehouseRefused => "WAREHOUSE_REFUSED",
            Self::BatchNotHeld => "BATCH_NOT_HELD",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::TokenMissing => "TOKEN_MISSING",
            Self::TokenUnknown => "TOKEN_UNKNOWN",
            Self::RoleTooLow => "ROLE_TOO_LOW",
            Self::MessageTooLarge => "MESSAGE_TOO_LARGE",
            Self::Internal => "INTERNAL",
        }
    }

    fn code(self) -> Code {
        match self {
            Self::InvalidFields | Self::PipelineFaults => Code::InvalidArgument,
            Self::JobNotFound | Self::PipelineNotFound | Self::WorkerNotFound => Code::NotFound,
            Self::WrongState
            | Self::PipelineInUse
            | Self::ProtocolMismatch
            | Self::NoWarehouse
            | Self::WarehouseRefused
            | Self::BatchNotHeld => Code::FailedPrecondition,
            Self::RequestIdReused => Code::AlreadyExists,
            Self::RateLimited | Self::MessageTooLarge => Code::ResourceExhausted,
            Self::NoLeader
            | Self::NotLeader
            | Self::RegistryUnavailable
            | Self::LakeUnavailable
            | Self::WarehouseUnavailable => Code::Unavailable,
            Self::DeadlineExceeded => Code::DeadlineExceeded,
            Self::TokenMissing | Self::TokenUnknown => Code::Unauthenticated,
            Self::RoleTooLow => Code::PermissionDenied,
            Self::Internal => Code::Internal,
        }
    }
}

/// A status with its reason; `facts` are what a program may want to know beside it.
pub(crate) fn status(reason: Reason, text: impl Into<String>, facts: &[(&str, &str)]) -> Status {
    details(reason, text, facts, ErrorDetails::new())
}

/// A status that says when to try again.
pub(crate) fn retry_after(reason: Reason, text: impl Into<String>, delay: Duration) -> Status {
    details(reason, text, &[], ErrorDetails::with_retry_info(Some(delay)))
}

/// This coordinator does not lead: whoever forwarded the call looks for the leader again.
pub(crate) fn not_leader(text: impl Into<String>) -> Status {
    let mut status = retry_after(Reason::NotLeader, text, Duration::from_millis(200));
    let marker = tonic::metadata::MetadataValue::from_static("1");
    status.metadata_mut().insert(NOT_LEADER_HEADER, marker);
    status
}

/// Every field that is wrong, in the order in which they were found.
#[derive(Debug, Default)]
pub(crate) struct Violations(Vec<FieldViolation>);

impl Violations {
    /// Adds one: the field's path, and what would be right.
    pub(crate) fn add(&mut self, field: impl Into<String>, right: impl Into<String>) {
        self.0.push(FieldViolation::new(field, right));
    }

    /// Fails if there are any.
    pub(crate) fn into_result(self) -> Result<(), Status> {
        self.into_result_of(Reason::InvalidFields)
    }

    /// The same, with another reason.
    pub(crate) fn into_result_of(self, reason: Reason) -> Result<(), Status> {
        let Some(first) = self.0.first() else {
            return Ok(());
        };
        let more = match self.0.len() {
            1 => String::new(),
            all => format!(" (and {} more)", all - 1),
        };
        let text = format!("{}: {}{more}", first.field, first.description);
        Err(details(reason, text, &[], ErrorDetails::with_bad_request(self.0)))
    }
}

/// A bad request with one field wrong.
pub(crate) fn invalid(field: &str, right: impl Into<String>) -> Status {
    let mut violations = Violations::default();
    violations.add(field, right);
    violations
        .into_result()
        .err()
        .unwrap_or_else(|| Status::internal("no violation"))
}

fn details(
    reason: Reason,
    text: impl Into<String>,
    facts: &[(&str, &str)],
    mut details: ErrorDetails,
) -> Status {
    let facts: HashMap<String, String> = facts
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    details.set_error_info(reason.name(), DOMAIN, facts);
    Status::with_error_details(reason.code(), text, details)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_request_names_every_field() {
        let mut violations = Violations::default();
        violations.add("request_id", "a UUID");
        violations.add("input.hour", "a whole hour");
        let status = violations.into_result().unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        let details = status.get_error_details();
        let fields: Vec<_> = details
            .bad_request()
            .unwrap()
            .field_violations
            .iter()
            .map(|v| &v.field)
            .collect();
        assert_eq!(fields, ["request_id", "input.hour"]);
        let info = details.error_info().unwrap();
        assert_eq!(
            (info.reason.as_str(), info.domain.as_str()),
            ("INVALID_FIELDS", DOMAIN)
        );
    }

    #[test]
    fn what_may_be_tried_again_says_when() {
        let status = not_leader("gone");
        assert!(
            status
                .get_error_details()
                .retry_info()
                .unwrap()
                .retry_delay
                .is_some()
        );
        assert!(status.metadata().contains_key(NOT_LEADER_HEADER));
    }
}
