//! Who may do what: bearer tokens, each with a role.
//!
//! The configuration holds BLAKE3 hashes of tokens, never tokens; they are compared in constant time. Where no
//! token is configured everybody is admin, and the server listens on loopback only (see [`super::serve`]).
//!
//! | role     | may                                                                   |
//! |----------|------------------------------------------------------------------------|
//! | viewer   | read and check                                                          |
//! | operator | also submit, cancel, retry and redrive, release and discard held batches, let go of what is too old, drain and be a worker |
//! | admin    | also apply and delete pipelines, place and release legal holds, erase a person |

use serde::Deserialize;
use tonic::Status;
use tonic::codegen::http::HeaderMap;
use tonic::codegen::http::header::AUTHORIZATION;

use super::errors::{Reason, status};

/// What a token allows; each includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads.
    Viewer,
    /// Runs things.
    Operator,
    /// Changes what is run.
    Admin,
}

impl Role {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// A token that somebody was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Whose it is: stands in the audit log and as the submitter of jobs.
    pub name: String,
    /// What it allows.
    pub role: Role,
    /// BLAKE3 of the token's text.
    pub hash: blake3::Hash,
}

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) name: String,
    pub(crate) role: Role,
}

/// Everybody's tokens.
#[derive(Debug, Clone)]
pub(crate) struct Access(Vec<Token>);

impl Access {
    pub(crate) fn new(tokens: Vec<Token>) -> Self {
        Self(tokens)
    }

    /// Who calls, if that is allowed. `path` is `/millrace.v1.JobService/SubmitJob`.
    pub(crate) fn check(&self, path: &str, headers: &HeaderMap) -> Result<Caller, Status> {
        let caller = self.caller(headers)?;
        let needed = role_of(path);
        if caller.role >= needed {
            return Ok(caller);
        }
        let (have, need) = (caller.role.name(), needed.name());
        tracing::warn!(target: "audit", who = %caller.name, role = have, method = path, outcome = "denied");
        let text = format!("`{}` is {have}; {} needs {need}", caller.name, method(path));
        Err(status(
            Reason::RoleTooLow,
            text,
            &[("role", have), ("needed", need)],
        ))
    }

    fn caller(&self, headers: &HeaderMap) -> Result<Caller, Status> {
        if self.0.is_empty() {
            return Ok(Caller {
                name: "anonymous".to_owned(),
                role: Role::Admin,
            });
        }
        let given = headers
            .get(AUTHORIZATION)
            .and_then(|value| value.as_bytes().split_at_checked("bearer ".len()))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "));
        let Some((_, token)) = given else {
            let text = "no token; send the header `authorization: Bearer TOKEN`";
            return Err(status(Reason::TokenMissing, text, &[]));
        };
        let hash = blake3::hash(token);
        // Hashes compare in constant time, and every token is compared.
        let found = self.0.iter().rfind(|token| token.hash == hash);
        let Some(token) = found else {
            return Err(status(Reason::TokenUnknown, "nobody was given this token", &[]));
        };
        Ok(Caller {
            name: token.name.clone(),
            role: token.role,
        })
    }
}

/// The last part of a path.
pub(crate) fn method(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The least role for a call. What is not listed reads, or does not exist.
fn role_of(path: &str) -> Role {
    match path.strip_prefix("/millrace.v1.").unwrap_or_default() {
        "PipelineService/ApplyPipeline"
        | "PipelineService/DeletePipeline"
        | "RetentionService/PlaceHold"
        | "RetentionService/ReleaseHold"
        | "RetentionService/EraseSubject" => Role::Admin,
        "JobService/SubmitJob"
        | "JobService/CancelJob"
        | "JobService/RetryJob"
        | "QuarantineService/RedriveQuarantine"
        | "HandoffService/ReleaseBatch"
        | "HandoffService/DiscardBatch"
        | "RetentionService/ApplyRetention"
        | "ClusterService/DrainWorker"
        | "ClusterService/JoinCluster" => Role::Operator,
        _ => Role::Viewer,
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn access() -> Access {
        let token = |name: &str, role| Token {
            name: name.to_owned(),
            role,
            hash: blake3::hash(format!("secret-{name}").as_bytes()),
        };
        Access::new(vec![
            token("vera", Role::Viewer),
            token("olaf", Role::Operator),
            token("ada", Role::Admin),
        ])
    }

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())])
    }

    #[test]
    fn a_role_allows_what_the_ones_below_it_do_and_no_more() {
        let access = access();
        let may = |who: &str, path: &str| {
            access
                .check(
                    &format!("/millrace.v1.{path}"),
                    &headers(&format!("Bearer secret-{who}")),
                )
                .is_ok()
        };
        for (path, allowed) in [
            ("JobService/GetJob", [true, true, true]),
            ("PipelineService/CheckPipeline", [true, true, true]),
            ("JobService/SubmitJob", [false, true, true]),
            ("ClusterService/DrainWorker", [false, true, true]),
            ("QuarantineService/RedriveQuarantine", [false, true, true]),
            ("HandoffService/ListLoads", [true, true, true]),
            ("HandoffService/ReleaseBatch", [false, true, true]),
            ("HandoffService/DiscardBatch", [false, true, true]),
            ("ModelService/ListPeriods", [true, true, true]),
            ("PipelineService/ApplyPipeline", [false, false, true]),
            ("PipelineService/DeletePipeline", [false, false, true]),
        ] {
            assert_eq!(
                ["vera", "olaf", "ada"].map(|who| may(who, path)),
                allowed,
                "{path}"
            );
        }
    }

    #[test]
    fn no_token_and_a_wrong_one_are_told_apart() {
        let access = access();
        let code = |headers: &HeaderMap| access.check("/x/Y", headers).unwrap_err();
        assert!(code(&HeaderMap::new()).message().contains("Bearer"));
        assert_eq!(code(&headers("Bearer nobody")).code(), Code::Unauthenticated);
        assert_eq!(code(&headers("Basic eA==")).code(), Code::Unauthenticated);
        assert!(access.check("/x/Y", &headers("bearer secret-vera")).is_ok());
    }
}
