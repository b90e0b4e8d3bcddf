//! Events that somebody looks for while they are on their way, and when each was sent.
//!
//! In: blocks of lines as they are sent. Out: `OUT/sampled.ndjson`, a line for each good event whose id ends with so many
//! zeros in hex: whoever reads a table finds the same ones by their ids. A copy is no event of its own, and a broken line
//! none that is looked for. The file grows with every block, so that it can be followed.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use crate::ledger::Entry;

/// Its name in the ledger's folder.
pub const NAME: &str = "sampled.ndjson";

/// The file, and what is sampled.
#[derive(Debug)]
pub struct Sample {
    file: File,
    digits: u32,
    lines: Vec<u8>,
}

impl Sample {
    /// A sample of one event in 16^`digits`.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(folder: &Path, digits: u32) -> io::Result<Self> {
        Ok(Self {
            file: File::create(folder.join(NAME))?,
            digits,
            lines: Vec::new(),
        })
    }

    /// Notes an event that was just sent, if it is one of them.
    pub fn note(&mut self, entry: &Entry, sent_ms: i64) {
        let is_event = entry.copy.is_none() && entry.damage.is_none();
        if !is_event || !is_sampled(entry.id, self.digits) {
            return;
        }
        let hex = format!("{:032x}", entry.id);
        let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
        let line = serde_json::json!({"event_id": parts.join("-"), "sent_ms": sent_ms});
        self.lines.extend_from_slice(line.to_string().as_bytes());
        self.lines.push(b'\n');
    }

    /// Lets readers see what was noted.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn tell(&mut self) -> io::Result<()> {
        self.file.write_all(&self.lines)?;
        self.lines.clear();
        Ok(())
    }
}

fn is_sampled(id: u128, digits: u32) -> bool {
    let bits = digits.saturating_mul(4).min(127);
    id & ((1 << bits) - 1) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::plan::{Plan, Recipe};
    use crate::generate::{Block, Generator};
    use crate::ledger::ENTRY_BYTES;

    /// As a table's reader finds them: by the text of their ids.
    #[test]
    fn the_sample_is_the_good_events_whose_ids_end_so() {
        let folder = tempfile::tempdir().unwrap();
        let mut sample = Sample::create(folder.path(), 1).unwrap();
        let recipe = Recipe {
            events: 3_000,
            ..Recipe::default()
        };
        let mut block = Block::default();
        Generator::new(Plan::new(&recipe)).fill(&mut block, 0, recipe.events);
        let mut expected = std::collections::BTreeSet::new();
        let lines = block.text.split(|byte| *byte == b'\n');
        for (entry, line) in block.ledger.as_chunks::<ENTRY_BYTES>().0.iter().zip(lines) {
            let entry = Entry::decode(entry);
            sample.note(&entry, 7);
            if entry.damage.is_some() || entry.copy.is_some() {
                continue;
            }
            let event: serde_json::Value = serde_json::from_slice(line).unwrap();
            let id = event["event_id"].as_str().unwrap().to_owned();
            if id.ends_with('0') {
                expected.insert(id);
            }
        }
        sample.tell().unwrap();
        let told = std::fs::read_to_string(folder.path().join(NAME)).unwrap();
        let told = told.lines().map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(line["sent_ms"], 7);
            line["event_id"].as_str().unwrap().to_owned()
        });
        assert_eq!(told.collect::<std::collections::BTreeSet<_>>(), expected);
        assert!(expected.len() > 100, "{}", expected.len());
    }
}
