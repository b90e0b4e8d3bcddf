//! `millrace verify`: proof from what is stored.

use anyhow::Result;
use clap::Args;
use millrace_client::v1;
use millrace_coordinator::verify::{Verdict, verify};
use millrace_proto::manifest::{Removed, SplitCounts};

use crate::cli::Output;
use crate::lakes::{self, Whose};
use crate::output::{self, Exit, bytes, grouped};
use crate::reach::Reach;

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    whose: Whose,
    /// How the verdict is printed.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

impl Verify {
    pub(crate) fn execute(self) -> Result<Exit> {
        let verdict = match self.whose.name() {
            Some(name) => of_cluster(self.whose.reach.clone().patient(), name)?,
            None => {
                let opened = self.whose.open()?;
                lakes::runtime(lakes::cores())?.block_on(verify(&opened.lake, &opened.pipeline))?
            }
        };
        match self.output {
            Output::Json => output::result(&serde_json::to_string(&verdict)?)?,
            Output::Table => output::result(&text(&verdict))?,
        }
        Ok(if verdict.faults.is_empty() {
            Exit::Done
        } else {
            Exit::Failed
        })
    }
}

fn of_cluster(reach: Reach, name: &str) -> Result<Verdict> {
    let found = reach.with(async |client| Ok(client.verify_pipeline(name).await?))?;
    let events = found.events.unwrap_or_default();
    Ok(Verdict {
        batches: found.batches,
        objects: found.objects,
        bytes: found.bytes,
        keys: found.keys,
        events: SplitCounts {
            read: events.read,
            written: events.written,
            duplicates: events.duplicates,
            quarantined: events.quarantined,
            late: events.late,
            ..SplitCounts::default()
        },
        expired: removed(found.expired),
        erased: removed(found.erased),
        leftovers: found.leftovers,
        faults: found.faults,
    })
}

fn removed(told: Option<v1::Removed>) -> Removed {
    let told = told.unwrap_or_default();
    Removed {
        rows: told.rows,
        keys: told.keys,
        quarantined: told.quarantined,
    }
}

fn text(verdict: &Verdict) -> String {
    let events = &verdict.events;
    let mut text = format!(
        "{} batches, {} objects ({}) read and compared with their digests\n{} events read = {} written + {} duplicates + {} quarantined; {} distinct keys\n",
        grouped(verdict.batches),
        grouped(verdict.objects),
        bytes(verdict.bytes),
        grouped(events.read),
        grouped(events.written),
        grouped(events.duplicates),
        grouped(events.quarantined),
        grouped(verdict.keys),
    );
    for (removed, why) in [
        (&verdict.expired, "older than they are kept"),
        (&verdict.erased, "erased for a person"),
    ] {
        if !removed.is_empty() {
            text.push_str(&format!(
                "{} of the written and {} of the quarantined events are gone: {why}\n",
                grouped(removed.rows),
                grouped(removed.quarantined)
            ));
        }
    }
    if !verdict.leftovers.is_empty() {
        let count = grouped(verdict.leftovers.len() as u64);
        text.push_str(&format!(
            "{count} objects of an attempt that did not finish: the next run sweeps them\n"
        ));
    }
    for fault in &verdict.faults {
        text.push_str(&format!("fault: {fault}\n"));
    }
    match verdict.faults.len() {
        0 => text.push_str("verified: nothing is lost, nothing is doubled, nothing was changed"),
        1 => text.push_str("1 fault"),
        n => text.push_str(&format!("{n} faults")),
    }
    text
}
