//! The table, out of PostgreSQL: one COPY of its key and of the columns that are added, each as text.
//!
//! Text is what PostgreSQL gives of every type, in one form under the settings below; what it means is for the snapshot to
//! say. One statement sees one state of the table.

use arrow::array::{StringArray, StringBuilder};
use futures::StreamExt;
use millrace_pipeline::catalog::identifier::{identifier, qualified};
use millrace_pipeline::enrich::Shape;
use millrace_pipeline::spec::model::Enrich;
use tokio_postgres::binary_copy::BinaryCopyOutStream;
use tokio_postgres::types::Type;

use super::SnapshotError;
use crate::handoff::Refusal;
use crate::handoff::connection::{ConnectError, Connection};

/// Most bytes of text that a snapshot is made of.
const BYTES_MAX: usize = 256 << 20;

/// One form for every value, nothing changed there, and nobody waited for without end.
const SESSION: &str = "SET TimeZone = 'UTC'; SET DateStyle = 'ISO, YMD'; SET extra_float_digits = 3; SET bytea_output = hex; \
                       SET default_transaction_read_only = on; SET statement_timeout = '300s'; SET lock_timeout = '10s'";

/// The columns of a shape, in its order.
pub(super) async fn columns(enrich: &Enrich, shape: &Shape) -> Result<Vec<StringArray>, SnapshotError> {
    let lookup = || enrich.name.clone();
    let connection = Connection::connect(&enrich.dsn)
        .await
        .map_err(|error| match error {
            ConnectError::Dsn => SnapshotError::Dsn { lookup: lookup() },
            ConnectError::Tls(source) => SnapshotError::Tls {
                lookup: lookup(),
                source,
            },
            ConnectError::Postgres(source) => failed(enrich, source),
        })?;
    let client = &connection.client;
    let failed = |source| failed(enrich, source);
    client.batch_execute(SESSION).await.map_err(failed)?;
    let rows = client.copy_out(&statement(shape)).await.map_err(failed)?;
    let types = vec![Type::TEXT; shape.columns.len()];
    let mut rows = Box::pin(BinaryCopyOutStream::new(rows, &types));
    let mut columns: Vec<StringBuilder> = types.iter().map(|_| StringBuilder::new()).collect();
    let mut bytes = 0;
    while let Some(row) = rows.next().await {
        let row = row.map_err(failed)?;
        for (i, column) in columns.iter_mut().enumerate() {
            let text: Option<&str> = row.try_get(i).map_err(failed)?;
            bytes += size_of::<u32>() + text.map_or(0, str::len);
            column.append_option(text);
        }
        if bytes > BYTES_MAX {
            return Err(SnapshotError::TooLarge {
                lookup: lookup(),
                table: enrich.table.clone(),
                most: BYTES_MAX,
            });
        }
    }
    Ok(columns.iter_mut().map(StringBuilder::finish).collect())
}

fn statement(shape: &Shape) -> String {
    let columns = shape.columns.iter();
    let columns: Vec<String> = columns
        .map(|column| format!("{}::text", identifier(&column.theirs)))
        .collect();
    format!(
        "COPY (SELECT {} FROM {}) TO STDOUT (FORMAT binary)",
        columns.join(", "),
        qualified(&shape.table)
    )
}

fn failed(enrich: &Enrich, source: tokio_postgres::Error) -> SnapshotError {
    match source.as_db_error().map(Refusal::of) {
        Some(mut refusal) => {
            // A view computes, and what it says then may quote what it fails on.
            if refusal.code.starts_with("22") {
                "an expression of the view fails on a value".clone_into(&mut refusal.message);
            }
            SnapshotError::Refused {
                lookup: enrich.name.clone(),
                table: enrich.table.clone(),
                refusal: Box::new(refusal),
            }
        }
        None => SnapshotError::Down {
            lookup: enrich.name.clone(),
            source,
        },
    }
}

#[cfg(test)]
mod tests {
    use millrace_pipeline::enrich::ShapeColumn;
    use millrace_pipeline::spec::model::ColumnType;

    use super::*;

    #[test]
    fn names_are_quoted_where_they_must_be() {
        let column = |theirs: &str| ShapeColumn {
            ours: String::new(),
            theirs: theirs.to_owned(),
            kind: ColumnType::String,
        };
        let shape = Shape {
            table: "crm.user".to_owned(),
            columns: vec![column("id"), column("Segment\"x")],
        };
        assert_eq!(
            statement(&shape),
            "COPY (SELECT id::text, \"Segment\"\"x\"::text FROM crm.\"user\") TO STDOUT (FORMAT binary)"
        );
    }
}
