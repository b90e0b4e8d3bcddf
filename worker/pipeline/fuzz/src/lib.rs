//! The parts of the data path that read what strangers write, without the query engine below the others.
//!
//! The sources are the pipeline's own, taken in by path. The one stand-in is `map`, since planning an
//! expression needs the engine.
#![allow(dead_code, reason = "who uses it was left out")]

#[path = "../../src/rows.rs"]
pub mod rows;
#[path = "../../src/spec/mod.rs"]
pub mod spec;

/// Decoding of JSON lines.
#[path = "../../src/decode"]
pub mod decode {
    pub mod json;
    mod text;
    mod wanted;

    pub use wanted::{DecodePlan, Wanted, WantedKind, decoded_schema};
}

/// In place of the planner: refuses about half of the columns' expressions and quotes them, as it does.
mod map {
    use crate::spec::model::{ColumnValue, Pipeline};

    #[derive(Debug)]
    pub struct ExpressionFault {
        pub place: ExpressionPlace,
        pub wrong: String,
        pub right: String,
    }

    #[derive(Debug)]
    pub enum ExpressionPlace {
        Column(usize),
        VersionWhen(usize),
        VersionColumn(usize, String),
    }

    pub fn expression_faults(pipeline: &Pipeline) -> Vec<ExpressionFault> {
        let refused = |(i, sql): (usize, &String)| ExpressionFault {
            place: ExpressionPlace::Column(i),
            wrong: format!("`{sql}` does not plan"),
            right: String::from("an expression that does"),
        };
        let expressions = pipeline
            .columns
            .iter()
            .enumerate()
            .filter_map(|(i, column)| match &column.value {
                ColumnValue::Sql(sql) if sql.len() % 2 == 1 => Some((i, sql)),
                _ => None,
            });
        expressions.map(refused).collect()
    }
}
