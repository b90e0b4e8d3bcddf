//! One reader a section of the file. Each reads what it alone can judge; what two sections must agree on
//! is for [`super::check`].

mod data_api;
mod dsn;
mod iam;
pub(super) mod intake;
pub(super) mod marts;
pub(super) mod outlet;
pub(super) mod rules;
pub(super) mod table;

use std::path::Path;

use millrace_proto::ids::PipelineName;

use self::intake::source;
use self::marts::models;
use self::outlet::{handoff, lake, limits, partition, retention, warehouse};
use self::rules::{dedup, enrich, privacy, quality};
use self::table::{schema, versions};
use super::draft::Draft;
use super::fields::Field;
use super::reader::Reader;

/// The keys of a file.
pub(super) const ROOT: &[&str] = &[
    "version",
    "pipeline",
    "source",
    "schema",
    "versions",
    "enrich",
    "quality",
    "dedup",
    "privacy",
    "partition",
    "lake",
    "warehouse",
    "handoff",
    "models",
    "retention",
    "limits",
];

/// Reads a text file for a section; the path is absolute.
pub(super) type ReadFile<'a> = &'a dyn Fn(&Path) -> std::io::Result<String>;

/// Everything, as far as it can be read.
pub(super) fn pipeline(
    root: &Field<'_>,
    base_dir: &Path,
    read: ReadFile<'_>,
    reader: &mut Reader<'_>,
) -> Draft {
    let mut draft = Draft::default();
    let Some(file) = root.section(reader, ROOT) else {
        return draft;
    };
    if let Some(field) = file.required(reader, "version", "1") {
        version(&field, reader);
    }
    if let Some(field) = file.required(reader, "pipeline", "a name") {
        draft.name = name(&field, reader);
    }
    if let Some(field) = file.required(reader, "source", "{files: {path: events/, format: json}}") {
        draft.source = source(&field, base_dir, reader);
    }
    if let Some(field) = file.required(
        reader,
        "schema",
        "[{name: event_id, type: string, required: true}, ...]",
    ) {
        draft.columns = schema(&field, reader);
    }
    draft.versions = file
        .optional("versions")
        .map(|field| versions(&field, reader))
        .unwrap_or_default();
    draft.enrich = file
        .optional("enrich")
        .map(|field| enrich(&field, reader))
        .unwrap_or_default();
    draft.quality = file
        .optional("quality")
        .and_then(|field| quality(&field, base_dir, read, reader));
    draft.dedup = file.optional("dedup").and_then(|field| dedup(&field, reader));
    if let Some(field) = file.optional("privacy") {
        draft.privacy_declared = true;
        draft.privacy = privacy(&field, reader);
    }
    if let Some(field) = file.required(reader, "partition", "{time: event_time, by: [date, hour]}") {
        draft.partition = partition(&field, reader);
    }
    if let Some(field) = file.required(reader, "lake", "{url: ./lake}") {
        draft.lake = lake(&field, base_dir, reader);
    }
    draft.warehouse = file
        .optional("warehouse")
        .and_then(|field| warehouse(&field, reader));
    draft.warehouse_declared = file.optional("warehouse").is_some();
    draft.marts = file
        .optional("models")
        .map(|field| models(&field, base_dir, read, reader))
        .unwrap_or_default();
    if let Some(field) = file.optional("handoff") {
        draft.handoff = handoff(&field, reader);
        if file.optional("warehouse").is_none() {
            let wrong = "the file has no `warehouse` that batches could be handed to";
            reader.fault(&field.key, wrong, "a `warehouse`, or no `handoff`");
        }
    }
    draft.retention = file
        .optional("retention")
        .map(|field| retention(&field, reader))
        .unwrap_or_default();
    draft.limits = file
        .optional("limits")
        .map(|field| limits(&field, reader))
        .unwrap_or_default();
    draft
}

fn version(field: &Field<'_>, reader: &mut Reader<'_>) {
    if let Some(text) = field.scalar(reader, "`version: 1`")
        && text != "1"
    {
        let wrong = format!(
            "`{}` is not a version of this format that is known here",
            reader.shown(&field.key)
        );
        reader.fault(&field.key, wrong, "`version: 1`");
    }
}

fn name(field: &Field<'_>, reader: &mut Reader<'_>) -> Option<PipelineName> {
    let right = "1 to 63 of a-z, 0-9, `-` and `_`, starting with a letter or a digit";
    let text = field.scalar(reader, right)?;
    let name = PipelineName::try_from(text).ok();
    if name.is_none() {
        reader.fault(
            &field.key,
            format!("`{}` is not a pipeline name", reader.shown(&field.key)),
            right,
        );
    }
    name
}

/// A path of the file made absolute: `.` and `..` are taken out by their text, without asking the disk.
pub(super) fn absolute(base_dir: &Path, path: &str) -> std::path::PathBuf {
    let mut absolute = std::path::PathBuf::new();
    for part in base_dir.join(path).components() {
        match part {
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir => {
                absolute.pop();
            }
            std::path::Component::Prefix(_)
            | std::path::Component::RootDir
            | std::path::Component::Normal(_) => {
                absolute.push(part);
            }
        }
    }
    absolute
}

/// An endpoint of an S3-compatible server.
fn endpoint(field: &Field<'_>, reader: &mut Reader<'_>) -> Option<String> {
    let right = "`http://host:port` or `https://host`; credentials come from the environment";
    let text = field.text(reader, right)?;
    let sound = url::Url::parse(&text).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
    });
    if !sound {
        reader.fault(&field.key, "this is not an endpoint", right);
    }
    sound.then_some(text)
}

/// `s3://bucket/prefix`, without a slash at its end.
fn s3_url(field: &Field<'_>, text: &str, reader: &mut Reader<'_>) -> Option<String> {
    let bucket = text
        .strip_prefix("s3://")
        .map(|rest| rest.split('/').next().unwrap_or_default());
    let sound = bucket.is_some_and(|bucket| {
        (3..=63).contains(&bucket.len())
            && bucket
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'))
            && bucket.starts_with(|c: char| c.is_ascii_alphanumeric())
            && bucket.ends_with(|c: char| c.is_ascii_alphanumeric())
    });
    if sound {
        return Some(text.trim_end_matches('/').to_owned());
    }
    let wrong = format!("`{}` does not name a bucket", reader.shown(&field.key));
    reader.fault(
        &field.key,
        wrong,
        "`s3://bucket/prefix` with a bucket of 3 to 63 of a-z, 0-9, `-` and `.`",
    );
    None
}
