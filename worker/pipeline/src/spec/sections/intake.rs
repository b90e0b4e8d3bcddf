//! `source`: where events come from.

use std::collections::BTreeMap;
use std::path::Path;

use super::{absolute, endpoint, s3_url};
use crate::source::kafka::RESERVED;
use crate::spec::fields::{Field, Section};
use crate::spec::model::{Format, Source};
use crate::spec::reader::Reader;

pub(in crate::spec) const SOURCE: &[&str] = &["files", "s3", "kafka"];
pub(in crate::spec) const FILES: &[&str] = &["path", "format"];
pub(in crate::spec) const S3: &[&str] = &["url", "format", "endpoint", "region"];
pub(in crate::spec) const KAFKA: &[&str] = &["brokers", "topic", "format", "client_rack", "options"];

const FORMATS: [(&str, Format); 4] = [
    ("json", Format::Json),
    ("csv", Format::Csv),
    ("avro", Format::Avro),
    ("parquet", Format::Parquet),
];

/// Exactly one of `files`, `s3` and `kafka`.
pub(in crate::spec) fn source(field: &Field<'_>, base_dir: &Path, reader: &mut Reader<'_>) -> Option<Source> {
    let section = field.section(reader, SOURCE)?;
    let (kind, field) = section.exactly_one(reader, &["files", "s3", "kafka"])?;
    match kind {
        "files" => files(&field, base_dir, reader),
        "s3" => s3(&field, reader),
        _ => kafka(&field, reader),
    }
}

fn format(section: &Section<'_>, reader: &mut Reader<'_>) -> Option<Format> {
    section
        .required(reader, "format", "json")?
        .choice(reader, &FORMATS)
}

fn files(field: &Field<'_>, base_dir: &Path, reader: &mut Reader<'_>) -> Option<Source> {
    let section = field.section(reader, FILES)?;
    let path = section
        .required(reader, "path", "events/")
        .and_then(|field| file_path(&field, base_dir, reader));
    let format = format(&section, reader);
    Some(Source::Files {
        path: path?,
        format: format?,
    })
}

fn file_path(field: &Field<'_>, base_dir: &Path, reader: &mut Reader<'_>) -> Option<String> {
    let right = "a file, a folder or a glob on this machine: `events/` or `events/*.json.gz`";
    let text = field.text(reader, right)?;
    if text.contains("://") {
        let wrong = format!("`{}` is a URL", reader.shown(&field.key));
        reader.fault(
            &field.key,
            wrong,
            format!("{right}; a bucket is `source: {{s3: {{url: ...}}}}`"),
        );
        return None;
    }
    if let Err(error) = glob::Pattern::new(&text) {
        reader.fault(&field.key, format!("this is not a glob: {}", error.msg), right);
        return None;
    }
    Some(absolute(base_dir, &text).to_string_lossy().into_owned())
}

fn s3(field: &Field<'_>, reader: &mut Reader<'_>) -> Option<Source> {
    let section = field.section(reader, S3)?;
    let url = section
        .required(reader, "url", "s3://bucket/prefix/")
        .and_then(|field| {
            let text = field.text(reader, "`s3://bucket/prefix/`")?;
            // A prefix that ends in a slash is a folder: the slash stays.
            s3_url(&field, &text, reader).map(|_| text)
        });
    let format = format(&section, reader);
    let endpoint = section
        .optional("endpoint")
        .and_then(|field| endpoint(&field, reader));
    let region = section
        .optional("region")
        .and_then(|field| field.text(reader, "`eu-central-1`"));
    Some(Source::S3 {
        url: url?,
        format: format?,
        endpoint,
        region,
    })
}

fn kafka(field: &Field<'_>, reader: &mut Reader<'_>) -> Option<Source> {
    let section = field.section(reader, KAFKA)?;
    let brokers = section
        .required(reader, "brokers", "[\"127.0.0.1:9092\"]")
        .and_then(|field| brokers(&field, reader));
    let topic = section
        .required(reader, "topic", "events")
        .and_then(|field| topic(&field, reader));
    let format = format(&section, reader);
    if matches!(format, Some(Format::Parquet | Format::Csv | Format::Avro)) {
        let key = format!("{}.format", field.key);
        let wrong = format!(
            "a Kafka message is one record, and `{}` is a format of files",
            reader.shown(&key)
        );
        reader.fault(&key, wrong, "`json`");
    }
    let client_rack = section
        .optional("client_rack")
        .and_then(|field| field.text(reader, "the `broker.rack` to read from: `eu-central-1a`"));
    let options = match section.optional("options") {
        Some(field) => options(&field, reader),
        None => Some(BTreeMap::new()),
    };
    Some(Source::Kafka {
        brokers: brokers?,
        topic: topic?,
        format: format?,
        client_rack,
        options: options?,
    })
}

fn brokers(field: &Field<'_>, reader: &mut Reader<'_>) -> Option<Vec<String>> {
    let right = "a list of `host:port`: [\"127.0.0.1:9092\"]";
    let brokers = field.texts(reader, right)?;
    if brokers.is_empty() {
        reader.fault(&field.key, "the list is empty", right);
        return None;
    }
    let mut sound = true;
    for (i, broker) in brokers.iter().enumerate() {
        let port = broker
            .rsplit_once(':')
            .filter(|(host, _)| !host.is_empty() && !host.contains(['/', ',', ' ']));
        if !port.is_some_and(|(_, port)| port.parse::<u16>().is_ok_and(|port| port > 0)) {
            let key = field.key_of_text(i);
            reader.fault(
                &key,
                format!("`{}` is not a broker", reader.shown(&key)),
                "`host:port`",
            );
            sound = false;
        }
    }
    sound.then_some(brokers)
}

fn topic(field: &Field<'_>, reader: &mut Reader<'_>) -> Option<String> {
    let right = "1 to 249 letters, digits, `.`, `_` and `-`";
    let topic = field.text(reader, right)?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let sound = topic.len() <= 249 && topic.bytes().all(is_plain) && topic != "." && topic != "..";
    if !sound {
        reader.fault(
            &field.key,
            format!("`{}` is not a topic", reader.shown(&field.key)),
            right,
        );
    }
    sound.then_some(topic)
}

fn options(field: &Field<'_>, reader: &mut Reader<'_>) -> Option<BTreeMap<String, String>> {
    let entries = field.entries(reader, "a map of librdkafka options: {security.protocol: ssl}")?;
    let mut options = BTreeMap::new();
    for (name, option) in entries {
        if let Some((_, why)) = RESERVED.iter().find(|(reserved, _)| *reserved == name) {
            reader.fault_of_key(
                &option.key,
                format!("Millrace sets this option itself: {why}"),
                "leave the option out",
            );
        }
        if let Some(value) = option.scalar(reader, "a text, number or truth value") {
            options.insert(name, value);
        }
    }
    Some(options)
}
