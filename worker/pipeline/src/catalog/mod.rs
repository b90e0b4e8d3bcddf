//! What a pipeline says about its table, for those who do not read pipeline files.
//!
//! In: the validated pipeline. Out: the warehouse's tables ([`ddl`], [`mart_ddl`]) and the data dictionary ([`docs`]).
//!
//! Everything here is text made of declarations: no record is read, and no secret is shown. The examples of masked
//! values are made of made-up values with a made-up key.

pub mod days;
pub mod ddl;
mod dictionary;
pub mod docs;
pub mod encodings;
mod html;
pub mod identifier;
pub mod mart_ddl;
mod masking;
#[cfg(test)]
mod real_postgres;
#[cfg(test)]
mod tests;
mod wording;
