//! The cluster as its users and its faults meet it: real coordinators and workers, real etcd, MinIO and Kafka.
//!
//! Every story ends with the same two judgements: the generator's ledger against lake and quarantine by set equality, and
//! `millrace verify`. A story of a fault asserts that its fault happened.
#![expect(
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "clippy excepts test functions only, not what they share"
)]

mod ahead;
mod collector;
mod crowds;
mod enrich;
mod handoff;
mod hours;
mod inputs;
mod leaders;
mod models;
mod observed;
mod quarantine;
mod retention;
mod sandbox;
mod secured;
mod services;
mod uploads;
mod warehouse;
mod workers;
