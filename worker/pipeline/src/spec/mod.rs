//! What the user declared: one YAML file, validated whole, every fault named with its line.
//!
//! [`model`] holds the validated pipeline that every step reads.

pub mod model;
