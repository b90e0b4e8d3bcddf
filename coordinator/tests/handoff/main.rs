//! The handoff against a real PostgreSQL: every committed row once, whatever breaks between.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test stops at what it did not expect"
)]

mod data_api;
mod days;
mod ends;
mod erasure;
mod faults;
mod iam;
mod lakes;
mod loads;
mod proxy;
mod redshift;
mod removal;
mod report;
mod server;
