//! SQL expressions: planned by `map` as it will run them, faults placed here.
//!
//! A draft with faults elsewhere is planned all the same, so that one report holds both kinds; only a
//! table that could not be read whole is left alone, since each of its gaps would look like a fault.

use std::collections::{BTreeMap, BTreeSet};

use super::draft::Draft;
use super::model::{
    Compression, Enrich, Format, HandoffUnit, Lake, Limits, OnDown, Partition, Pipeline, Privacy, Retention,
    Secret, Source, Version,
};
use super::reader::Reader;
use crate::map::{ExpressionFault, ExpressionPlace, expression_faults};

/// Reports every expression that does not plan.
pub(super) fn check(draft: &Draft, reader: &mut Reader<'_>) {
    let Some((pipeline, version_keys)) = stand_in(draft) else {
        return;
    };
    for ExpressionFault { place, wrong, right } in expression_faults(&pipeline) {
        let key = match place {
            ExpressionPlace::Column(i) => draft.columns.get(i).map(|column| format!("{}.sql", column.key)),
            ExpressionPlace::VersionWhen(i) => version_keys.get(i).map(|key| format!("{key}.when.sql")),
            ExpressionPlace::VersionColumn(i, name) => {
                version_keys.get(i).map(|key| format!("{key}.columns.{name}.sql"))
            }
        };
        let key = key.unwrap_or_default();
        if reader.shown(&key).contains("${") {
            // The planner quotes the expression, and this one holds what the environment said.
            reader.fault(
                &key,
                "this expression does not plan",
                "an expression over the columns above it",
            );
        } else {
            reader.fault(&key, wrong, right);
        }
    }
}

/// The table and its versions in a pipeline whose other parts mean nothing, and the versions' keys.
fn stand_in(draft: &Draft) -> Option<(Pipeline, Vec<&str>)> {
    let columns: Vec<_> = draft
        .columns
        .iter()
        .map(|column| column.clone().finish())
        .collect::<Option<_>>()?;
    let names: BTreeSet<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    if names.len() < columns.len() || columns.is_empty() {
        return None;
    }
    let is_known = |version: &Version| version.columns.keys().all(|name| names.contains(name.as_str()));
    let sound = draft
        .versions
        .iter()
        .filter_map(|draft| Some((draft.key.as_str(), draft.clone().finish()?)));
    let (version_keys, versions) = sound.filter(|(_, version)| is_known(version)).unzip();
    let pipeline = Pipeline {
        name: String::from("stand-in").try_into().ok()?,
        source: Source::Files {
            path: String::new(),
            format: Format::Json,
        },
        enrich: lookups(draft),
        columns,
        versions,
        quality: None,
        dedup: None,
        privacy: Privacy::default(),
        partition: Partition {
            time: String::new(),
            by: Vec::new(),
            source: None,
            lateness_seconds: 0,
        },
        lake: Lake {
            url: String::new(),
            endpoint: None,
            region: None,
            file_bytes: 0,
            compression: Compression::None,
        },
        warehouse: None,
        handoff: HandoffUnit::Batch,
        retention: Retention::default(),
        limits: Limits::default(),
        marts: Vec::new(),
        digest: String::new(),
    };
    Some((pipeline, version_keys))
}

/// As many lookups as the draft has: looked-up columns refer to them by position.
fn lookups(draft: &Draft) -> Vec<Enrich> {
    let lookup = |one: &super::draft::DraftEnrich| Enrich {
        name: one.name.clone().unwrap_or_default(),
        dsn: Secret::new(String::new()),
        table: String::new(),
        key: (one.ours.clone().unwrap_or_default(), String::new()),
        add: BTreeMap::new(),
        refresh_seconds: None,
        on_down: OnDown::default(),
        max_age_seconds: None,
    };
    draft.enrich.iter().map(lookup).collect()
}
