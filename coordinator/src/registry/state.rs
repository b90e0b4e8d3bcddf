//! Which state of a job may follow which.
//!
//! ```text
//! pending -> running -> succeeded
//!    |          |-----> failed    --retry--> pending
//!    |----------+-----> cancelled --retry--> pending
//! ```

use millrace_proto::v1::JobState;

/// A change that no job makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a job that is {} cannot become {}", name(*from), name(*to))]
pub struct IllegalChange {
    /// What the job is.
    pub from: JobState,
    /// What was asked for.
    pub to: JobState,
}

/// Whether a job may go from one state to another. Total and pure; staying is always fine.
///
/// # Errors
/// Names both states when not.
pub fn change(from: JobState, to: JobState) -> Result<JobState, IllegalChange> {
    use JobState as Is;
    match (from, to) {
        (Is::Pending, Is::Pending | Is::Running | Is::Failed | Is::Cancelled)
        | (Is::Running, Is::Running | Is::Succeeded | Is::Failed | Is::Cancelled)
        | (Is::Failed, Is::Failed | Is::Pending)
        | (Is::Cancelled, Is::Cancelled | Is::Pending)
        | (Is::Succeeded, Is::Succeeded) => Ok(to),
        (
            Is::Unspecified | Is::Pending | Is::Running | Is::Succeeded | Is::Failed | Is::Cancelled,
            Is::Unspecified | Is::Pending | Is::Running | Is::Succeeded | Is::Failed | Is::Cancelled,
        ) => Err(IllegalChange { from, to }),
    }
}

/// Whether the job waits or runs.
#[must_use]
pub fn is_active(state: JobState) -> bool {
    match state {
        JobState::Pending | JobState::Running => true,
        JobState::Unspecified | JobState::Succeeded | JobState::Failed | JobState::Cancelled => false,
    }
}

/// `running`, as people write it.
#[must_use]
pub fn name(state: JobState) -> &'static str {
    match state {
        JobState::Unspecified => "unspecified",
        JobState::Pending => "pending",
        JobState::Running => "running",
        JobState::Succeeded => "succeeded",
        JobState::Failed => "failed",
        JobState::Cancelled => "cancelled",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [JobState; 6] = [
        JobState::Unspecified,
        JobState::Pending,
        JobState::Running,
        JobState::Succeeded,
        JobState::Failed,
        JobState::Cancelled,
    ];

    #[test]
    fn only_a_retry_leads_out_of_an_ended_job() {
        for from in ALL.into_iter().filter(|state| !is_active(*state)) {
            for to in ALL.into_iter().filter(|to| *to != from) {
                let retry = matches!(from, JobState::Failed | JobState::Cancelled) && to == JobState::Pending;
                assert_eq!(change(from, to).is_ok(), retry, "{from:?} -> {to:?}");
            }
        }
    }

    #[test]
    fn an_illegal_change_names_both_states() {
        let error = change(JobState::Succeeded, JobState::Running).unwrap_err();
        assert_eq!(error.to_string(), "a job that is succeeded cannot become running");
    }
}
