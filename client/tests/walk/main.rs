//! The whole walk, as a user runs it: the real binary on real files.
//!
//! One test binary for all stories; each story has a folder of its own, so they run side by side.

mod crash;
mod faults;
mod github;
mod privacy;
mod quarantine;
mod sandbox;
mod shop;
mod verify;
