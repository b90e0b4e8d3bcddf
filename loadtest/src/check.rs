//! Ledger against lake, by set equality.
//!
//! | finding       | an event id is                                        | a broken line is                     |
//! |---------------|-------------------------------------------------------|--------------------------------------|
//! | `missing`     | good and in no data file                              | not in quarantine                    |
//! | `repeated`    | in data files more than once                          | in quarantine more than once         |
//! | `unknown`     | in data files and was never sent as a good event      | in quarantine and was sent as good, or never |
//!
//! Counts alone would miss a lost event beside a doubled one. A broken line is told by its file's name and
//! offset: its payload may be sealed.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde::Serialize;

use crate::generate::broken::Damage;
use crate::lake::{Lake, LakeError};
use crate::ledger::{Ledger, LedgerError};
use crate::sums::{Partition, Sums};

/// How many members of a finding are shown.
const SHOWN: usize = 5;

/// What the check found.
#[derive(Debug, Default, Serialize)]
pub struct Verdict {
    /// Whether lake and quarantine are exactly what they should be.
    pub ok: bool,
    /// Manifests read.
    pub manifests: usize,
    /// Events in data files.
    pub events: Findings,
    /// Broken lines in quarantine.
    pub quarantine: Findings,
    /// Rows whose event id is no UUID.
    pub rows_without_id: u64,
    /// Broken lines that were taken for good events, by kind: the unknown events that have a name.
    pub broken_in_data: BTreeMap<&'static str, u64>,
    /// Partitions that hold other events than they should (none when the lake is not cut by date, hour and source).
    pub wrong_partitions: Vec<Partition>,
    /// For each kind of damage: what the quarantine gives as the reason, with counts.
    pub reasons: BTreeMap<&'static str, BTreeMap<String, u64>>,
    /// Files that are missing, damaged, or hold other rows than the manifest says.
    pub bad_files: Vec<String>,
}

/// Two sets compared.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// Members that should be there.
    pub expected: u64,
    /// Members found, repeats included.
    pub found: u64,
    /// Should be there and are not.
    pub missing: Sample,
    /// There more than once.
    pub repeated: Sample,
    /// There and should not be.
    pub unknown: Sample,
}

/// A count and the first few members.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sample {
    /// How many.
    pub count: u64,
    /// The first few.
    pub first: Vec<String>,
}

/// Why no verdict could be reached.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The ledger.
    #[error("the ledger cannot be read")]
    Ledger(#[from] LedgerError),
    /// The lake's manifests.
    #[error("the lake cannot be read")]
    Lake(#[from] LakeError),
}

/// What was sent, in the form it is compared in.
struct Expected {
    good: Vec<u128>,
    broken_ids: HashMap<u128, Damage>,
    broken_lines: HashMap<(usize, u64), Damage>,
    sums: Sums,
}

/// Compares the ledger in one folder with the lake in another.
///
/// # Errors
/// When the ledger or the manifests cannot be read; files that a manifest names are findings.
pub fn check(ledger: &Path, lake: &Path) -> Result<Verdict, CheckError> {
    let ledger = Ledger::open(ledger)?;
    let lake = Lake::open(lake)?;
    let expected = expect(&ledger)?;
    let mut verdict = Verdict {
        manifests: lake.manifests,
        ..Verdict::default()
    };
    check_events(&lake, &expected, &mut verdict);
    check_quarantine(&lake, &ledger, &expected, &mut verdict);
    verdict.ok = verdict.events.is_clean()
        && verdict.quarantine.is_clean()
        && verdict.rows_without_id == 0
        && verdict.wrong_partitions.is_empty()
        && verdict.bad_files.is_empty();
    Ok(verdict)
}

fn expect(ledger: &Ledger) -> Result<Expected, LedgerError> {
    let mut good = Vec::with_capacity(ledger.sent.counts.good as usize);
    let (mut broken_ids, mut broken_lines) = (HashMap::new(), HashMap::new());
    ledger.for_each(|line| match line.entry.damage {
        Some(damage) => {
            broken_ids.insert(line.entry.id, damage);
            broken_lines.insert((line.file, line.offset), damage);
        }
        None if line.entry.copy.is_none() => good.push(line.entry.id),
        None => {}
    })?;
    good.sort_unstable();
    Ok(Expected {
        good,
        broken_ids,
        broken_lines,
        sums: crate::sums::of_ledger(ledger)?,
    })
}

fn check_events(lake: &Lake, expected: &Expected, verdict: &mut Verdict) {
    let mut ids = Vec::with_capacity(expected.good.len());
    let mut sums = Sums::new();
    let mut is_partitioned = true;
    for file in &lake.data {
        let partition = Partition::named(&file.partition);
        is_partitioned &= partition.is_some();
        let mut sum = partition.map(|partition| sums.entry(partition).or_default());
        let rows = lake.for_each_id(file, |id| match id {
            None => verdict.rows_without_id += 1,
            Some(id) => {
                ids.push(id);
                if let Some(sum) = &mut sum {
                    sum.add(id);
                }
            }
        });
        verdict.judge_file(&file.object.key, file.object.rows, rows);
    }
    ids.sort_unstable();
    let mut unknown = Vec::new();
    verdict.events = compare(&expected.good, &ids, |id| format!("{id:032x}"), &mut unknown);
    for id in unknown {
        if let Some(damage) = expected.broken_ids.get(&id) {
            *verdict.broken_in_data.entry(damage.name()).or_default() += 1;
        }
    }
    if is_partitioned {
        let names = expected
            .sums
            .keys()
            .chain(sums.keys().filter(|name| !expected.sums.contains_key(name)));
        verdict.wrong_partitions = names
            .filter(|name| expected.sums.get(name) != sums.get(name))
            .cloned()
            .collect();
    }
}

fn check_quarantine(lake: &Lake, ledger: &Ledger, expected: &Expected, verdict: &mut Verdict) {
    let files: HashMap<&str, usize> = ledger
        .sent
        .files
        .iter()
        .enumerate()
        .map(|(index, file)| (file.name.as_str(), index))
        .collect();
    let mut lines = Vec::new();
    for file in &lake.quarantine {
        let rejects = lake.rejects(file);
        verdict.judge_file(
            &file.key,
            file.rows,
            rejects.as_ref().map(|rejects| rejects.len() as u64),
        );
        for reject in rejects.unwrap_or_default() {
            let name = match reject.object.starts_with("kafka://") {
                true => reject.object.as_str(),
                false => reject.object.rsplit('/').next().unwrap_or_default(),
            };
            // A file that was never sent gets a number that no sent file has.
            let line = (files.get(name).copied().unwrap_or(usize::MAX), reject.offset);
            lines.push(line);
            let damage = expected
                .broken_lines
                .get(&line)
                .map_or("none", |damage| damage.name());
            let reasons = verdict.reasons.entry(damage).or_default();
            *reasons.entry(reject.faults.join(" + ")).or_default() += 1;
        }
    }
    lines.sort_unstable();
    let mut broken: Vec<(usize, u64)> = expected.broken_lines.keys().copied().collect();
    broken.sort_unstable();
    let show = |&(file, offset): &(usize, u64)| {
        let name = ledger
            .sent
            .files
            .get(file)
            .map_or("a file that was never sent", |file| &file.name);
        let damage = expected
            .broken_lines
            .get(&(file, offset))
            .map_or("sent as good", |damage| damage.name());
        format!("{name} at byte {offset}, {damage}")
    };
    verdict.quarantine = compare(&broken, &lines, show, &mut Vec::new());
}

impl Verdict {
    fn judge_file<E: std::fmt::Display>(&mut self, key: &str, promised: u64, rows: Result<u64, E>) {
        match rows {
            Ok(rows) if rows == promised => {}
            Ok(rows) => self
                .bad_files
                .push(format!("`{key}` holds {rows} rows, its manifest says {promised}")),
            Err(error) => self.bad_files.push(error.to_string()),
        }
    }
}

impl Findings {
    fn is_clean(&self) -> bool {
        self.missing.count + self.repeated.count + self.unknown.count == 0
    }
}

impl Sample {
    fn add(&mut self, text: impl FnOnce() -> String) {
        self.count += 1;
        if self.first.len() < SHOWN {
            self.first.push(text());
        }
    }
}

/// Compares two sorted lists: `expected` has no repeats, `found` may. Unknown members are collected too.
fn compare<T: Ord + Copy>(
    expected: &[T],
    found: &[T],
    show: impl Fn(&T) -> String,
    unknown: &mut Vec<T>,
) -> Findings {
    let mut findings = Findings {
        expected: expected.len() as u64,
        found: found.len() as u64,
        ..Findings::default()
    };
    let mut wanted = expected.iter().peekable();
    for group in found.chunk_by(|a, b| a == b) {
        let member = &group[0];
        while let Some(missing) = wanted.next_if(|&next| next < member) {
            findings.missing.add(|| show(missing));
        }
        if wanted.next_if_eq(&member).is_none() {
            findings.unknown.add(|| show(member));
            unknown.push(*member);
        }
        if group.len() > 1 {
            findings.repeated.add(|| show(member));
        }
    }
    for missing in wanted {
        findings.missing.add(|| show(missing));
    }
    findings
}

#[cfg(test)]
mod tests;
