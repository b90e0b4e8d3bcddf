//! COPY, executed: the list of files, each file against the table, the rows into PostgreSQL.
//!
//! By which rules, each with its test: [`super::rules`].

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Fields};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use bytes::Bytes;
use futures::SinkExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use serde::Deserialize;
use tokio_postgres::Client;

use super::statement::Copy;
use super::{Refused, refused};

#[derive(Deserialize)]
struct List {
    entries: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    url: String,
    #[serde(default)]
    mandatory: bool,
    meta: Option<Meta>,
}

#[derive(Deserialize)]
struct Meta {
    content_length: Option<u64>,
}

pub(super) struct Column {
    pub(super) name: String,
    /// As the catalogue has it.
    pub(super) kind: String,
    pub(super) not_null: bool,
}

pub(super) type Buckets = HashMap<String, Arc<dyn ObjectStore>>;

/// Executes a COPY; the rows that it brought.
pub(super) async fn execute(client: &Client, copy: &Copy, buckets: &Buckets) -> Result<u64, Refused> {
    let table = columns(client, copy).await?;
    let mut rows = 0;
    for (url, bytes) in files(copy, buckets).await? {
        rows += file(client, copy, &table, &url, bytes).await?;
    }
    Ok(rows)
}

async fn columns(client: &Client, copy: &Copy) -> Result<Vec<Column>, Refused> {
    let sql = format!(
        "SELECT attname, format_type(atttypid, atttypmod), attnotnull FROM pg_attribute
         WHERE attrelid = '{}'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        copy.table.replace('\'', "''")
    );
    let answer = client.simple_query(&sql).await.map_err(|error| refused(&error))?;
    let mut all: Vec<Column> = answer
        .into_iter()
        .filter_map(|message| {
            let tokio_postgres::SimpleQueryMessage::Row(row) = message else {
                return None;
            };
            Some(Column {
                name: row.get(0)?.to_owned(),
                kind: row.get(1)?.to_owned(),
                not_null: row.get(2)? == "t",
            })
        })
        .collect();
    let Some(list) = &copy.columns else {
        return Ok(all);
    };
    if let Some(left_out) = all
        .iter()
        .find(|column| column.not_null && !list.contains(&column.name))
    {
        let message = format!("NOT NULL column without a value: {}", left_out.name);
        return Err(Refused::new("23502", message));
    }
    let mut listed = Vec::new();
    for name in list {
        let at = all.iter().position(|column| column.name == *name);
        let at = at.ok_or_else(|| {
            Refused::new(
                "42703",
                format!("column \"{name}\" of {} does not exist", copy.table),
            )
        })?;
        listed.push(all.remove(at));
    }
    Ok(listed)
}

pub(super) async fn files(copy: &Copy, buckets: &Buckets) -> Result<Vec<(String, Bytes)>, Refused> {
    if !copy.manifest {
        return Err(Refused::new(
            "0A000",
            "the simulator reads lists of files only: MANIFEST",
        ));
    }
    let load = |message: String| Refused::new("XX000", message);
    let bytes = object(buckets, &copy.from).await?;
    let bytes =
        bytes.ok_or_else(|| load(format!("The specified S3 manifest {} does not exist", copy.from)))?;
    let list: List = serde_json::from_slice(&bytes)
        .map_err(|error| load(format!("Problem reading manifest file: {error}")))?;
    let mut files = Vec::new();
    for entry in list.entries {
        let length = entry.meta.and_then(|meta| meta.content_length);
        let Some(length) = length else {
            return Err(load(format!(
                "{}: a Parquet entry needs meta.content_length",
                entry.url
            )));
        };
        match object(buckets, &entry.url).await? {
            Some(bytes) if bytes.len() as u64 == length => files.push((entry.url, bytes)),
            Some(bytes) => {
                let message = format!(
                    "{}: content_length is {length}, the file has {}",
                    entry.url,
                    bytes.len()
                );
                return Err(load(message));
            }
            None if entry.mandatory => {
                return Err(load(format!("{}: a mandatory file does not exist", entry.url)));
            }
            None => {}
        }
    }
    Ok(files)
}

async fn object(buckets: &Buckets, url: &str) -> Result<Option<Bytes>, Refused> {
    let place = url.strip_prefix("s3://").and_then(|rest| rest.split_once('/'));
    let (bucket, key) = place.ok_or_else(|| Refused::new("XX000", format!("{url} is no S3 address")))?;
    let store = buckets.get(bucket).ok_or_else(|| {
        Refused::new(
            "XX000",
            format!("S3ServiceException: bucket {bucket}: access denied"),
        )
    })?;
    let path = Path::parse(key).map_err(|error| Refused::new("XX000", error.to_string()))?;
    let failed = |error: object_store::Error| Refused::new("XX000", error.to_string());
    match store.get(&path).await {
        Ok(found) => Ok(Some(found.bytes().await.map_err(failed)?)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

async fn file(
    client: &Client,
    copy: &Copy,
    table: &[Column],
    url: &str,
    bytes: Bytes,
) -> Result<u64, Refused> {
    let scan = |problem: String| Refused::new("XX000", format!("Spectrum Scan Error: {url}: {problem}"));
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let reader = ParquetRecordBatchReaderBuilder::try_new_with_options(bytes, options)
        .map_err(|error| scan(format!("it is no Parquet file: {error}")))?;
    let fields = reader.schema().fields().clone();
    matches(&fields, table, copy.serialize_to_json).map_err(scan)?;
    let names: Vec<String> = table
        .iter()
        .map(|column| format!("\"{}\"", column.name.replace('"', "\"\"")))
        .collect();
    let sql = format!("COPY {} ({}) FROM STDIN", copy.table, names.join(", "));
    let sink = client
        .copy_in::<_, Bytes>(&sql)
        .await
        .map_err(|error| refused(&error))?;
    let mut sink = std::pin::pin!(sink);
    for batch in reader.build().map_err(|error| scan(error.to_string()))? {
        let batch = batch.map_err(|error| scan(error.to_string()))?;
        let text = text(&batch, table).map_err(scan)?;
        sink.send(text.into()).await.map_err(|error| refused(&error))?;
    }
    sink.finish().await.map_err(|error| refused(&error))
}

/// Whether a file's columns go into the table's, each into the one at its place.
pub(super) fn matches(fields: &Fields, table: &[Column], to_json: bool) -> Result<(), String> {
    if fields.len() != table.len() {
        return Err(format!(
            "unmatched number of columns: {} in the file, {} listed",
            fields.len(),
            table.len()
        ));
    }
    let mut pairs = fields.iter().zip(table);
    match pairs.find(|(field, column)| !fits(field.data_type(), &column.kind, to_json)) {
        None => Ok(()),
        Some((field, column)) => Err(format!(
            "incompatible Parquet schema for column '{}': column type {}, Parquet {}",
            column.name,
            column.kind,
            field.data_type()
        )),
    }
}

/// Whether values of a file's type go into a table's column.
#[allow(clippy::wildcard_enum_match_arm, reason = "what is not documented is refused")]
fn fits(found: &DataType, column: &str, to_json: bool) -> bool {
    match found {
        DataType::Boolean => column == "boolean",
        DataType::Int8 | DataType::Int16 => column == "smallint",
        DataType::Int32 => column == "integer",
        DataType::Int64 => column == "bigint",
        DataType::Float32 => column == "real",
        DataType::Float64 => column == "double precision",
        DataType::Decimal128(precision, scale) => column == format!("numeric({precision},{scale})"),
        DataType::Utf8 => column.starts_with("character varying") || column == "jsonb",
        DataType::Date32 => column == "date",
        DataType::Timestamp(arrow::datatypes::TimeUnit::Nanosecond, _) => false,
        DataType::Timestamp(..) => column.starts_with("timestamp"),
        DataType::List(_) | DataType::Struct(_) => to_json && column == "jsonb",
        _ => false,
    }
}

/// Rows as PostgreSQL's text format.
pub(super) fn text(batch: &RecordBatch, table: &[Column]) -> Result<String, String> {
    let options = FormatOptions::default();
    let columns: Vec<(&Column, &dyn Array, ArrayFormatter<'_>)> = table
        .iter()
        .zip(batch.columns())
        .map(|(column, array)| {
            let shown =
                ArrayFormatter::try_new(array.as_ref(), &options).map_err(|error| error.to_string())?;
            Ok((column, array.as_ref(), shown))
        })
        .collect::<Result<_, String>>()?;
    let mut text = String::new();
    for row in 0..batch.num_rows() {
        for (at, (column, array, shown)) in columns.iter().enumerate() {
            if at > 0 {
                text.push('\t');
            }
            if array.is_null(row) {
                if column.not_null {
                    return Err(format!("column '{}' is NOT NULL and has a null", column.name));
                }
                text.push_str("\\N");
                continue;
            }
            let value = match array.as_string_opt::<i32>() {
                // A text becomes a scalar of SUPER; a list is serialized.
                Some(texts) if column.kind == "jsonb" => {
                    serde_json::Value::from(texts.value(row)).to_string()
                }
                _ if column.kind == "jsonb" => json(*array, row),
                _ => shown.value(row).to_string(),
            };
            let most = column
                .kind
                .strip_prefix("character varying(")
                .and_then(|n| n.strip_suffix(')'));
            if let Some(most) = most.and_then(|most| most.parse::<usize>().ok())
                && value.len() > most
            {
                let length = value.len();
                return Err(format!(
                    "the length of the data column '{}' is longer than the table's: {length} > {most}",
                    column.name
                ));
            }
            escape(&value, &mut text);
        }
        text.push('\n');
    }
    Ok(text)
}

#[allow(clippy::wildcard_enum_match_arm, reason = "all other types are texts in JSON")]
fn json(array: &dyn Array, row: usize) -> String {
    if let Some(lists) = array.as_list_opt::<i32>() {
        let items = lists.value(row);
        let items: Vec<String> = (0..items.len()).map(|at| json(&items, at)).collect();
        return format!("[{}]", items.join(","));
    }
    if array.is_null(row) {
        return "null".to_owned();
    }
    let shown = arrow::util::display::array_value_to_string(array, row).unwrap_or_default();
    match array.data_type() {
        DataType::Boolean
        | DataType::Int32
        | DataType::Int64
        | DataType::Float64
        | DataType::Decimal128(..) => shown,
        _ => serde_json::Value::from(shown).to_string(),
    }
}

fn escape(value: &str, text: &mut String) {
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '\t' => text.push_str("\\t"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            c => text.push(c),
        }
    }
}
