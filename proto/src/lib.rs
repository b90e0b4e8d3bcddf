//! The contract between Millrace's parts: ids, object keys, splits, manifests.
//!
//! Everything here is a value: it can be stored, sent and compared, and it does no I/O.

pub mod ids;
pub mod keys;
pub mod manifest;
pub mod split;
pub mod tls;
pub mod v1;
