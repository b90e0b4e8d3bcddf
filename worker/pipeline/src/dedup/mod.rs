//! First of each key in its event hour, across all batches.
