//! What the sections must agree on: every column that is named exists and is fit for its use.
//!
//! In: a draft whose sections were read one by one. Out: faults, and the columns that lookups add.
//! What could not be read is left alone here: its fault is known already.

use std::collections::BTreeMap;

use super::draft::{Draft, DraftColumn};
use super::model::{ColumnType, ColumnValue, PartitionLevel, PiiClass, Strategy, Warehouse};
use super::nearest::hint;
use super::reader::Reader;
use super::sections::table::name_faults;

/// Every check, in the order of the file.
pub(super) fn check(draft: &mut Draft, reader: &mut Reader<'_>) {
    add_enriched_columns(draft, reader);
    let draft = &*draft;
    column_names(draft, reader);
    pii_strategies(draft, reader);
    versions(draft, reader);
    enrich_keys(draft, reader);
    enriched_columns(draft, reader);
    dedup(draft, reader);
    hash_key(draft, reader);
    partition(draft, reader);
    warehouse(draft, reader);
    retention(draft, reader);
}

/// A looked-up column is one that the schema declares without `from` and `sql`, with its type and class;
/// one that the schema does not declare is appended as a string.
fn add_enriched_columns(draft: &mut Draft, reader: &mut Reader<'_>) {
    for i in 0..draft.enrich.len() {
        let added = std::mem::take(&mut draft.enrich[i].add);
        for (ours, theirs) in &added {
            let key = format!("{}.add.{ours}", draft.enrich[i].key);
            let value = Some(ColumnValue::Enriched(i, theirs.clone()));
            match draft
                .columns
                .iter_mut()
                .find(|column| column.name.as_deref() == Some(ours))
            {
                None => {
                    name_faults_of_key(&key, ours, reader);
                    draft.columns.push(DraftColumn {
                        key,
                        name: Some(ours.clone()),
                        shown: ours.clone(),
                        kind: Some(ColumnType::String),
                        value,
                        value_faulty: false,
                        required: false,
                        pii: None,
                        description: None,
                    });
                }
                Some(column) if column.value.is_none() && !column.value_faulty => column.value = value,
                Some(column) => {
                    let wrong = format!("`{ours}` has a value already, in `{}`", column.key);
                    reader.fault_of_key(
                        &key,
                        wrong,
                        "another name, or a column of the schema without `from` and `sql`",
                    );
                }
            }
        }
        draft.enrich[i].add = added;
    }
}

fn name_faults_of_key(key: &str, name: &str, reader: &mut Reader<'_>) {
    if !name.is_empty() {
        name_faults(key, name, reader);
    }
}

fn column_names(draft: &Draft, reader: &mut Reader<'_>) {
    let mut first: BTreeMap<&str, &str> = BTreeMap::new();
    for column in &draft.columns {
        let Some(name) = column.name.as_deref() else {
            continue;
        };
        let key = name_key(column);
        if let Some(before) = first.get(name) {
            let wrong = format!("`{}` is a column already, in `{before}`", column.shown);
            reader.fault(&key, wrong, "a name of its own for each column");
            continue;
        }
        first.insert(name, &column.key);
        let by = draft
            .partition
            .as_ref()
            .map(|partition| partition.by.as_slice())
            .unwrap_or_default();
        if let Some((_, level)) = by
            .iter()
            .map(|level| (level, level_name(*level)))
            .find(|(_, level)| *level == name)
        {
            let wrong = format!("`{level}` is a partition column, which stands in the file too");
            reader.fault(
                &key,
                wrong,
                format!("another name, such as `event_{level}`, or `partition.by` without `{level}`"),
            );
        }
    }
}

fn level_name(level: PartitionLevel) -> &'static str {
    match level {
        PartitionLevel::Date => "date",
        PartitionLevel::Hour => "hour",
        PartitionLevel::Source => "source",
    }
}

fn name_key(column: &DraftColumn) -> String {
    if column.key.starts_with("schema") {
        format!("{}.name", column.key)
    } else {
        column.key.clone()
    }
}

/// Every class's strategy must be able to mask the column's type.
fn pii_strategies(draft: &Draft, reader: &mut Reader<'_>) {
    for column in &draft.columns {
        let (Some(class), Some(kind)) = (column.pii, &column.kind) else {
            continue;
        };
        // A privacy section with a fault of its own says nothing about strategies.
        let Some(strategy) = strategy(draft, class) else {
            continue;
        };
        let (does, fits) = match strategy {
            Strategy::Redact | Strategy::Keep => continue,
            Strategy::Hash => (
                "is hashed",
                matches!(kind, ColumnType::String | ColumnType::Int32 | ColumnType::Int64),
            ),
            Strategy::HashKeepDomain => ("is hashed with its domain kept", *kind == ColumnType::String),
            Strategy::Truncate => ("is truncated", *kind == ColumnType::String),
        };
        if !fits {
            let class = reader.shown(&format!("{}.pii", column.key));
            let kind = reader.shown(&format!("{}.type", column.key));
            let wrong = format!("the class `{class}` {does}, which does not fit the type `{kind}`");
            let right = format!(
                "a type that fits (string{}), a class that is redacted (`free_text`), or `privacy.strategies: {{{class}: redact}}`",
                if strategy == Strategy::Hash {
                    ", int32, int64"
                } else {
                    ""
                }
            );
            reader.fault(&format!("{}.pii", column.key), wrong, right);
        }
    }
}

fn strategy(draft: &Draft, class: PiiClass) -> Option<Strategy> {
    match &draft.privacy {
        Some(privacy) => Some(privacy.strategy(class)),
        None if draft.privacy_declared => None,
        None => Some(class.default_strategy()),
    }
}

fn versions(draft: &Draft, reader: &mut Reader<'_>) {
    for (i, version) in draft.versions.iter().enumerate() {
        if version.name.is_some()
            && draft.versions[..i]
                .iter()
                .any(|before| before.name == version.name)
        {
            let key = format!("{}.name", version.key);
            let wrong = format!("`{}` is a version already", reader.shown(&key));
            reader.fault(&key, wrong, "a name of its own for each version");
        }
        for name in version.columns.keys() {
            let key = format!("{}.columns.{name}", version.key);
            let column = known(draft, name, &key, true, reader);
            if column.is_some_and(DraftColumn::is_enriched) {
                reader.fault_of_key(
                    &key,
                    format!("`{name}` is looked up, whatever the version"),
                    "leave it out",
                );
            }
        }
    }
}

fn enrich_keys(draft: &Draft, reader: &mut Reader<'_>) {
    for (i, lookup) in draft.enrich.iter().enumerate() {
        if lookup.name.is_some() && draft.enrich[..i].iter().any(|before| before.name == lookup.name) {
            let key = format!("{}.name", lookup.key);
            let wrong = format!("`{}` is an enrichment already", reader.shown(&key));
            reader.fault(&key, wrong, "a name of its own for each enrichment");
        }
        let Some(ours) = &lookup.ours else { continue };
        let key = format!("{}.key.{ours}", lookup.key);
        let Some(column) = known(draft, ours, &key, true, reader) else {
            continue;
        };
        if column.is_enriched() {
            let right = "a column that comes from the record";
            reader.fault_of_key(&key, format!("`{ours}` is looked up itself"), right);
        }
        if matches!(
            column.kind,
            Some(ColumnType::Json | ColumnType::List(_) | ColumnType::Float64)
        ) {
            let wrong = format!("`{ours}` is of a type that no lookup goes by");
            reader.fault_of_key(
                &key,
                wrong,
                "a column of another type than json, list and float64",
            );
        }
    }
}

/// What a database gives as text of one value becomes every type but a list.
fn enriched_columns(draft: &Draft, reader: &mut Reader<'_>) {
    let is_list = |column: &&DraftColumn| matches!(column.kind, Some(ColumnType::List(_)));
    for column in draft
        .columns
        .iter()
        .filter(|column| column.is_enriched())
        .filter(is_list)
    {
        let key = format!("{}.type", column.key);
        let wrong = format!("`{}` is looked up, and no lookup gives a list", column.shown);
        reader.fault(&key, wrong, "another type; `json` holds lists too");
    }
}

fn dedup(draft: &Draft, reader: &mut Reader<'_>) {
    let Some(dedup) = &draft.dedup else { return };
    for (i, name) in dedup.key.iter().enumerate() {
        let key = item_key("dedup.key", i, dedup.key.len(), reader);
        if dedup.key[..i].contains(name) {
            let wrong = format!("`{}` is in the key already", reader.shown(&key));
            reader.fault(&key, wrong, "each column once");
            continue;
        }
        if known(draft, name, &key, false, reader).is_some_and(DraftColumn::is_enriched) {
            let wrong = format!(
                "`{}` is looked up: an event would get another key when the table changes",
                reader.shown(&key)
            );
            reader.fault(&key, wrong, "columns that come from the record");
        }
    }
}

fn hash_key(draft: &Draft, reader: &mut Reader<'_>) {
    if draft.privacy_declared {
        return; // The section's own reader asks for the key.
    }
    if let Some(column) = draft.columns.iter().find(|column| column.pii.is_some()) {
        let wrong = "personal data is declared, but no key to mask it and to seal the quarantine with";
        let right = "`privacy: {hash_key: \"${env:MILLRACE_HASH_KEY}\"}` beside the schema";
        reader.fault(&format!("{}.pii", column.key), wrong, right);
    }
}

fn partition(draft: &Draft, reader: &mut Reader<'_>) {
    let Some(partition) = &draft.partition else { return };
    if let Some(time) = known(draft, &partition.time, "partition.time", false, reader) {
        let key = "partition.time";
        if time
            .kind
            .as_ref()
            .is_some_and(|kind| *kind != ColumnType::Timestamp)
        {
            let wrong = format!("`{}` is not a timestamp", time.shown);
            reader.fault(
                key,
                wrong,
                format!("a column of type timestamp; `{}` declares another", time.key),
            );
        }
        if !time.required {
            let wrong = format!(
                "`{}` may be null, and a null event time belongs to no hour",
                time.shown
            );
            reader.fault(key, wrong, format!("`required: true` in `{}`", time.key));
        }
        let masked = time
            .pii
            .and_then(|class| strategy(draft, class))
            .is_some_and(|one| one != Strategy::Keep);
        if masked {
            let wrong = format!(
                "`{}` is personal data, and a masked time belongs to no hour",
                time.shown
            );
            reader.fault(key, wrong, "a time without `pii`");
        }
        if time.is_enriched() {
            reader.fault(
                key,
                format!("`{}` is looked up", time.shown),
                "a time that comes from the record",
            );
        }
    }
    let Some(source) = &partition.source else { return };
    if let Some(column) = known(draft, source, "partition.source", false, reader) {
        let no_folder = matches!(
            column.kind,
            Some(
                ColumnType::Float64
                    | ColumnType::Decimal(..)
                    | ColumnType::Timestamp
                    | ColumnType::Json
                    | ColumnType::List(_)
            )
        );
        if no_folder {
            let wrong = format!("`{}` is of a type that gives no folder names", column.shown);
            reader.fault(
                "partition.source",
                wrong,
                "a column of type string, bool, int32, int64 or date, with few values",
            );
        }
    }
}

fn warehouse(draft: &Draft, reader: &mut Reader<'_>) {
    let Some(Warehouse::Redshift {
        sort_key, dist_key, ..
    }) = &draft.warehouse
    else {
        return;
    };
    let above = "warehouse.redshift";
    let sort = sort_key
        .iter()
        .enumerate()
        .map(|(i, name)| (format!("{above}.sort_key"), Some(i), name));
    let all = sort.chain(
        dist_key
            .iter()
            .map(|name| (format!("{above}.dist_key"), None, name)),
    );
    for (key, i, name) in all {
        let key = i.map_or(key.clone(), |i| item_key(&key, i, sort_key.len(), reader));
        let Some(column) = known(draft, name, &key, false, reader) else {
            continue;
        };
        if matches!(column.kind, Some(ColumnType::Json | ColumnType::List(_))) {
            let wrong = format!(
                "`{}` becomes a SUPER column, which Redshift takes for no key",
                column.shown
            );
            reader.fault(&key, wrong, "a column of another type than json and list");
        }
    }
}

/// A repeat whose keys have left is a new event: it must not meet its first copy.
fn key_retention(draft: &Draft, reader: &mut Reader<'_>) {
    let kept = draft.retention;
    let Some(keys) = kept.keys_seconds else { return };
    for (name, seconds, is_kept) in [
        ("lake", kept.lake_seconds, true),
        ("warehouse", kept.warehouse_seconds, draft.warehouse_declared),
    ] {
        let key = format!("retention.{name}");
        let right = format!("at least what `{key}` says: a repeat would be written beside its first copy");
        match seconds {
            Some(seconds) if seconds > keys => {
                let (ours, theirs) = (reader.shown("retention.keys"), reader.shown(&key));
                let wrong = format!("`{ours}` is shorter than the {name}'s `{theirs}`");
                reader.fault("retention.keys", wrong, right);
            }
            None if is_kept => {
                let ours = reader.shown("retention.keys");
                let wrong = format!("`{ours}`, and the {name} keeps its rows for ever: there is no `{key}`");
                reader.fault("retention.keys", wrong, right);
            }
            Some(_) | None => {}
        }
    }
}

/// The lake is what the warehouse is loaded from and what the quarantine is redriven into.
fn retention(draft: &Draft, reader: &mut Reader<'_>) {
    key_retention(draft, reader);
    let kept = draft.retention;
    let Some(lake) = kept.lake_seconds else { return };
    for (name, seconds) in [
        ("quarantine", kept.quarantine_seconds),
        ("warehouse", kept.warehouse_seconds),
    ] {
        if seconds.is_some_and(|seconds| seconds > lake) {
            let key = format!("retention.{name}");
            let wrong = format!(
                "`{}` is longer than the lake's `{}`",
                reader.shown(&key),
                reader.shown("retention.lake")
            );
            reader.fault(
                &key,
                wrong,
                "at most what `retention.lake` says: the lake is what the rest is made from",
            );
        }
    }
    let lateness = draft
        .partition
        .as_ref()
        .map_or(0, |partition| partition.lateness_seconds);
    if lake > 0 && lake < lateness {
        let wrong = "events that count as in time would be removed as they arrive";
        reader.fault("retention.lake", wrong, "more than `partition.lateness`");
    }
}

/// The column of a name; a fault if there is none.
fn known<'d>(
    draft: &'d Draft,
    name: &str,
    key: &str,
    is_key: bool,
    reader: &mut Reader<'_>,
) -> Option<&'d DraftColumn> {
    let found = draft.column(name);
    if found.is_none() && !draft.has_nameless() && !draft.columns.is_empty() {
        let names = draft.columns.iter().map(|column| column.shown.as_str());
        let given = if is_key {
            name.to_owned()
        } else {
            reader.shown(key)
        };
        let all: Vec<&str> = names.clone().take(12).collect();
        let more = if draft.columns.len() > all.len() {
            ", ..."
        } else {
            ""
        };
        let right = format!("{}columns are {}{more}", hint(&given, names), all.join(", "));
        let wrong = format!("`{given}` is not a column");
        if is_key {
            reader.fault_of_key(key, wrong, right);
        } else {
            reader.fault(key, wrong, right);
        }
    }
    found
}

/// The key of an item of a list, or of the one text that stands for the list.
fn item_key(list: &str, i: usize, len: usize, reader: &Reader<'_>) -> String {
    let key = format!("{list}[{i}]");
    if len > 1 || reader.has(&key) {
        key
    } else {
        list.to_owned()
    }
}
