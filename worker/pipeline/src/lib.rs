//! The data path: columns in and columns out. No etcd, no warehouse.
//!
//! The way of an event is the order of the modules; [`plan`] joins them:
//!
//! ```text
//! splits -> source (bytes) -> decode (columns) -> map (the table's columns; enrich: lookups) -> quality (verdicts)
//!        -> dedup (first of each key) -> privacy (masks) -> sink (files) -> one report a task
//! ```
//!
//! The library reads no environment variable and no path of its own: configuration comes in as values.

pub mod catalog;
pub mod codec;
pub mod decode;
pub mod dedup;
pub mod enrich;
pub mod map;
pub mod plan;
pub mod privacy;
pub mod quality;
pub mod rows;
pub mod settings;
pub mod sink;
pub mod source;
pub mod spec;
pub mod stored;
pub mod trace;
pub mod unary;
mod views;
