//! Seeded shop events as JSON lines, and a ledger of every line.
//!
//! ```text
//! plan.rs    the recipe; which lines are good, copies or broken
//! event.rs   what an event says          random.rs  numbers that are the same everywhere
//! line.rs    the event as JSON           agents.rs  user agents
//! broken.rs  ways to spoil a line        files.rs   blocks of lines to files, by many threads
//! sample.rs  events that are looked for  topic.rs   lines to a Kafka topic
//! ```
//!
//! Same recipe, same bytes, whatever the number of threads. Compression changes the files, not the lines.

pub mod agents;
pub mod broken;
pub mod event;
pub mod files;
pub mod line;
pub mod plan;
pub mod random;
pub mod sample;
pub mod topic;

use agents::Agents;
use event::Event;
use plan::{Plan, Role};
use random::Random;

use crate::ledger::{Counts, ENTRY_BYTES, Entry};

const SPOIL: u64 = 6;

/// Makes lines; shared by all threads.
#[derive(Debug)]
pub struct Generator {
    plan: Plan,
    agents: Agents,
}

/// Lines that were made together.
#[derive(Debug, Default)]
pub struct Block {
    /// The lines.
    pub text: Vec<u8>,
    /// Their ledger entries.
    pub ledger: Vec<u8>,
    /// Their counts.
    pub counts: Counts,
}

impl Generator {
    /// A generator for a plan.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        Self {
            plan,
            agents: Agents::default(),
        }
    }

    /// The plan.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Lines `first..first + count`, in a block that may be used again.
    pub fn fill(&self, block: &mut Block, first: u64, count: u64) {
        block.text.clear();
        block.ledger.clear();
        block.ledger.reserve(count as usize * ENTRY_BYTES);
        block.counts = Counts::default();
        for line in first..first + count {
            let entry = self.push(&mut block.text, &mut block.counts, line);
            block.ledger.extend_from_slice(&entry.encode());
        }
        block.counts.bytes = block.text.len() as u64;
    }

    /// Appends one line with its newline.
    #[inline]
    fn push(&self, out: &mut Vec<u8>, counts: &mut Counts, line: u64) -> Entry {
        let start = out.len();
        let role = self.plan.role(line);
        let (event, damage, copy) = match role {
            Role::Good => {
                let event = Event::of(&self.plan, line);
                counts.good += 1;
                counts.late += u64::from(event.is_late);
                counts.out_of_order += u64::from(event.is_out_of_order);
                (event, None, None)
            }
            Role::Copy { of, hours_later } => {
                counts.duplicates += 1;
                counts.late_duplicates += u64::from(hours_later);
                (Event::of(&self.plan, of), None, Some(hours_later))
            }
            Role::Broken(damage) => {
                counts.broken += 1;
                *counts.broken_by_kind.entry(damage.name().to_owned()).or_default() += 1;
                (Event::of(&self.plan, line), Some(damage), None)
            }
        };
        line::write_line(out, &event, &self.agents);
        if let Some(damage) = damage {
            damage.spoil(out, start, &mut Random::new(self.plan.seed, SPOIL, line));
        }
        out.push(b'\n');
        Entry {
            id: event.id,
            bytes: (out.len() - start) as u32,
            damage,
            copy,
        }
    }
}

#[cfg(test)]
mod tests;
