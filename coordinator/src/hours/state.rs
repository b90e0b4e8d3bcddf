//! What an event hour has come to.

use millrace_proto::v1;

/// The life of an event hour.
///
/// ```text
/// Open -> Complete -> Compacted
///            ^  \        /
///            |   v      v
///            +-- Reopened
/// ```
///
/// A reopened hour is complete again when the watermark has moved on by the lateness once more: what belongs to it is
/// taken together, not batch by batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HourState {
    /// Events may still come.
    Open,
    /// Every partition's watermark has passed it plus the lateness.
    Complete,
    /// Complete, and its files are rewritten to full size.
    Compacted,
    /// It was complete, and then events came.
    Reopened,
}

/// What happens to an hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HourEvent {
    /// Events of it were committed.
    Written,
    /// The watermark has passed what it waits for.
    Passed,
    /// Nothing is left in it to be compacted.
    Compacted,
}

impl HourState {
    /// Total and pure. A compaction of an hour that was written to meanwhile makes it no less open.
    #[must_use]
    pub fn next(self, event: HourEvent) -> Self {
        use {HourEvent as On, HourState as Is};
        match (self, event) {
            (Is::Open | Is::Reopened, On::Passed) => Is::Complete,
            (Is::Complete | Is::Compacted, On::Written) => Is::Reopened,
            (Is::Complete, On::Compacted) => Is::Compacted,
            (Is::Open, On::Written | On::Compacted) => Is::Open,
            (Is::Reopened, On::Written | On::Compacted) => Is::Reopened,
            (Is::Complete, On::Passed) => Is::Complete,
            (Is::Compacted, On::Passed | On::Compacted) => Is::Compacted,
        }
    }

    /// Whether the watermark has passed it and nothing came since.
    #[must_use]
    pub fn is_complete(self) -> bool {
        match self {
            Self::Complete | Self::Compacted => true,
            Self::Open | Self::Reopened => false,
        }
    }
}

impl From<HourState> for v1::HourState {
    fn from(state: HourState) -> Self {
        match state {
            HourState::Open => Self::Open,
            HourState::Complete => Self::Complete,
            HourState::Compacted => Self::Compacted,
            HourState::Reopened => Self::Reopened,
        }
    }
}
