//! Plans, outcomes and proofs, for people and for programs.

use anyhow::Result;
use chrono::{DateTime, SecondsFormat, Utc};
use millrace_coordinator::erasure;
use millrace_coordinator::ledger::LegalHold;
use millrace_coordinator::retention::Outcome;
use millrace_coordinator::retention::decide::Share;
use serde_json::{Value, json};

use crate::cli::Output;
use crate::output::{self, bytes, grouped};

const HOUR_US: i64 = 3_600_000_000;

/// Whether something would leave or did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tense {
    Would,
    Did,
}

fn at(micros: i64) -> String {
    DateTime::<Utc>::from_timestamp_micros(micros).map_or_else(
        || format!("{micros} us after 1970"),
        |at| at.to_rfc3339_opts(SecondsFormat::AutoSi, true),
    )
}

/// A plan, or what it came to.
pub(super) fn outcome(name: &str, outcome: &Outcome, tense: Tense, output: Output) -> Result<()> {
    match output {
        Output::Json => output::result(&json(name, outcome, tense).to_string()),
        Output::Table => output::result(&text(name, outcome, tense)),
    }
}

/// Up to where each place is too old, microseconds since 1970 UTC.
fn cutoffs(outcome: &Outcome) -> [Option<i64>; 4] {
    let cutoffs = &outcome.cutoffs;
    [
        cutoffs.data_before.map(|hour| hour * HOUR_US),
        cutoffs.quarantine_before.map(|day| day * 24 * HOUR_US),
        cutoffs.warehouse_before_us,
        cutoffs.keys_before.map(|hour| hour * HOUR_US),
    ]
}

fn json(name: &str, outcome: &Outcome, tense: Tense) -> Value {
    let share = |share: &Share| json!({"spans": share.spans, "files": share.files, "bytes": share.bytes, "rows": share.rows});
    let [data, quarantine, warehouse, keys] = cutoffs(outcome).map(|before| before.map(at));
    let hours = outcome.hours.iter().map(|(hour, of)| {
        json!({"hour": at(hour * HOUR_US), "files": of.files, "bytes": of.bytes, "rows": of.rows})
    });
    json!({
        "pipeline": name,
        "applied": tense == Tense::Did,
        "lake": {"before": data, "expired": share(&outcome.data), "hours": hours.collect::<Vec<_>>()},
        "quarantine": {"before": quarantine, "expired": share(&outcome.quarantine)},
        "warehouse": {"before": warehouse, "rows": outcome.warehouse},
        "keys": {"before": keys, "expired": share(&outcome.keys)},
        "held": share(&outcome.held),
        "waiting": share(&outcome.waiting),
        "batches": outcome.batches,
        "deleted_files": outcome.deleted,
        "holds": outcome.holds.iter().map(hold_json).collect::<Vec<_>>(),
    })
}

fn text(name: &str, outcome: &Outcome, tense: Tense) -> String {
    let mut table = output::table(&[
        "place",
        "older than",
        "hours or days",
        "files",
        "bytes",
        "rows or keys",
    ]);
    let [data, quarantine, warehouse, keys] = cutoffs(outcome);
    let mut row = |place: &str, before: Option<i64>, share: &Share| {
        let before = before.map_or_else(|| "kept for ever".to_owned(), at);
        table.add_row([
            place.to_owned(),
            before,
            grouped(share.spans),
            grouped(share.files),
            bytes(share.bytes),
            grouped(share.rows),
        ]);
    };
    row("lake", data, &outcome.data);
    row("quarantine", quarantine, &outcome.quarantine);
    if let Some(rows) = outcome.warehouse {
        let share = Share {
            rows,
            ..Share::default()
        };
        row("warehouse", warehouse, &share);
    }
    row("key index", keys, &outcome.keys);
    let mut text = match tense {
        Tense::Would => format!("{name}: this would leave; `millrace retention apply` lets it go\n{table}"),
        Tense::Did => format!("{name}: this has left, in {} batches\n{table}", outcome.batches),
    };
    if outcome.held.files > 0 {
        let rows = grouped(outcome.held.rows);
        text.push_str(&format!("\n{rows} rows more are under legal hold"));
    }
    if outcome.waiting.files > 0 {
        let rows = grouped(outcome.waiting.rows);
        text.push_str(&format!(
            "\n{rows} rows more wait to be loaded into the warehouse"
        ));
    }
    if outcome.deleted > 0 {
        text.push_str(&format!(
            "\n{} replaced files are deleted",
            grouped(outcome.deleted)
        ));
    }
    for hold in &outcome.holds {
        text.push_str(&format!("\n{}", hold_text(hold)));
    }
    text
}

pub(super) fn hold_json(hold: &LegalHold) -> Value {
    let released = hold.released.as_ref();
    let released = released.map(|over| json!({"by": over.by, "at": at(over.at_us), "reason": over.reason}));
    json!({
        "hold": hold.id, "from": at(hold.from_us), "to": at(hold.to_us), "reason": hold.reason,
        "by": hold.by, "at": at(hold.at_us), "released": released,
    })
}

pub(super) fn hold_text(hold: &LegalHold) -> String {
    let (from, to) = (at(hold.from_us), at(hold.to_us));
    let mut text = format!(
        "legal hold {}: {from} to {to}, by {} at {}: {}",
        hold.id,
        hold.by,
        at(hold.at_us),
        hold.reason
    );
    if let Some(over) = &hold.released {
        let since = at(over.at_us);
        text.push_str(&format!("; released by {} at {since}: {}", over.by, over.reason));
    }
    text
}

/// What was found of a person, and the proof that nothing is left.
pub(super) fn erasure(name: &str, outcome: &erasure::Outcome, output: Output) -> Result<()> {
    match output {
        Output::Json => output::result(&erasure_json(name, outcome).to_string()),
        Output::Table => output::result(&erasure_text(name, outcome)),
    }
}

fn erasure_json(name: &str, outcome: &erasure::Outcome) -> Value {
    json!({
        "pipeline": name, "subject": outcome.subject, "columns": outcome.columns, "blind_columns": outcome.blind,
        "applied": outcome.applied, "objects_examined": outcome.examined, "files_rewritten": outcome.rewritten,
        "rows": outcome.rows, "quarantined": outcome.quarantined, "warehouse_rows": outcome.warehouse,
        "copies": outcome.copies, "model_rows": outcome.model_rows,
        "objects_deleted": outcome.deleted, "remaining": outcome.remaining, "proved_at": outcome.proved_us.map(at),
    })
}

fn erasure_text(name: &str, outcome: &erasure::Outcome) -> String {
    let warehouse = outcome.warehouse.map_or_else(String::new, |rows| {
        format!(", {} rows of the warehouse", grouped(rows))
    });
    let models = outcome.model_rows.map_or_else(String::new, |rows| {
        format!(", {} rows of models' tables", grouped(rows))
    });
    let found = format!(
        "{} events, {} rejected events{warehouse}{models}, {} snapshots, quality states, reports and results with them",
        grouped(outcome.rows),
        grouped(outcome.quarantined),
        grouped(outcome.copies)
    );
    let mut text = format!(
        "{name}: subject {} looked for in {} ({} objects examined)\n",
        outcome.subject,
        outcome.columns.join(", "),
        grouped(outcome.examined)
    );
    if !outcome.blind.is_empty() {
        text.push_str(&format!(
            "masks of {} keep too little to tell whose they are\n",
            outcome.blind.join(", ")
        ));
    }
    match outcome.remaining {
        None => text.push_str(&format!("found: {found}; `--apply` erases them")),
        Some(remaining) => {
            text.push_str(&format!(
                "erased: {found}; {} files were written again, {} objects deleted\n",
                grouped(outcome.rewritten),
                grouped(outcome.deleted)
            ));
            let when = outcome.proved_us.map(at).unwrap_or_default();
            text.push_str(&format!(
                "read again at {when}: {remaining} left. The key index keeps the hashes of the events' keys, so that a repeat does not bring them back"
            ));
        }
    }
    text
}
