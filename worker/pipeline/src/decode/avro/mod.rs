//! Avro object container files: blocks of records with their schema in front.
//!
//! In: an object's bytes. Out: batches of [`decoded_schema`](super::decoded_schema). Logical types (dates, times,
//! decimals, UUIDs) come as such; `["null", T]` is a nullable T. A record cannot be broken by itself: a damaged
//! block makes the file an error, found by its [`frame`] before its records are decoded.

mod frame;
mod walk;

use std::error::Error;
use std::io::BufReader;

use arrow::error::ArrowError;
use arrow_avro::reader::ReaderBuilder;

use crate::source::SourceError;
use crate::source::read::{Emit, SplitBytes};

use super::DecodePlan;
use super::container::arrays;
use frame::Framed;

/// Rows of a batch.
const ROWS: usize = 8192;
const READ_BYTES: usize = 256 << 10;

/// Decodes one object.
pub(super) fn decode(
    input: &mut SplitBytes<'_>,
    plan: &DecodePlan,
    emit: &mut Emit<'_>,
) -> Result<(), SourceError> {
    let split = input.split;
    let failed = |error: ArrowError| {
        let ArrowError::IoError(_, error) = error else {
            return damaged(&split.object.url, error);
        };
        match error.downcast::<SourceError>() {
            Ok(error) => error,
            Err(error) => damaged(&split.object.url, error),
        }
    };
    let bytes = Framed::new(BufReader::with_capacity(READ_BYTES, &mut *input.bytes));
    // Not `with_utf8_view`: in arrow-avro 59 it turns null texts into empty ones.
    let builder = ReaderBuilder::new().with_batch_size(ROWS);
    let reader = builder.build(bytes).map_err(failed)?;
    let mut number = 1;
    for batch in reader {
        let batch = batch.map_err(failed)?;
        let decoded = arrays::decode(&batch, plan, split.index, number)?;
        number += batch.num_rows() as u64;
        if !emit(decoded) {
            return Ok(());
        }
    }
    Ok(())
}

fn damaged(url: &str, error: impl Error + Send + Sync + 'static) -> SourceError {
    SourceError::Format {
        url: url.to_owned(),
        format: "Avro",
        source: Box::new(error),
    }
}
