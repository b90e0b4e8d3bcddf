//! Bytes to columns. A broken record becomes a row that says why, never an error.

pub mod again;
mod avro;
pub mod container;
mod csv;
pub mod exec;
pub mod json;
mod parquet;
mod text;
mod wanted;

pub use wanted::{DecodePlan, Wanted, WantedKind, decoded_schema};
