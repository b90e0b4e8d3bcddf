//! The contract's values, without the messages of the API.
#[path = "../../../../proto/src/ids.rs"]
pub mod ids;
#[path = "../../../../proto/src/keys.rs"]
pub mod keys;
#[path = "../../../../proto/src/manifest.rs"]
pub mod manifest;
#[path = "../../../../proto/src/split.rs"]
pub mod split;
