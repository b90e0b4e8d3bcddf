//! The filter of `ListJobs`: `pipeline=NAME`, `state=running`, or both joined by ` AND `.

use millrace_proto::v1::JobState;
use tonic::Status;

use super::errors::invalid;
use crate::registry::JobFilter;

const RIGHT: &str = "`pipeline=NAME`, `state=STATE` or both joined by ` AND `; \
    states are pending, running, succeeded, failed and cancelled";

/// Reads a filter's text.
pub(crate) fn parse(text: &str) -> Result<JobFilter, Status> {
    let mut filter = JobFilter::default();
    if text.trim().is_empty() {
        return Ok(filter);
    }
    for term in text.split(" AND ") {
        let (name, value) = term.split_once('=').ok_or_else(|| invalid("filter", RIGHT))?;
        let (name, value) = (name.trim(), value.trim().trim_matches('"'));
        let fresh = match name {
            "pipeline" if is_name(value) => filter.pipeline.replace(value.to_owned()).is_none(),
            "state" => {
                let state = state(value).ok_or_else(|| invalid("filter", RIGHT))?;
                filter.state.replace(state).is_none()
            }
            _ => false,
        };
        if !fresh {
            return Err(invalid("filter", RIGHT));
        }
    }
    Ok(filter)
}

fn is_name(text: &str) -> bool {
    millrace_proto::ids::PipelineName::try_from(text.to_owned()).is_ok()
}

fn state(text: &str) -> Option<JobState> {
    Some(match text.to_ascii_lowercase().as_str() {
        "pending" => JobState::Pending,
        "running" => JobState::Running,
        "succeeded" => JobState::Succeeded,
        "failed" => JobState::Failed,
        "cancelled" => JobState::Cancelled,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_terms_are_read_in_any_order() {
        let both = JobFilter {
            pipeline: Some("shop".to_owned()),
            state: Some(JobState::Running),
        };
        assert_eq!(parse("pipeline=shop AND state=running").unwrap(), both);
        assert_eq!(parse("state = RUNNING AND pipeline = \"shop\"").unwrap(), both);
        assert_eq!(parse(" ").unwrap(), JobFilter::default());
    }

    #[test]
    fn anything_else_is_refused_with_what_would_be_right() {
        for bad in [
            "shop",
            "pipeline=",
            "state=done",
            "state=running AND state=failed",
            "a=b",
            "pipeline=a OR b=c",
        ] {
            assert!(parse(bad).unwrap_err().message().contains("states are"), "{bad}");
        }
    }
}
