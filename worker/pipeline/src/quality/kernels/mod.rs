//! The checks themselves: free functions from arrays to bits, no state, no dispatch by row.
//!
//! A kernel answers for every slot, also for null ones: whoever asks masks those out.

pub(super) mod cells;
pub(super) mod compare;
pub(super) mod length;
pub(super) mod pattern;
pub(super) mod range;
pub(super) mod set;
pub(super) mod strftime;
