//! Rows by date, hour and source, with the sum of their event ids.
//!
//! Two sets of events with equal counts and equal sums of random 128-bit ids are the same set, as far as
//! chance can be trusted: so equal sums in every partition prove that events lie where they belong.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::generate::event::{CHANNELS, Event};
use crate::generate::line::date;
use crate::generate::plan::Plan;
use crate::lake::{Lake, LakeError};
use crate::ledger::{Ledger, LedgerError};

const HOUR_MS: u64 = 3_600_000;

/// Partition values, as in the path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Partition {
    /// `YYYY-MM-DD`
    pub date: String,
    /// `HH`
    pub hour: String,
    /// Channel.
    pub source: String,
}

impl Partition {
    /// From a manifest's values; none if the lake is not partitioned by date, hour and source.
    #[must_use]
    pub fn named(values: &[(String, String)]) -> Option<Self> {
        match values {
            [(date, d), (hour, h), (source, s)] if date == "date" && hour == "hour" && source == "source" => {
                Some(Self {
                    date: d.clone(),
                    hour: h.clone(),
                    source: s.clone(),
                })
            }
            _ => None,
        }
    }

    /// Where an event belongs.
    #[must_use]
    pub fn of(event: &Event) -> Self {
        Self::at(event.time_ms / HOUR_MS, event.channel)
    }

    fn at(hours: u64, channel: usize) -> Self {
        let (year, month, day) = date(hours / 24);
        Self {
            date: format!("{year:04}-{month:02}-{day:02}"),
            hour: format!("{:02}", hours % 24),
            source: CHANNELS[channel].0.to_owned(),
        }
    }
}

/// Rows of a partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Sum {
    /// How many.
    pub rows: u64,
    /// Sum of their ids, modulo 2^128.
    #[serde(serialize_with = "hex")]
    pub ids: u128,
}

impl Sum {
    /// Adds an event.
    pub fn add(&mut self, id: u128) {
        self.rows += 1;
        self.ids = self.ids.wrapping_add(id);
    }
}

fn hex<S: serde::Serializer>(ids: &u128, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{ids:032x}"))
}

/// Sums by partition.
pub type Sums = BTreeMap<Partition, Sum>;

/// What a complete lake would hold: each distinct good event of the ledger.
///
/// # Errors
/// When the ledger cannot be read.
pub fn of_ledger(ledger: &Ledger) -> Result<Sums, LedgerError> {
    let plan = Plan::new(&ledger.sent.recipe);
    // By hour and channel first: naming the partition of every event would take most of the time.
    let mut hours: BTreeMap<(u64, usize), Sum> = BTreeMap::new();
    ledger.for_each(|line| {
        if line.entry.damage.is_none() && line.entry.copy.is_none() {
            let event = Event::of(&plan, line.number);
            let hour = (event.time_ms / HOUR_MS, event.channel);
            hours.entry(hour).or_default().add(line.entry.id);
        }
    })?;
    Ok(hours
        .into_iter()
        .map(|((hour, channel), sum)| (Partition::at(hour, channel), sum))
        .collect())
}

/// What a lake holds; files that are not partitioned by date, hour and source are left out.
///
/// # Errors
/// When a file cannot be read.
pub fn of_lake(lake: &Lake) -> Result<Sums, LakeError> {
    let mut sums = Sums::new();
    for file in &lake.data {
        if let Some(partition) = Partition::named(&file.partition) {
            let sum = sums.entry(partition).or_default();
            lake.for_each_id(file, |id| sum.add(id.unwrap_or_default()))?;
        }
    }
    Ok(sums)
}
