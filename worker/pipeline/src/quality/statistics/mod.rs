//! What is known of a column after some of its rows, in a form that merges.
//!
//! Every tally starts empty, takes batches, and merges with another's in any order and grouping: tasks and
//! batches come together as they like.

pub(super) mod counts;
pub(super) mod extremes;
pub(super) mod moments;
pub(super) mod occurrences;
pub(super) mod quantiles;
pub(super) mod wire;
