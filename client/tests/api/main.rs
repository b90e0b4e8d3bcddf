//! The API as callers meet it: servers in this process, a real etcd, our client, the command line, a Python client.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy excepts test functions only, not what they share"
)]

mod access;
mod cli;
mod cluster;
mod errors;
mod forwarding;
mod jobs;
mod limits;
mod pipelines;
mod python;
mod quarantine;
#[path = "../../../coordinator/tests/etcd/server.rs"]
#[allow(dead_code, reason = "shared with the etcd tests, which use all of it")]
mod server;
