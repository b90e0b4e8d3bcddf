//! Why the registry did not do what was asked.

use super::state::IllegalChange;
use crate::etcd::EtcdError;

/// Why the registry did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// Etcd.
    #[error("the registry could not be reached")]
    Etcd(#[from] EtcdError),
    /// We do not lead any more: nothing was written.
    #[error("the leadership of epoch {epoch} has ended; ask the leader")]
    NotLeader {
        /// Our epoch.
        epoch: u64,
    },
    /// Nothing has this name.
    #[error("there is no {what} `{name}`")]
    NotFound {
        /// `job` or `pipeline`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// A name that cannot be stored.
    #[error("{what} `{text}` is not one: {rule}")]
    Name {
        /// `job id`, `pipeline`, `request id`.
        what: &'static str,
        /// As given.
        text: String,
        /// What would be right.
        rule: &'static str,
    },
    /// A change that no job makes.
    #[error("job {job}")]
    State {
        /// The job.
        job: String,
        /// Both states.
        #[source]
        source: IllegalChange,
    },
    /// A pipeline with jobs cannot be deleted.
    #[error("pipeline `{pipeline}` has active jobs, {job} for one; cancel them first")]
    Active {
        /// The pipeline.
        pipeline: String,
        /// One of them.
        job: String,
    },
    /// Larger than etcd takes.
    #[error("{what} `{name}` has {bytes} bytes; at most {limit} can be stored")]
    TooLarge {
        /// `job` or `pipeline`.
        what: &'static str,
        /// Its name.
        name: String,
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A page token that is not ours, or of another filter.
    #[error("the page token is not one of this list and filter; start without one")]
    Token,
    /// A stored value that cannot be read.
    #[error("the registry's key `{key}` is damaged")]
    Damaged {
        /// The key.
        key: String,
        /// What the parser says.
        #[source]
        source: prost::DecodeError,
    },
}

impl RegistryError {
    /// Whether the same call may succeed later, at the same coordinator.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Etcd(error) => error.is_retryable(),
            Self::NotLeader { .. }
            | Self::NotFound { .. }
            | Self::Name { .. }
            | Self::State { .. }
            | Self::Active { .. }
            | Self::TooLarge { .. }
            | Self::Token
            | Self::Damaged { .. } => false,
        }
    }
}
