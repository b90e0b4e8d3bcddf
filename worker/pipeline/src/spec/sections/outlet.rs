//! `partition`, `lake`, `warehouse`, `retention` and `limits`: where rows go and how long they stay.

use std::path::Path;

use super::data_api::data_api;
use super::iam::iam;
use super::{absolute, endpoint, s3_url};
use crate::spec::fields::{Field, Section};
use crate::spec::model::{
    Compression, HandoffUnit, Lake, Limits, Partition, PartitionLevel, RedshiftAccess, Retention, Secret,
    Warehouse,
};
use crate::spec::reader::Reader;
use crate::spec::units;

pub(in crate::spec) const PARTITION: &[&str] = &["time", "by", "source", "lateness"];
pub(in crate::spec) const LAKE: &[&str] = &["url", "endpoint", "region", "file_bytes", "compression"];
pub(in crate::spec) const WAREHOUSE: &[&str] = &["postgres", "redshift"];
pub(in crate::spec) const POSTGRES: &[&str] = &["dsn", "table"];
pub(in crate::spec) const REDSHIFT: &[&str] = &[
    "dsn", "iam", "data_api", "table", "sort_key", "dist_key", "iam_role",
];
pub(in crate::spec) const IAM: &[&str] = &["cluster", "workgroup", "db_user", "region", "endpoint"];
pub(in crate::spec) const DATA_API: &[&str] = &[
    "workgroup",
    "cluster",
    "database",
    "secret_arn",
    "db_user",
    "region",
    "endpoint",
];
pub(in crate::spec) const RETENTION: &[&str] = &["lake", "quarantine", "warehouse", "keys", "replaced"];
pub(in crate::spec) const LIMITS: &[&str] = &["record_bytes", "depth"];

/// Bounds of `lake.file_bytes`: below, files are too many; above, no reader wants them.
pub(in crate::spec) const FILE_BYTES: (u64, u64) = (1 << 20, 4 << 30);
/// Bounds of `limits.record_bytes`: offsets into a buffer of records have 32 bits.
pub(in crate::spec) const RECORD_BYTES: (u64, u64) = (1 << 10, 1 << 30);
/// Bounds of `limits.depth`.
pub(in crate::spec) const DEPTH: (u64, u64) = (1, 1000);

const DEFAULT_FILE_BYTES: u64 = 256 << 20;
const DEFAULT_LATENESS_SECONDS: u64 = 3_600;

/// How the lake is cut.
pub(in crate::spec) fn partition(field: &Field<'_>, reader: &mut Reader<'_>) -> Option<Partition> {
    let section = field.section(reader, PARTITION)?;
    let time = section
        .required(reader, "time", "event_time")
        .and_then(|field| field.text(reader, "a column"));
    let by = match section.optional("by") {
        Some(field) => levels(&field, reader),
        None => Some(vec![PartitionLevel::Date, PartitionLevel::Hour]),
    };
    let source = section
        .optional("source")
        .map(|field| field.text(reader, "a column"));
    if let Some(by) = &by {
        let by_source = by.contains(&PartitionLevel::Source);
        if by_source && source.is_none() {
            let right = "`source: a_column`, or `by` without `source`";
            reader.fault(
                &format!("{}.by", field.key),
                "`by` cuts by source, but no column is named as the source",
                right,
            );
        }
        if !by_source && source.is_some() {
            let right = "`by: [date, hour, source]`, or no `source`";
            reader.fault(
                &format!("{}.source", field.key),
                "a source column that `by` does not use",
                right,
            );
        }
    }
    let lateness = section
        .optional("lateness")
        .map_or(Some(DEFAULT_LATENESS_SECONDS), |field| {
            field.parsed(reader, units::duration)
        });
    Some(Partition {
        time: time?,
        // With its fault reported, a placeholder lets the columns be checked on.
        by: by.unwrap_or_default(),
        source: source.flatten(),
        lateness_seconds: lateness.unwrap_or_default(),
    })
}

fn levels(field: &Field<'_>, reader: &mut Reader<'_>) -> Option<Vec<PartitionLevel>> {
    let right = "[date, hour] or [date, hour, source]";
    let names = [
        ("date", PartitionLevel::Date),
        ("hour", PartitionLevel::Hour),
        ("source", PartitionLevel::Source),
    ];
    let mut levels = Vec::new();
    let mut sound = true;
    for item in field.list(reader, right)? {
        match item.choice(reader, &names) {
            Some(level) if levels.contains(&level) => {
                reader.fault(
                    &item.key,
                    format!("`{}` is given twice", reader.shown(&item.key)),
                    right,
                );
                sound = false;
            }
            Some(level) => levels.push(level),
            None => sound = false,
        }
    }
    let place = |level| levels.iter().position(|one| *one == level);
    if sound && levels.is_empty() {
        reader.fault(&field.key, "the list is empty", right);
        return None;
    }
    if let (true, Some(hour)) = (sound, place(PartitionLevel::Hour))
        && place(PartitionLevel::Date).is_none_or(|date| date > hour)
    {
        reader.fault(
            &field.key,
            "`hour` without `date` before it mixes the days",
            right,
        );
        return None;
    }
    sound.then_some(levels)
}

/// Where files go.
pub(in crate::spec) fn lake(field: &Field<'_>, base_dir: &Path, reader: &mut Reader<'_>) -> Option<Lake> {
    let section = field.section(reader, LAKE)?;
    let url = section
        .required(reader, "url", "./lake")
        .and_then(|field| lake_url(&field, base_dir, reader));
    let is_local = url.as_ref().is_some_and(|url| url.starts_with("file:"));
    for name in ["endpoint", "region"] {
        if let Some(field) = section.optional(name).filter(|_| is_local) {
            let wrong = format!("`{name}` is for a bucket, and this lake is a folder");
            reader.fault_of_key(&field.key, wrong, "leave it out, or `url: s3://bucket/prefix`");
        }
    }
    let endpoint = section
        .optional("endpoint")
        .and_then(|field| endpoint(&field, reader));
    let region = section
        .optional("region")
        .and_then(|field| field.text(reader, "`eu-central-1`"));
    let file_bytes = section
        .optional("file_bytes")
        .map_or(Some(DEFAULT_FILE_BYTES), |field| {
            size_within(
                &field,
                FILE_BYTES,
                "from 1MiB to 4GiB; warehouses like 64MiB to 256MiB",
                reader,
            )
        });
    let compression = section
        .optional("compression")
        .map_or(Some(Compression::Zstd(1)), |field| {
            field.parsed(reader, units::compression)
        });
    Some(Lake {
        url: url?,
        endpoint,
        region,
        file_bytes: file_bytes?,
        compression: compression?,
    })
}

fn lake_url(field: &Field<'_>, base_dir: &Path, reader: &mut Reader<'_>) -> Option<String> {
    let text = field.text(
        reader,
        "a folder `./lake`, `file:///data/lake` or `s3://bucket/prefix`",
    )?;
    lake_at(&text, base_dir).or_else(|| match text.starts_with("s3://") {
        true => s3_url(field, &text, reader),
        false => {
            let wrong = format!("`{}` is not a place for a lake", reader.shown(&field.key));
            reader.fault(
                &field.key,
                wrong,
                "a folder `./lake`, `file:///data/lake` or `s3://bucket/prefix`",
            );
            None
        }
    })
}

/// A folder as a URL.
fn lake_at(text: &str, base_dir: &Path) -> Option<String> {
    let path = match text.split_once("://") {
        Some(("file", _)) => url::Url::parse(text).ok()?.to_file_path().ok()?,
        Some(_) => return None,
        None => absolute(base_dir, text),
    };
    let url = url::Url::from_file_path(path).ok()?;
    Some(url.as_str().trim_end_matches('/').to_owned())
}

fn size_within(field: &Field<'_>, bounds: (u64, u64), right: &str, reader: &mut Reader<'_>) -> Option<u64> {
    let size = field.parsed(reader, units::size)?;
    let sound = (bounds.0..=bounds.1).contains(&size);
    if !sound {
        reader.fault(
            &field.key,
            format!("`{}` is out of range", reader.shown(&field.key)),
            right,
        );
    }
    sound.then_some(size)
}

/// Exactly one of `postgres` and `redshift`.
pub(in crate::spec) fn warehouse(field: &Field<'_>, reader: &mut Reader<'_>) -> Option<Warehouse> {
    let section = field.section(reader, WAREHOUSE)?;
    let (kind, field) = section.exactly_one(reader, &["postgres", "redshift"])?;
    let section = field.section(reader, if kind == "postgres" { POSTGRES } else { REDSHIFT })?;
    let is_postgres = kind == "postgres";
    let access = if is_postgres {
        let field = section.required(reader, "dsn", "\"${env:WAREHOUSE_DSN}\"");
        field
            .and_then(|field| dsn(&field, reader))
            .map(RedshiftAccess::Dsn)
    } else {
        redshift_access(&section, reader)
    };
    let table = section
        .required(reader, "table", "analytics.events")
        .and_then(|field| table_name(&field, true, reader));
    if is_postgres {
        let Some(RedshiftAccess::Dsn(dsn)) = access else {
            return None;
        };
        return Some(Warehouse::Postgres { dsn, table: table? });
    }
    let sort_key = section.optional("sort_key").map_or(Some(Vec::new()), |field| {
        field.texts(reader, "a list of columns: [event_time]")
    });
    let dist_key = section
        .optional("dist_key")
        .and_then(|field| field.text(reader, "a column"));
    let iam_role = section
        .optional("iam_role")
        .and_then(|field| iam_role(&field, reader));
    // With their faults reported, placeholders let the columns be checked on.
    Some(Warehouse::Redshift {
        access: access.unwrap_or_else(|| RedshiftAccess::Dsn(Secret::new(String::new()))),
        table: table.unwrap_or_default(),
        sort_key: sort_key.unwrap_or_default(),
        dist_key,
        iam_role,
    })
}

fn redshift_access(section: &Section<'_>, reader: &mut Reader<'_>) -> Option<RedshiftAccess> {
    let declared = section.optional("iam");
    match section.exactly_one(reader, &["dsn", "data_api"])? {
        ("dsn", field) => {
            let dsn = dsn(&field, reader);
            let Some(declared) = declared else {
                return dsn.map(RedshiftAccess::Dsn);
            };
            let iam = iam(&declared, dsn.as_ref(), reader);
            Some(RedshiftAccess::Iam { dsn: dsn?, iam: iam? })
        }
        (_, field) => {
            if let Some(declared) = declared {
                let wrong = "`iam` is how a `dsn` logs in: the Data API needs no login";
                reader.fault_of_key(
                    &declared.key,
                    wrong,
                    "leave it out, or `dsn` instead of `data_api`",
                );
            }
            data_api(&field, reader).map(RedshiftAccess::DataApi)
        }
    }
}

/// What is handed to the warehouse at once.
pub(in crate::spec) fn handoff(field: &Field<'_>, reader: &mut Reader<'_>) -> HandoffUnit {
    let units = [("batch", HandoffUnit::Batch), ("job", HandoffUnit::Job)];
    field.choice(reader, &units).unwrap_or_default()
}

/// A connection string. It may hold a password, so no fault quotes it.
pub(super) fn dsn(field: &Field<'_>, reader: &mut Reader<'_>) -> Option<Secret> {
    let right =
        "`postgres://user:password@host:port/database` or `host=... dbname=...`, best as \"${env:NAME}\"";
    let dsn = field.secret(reader, right)?;
    let text = dsn.reveal();
    let is_url = ["postgres://", "postgresql://"]
        .iter()
        .any(|scheme| text.starts_with(scheme));
    if !is_url && (text.contains("://") || !text.contains('=')) {
        reader.fault(&field.key, "this is not a connection string", right);
    }
    Some(dsn)
}

/// `table` or `schema.table`.
pub(super) fn table_name(field: &Field<'_>, with_schema: bool, reader: &mut Reader<'_>) -> Option<String> {
    let right = if with_schema {
        "`schema.table`, each 1 to 63 of a-z, 0-9 and `_`: `analytics.events`"
    } else {
        "`table` or `schema.table`, each 1 to 63 of a-z, 0-9 and `_`"
    };
    let text = field.text(reader, right)?;
    let is_name = |name: &str| {
        (1..=63).contains(&name.len())
            && name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
            && name
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
    };
    let parts: Vec<&str> = text.split('.').collect();
    let sound =
        parts.iter().all(|part| is_name(part)) && (parts.len() == 2 || (parts.len() == 1 && !with_schema));
    if !sound {
        reader.fault(
            &field.key,
            format!("`{}` is not a table's name", reader.shown(&field.key)),
            right,
        );
    }
    sound.then_some(text)
}

fn iam_role(field: &Field<'_>, reader: &mut Reader<'_>) -> Option<String> {
    let right = "`arn:aws:iam::123456789012:role/name`, or `default`";
    let text = field.text(reader, right)?;
    let sound = text == "default"
        || (text.starts_with("arn:aws") && text.contains(":role/") && !text.contains(['\'', '"', ' ']));
    if !sound {
        reader.fault(
            &field.key,
            format!("`{}` is not a role", reader.shown(&field.key)),
            right,
        );
    }
    sound.then_some(text)
}

/// How long things are kept.
pub(in crate::spec) fn retention(field: &Field<'_>, reader: &mut Reader<'_>) -> Retention {
    let Some(section) = field.section(reader, RETENTION) else {
        return Retention::default();
    };
    let mut kept = |name| {
        let field = section.optional(name)?;
        let seconds = field.parsed(reader, units::duration)?;
        if seconds == 0 {
            reader.fault(
                &field.key,
                "nothing would be kept",
                "a duration above zero: `30d`; without the key things are kept for ever",
            );
        }
        Some(seconds)
    };
    Retention {
        lake_seconds: kept("lake"),
        quarantine_seconds: kept("quarantine"),
        warehouse_seconds: kept("warehouse"),
        keys_seconds: kept("keys"),
        replaced_seconds: kept("replaced").unwrap_or(Retention::default().replaced_seconds),
    }
}

/// What a single record may be.
pub(in crate::spec) fn limits(field: &Field<'_>, reader: &mut Reader<'_>) -> Limits {
    let mut limits = Limits::default();
    let Some(section) = field.section(reader, LIMITS) else {
        return limits;
    };
    if let Some(bytes) = section
        .optional("record_bytes")
        .and_then(|field| size_within(&field, RECORD_BYTES, "from 1KiB to 1GiB", reader))
    {
        limits.record_bytes = bytes;
    }
    if let Some(depth) = section
        .optional("depth")
        .and_then(|field| field.number(reader, DEPTH.0, DEPTH.1))
    {
        limits.depth = u32::try_from(depth).unwrap_or(limits.depth);
    }
    limits
}
