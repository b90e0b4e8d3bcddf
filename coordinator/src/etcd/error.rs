//! Why etcd did not do what was asked, and whether another member might.

use etcd_client::Error;
use tonic::Code;

/// Why etcd did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// No endpoints, or one that is no address.
    #[error("etcd endpoints {endpoints:?} cannot be used; give `http://host:port` of each member")]
    Endpoints {
        /// As given.
        endpoints: Vec<String>,
        /// What is wrong.
        #[source]
        source: Error,
    },
    /// No member answered in time. A transaction may have been applied all the same.
    #[error("no etcd member of {endpoints:?} answered within {seconds} s")]
    Unreachable {
        /// The members.
        endpoints: Vec<String>,
        /// How long was tried.
        seconds: u64,
        /// What the last one said.
        #[source]
        source: Option<Error>,
    },
    /// The NOSPACE alarm is raised.
    #[error(
        "etcd is out of space: its NOSPACE alarm refuses writes; compact and defragment every member (`etcdctl compact`, `etcdctl defrag`), then `etcdctl alarm disarm`"
    )]
    Full,
    /// A revision that was asked for is compacted.
    #[error("etcd has compacted the revision that was asked for")]
    Compacted,
    /// The lease has ended.
    #[error("etcd lease {lease:x} has ended")]
    LeaseGone {
        /// Its id.
        lease: i64,
    },
    /// The lease that a call names has ended: it, or the server, was slow.
    #[error("the etcd lease that a key was to be put under has ended")]
    LeaseEnded,
    /// Refused for what it asks: permissions, sizes.
    #[error("etcd refused the call")]
    Refused(#[source] Error),
}

impl EtcdError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Full | Self::Compacted => true,
            Self::Endpoints { .. } | Self::LeaseGone { .. } | Self::LeaseEnded | Self::Refused(_) => false,
        }
    }
}

/// What a failed call means for the next one.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Elsewhere,
    Full,
    Compacted,
    LeaseEnded,
    Refused,
}

/// Judges a failed call.
pub(super) fn verdict(error: &Error) -> Verdict {
    let Error::GRpcStatus(status) = error else {
        return match error {
            Error::InvalidArgs(_)
            | Error::InvalidUri(_)
            | Error::InvalidMetadataValue(_)
            | Error::EndpointsNotManaged => Verdict::Refused,
            Error::IoError(_)
            | Error::TransportError(_)
            | Error::GRpcStatus(_)
            | Error::WatchError(_)
            | Error::Utf8Error(_)
            | Error::LeaseKeepAliveError(_)
            | Error::ElectError(_)
            | Error::EndpointError(_)
            | Error::Internal(_) => Verdict::Elsewhere,
        };
    };
    match status.code() {
        Code::ResourceExhausted if status.message().contains("space exceeded") => Verdict::Full,
        Code::OutOfRange if status.message().contains("compacted") => Verdict::Compacted,
        Code::NotFound if status.message().contains("lease not found") => Verdict::LeaseEnded,
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented => Verdict::Refused,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => Verdict::Elsewhere,
    }
}
