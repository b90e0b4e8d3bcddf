//! `enrich`, `quality`, `dedup` and `privacy`: what happens to rows.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value as Json;

use super::{ReadFile, absolute};
use crate::spec::draft::DraftEnrich;
use crate::spec::fields::{Field, Section};
use crate::spec::model::{
    Dedup, DedupScope, Enrich, OnBreach, OnDown, PiiClass, Privacy, Quality, Secret, Strategy,
};
use crate::spec::reader::Reader;
use crate::spec::sections::outlet::{dsn, table_name};
use crate::spec::sections::table::CLASSES;
use crate::spec::units;

pub(in crate::spec) const ENRICH: &[&str] = &["name", "from", "key", "add", "refresh", "on_down", "max_age"];
pub(in crate::spec) const ENRICH_FROM: &[&str] = &["postgres"];
pub(in crate::spec) const ENRICH_POSTGRES: &[&str] = &["dsn", "table"];
pub(in crate::spec) const QUALITY: &[&str] = &["suite", "minimum_clean", "on_breach", "parameters"];
pub(in crate::spec) const DEDUP: &[&str] = &["key", "scope"];
pub(in crate::spec) const PRIVACY: &[&str] = &["clear_in", "hash_key", "strategies"];

/// Shortest key of the hashes and of the quarantine's cipher, in bytes.
const HASH_KEY_BYTES_MIN: usize = 16;

/// Lookups.
pub(in crate::spec) fn enrich(field: &Field<'_>, reader: &mut Reader<'_>) -> Vec<DraftEnrich> {
    let right = "a list: [{name: customers, from: {postgres: {dsn: ..., table: customers}}, key: {customer_id: id}, add: {segment: segment}}]";
    let Some(items) = field.list(reader, right) else {
        return Vec::new();
    };
    items.iter().map(|item| lookup(item, reader)).collect()
}

fn lookup(field: &Field<'_>, reader: &mut Reader<'_>) -> DraftEnrich {
    let mut draft = DraftEnrich {
        key: field.key.clone(),
        name: None,
        ours: None,
        add: BTreeMap::new(),
        enrich: None,
    };
    let Some(section) = field.section(reader, ENRICH) else {
        return draft;
    };
    draft.name = section
        .required(reader, "name", "customers")
        .and_then(|field| field.text(reader, "a name"));
    let from = section
        .required(reader, "from", "{postgres: {dsn: ..., table: customers}}")
        .and_then(|field| {
            let from = field.section(reader, ENRICH_FROM)?;
            let postgres = from.required(reader, "postgres", "{dsn: ..., table: customers}")?;
            lookup_table(&postgres, reader)
        });
    let right = "{our_column: their_column}";
    let key = section.required(reader, "key", right).and_then(|field| {
        let mut pairs = column_pairs(&field, right, reader)?.into_iter();
        let (first, second) = (pairs.next(), pairs.next());
        if first.is_none() || second.is_some() {
            reader.fault(&field.key, "a lookup goes by exactly one column", right);
        }
        first
    });
    draft.ours = key.as_ref().map(|(ours, _)| ours.clone());
    let add = section.required(reader, "add", right).and_then(|field| {
        let pairs = column_pairs(&field, right, reader)?;
        if pairs.is_empty() {
            reader.fault(&field.key, "a lookup that adds nothing", right);
        }
        Some(pairs)
    });
    draft.add = add.clone().unwrap_or_default();
    let refresh_seconds = section
        .optional("refresh")
        .and_then(|field| field.parsed(reader, units::duration));
    let on_down = section
        .optional("on_down")
        .and_then(|field| field.choice(reader, &[("last", OnDown::Last), ("wait", OnDown::Wait)]))
        .unwrap_or_default();
    let max_age_seconds = max_age(&section, refresh_seconds, on_down, reader);
    if let (Some(name), Some((dsn, table)), Some(key), Some(add)) = (draft.name.clone(), from, key, add) {
        draft.enrich = Some(Enrich {
            name,
            dsn,
            table,
            key,
            add,
            refresh_seconds,
            on_down,
            max_age_seconds,
        });
    }
    draft
}

/// The age at which the last snapshot is alarmed: one that can be reached, and only when the database is down.
fn max_age(
    section: &Section<'_>,
    refresh_seconds: Option<u64>,
    on_down: OnDown,
    reader: &mut Reader<'_>,
) -> Option<u64> {
    let field = section.optional("max_age")?;
    let seconds = field.parsed(reader, units::duration)?;
    if on_down == OnDown::Wait {
        let wrong = "with `on_down: wait` no batch uses a snapshot that is older than `refresh`";
        reader.fault_of_key(&field.key, wrong, "leave it out, or `on_down: last`");
    } else if refresh_seconds.is_some_and(|refresh| seconds < refresh) {
        let wrong = format!(
            "`{}` is less than `refresh`: the alarm would sound while all is well",
            reader.shown(&field.key)
        );
        reader.fault(&field.key, wrong, "at least what `refresh` says");
    }
    Some(seconds)
}

fn lookup_table(field: &Field<'_>, reader: &mut Reader<'_>) -> Option<(Secret, String)> {
    let section = field.section(reader, ENRICH_POSTGRES)?;
    let dsn = section
        .required(reader, "dsn", "\"${env:CUSTOMERS_DSN}\"")
        .and_then(|field| dsn(&field, reader));
    let table = section
        .required(reader, "table", "customers")
        .and_then(|field| table_name(&field, false, reader));
    Some((dsn?, table?))
}

fn column_pairs(field: &Field<'_>, right: &str, reader: &mut Reader<'_>) -> Option<BTreeMap<String, String>> {
    let entries = field.entries(reader, right)?;
    let pairs = entries
        .iter()
        .map(|(ours, field)| Some((ours.clone(), field.text(reader, "a column there")?)));
    pairs.collect::<Vec<_>>().into_iter().collect()
}

/// Expectations.
pub(in crate::spec) fn quality(
    field: &Field<'_>,
    base_dir: &Path,
    read: ReadFile<'_>,
    reader: &mut Reader<'_>,
) -> Option<Quality> {
    let section = field.section(reader, QUALITY)?;
    let suite = section
        .required(reader, "suite", "suites/github.json")
        .and_then(|field| {
            let path = absolute(base_dir, &field.text(reader, "a file: `suites/github.json`")?);
            let text = suite_text(&field, read(&path), reader)?;
            Some((path.to_string_lossy().into_owned(), text))
        });
    let minimum_clean = section
        .optional("minimum_clean")
        .map_or(Some(0.0), |field| share(&field, reader));
    let breach = [
        ("hold", OnBreach::Hold),
        ("fail", OnBreach::Fail),
        ("warn", OnBreach::Warn),
    ];
    let on_breach = section
        .optional("on_breach")
        .map_or(Some(OnBreach::Hold), |field| field.choice(reader, &breach));
    let parameters = match section.optional("parameters") {
        Some(field) => {
            field.entries(reader, "a map of parameter names and values")?;
            field.json(reader)
        }
        None => Some(Json::Object(serde_json::Map::new())),
    };
    let (suite, suite_text) = suite?;
    let Json::Object(parameters) = parameters? else {
        return None;
    };
    Some(Quality {
        suite,
        suite_text,
        minimum_clean: minimum_clean?,
        on_breach: on_breach?,
        parameters,
    })
}

/// The suite's text, if it is one; what its expectations say is for `quality` to judge.
fn suite_text(field: &Field<'_>, text: std::io::Result<String>, reader: &mut Reader<'_>) -> Option<String> {
    let right =
        "a Great Expectations suite: {\"name\": ..., \"expectations\": [{\"type\": ..., \"kwargs\": {...}}]}";
    let shown = reader.shown(&field.key);
    let text = match text {
        Ok(text) => text,
        Err(error) => {
            let right = "a file that can be read; the path is relative to the pipeline file";
            reader.fault(&field.key, format!("`{shown}` cannot be read: {error}"), right);
            return None;
        }
    };
    let suite: Json = match serde_json::from_str(text.trim_start_matches('\u{feff}')) {
        Ok(suite) => suite,
        Err(error) => {
            reader.fault(&field.key, format!("`{shown}` is not JSON: {error}"), right);
            return None;
        }
    };
    let Some(expectations) = suite.get("expectations").and_then(Json::as_array) else {
        reader.fault(
            &field.key,
            format!("`{shown}` is not a suite: it has no list `expectations`"),
            right,
        );
        return None;
    };
    let is_expectation = |one: &Json| {
        let kind = one.get("type").or_else(|| one.get("expectation_type"));
        kind.is_some_and(Json::is_string) && one.get("kwargs").is_none_or(Json::is_object)
    };
    let before = expectations.iter().take_while(|one| is_expectation(one)).count();
    if before < expectations.len() {
        let wrong = format!(
            "`{shown}` is not a suite: `expectations[{before}]` has no `type`, or `kwargs` that is no map"
        );
        reader.fault(&field.key, wrong, right);
        return None;
    }
    Some(text)
}

fn share(field: &Field<'_>, reader: &mut Reader<'_>) -> Option<f64> {
    let right = "a number from 0 to 1: `0.995` for 99.5%";
    let share = field
        .scalar(reader, right)?
        .parse::<f64>()
        .ok()
        .filter(|share| (0.0..=1.0).contains(share));
    if share.is_none() {
        reader.fault(
            &field.key,
            format!("`{}` is not a share", reader.shown(&field.key)),
            right,
        );
    }
    share
}

/// Deduplication.
pub(in crate::spec) fn dedup(field: &Field<'_>, reader: &mut Reader<'_>) -> Option<Dedup> {
    let section = field.section(reader, DEDUP)?;
    let right = "a column or a list of columns: [event_id]";
    let key = section.required(reader, "key", "[event_id]").and_then(|field| {
        let key = field.texts(reader, right)?;
        if key.is_empty() {
            reader.fault(&field.key, "the key has no columns", right);
        }
        Some(key)
    });
    let scopes = [
        ("global", DedupScope::Global),
        ("partition", DedupScope::Partition),
    ];
    let scope = section
        .optional("scope")
        .map_or(Some(DedupScope::Global), |field| field.choice(reader, &scopes));
    Some(Dedup {
        key: key?,
        scope: scope.unwrap_or(DedupScope::Global), // Its fault is reported; the columns are checked on.
    })
}

/// Masking.
pub(in crate::spec) fn privacy(field: &Field<'_>, reader: &mut Reader<'_>) -> Option<Privacy> {
    let section = field.section(reader, PRIVACY)?;
    let clear_in = section.optional("clear_in").map_or(Some(Vec::new()), |field| {
        field.texts(reader, "a list of environments: [prod]")
    });
    let right = "\"${env:MILLRACE_HASH_KEY}\"";
    // Also without personal columns: it seals the quarantine, where whole records stand.
    let hash_key = section.required(reader, "hash_key", right).and_then(|field| {
        let key = field.secret(reader, right)?;
        if key.reveal().len() < HASH_KEY_BYTES_MIN {
            let wrong = "the key is too short to keep anyone from trying them all";
            reader.fault(
                &field.key,
                wrong,
                format!("at least {HASH_KEY_BYTES_MIN} random bytes: `openssl rand -hex 32`"),
            );
        }
        Some(key)
    });
    let strategies = match section.optional("strategies") {
        Some(field) => strategies(&field, reader),
        None => Some(BTreeMap::new()),
    };
    Some(Privacy {
        clear_in: clear_in?,
        hash_key,
        strategies: strategies?,
    })
}

/// The words for strategies.
pub(in crate::spec) const STRATEGIES: [(&str, Strategy); 5] = [
    ("hash", Strategy::Hash),
    ("hash_keep_domain", Strategy::HashKeepDomain),
    ("truncate", Strategy::Truncate),
    ("redact", Strategy::Redact),
    ("keep", Strategy::Keep),
];

fn strategies(field: &Field<'_>, reader: &mut Reader<'_>) -> Option<BTreeMap<PiiClass, Strategy>> {
    let names: Vec<&str> = CLASSES.iter().map(|(name, _)| *name).collect();
    let section = field.section(reader, &names)?;
    let mut strategies = BTreeMap::new();
    for (name, class) in CLASSES {
        let Some(field) = section.optional(name) else {
            continue;
        };
        let Some(strategy) = field.choice(reader, &STRATEGIES) else {
            continue;
        };
        let fits = match strategy {
            Strategy::Hash | Strategy::Redact | Strategy::Keep => true,
            Strategy::HashKeepDomain => class == PiiClass::Email,
            Strategy::Truncate => class == PiiClass::Ip,
        };
        if fits {
            strategies.insert(class, strategy);
        } else {
            let wrong = format!("`{}` does not fit the class `{name}`", reader.shown(&field.key));
            let right = match class {
                PiiClass::Email => "hash, hash_keep_domain, redact or keep",
                PiiClass::Ip => "hash, truncate, redact or keep",
                PiiClass::Name | PiiClass::Phone | PiiClass::Id | PiiClass::FreeText => {
                    "hash, redact or keep"
                }
            };
            reader.fault(&field.key, wrong, right);
        }
    }
    Some(strategies)
}
