//! A batch of statements that is one transaction, happens once, and has conditions: statements that fail where they do not hold.
//!
//! In: the steps, and how to ask the load ledger. Out: whether it was done, or somebody else was first.

use uuid::Uuid;

use super::{DataApiClient, Ended, Salt, refusal};
use crate::handoff::HandoffError;
use crate::handoff::session::Outcome;
use crate::lifecycle::{Hook, Moment};

/// A statement, and what it means that it fails.
pub(in crate::handoff) struct Step {
    sql: String,
    condition: Option<Condition>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    /// Nobody was faster.
    Claim,
    /// COPY brought as many rows as were written.
    Count(u64),
}

impl Step {
    /// A statement that is expected to go well.
    pub(in crate::handoff) fn plain(sql: String) -> Self {
        Self { sql, condition: None }
    }

    /// Fails where there is such a row in the load ledger: another loader was faster. `found` is `FROM` and `WHERE`.
    pub(in crate::handoff) fn claim(found: &str) -> Self {
        Self {
            sql: format!("SELECT 1 / CASE WHEN count(*) = 0 THEN 1 ELSE 0 END {found}"),
            condition: Some(Condition::Claim),
        }
    }

    /// Fails where the COPY before it did not bring so many rows.
    pub(in crate::handoff) fn count(rows: u64) -> Self {
        Self {
            sql: format!("SELECT 1 / CASE WHEN pg_last_copy_count() = {rows} THEN 1 ELSE 0 END"),
            condition: Some(Condition::Count(rows)),
        }
    }
}

/// How much of what is to be done is in the load ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::handoff) enum Loaded {
    All,
    Some,
    None,
}

/// What is to be done once.
pub(in crate::handoff) struct Transaction<'a> {
    pub(in crate::handoff) client: &'a DataApiClient,
    pub(in crate::handoff) salt: &'a Salt,
    /// `schema.table`, unquoted.
    pub(in crate::handoff) table: &'a str,
    /// What it does: completes "the warehouse refused to".
    pub(in crate::handoff) what: String,
    pub(in crate::handoff) steps: Vec<Step>,
}

impl Transaction<'_> {
    /// Does it, or changes nothing. `loaded` asks the load ledger.
    pub(in crate::handoff) async fn run<F>(
        &self,
        loaded: impl Fn() -> F + Send,
        hook: &Hook,
    ) -> Result<Outcome, HandoffError>
    where
        F: Future<Output = Result<Loaded, HandoffError>> + Send,
    {
        hook(Moment::Claimed);
        let mut ended = self.batch().await?;
        if ended.at_once {
            // It may be an earlier try's end: what is so now, the load ledger tells. A try of our own has a token of its own.
            match (loaded().await?, &ended.failure) {
                (Loaded::All, None) => {
                    hook(Moment::Loaded);
                    return Ok(Outcome::Loaded);
                }
                (Loaded::All | Loaded::Some, _) => return Ok(Outcome::WasThere),
                (Loaded::None, _) => {}
            }
            *self.salt.lock() = Some(Uuid::new_v4());
            ended = self.batch().await?;
        }
        hook(Moment::Copied);
        let Some(failure) = ended.failure else {
            hook(Moment::Loaded);
            return Ok(Outcome::Loaded);
        };
        *self.salt.lock() = Some(Uuid::new_v4());
        if loaded().await? != Loaded::None {
            return Ok(Outcome::WasThere);
        }
        let condition = failure.at.and_then(|at| self.steps.get(at)?.condition);
        let error = refusal(&self.what, failure.message);
        match condition {
            Some(Condition::Count(expected)) if !error.is_retryable() => Err(HandoffError::Count {
                table: self.table.to_owned(),
                expected,
            }),
            Some(Condition::Count(_) | Condition::Claim) | None => Err(error),
        }
    }

    async fn batch(&self) -> Result<Ended, HandoffError> {
        let sqls: Vec<String> = self.steps.iter().map(|step| step.sql.clone()).collect();
        let token = token(&sqls, *self.salt.lock());
        self.client.batch(&self.what, sqls, Some(token)).await
    }
}

/// The same load has the same token, unless an earlier one is used up. At most 64 characters are allowed.
fn token(sqls: &[String], salt: Option<Uuid>) -> String {
    let mut hasher = blake3::Hasher::new();
    for sql in sqls {
        hasher.update(&(sql.len() as u64).to_le_bytes());
        hasher.update(sql.as_bytes());
    }
    if let Some(salt) = salt {
        hasher.update(salt.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_the_loads_own_until_it_is_used_up() {
        let sqls = ["LOCK t".to_owned(), "COPY t".to_owned()];
        let others = ["LOCK tC".to_owned(), "OPY t".to_owned()];
        assert_eq!(token(&sqls, None), token(&sqls, None));
        assert_ne!(token(&sqls, None), token(&others, None));
        assert_ne!(token(&sqls, None), token(&sqls, Some(Uuid::new_v4())));
        assert_eq!(token(&sqls, None).len(), 64);
    }
}
