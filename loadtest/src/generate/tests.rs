//! Lines against ledger, with `serde_json` as the oracle of what a line says.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

use super::broken::Damage;
use super::event::{CHANNELS, KINDS};
use super::files::{Compress, GenerateError, Output, generate};
use super::plan::Recipe;
use crate::ledger::{Entry, Ledger, Sent};

const COLUMNS: [&str; 14] = [
    "event_id",
    "event_time",
    "user_id",
    "session_id",
    "email",
    "ip",
    "event_type",
    "channel",
    "product_id",
    "price",
    "quantity",
    "country",
    "url",
    "user_agent",
];

/// An event as a strict consumer reads it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)] // some fields are there for their type only
struct Strict {
    event_id: String,
    event_time: String,
    user_id: i64,
    session_id: String,
    email: Option<String>,
    ip: std::net::IpAddr,
    event_type: String,
    channel: String,
    product_id: Option<String>,
    price: Option<f64>,
    quantity: Option<i32>,
    country: String,
    url: String,
    user_agent: String,
}

fn output(folder: &Path, files: usize, compress: Compress, threads: usize) -> Output {
    Output {
        folder: folder.to_owned(),
        files,
        compress,
        threads,
        overwrite: false,
    }
}

/// Everything sent: each line with its entry.
fn sent(recipe: &Recipe) -> (Vec<(Vec<u8>, Entry)>, Sent) {
    let folder = TempDir::new().unwrap();
    let sent = generate(recipe, &output(folder.path(), 2, Compress::None, 2)).unwrap();
    let texts: Vec<Vec<u8>> = sent
        .files
        .iter()
        .map(|file| std::fs::read(folder.path().join("events").join(&file.name)).unwrap())
        .collect();
    let mut lines = Vec::new();
    let each = |line: crate::ledger::Line| {
        let start = line.offset as usize;
        let text = &texts[line.file][start..start + line.entry.bytes as usize];
        assert_eq!(text.last(), Some(&b'\n'));
        let text = text[..text.len() - 1].to_vec();
        assert!(!text.contains(&b'\n'), "a record must stay one line");
        lines.push((text, line.entry));
    };
    Ledger::open(folder.path()).unwrap().for_each(each).unwrap();
    assert_eq!(
        texts.iter().map(Vec::len).sum::<usize>() as u64,
        sent.counts.bytes
    );
    (lines, sent)
}

#[test]
fn same_seed_same_bytes_whatever_the_threads() {
    let recipe = Recipe {
        events: 30_000,
        seed: 5,
        ..Recipe::default()
    };
    let bytes = |recipe: &Recipe, threads| {
        let folder = TempDir::new().unwrap();
        let sent = generate(recipe, &output(folder.path(), 3, Compress::None, threads)).unwrap();
        let mut bytes = std::fs::read(Ledger::entries_path(folder.path())).unwrap();
        for file in sent.files {
            bytes.extend(std::fs::read(folder.path().join("events").join(file.name)).unwrap());
        }
        bytes
    };
    let one = bytes(&recipe, 1);
    assert!(one == bytes(&recipe, 4), "threads changed the bytes");
    assert!(
        one != bytes(&Recipe { seed: 6, ..recipe }, 1),
        "the seed changes nothing"
    );
}

#[test]
fn a_good_line_is_a_complete_event_that_every_expectation_accepts() {
    let (lines, _) = sent(&Recipe {
        events: 20_000,
        ..Recipe::default()
    });
    for (text, entry) in lines.iter().filter(|(_, entry)| entry.damage.is_none()) {
        let value: Value = serde_json::from_slice(text).unwrap();
        assert!(value.as_object().unwrap().keys().eq(COLUMNS));
        let event: Strict = serde_json::from_slice(text).unwrap();
        assert_eq!(event.event_id.replace('-', ""), format!("{:032x}", entry.id));
        assert_eq!(event.event_id.len(), 36);
        assert_eq!(&event.event_id[14..15], "4", "a version 4 UUID");
        assert!(event.event_time.starts_with("2026-01-01T") && event.event_time.ends_with('Z'));
        assert_eq!(event.event_time.len(), 24);
        assert_eq!(event.session_id.len(), 32);
        assert!(KINDS.iter().any(|(kind, _)| *kind == event.event_type));
        assert!(CHANNELS.iter().any(|(channel, _)| *channel == event.channel));
        assert_eq!(event.country.len(), 2);
        assert!(
            event.url.starts_with("https://") && (58..=120).contains(&event.url.len()),
            "{}",
            event.url
        );
        let is_search = event.event_type == "search";
        assert_eq!(
            (event.price.is_none(), event.quantity.is_none()),
            (is_search, is_search)
        );
        assert!(event.price.is_none_or(|price| (0.0..=100_000.0).contains(&price)));
        assert!(
            event
                .quantity
                .is_none_or(|quantity| (1..=1000).contains(&quantity))
        );
    }
    let bytes: usize = lines.iter().map(|(text, _)| text.len() + 1).sum();
    assert!(
        (450..510).contains(&(bytes / lines.len())),
        "{}",
        bytes / lines.len()
    );
}

#[test]
fn each_damage_shows_where_the_ledger_says() {
    let (lines, _) = sent(&Recipe {
        events: 20_000,
        broken: 0.2,
        ..Recipe::default()
    });
    let mut seen = HashSet::new();
    for (text, entry) in lines {
        let Some(damage) = entry.damage else { continue };
        seen.insert(damage);
        let strict = serde_json::from_slice::<Strict>(&text);
        let loose = serde_json::from_slice::<Value>(&text);
        match damage {
            Damage::CutOff | Damage::NotJson => assert!(loose.is_err()),
            Damage::Encoding => assert!(std::str::from_utf8(&text).is_err()),
            Damage::ZeroByte => assert!(text.contains(&0) && loose.is_err()),
            Damage::TooDeep => assert!(loose.unwrap_err().to_string().contains("recursion limit")),
            Damage::WrongType => assert!(loose.is_ok() && strict.is_err()),
            Damage::MissingId => assert!(loose.unwrap().get("event_id").is_none_or(Value::is_null)),
            Damage::OutOfRange => assert!(strict.unwrap().price.unwrap() < 0.0),
        }
    }
    assert_eq!(seen.len(), Damage::ALL.len());
}

#[test]
fn copies_are_exact_and_ids_are_unique_otherwise() {
    let (lines, sent) = sent(&Recipe {
        events: 40_000,
        late_duplicates: 0.2,
        ..Recipe::default()
    });
    let mut originals: HashMap<u128, (usize, Vec<u8>)> = HashMap::new();
    for (number, (text, entry)) in lines.into_iter().enumerate() {
        match entry.copy {
            None => assert!(
                originals.insert(entry.id, (number, text)).is_none(),
                "an id came twice"
            ),
            Some(hours_later) => {
                let (first, original) = &originals[&entry.id];
                assert_eq!(original, &text);
                assert!(if hours_later {
                    number - first >= 40_000 / 24
                } else {
                    number - first <= 10_000
                });
            }
        }
    }
    assert_eq!(originals.len() as u64, sent.counts.good + sent.counts.broken);
}

#[test]
fn rates_are_met() {
    let recipe = Recipe {
        events: 200_000,
        late_duplicates: 0.1,
        broken: 0.01,
        ..Recipe::default()
    };
    let (lines, sent) = sent(&recipe);
    let events = recipe.events as f64;
    let close = |count: u64, of: f64, share: f64| {
        let found = count as f64 / of;
        assert!((found / share - 1.0).abs() < 0.15, "{found} instead of {share}");
    };
    close(sent.counts.duplicates, events, recipe.duplicates);
    close(
        sent.counts.late_duplicates,
        events * recipe.duplicates,
        recipe.late_duplicates,
    );
    close(sent.counts.broken, events, recipe.broken);
    close(sent.counts.late, sent.counts.good as f64, recipe.late);
    close(
        sent.counts.out_of_order,
        sent.counts.good as f64,
        recipe.out_of_order,
    );
    let counted =
        |wanted: &dyn Fn(&Entry) -> bool| lines.iter().filter(|(_, entry)| wanted(entry)).count() as u64;
    assert_eq!(counted(&|entry| entry.damage.is_some()), sent.counts.broken);
    assert_eq!(counted(&|entry| entry.copy.is_some()), sent.counts.duplicates);
    assert_eq!(
        counted(&|entry| entry.copy == Some(true)),
        sent.counts.late_duplicates
    );
    assert_eq!(
        sent.counts.good + sent.counts.duplicates + sent.counts.broken,
        recipe.events
    );
}

#[test]
fn hot_keys_gather_events_on_few_users() {
    let top = |hot_keys| {
        let (lines, _) = sent(&Recipe {
            events: 20_000,
            hot_keys,
            broken: 0.0,
            ..Recipe::default()
        });
        let mut users: HashMap<i64, u64> = HashMap::new();
        for (text, _) in lines {
            *users
                .entry(serde_json::from_slice::<Strict>(&text).unwrap().user_id)
                .or_default() += 1;
        }
        let mut counts: Vec<u64> = users.into_values().collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        counts[..10].iter().sum::<u64>()
    };
    assert!(top(0.5) > 9_000);
    assert!(top(0.0) < 4_000);
}

#[test]
fn compressed_files_hold_the_same_lines() {
    let recipe = Recipe {
        events: 20_000,
        ..Recipe::default()
    };
    let read = |compress: Compress, name: &str| {
        let folder = TempDir::new().unwrap();
        generate(&recipe, &output(folder.path(), 1, compress, 2)).unwrap();
        std::fs::read(folder.path().join("events").join(name)).unwrap()
    };
    let plain = read(Compress::None, "events-00000.ndjson");
    let mut unzipped = Vec::new();
    let zipped = read(Compress::Gzip, "events-00000.ndjson.gz");
    flate2::read::MultiGzDecoder::new(zipped.as_slice())
        .read_to_end(&mut unzipped)
        .unwrap();
    assert!(plain == unzipped);
    let packed = read(Compress::Zstd, "events-00000.ndjson.zst");
    assert!(plain == zstd::decode_all(packed.as_slice()).unwrap());
}

#[test]
fn events_of_an_earlier_run_are_not_mixed_in() {
    let folder = TempDir::new().unwrap();
    let recipe = Recipe {
        events: 100,
        ..Recipe::default()
    };
    generate(&recipe, &output(folder.path(), 5, Compress::None, 1)).unwrap();
    let again = output(folder.path(), 2, Compress::None, 1);
    assert!(matches!(
        generate(&recipe, &again),
        Err(GenerateError::Occupied { .. })
    ));
    generate(
        &recipe,
        &Output {
            overwrite: true,
            ..again
        },
    )
    .unwrap();
    assert_eq!(
        std::fs::read_dir(folder.path().join("events")).unwrap().count(),
        2
    );
}

#[test]
fn tiny_and_odd_recipes_work() {
    for (events, files) in [(0, 1), (1, 1), (1, 4), (7, 3)] {
        let recipe = Recipe {
            events,
            duplicates: 0.5,
            ..Recipe::default()
        };
        let folder = TempDir::new().unwrap();
        let sent = generate(&recipe, &output(folder.path(), files, Compress::None, 3)).unwrap();
        assert_eq!(sent.files.iter().map(|file| file.lines).sum::<u64>(), events);
        Ledger::open(folder.path()).unwrap().for_each(|_| {}).unwrap();
    }
}
