//! The API's messages, clients and servers, generated from `millrace/v1/*.proto`. The documentation of
//! each item stands there.
#![allow(
    missing_docs,
    clippy::all,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "generated code"
)]

tonic::include_proto!("millrace.v1");

/// The files' descriptors, for reflection.
pub const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("millrace.v1");

/// Version of the protocol between coordinators and workers. Plans and reports change with it, so
/// processes of two versions do not work together.
pub const PROTOCOL_VERSION: u32 = 2;
