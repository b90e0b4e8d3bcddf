//! The control plane: what is to be read, by which attempt, and what of it counts.
//!
//! Read, decide, act: [`ledger`] holds what happened, [`split`] decides what is next, [`enrich`] what it is looked up in, [`engine`] runs it,
//! [`commit`] makes it visible, [`handoff`] loads it into the warehouse, [`marts`] sums complete hours up. [`job`] is the loop around them for the embedded run; [`verify`] proves
//! from what is stored that nothing was lost or doubled. [`retention`] takes away what is too old,
//! [`erasure`] what is one person's. In a cluster, [`api`] takes requests, [`registry`] keeps
//! them, [`election`] says who acts on them, [`workers`] who works, and [`mind`] lets go of who does not.

pub mod ahead;
pub mod api;
pub mod applied;
mod aside;
pub mod causes;
pub mod commit;
pub mod compaction;
pub mod config;
pub mod election;
pub mod engine;
pub mod enrich;
pub mod erasure;
pub mod etcd;
pub mod handoff;
pub mod hours;
pub mod job;
pub mod lake;
pub mod lane;
pub mod leader;
pub mod ledger;
pub mod lifecycle;
pub mod marts;
pub mod metrics;
pub mod mind;
pub mod node;
pub mod quarantine;
pub mod query;
pub mod registry;
mod report;
pub mod retention;
pub mod split;
pub mod verify;
pub mod workers;
