//! Which files a compaction rewrites. Pure.
//!
//! In: the manifests that wrote into some hours, and which hours are complete. Out: files of which several lie in one
//! partition and are small; key files of which an hour has several; hours in which nothing is left to be done.
//!
//! | a data file...                                      | is rewritten                                                |
//! |-----------------------------------------------------|-------------------------------------------------------------|
//! | reaches into an hour that is not complete            | no: with that hour, some time                               |
//! | has at least half of `file_bytes`                   | no                                                          |
//! | is the only small one of its partition              | no                                                          |
//! | was written by a compaction, like all small ones of its partition | no: what came out small once would again      |
//!
//! One batch takes a partition, or several that are small together, so that other batches wait for about a file's writing at the
//! most; the next one goes on.

use std::collections::{BTreeMap, BTreeSet};

use millrace_proto::manifest::{DataFile, KeyFile, Manifest};

use crate::commit::live;
use crate::hours::{first_hour, last_hour};

/// How large things become.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Size of a full data file.
    pub file_bytes: u64,
    /// Another partition is begun as long as no more is taken.
    pub step_bytes: u64,
}

/// What one compaction rewrites.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Selection {
    /// Data files.
    pub files: Vec<DataFile>,
    /// Key files.
    pub keys: Vec<KeyFile>,
    /// Of the hours asked for, those in which nothing is left after it.
    pub finished: Vec<i64>,
}

/// The small files of one partition.
#[derive(Default)]
struct Partition<'a> {
    fresh: Vec<&'a DataFile>,
    compacted: Vec<&'a DataFile>,
}

/// See the table above. `manifests` are those of every batch that wrote into `hours`.
#[must_use]
pub(super) fn select(
    manifests: &[Manifest],
    hours: &[i64],
    is_complete: &dyn Fn(i64) -> bool,
    limits: Limits,
) -> Selection {
    let asked: BTreeSet<i64> = hours.iter().copied().collect();
    let mut partitions: BTreeMap<&[(String, String)], Partition<'_>> = BTreeMap::new();
    for (manifest, file) in live::files(manifests) {
        let (first, last) = (first_hour(file), last_hour(file));
        let is_asked = asked.range(first..=last).next().is_some();
        let is_small = file.object.bytes < limits.file_bytes / 2;
        if !is_asked || !is_small || !all_complete(&asked, first, last, is_complete) {
            continue;
        }
        let partition = partitions.entry(&file.partition).or_default();
        if manifest.replaces.is_empty() {
            partition.fresh.push(file);
        } else {
            partition.compacted.push(file);
        }
    }
    let mut selection = Selection::default();
    let (mut bytes, mut unfinished): (u64, BTreeSet<i64>) = (0, BTreeSet::new());
    for Partition { fresh, compacted } in partitions.into_values() {
        if fresh.is_empty() || fresh.len() + compacted.len() < 2 {
            continue;
        }
        let mut taken: Vec<&DataFile> = Vec::new();
        let is_next = bytes > 0 && bytes >= limits.step_bytes;
        for file in fresh.into_iter().chain(compacted) {
            let is_first = bytes == 0 || taken.len() == 1;
            if !is_next && (is_first || bytes + file.object.bytes <= limits.file_bytes) {
                bytes += file.object.bytes;
                taken.push(file);
            } else {
                unfinished.extend(asked.range(first_hour(file)..=last_hour(file)));
            }
        }
        selection.files.extend(taken.into_iter().cloned());
    }
    selection.finished = hours
        .iter()
        .copied()
        .filter(|hour| !unfinished.contains(hour))
        .collect();
    selection.keys = keys(manifests, &selection.finished);
    selection
}

/// Whether no hour of a file is still written to. Hours between its ends that nobody knows hold nothing.
fn all_complete(asked: &BTreeSet<i64>, first: i64, last: i64, is_complete: &dyn Fn(i64) -> bool) -> bool {
    // A folder that is no hour may hold events of years.
    let inner = last.saturating_sub(first) <= 24 * 366;
    let is_done = |hour: i64| asked.contains(&hour) || is_complete(hour);
    is_done(first) && is_done(last) && (!inner || (first..=last).all(is_done))
}

/// The key files of hours that have several.
fn keys(manifests: &[Manifest], finished: &[i64]) -> Vec<KeyFile> {
    let mut by_hour: BTreeMap<i64, Vec<&KeyFile>> = BTreeMap::new();
    let finished: BTreeSet<i64> = finished.iter().copied().collect();
    for file in live::key_files(manifests) {
        if finished.contains(&file.hour) {
            by_hour.entry(file.hour).or_default().push(file);
        }
    }
    let several = by_hour.into_values().filter(|files| files.len() > 1);
    several.flatten().cloned().collect()
}

#[cfg(test)]
#[path = "select_tests.rs"]
mod tests;
