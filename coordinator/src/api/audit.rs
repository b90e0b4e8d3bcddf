//! The audit log: every mutation leaves one line, whatever came of it.
//!
//! Lines have the target `audit` and fields, so that a log pipeline can keep them apart and for longer.

use tonic::Status;
use tonic_types::StatusExt;

use super::access::Caller;

/// What somebody did.
pub(crate) struct Deed<'a> {
    pub(crate) caller: &'a Caller,
    pub(crate) method: &'static str,
    /// `jobs/j12`, `pipelines/shop`, `workers/w1`.
    pub(crate) resource: &'a str,
    /// Empty where the call has none.
    pub(crate) request_id: &'a str,
}

impl Deed<'_> {
    /// Writes the line.
    pub(crate) fn note<T>(&self, outcome: Result<T, Status>) -> Result<T, Status> {
        self.note_because("", outcome)
    }

    /// The same with the reason that was given.
    pub(crate) fn note_because<T>(&self, reason: &str, outcome: Result<T, Status>) -> Result<T, Status> {
        let what = match &outcome {
            Ok(_) => "done".to_owned(),
            Err(status) => match status.get_details_error_info() {
                Some(info) => info.reason,
                None => format!("{:?}", status.code()),
            },
        };
        tracing::info!(
            target: "audit",
            who = %self.caller.name,
            role = self.caller.role.name(),
            method = self.method,
            resource = self.resource,
            request_id = self.request_id,
            reason,
            outcome = %what,
        );
        outcome
    }
}
