//! The API as callers meet it: servers in this process, a real etcd, our client, the command line, a Python client.

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
