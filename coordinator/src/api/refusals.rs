//! The one place where errors of the registry, the lake and the table of workers meet gRPC.

use std::time::Duration;

use tonic::Status;

use super::errors::{Reason, Violations, invalid, not_leader, retry_after, status};
use crate::causes::chain;
use crate::quarantine::QuarantineError;
use crate::query::QueryError;
use crate::registry::RegistryError;
use crate::workers::JoinError;

/// When a store that did not answer is worth another try.
pub(crate) const AGAIN: Duration = Duration::from_millis(500);

impl From<RegistryError> for Status {
    fn from(error: RegistryError) -> Self {
        let text = chain(&error);
        match &error {
            RegistryError::Etcd(_) => retry_after(Reason::RegistryUnavailable, text, AGAIN),
            RegistryError::NotLeader { .. } => not_leader(text),
            RegistryError::NotFound { what, name } => {
                let reason = if *what == "job" {
                    Reason::JobNotFound
                } else {
                    Reason::PipelineNotFound
                };
                status(reason, text, &[("name", name)])
            }
            RegistryError::Name { what, rule, .. } => {
                let mut violations = Violations::default();
                violations.add(what.replace(' ', "_"), *rule);
                violations
                    .into_result()
                    .err()
                    .unwrap_or_else(|| Self::internal(text))
            }
            RegistryError::State { job, source } => {
                let from = crate::registry::state::name(source.from);
                status(Reason::WrongState, text, &[("job", job), ("state", from)])
            }
            RegistryError::Active { pipeline, job } => status(
                Reason::PipelineInUse,
                text,
                &[("pipeline", pipeline), ("job", job)],
            ),
            RegistryError::TooLarge { .. } => invalid("text", text),
            RegistryError::Token => invalid(
                "page_token",
                "the `next_page_token` of a response to the same request",
            ),
            RegistryError::Damaged { .. } => status(Reason::Internal, text, &[]),
        }
    }
}

impl From<JoinError> for Status {
    fn from(error: JoinError) -> Self {
        let text = error.to_string();
        match error {
            JoinError::Protocol { theirs, ours, .. } => {
                let (theirs, ours) = (theirs.to_string(), ours.to_string());
                status(
                    Reason::ProtocolMismatch,
                    text,
                    &[("worker", &theirs), ("coordinator", &ours)],
                )
            }
            JoinError::Incomplete { field } => invalid(field, "not empty"),
        }
    }
}

/// A lake that could not be read. Its errors name objects, never what stands in them.
pub(crate) fn lake(error: &(dyn std::error::Error + 'static)) -> Status {
    retry_after(Reason::LakeUnavailable, chain(error), AGAIN)
}

impl From<QuarantineError> for Status {
    fn from(error: QuarantineError) -> Self {
        lake(&error)
    }
}

impl From<QueryError> for Status {
    fn from(error: QueryError) -> Self {
        lake(&error)
    }
}
