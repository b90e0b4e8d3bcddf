//! The data plane: an executor that follows the leader, drains and reports.
//!
//! A worker knows where coordinators are, or where etcd is; it says to whoever leads that it is there, each second,
//! and takes tasks from that leader's scheduler. When another leads, what runs for the old one is given up: its
//! batches are not committed, and the new one runs them again. So a worker has a [`tenure`] under each leader, one
//! after the other, and is itself never restarted.
//!
//! | module      | has                                                    |
//! |-------------|--------------------------------------------------------|
//! | [`claims`]  | claims of keys, taken from other workers and sent there |
//! | [`config`]  | what a worker is told                                  |
//! | [`disk`]    | where reports of tasks lie: bounded and cleaned        |
//! | [`leader`]  | finding and following the leader                       |
//! | [`metrics`] | what it counts                                         |
//! | [`tenure`]  | taking tasks under one leader                          |
//! | `task`      | one task, watched                                      |
//! | `stage`     | the same, with an eye on the disk and on what it says  |
//! | [`serving`] | the loop around them, shuffle data for others, metrics |

pub mod claims;
pub mod config;
pub mod disk;
pub mod leader;
pub mod metrics;
pub mod serving;
mod stage;
mod task;
pub mod tenure;

pub use serving::{Worker, WorkerError};
