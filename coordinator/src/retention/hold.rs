//! Legal holds: ranges of event time of which nothing is removed while they stand.
//!
//! In: a range, a reason, who asks. Out: an entry of the ledger, for ever; releasing it is another one. Only the ledger's
//! writer adds them, between batches, so that every expiry and erasure either came before a hold or sees it.

use crate::job::RunError;
use crate::ledger::{Entry, LegalHold, Released};
use crate::lifecycle::{Batches, now_us};

use super::RetentionError;

/// Longest reason, in bytes.
pub const REASON_BYTES_MAX: usize = 2000;

/// A legal hold that makes no sense.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum HoldError {
    /// From and to.
    #[error("a legal hold ends after it begins: `--from` is a time before `--to`")]
    Range,
    /// The reason.
    #[error(
        "a legal hold and its release need a reason, in at most {REASON_BYTES_MAX} bytes: it is kept for ever"
    )]
    Reason,
    /// No such hold.
    #[error("there is no legal hold `{id}`{}", known(.standing))]
    Unknown {
        /// As asked for.
        id: String,
        /// Those that stand.
        standing: Vec<String>,
    },
    /// It is over.
    #[error("the legal hold `{id}` was released by {by} before: {reason}")]
    Over {
        /// Which.
        id: String,
        /// Who.
        by: String,
        /// Why.
        reason: String,
    },
}

fn known(standing: &[String]) -> String {
    match standing {
        [] => "; none stands".to_owned(),
        standing => format!("; these stand: {}", standing.join(", ")),
    }
}

/// A legal hold as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// First event time, microseconds since 1970 UTC.
    pub from_us: i64,
    /// First event time after it.
    pub to_us: i64,
    /// Why.
    pub reason: String,
    /// By whom.
    pub by: String,
}

impl Asked {
    /// # Errors
    /// When it makes no sense.
    pub fn check(&self) -> Result<(), HoldError> {
        if self.from_us >= self.to_us {
            return Err(HoldError::Range);
        }
        check_reason(&self.reason)
    }
}

/// # Errors
/// When there is none, or it is too long to be kept.
pub fn check_reason(reason: &str) -> Result<(), HoldError> {
    let sound = !reason.trim().is_empty() && reason.len() <= REASON_BYTES_MAX;
    sound.then_some(()).ok_or(HoldError::Reason)
}

/// Places a hold. The same range for the same reason by the same person again is the hold that stands: an answer may get lost.
///
/// # Errors
/// When it makes no sense, or the ledger fails.
pub async fn place(batches: &mut Batches, asked: Asked) -> Result<LegalHold, RetentionError> {
    asked.check()?;
    let state = batches.ledger.state();
    let is_same = |hold: &&LegalHold| {
        (hold.from_us, hold.to_us) == (asked.from_us, asked.to_us)
            && (&hold.reason, &hold.by) == (&asked.reason, &asked.by)
    };
    if let Some(stands) = state.active_holds().find(is_same) {
        return Ok(stands.clone());
    }
    let hold = LegalHold {
        id: format!("h{}", state.holds.len() + 1),
        from_us: asked.from_us,
        to_us: asked.to_us,
        reason: asked.reason,
        by: asked.by,
        at_us: now_us(),
        released: None,
    };
    let entry = Entry::Retained {
        epoch: batches.ledger.epoch(),
        hold: Box::new(hold.clone()),
    };
    batches.ledger.append(vec![entry]).await.map_err(RunError::from)?;
    tracing::info!(hold = hold.id, by = hold.by, "a legal hold is placed");
    Ok(hold)
}

/// Releases a hold; the same release again is the one that stands.
///
/// # Errors
/// When there is no such hold or it was released otherwise, or the ledger fails.
pub async fn release(
    batches: &mut Batches,
    id: &str,
    by: &str,
    reason: &str,
) -> Result<LegalHold, RetentionError> {
    check_reason(reason)?;
    let state = batches.ledger.state();
    let Some(known) = state.holds.iter().find(|hold| hold.id == id) else {
        let standing = state.active_holds().map(|hold| hold.id.clone()).collect();
        let id = id.to_owned();
        return Err(HoldError::Unknown { id, standing }.into());
    };
    if let Some(first) = &known.released {
        if (first.by.as_str(), first.reason.as_str()) == (by, reason) {
            return Ok(known.clone());
        }
        let (by, reason) = (first.by.clone(), first.reason.clone());
        let id = id.to_owned();
        return Err(HoldError::Over { id, by, reason }.into());
    }
    let released = Released {
        reason: reason.to_owned(),
        by: by.to_owned(),
        at_us: now_us(),
    };
    let over = LegalHold {
        released: Some(released.clone()),
        ..known.clone()
    };
    let entry = Entry::Released {
        epoch: batches.ledger.epoch(),
        hold: id.to_owned(),
        released: Box::new(released),
    };
    batches.ledger.append(vec![entry]).await.map_err(RunError::from)?;
    tracing::info!(hold = id, by, "a legal hold is released");
    Ok(over)
}
