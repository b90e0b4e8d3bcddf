//! Election, ledger and registry against a real etcd, which each test starts for itself.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test stops at what it did not expect"
)]

mod conformance;
mod election;
mod full;
mod ledger;
mod proxy;
mod registry;
mod server;
