//! The parts of the data path that read what strangers write, without the query engine below the others.
//!
//! The sources are the pipeline's own, taken in by path. Stand-ins are `map`, since planning an expression needs
//! the engine, and `source`, whose bytes lie in memory here.
#![allow(dead_code, reason = "who uses it was left out")]

#[path = "../../src/rows.rs"]
pub mod rows;
#[path = "../../src/spec/mod.rs"]
pub mod spec;

/// Decoding of JSON lines, CSV and Avro.
#[path = "../../src/decode"]
pub mod decode {
    mod avro;
    mod csv;
    pub mod json;
    mod text;
    mod wanted;

    pub mod container {
        pub(in crate::decode) mod arrays;
        mod cast;
        mod json;
        pub(in crate::decode) mod origin;
        pub mod stored;
    }

    use arrow::array::RecordBatch;
    use arrow::error::ArrowError;
    use millrace_proto::split::{InputObject, Split};

    pub use wanted::{DecodePlan, Wanted, WantedKind, decoded_schema};

    use crate::source::SourceError;
    use crate::source::read::{Emit, SplitBytes};

    /// The batches of a CSV file.
    pub fn csv_file(bytes: &[u8], plan: &DecodePlan) -> Result<Vec<RecordBatch>, SourceError> {
        file(bytes, |input, emit| csv::decode(input, plan, emit))
    }

    /// A CSV record as quarantine keeps it.
    pub fn csv_record(
        record: &[u8],
        line: u64,
        offset: u64,
        plan: &DecodePlan,
    ) -> Result<Option<RecordBatch>, ArrowError> {
        let split = 0;
        csv::decode_record(record, container::origin::Place { split, line, offset }, plan)
    }

    /// The batches of an Avro file.
    pub fn avro_file(bytes: &[u8], plan: &DecodePlan) -> Result<Vec<RecordBatch>, SourceError> {
        file(bytes, |input, emit| avro::decode(input, plan, emit))
    }

    /// A row of an Avro file as quarantine keeps it, decoded again.
    pub fn stored_record(
        block: &[u8],
        number: u64,
        plan: &DecodePlan,
    ) -> Result<RecordBatch, ArrowError> {
        let record = container::stored::Block::read(block)?.record(number)?;
        container::arrays::decode(&container::stored::row(&record)?, plan, 0, number)
    }

    fn file(
        mut bytes: &[u8],
        decode: impl FnOnce(&mut SplitBytes<'_>, &mut Emit<'_>) -> Result<(), SourceError>,
    ) -> Result<Vec<RecordBatch>, SourceError> {
        let object = InputObject {
            url: "memory".to_owned(),
            size: bytes.len() as u64,
            version: String::new(),
        };
        let split = Split {
            index: 0,
            object,
            start: 0,
            end: bytes.len() as u64,
        };
        let mut input = SplitBytes {
            split: &split,
            bytes: &mut bytes,
        };
        let mut batches = Vec::new();
        decode(&mut input, &mut |batch| {
            batches.push(batch);
            true
        })?;
        Ok(batches)
    }
}

/// In place of storage.
#[path = "../../src/source"]
pub mod source {
    use arrow::error::ArrowError;

    /// What a pipeline file may say of Kafka.
    #[path = "kafka"]
    pub mod kafka {
        mod access;

        pub use access::RESERVED;
    }

    /// Why a file could not be read.
    #[derive(Debug, thiserror::Error)]
    pub enum SourceError {
        #[error("could not read")]
        Read(#[from] std::io::Error),
        #[error("`{url}` is not a sound {format} file")]
        Format {
            url: String,
            format: &'static str,
            source: Box<dyn std::error::Error + Send + Sync>,
        },
        #[error("the columns cannot be made")]
        Arrow(#[from] ArrowError),
    }

    pub(crate) mod read {
        use std::io::Read;

        use arrow::array::RecordBatch;
        use millrace_proto::split::Split;

        use super::SourceError;

        pub(crate) type Emit<'a> = dyn FnMut(RecordBatch) -> bool + 'a;

        pub(crate) struct SplitBytes<'a> {
            pub(crate) split: &'a Split,
            pub(crate) bytes: &'a mut dyn Read,
        }

        impl SplitBytes<'_> {
            pub(crate) fn failure(&self, error: std::io::Error, _: u64) -> SourceError {
                error.into()
            }
        }
    }
}

/// In place of what only saves memory.
mod dedup {
    pub(crate) mod compact {
        use arrow::array::RecordBatch;
        use arrow::error::ArrowError;

        pub(crate) fn compacted(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
            Ok(batch.clone())
        }
    }
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
