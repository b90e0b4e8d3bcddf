//! Proof by an independent judge: what was sent, and whether the lake holds exactly that.
//!
//! ```text
//! generate/   seeded shop events, and a ledger of every line sent
//! ledger.rs   that ledger, on disk
//! lake.rs     what a lake's manifests name, read with the public Parquet crate
//! check.rs    ledger against lake, by set equality
//! sums.rs     the same by date, hour and source
//! papers.rs   certificates
//! proxy.rs    an S3 store that misbehaves on purpose
//! chaos/      faults at random while a cluster follows a topic, then the proof
//! redshift_sim/  a stand-in for Redshift that copies Parquet by the documented rules
//! ```
//!
//! Nothing here uses the data path's code: a fault there must not be able to hide itself.

pub mod chaos;
pub mod check;
pub mod fetch;
pub mod generate;
pub mod lake;
pub mod ledger;
pub mod papers;
pub mod proxy;
pub mod redshift_sim;
pub mod sums;
