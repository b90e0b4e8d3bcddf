//! Claims across processes: who was first with a key is said by the key's keeper.
//!
//! In: the hashes of keys that no committed file holds, by split and event hour. Out: which of the rows won.
//!
//! Rows stay where they are, only hashes travel: 16 bytes a row instead of the row. Every worker keeps the claims of one
//! range of hashes for as long as an attempt runs ([`ClaimBook`]); a task asks the keepers of its rows' keys, one batch
//! of rows at a time, and goes on decoding while they answer ([`Keepers`]).
//!
//! | the key was claimed by...          | the row...                                                                     |
//! |------------------------------------|--------------------------------------------------------------------------------|
//! | nobody in this attempt             | wins                                                                           |
//! | the same run, whichever split      | loses                                                                          |
//! | another split, in whichever run    | loses: that split is written, by this run of its task or by another            |
//! | an earlier run of the same split   | wins: what that run wrote is not used, and this one reads the same rows        |
//! | a later run of the same split      | loses, and its task with it: it was taken for dead, and the split is read anew |
//!
//! A *run* is one execution of a task. What a keeper knew when it died cannot be told from what nobody claimed. So a claim names
//! the process that it is meant for, by an id that is fresh at each start; an attempt that a keeper has forgotten is
//! refused, never begun anew; and the leader gives an attempt up as soon as one of its keepers is gone. A claim without
//! an answer is not sent again, since it would lose against itself: the task fails, and its next run claims everything anew.

mod ask;
mod book;
mod table;
#[cfg(test)]
mod tests;

use std::fmt;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

pub use ask::Keepers;
pub(super) use ask::{Question, Run};
pub use book::ClaimBook;

/// A worker that keeps claims.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keeper {
    /// Fresh at each start of the process.
    pub executor_id: String,
    /// `host:port`, where it serves other workers.
    pub address: String,
}

/// Keys of rows of one split and one event hour.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClaimedKeys {
    /// The split's number.
    pub split: u32,
    /// Hours since 1970 UTC.
    pub hour: i64,
    /// Hashes.
    pub keys: Vec<u128>,
}

/// What one run of a task asks one keeper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// `<pipeline>/<batch>-<attempt>`.
    pub attempt: String,
    /// The run, a random number.
    pub run: u64,
    /// The keys.
    pub groups: Vec<ClaimedKeys>,
}

/// Brings claims to their keepers.
pub trait ClaimRoutes: fmt::Debug + Send + Sync {
    /// For each key, in the order of the groups, whether the row won.
    fn claim(&self, keeper: &Keeper, claim: Claim) -> BoxFuture<'static, Result<Vec<bool>, ClaimError>>;
}

/// Why a claim has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// A process without a way to others.
    #[error("claims cannot be sent from this process: only workers deduplicate")]
    NoRoutes,
    /// The way to the keeper, or back.
    #[error("worker at {address} did not answer a claim of keys")]
    Unanswered {
        /// Where it should be.
        address: String,
        /// What the transport says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Another process is there now.
    #[error("the worker that kept claims as {executor_id} is gone")]
    Gone {
        /// The process that was meant.
        executor_id: String,
    },
    /// The attempt has ended, or its claims were forgotten.
    #[error("no claim of attempt {attempt} is taken any more: it is over")]
    Over {
        /// The attempt.
        attempt: String,
    },
    /// A later run of the task is at work.
    #[error("split {split} is read by a later run of its task")]
    Superseded {
        /// The split.
        split: u32,
    },
    /// No room.
    #[error(
        "the claims of the attempts at work take more than {limit} bytes; lower the coordinators' `batch_mib` or raise \
         the workers' `memory_bytes`"
    )]
    Full {
        /// Room that there is.
        limit: usize,
    },
    /// Another process has no room.
    #[error("worker at {address} takes no claim of keys: {reason}")]
    Refused {
        /// Where it is.
        address: String,
        /// What it says.
        reason: String,
    },
    /// Not one answer for each key.
    #[error("{found} answers to {expected} claims")]
    Answers {
        /// Answers.
        found: usize,
        /// Keys.
        expected: usize,
    },
}

impl ClaimError {
    /// A call that ended without being answered: the process is ending.
    pub(super) fn unanswered(source: tokio::task::JoinError) -> Self {
        Self::Unanswered {
            address: "its own process".to_owned(),
            source: Box::new(source),
        }
    }

    /// Whether another run of the task may fare better.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unanswered { .. } | Self::Superseded { .. } => true,
            Self::NoRoutes
            | Self::Gone { .. }
            | Self::Over { .. }
            | Self::Full { .. }
            | Self::Refused { .. }
            | Self::Answers { .. } => false,
        }
    }
}

/// Which of `keepers` keeps a key: each has a range of hashes, so that their order is the keys' order.
#[inline]
fn keeper_of(key: u128, keepers: usize) -> usize {
    (((key >> 64) * keepers as u128) >> 64) as usize
}
