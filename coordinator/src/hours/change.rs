//! What a manifest did to each event hour.

use std::collections::BTreeMap;

use millrace_proto::manifest::{DataFile, KeyFile, Manifest};

use super::{HOUR_US, HourChange};

/// By hour. A data file counts for the hour of its first event; where folders are no hours, its last event's hour and
/// those of the key files are touched too.
pub(super) fn changes(manifest: &Manifest) -> Vec<HourChange> {
    let mut hours: BTreeMap<i64, HourChange> = BTreeMap::new();
    let replaced = &manifest.replaces;
    let touched = touched(&manifest.files, &manifest.keys).chain(touched(&replaced.files, &replaced.keys));
    for hour in touched {
        hours.entry(hour).or_insert(HourChange {
            hour,
            ..HourChange::default()
        });
    }
    for file in &manifest.files {
        if let Some(change) = hours.get_mut(&first_hour(file)) {
            change.rows += file.object.rows;
            change.files += 1;
            change.bytes += file.object.bytes;
        }
    }
    for file in &replaced.files {
        if let Some(change) = hours.get_mut(&first_hour(file)) {
            let gone = change.replaced.get_or_insert_default();
            gone.rows += file.object.rows;
            gone.files += 1;
            gone.bytes += file.object.bytes;
        }
    }
    hours.into_values().collect()
}

fn touched<'a>(files: &'a [DataFile], keys: &'a [KeyFile]) -> impl Iterator<Item = i64> + 'a {
    let ends = files.iter().flat_map(|file| [first_hour(file), last_hour(file)]);
    ends.chain(keys.iter().map(|file| file.hour))
}

/// The hour of a data file's first event.
pub(crate) fn first_hour(file: &DataFile) -> i64 {
    file.time_min.div_euclid(HOUR_US)
}

/// The hour of a data file's last event.
pub(crate) fn last_hour(file: &DataFile) -> i64 {
    file.time_max.div_euclid(HOUR_US)
}
