//! What AWS answers instead of taking a statement or giving a login, and whether that passes.

use aws_sdk_redshiftdata::config::http::HttpResponse;
use aws_sdk_redshiftdata::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};

use crate::handoff::HandoffError;

/// Answers that pass without anybody's doing.
const PASSING: &[&str] = &[
    "ActiveStatementsExceededException",
    "ActiveSessionsExceededException",
    "ActiveWaitingRequestsExceededException",
    "InternalServerException",
    "ThrottlingException",
    "Throttling",
    "TooManyRequestsException",
    "RequestLimitExceeded",
    "ServiceUnavailableException",
    "RequestTimeout",
    // The next request has renewed credentials.
    "ExpiredTokenException",
    "ExpiredToken",
];

/// Answers about who we are.
const CREDENTIALS: &[&str] = &[
    "AccessDenied",
    "AccessDeniedException",
    "ExpiredToken",
    "ExpiredTokenException",
    "IncompleteSignature",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
];

/// An answer of AWS that is none, or a refusal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ApiError {
    /// Its name for it, or `NoAnswer`, `NoClient`.
    pub code: String,
    /// Its words.
    pub message: String,
    /// Whether trying again may help without anybody's doing.
    pub is_passing: bool,
}

impl ApiError {
    /// Its kind, for metrics.
    pub(in crate::handoff) fn kind(&self) -> &'static str {
        match self.code.as_str() {
            code if CREDENTIALS.contains(&code) => "credentials",
            "NoAnswer" => "connection",
            _ if self.is_passing => "resources",
            _ => "refused",
        }
    }

    /// We cannot ask.
    pub(in crate::handoff) fn unusable(message: String) -> Self {
        Self {
            code: "NoClient".to_owned(),
            message,
            is_passing: false,
        }
    }

    /// It was asked, and said nothing.
    pub(in crate::handoff) fn no_answer(message: String) -> Self {
        Self {
            code: "NoAnswer".to_owned(),
            message,
            is_passing: true,
        }
    }

    /// It said no.
    pub(in crate::handoff) fn named(code: &str, message: String, status: u16) -> Self {
        Self {
            is_passing: PASSING.contains(&code) || status == 429 || status >= 500,
            code: code.to_owned(),
            message,
        }
    }
}

/// What became of a request.
#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "whatever else it is, it is no answer"
)]
pub(super) fn of<E>(what: &str, error: &SdkError<E, HttpResponse>) -> HandoffError
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
{
    let source = match error {
        SdkError::ServiceError(answer) => {
            let code = answer.err().code().unwrap_or("Unknown");
            let message = answer.err().message().unwrap_or("no message").to_owned();
            ApiError::named(code, message, answer.raw().status().as_u16())
        }
        SdkError::ConstructionFailure(_) => ApiError::unusable(DisplayErrorContext(error).to_string()),
        _ => ApiError::no_answer(DisplayErrorContext(error).to_string()),
    };
    HandoffError::Api {
        what: what.to_owned(),
        source: Box::new(source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_and_outages_pass_and_faults_of_the_request_go_to_a_person() {
        for (code, status) in [
            ("ThrottlingException", 400),
            ("ActiveStatementsExceededException", 400),
            ("InternalServerException", 500),
            ("Unknown", 503),
        ] {
            assert!(ApiError::named(code, String::new(), status).is_passing, "{code}");
        }
        for code in [
            "ValidationException",
            "AccessDeniedException",
            "ResourceNotFoundException",
        ] {
            assert!(!ApiError::named(code, String::new(), 400).is_passing, "{code}");
        }
    }
}
