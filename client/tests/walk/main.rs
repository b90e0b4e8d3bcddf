//! The whole walk, as a user runs it: the real binary on real files.
//!
//! One test binary for all stories; each story has a folder of its own, so they run side by side.
#![expect(
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "clippy excepts test functions only, not what they share"
)]

mod breach;
mod compact;
mod crash;
mod database;
mod enrich;
mod erase;
mod erase_copies;
mod faults;
mod github;
mod handoff;
mod inputs;
mod models;
mod privacy;
mod quarantine;
mod redrive;
mod retention;
mod s3;
mod sandbox;
mod shop;
mod verify;
