//! Copies of what a person sent that are no events: snapshots of lookups, quality states and reports, results of models.
//!
//! In: every object below `enrich/`, `quality/`, `reports/` and `models/`. Out: which of them hold the person; then none does.
//!
//! | a copy...                         | leaves so                                                                        |
//! |-----------------------------------|---------------------------------------------------------------------------------|
//! | snapshot of a lookup              | deleted: the ledger says first that nobody uses it, and the next batch reads the table again |
//! | quality state of a task           | the same: its batch's report is written, and nothing else asks for it            |
//! | quality report                    | written again, with `[erased]` where their values stood                          |
//! | result of a model's period        | written again without their rows, as a new version; the warehouse is loaded with it |
//! | result that counts no more        | deleted                                                                          |
//!
//! No batch is open meanwhile, so none needs a snapshot: see [`super::find`]. A table that still has the person brings them back
//! with its next snapshot. A period whose hours are there is computed again by itself, since they have changed; one whose hours
//! have expired keeps the other rows.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use millrace_pipeline::enrich::open_rows;
use millrace_pipeline::privacy::{Marks, Sealer, Subject};
use millrace_pipeline::quality::values_of;
use millrace_pipeline::sink::erase::{copy_without, rows_with};
use millrace_pipeline::sink::read_states;
use millrace_pipeline::spec::model::Pipeline;
use millrace_proto::keys;
use millrace_proto::manifest::WrittenObject;
use serde_json::Value;

use super::ErasureError;
use super::find::stored;
use crate::aside;
use crate::job::RunError;
use crate::lake::{Lake, LakeError};
use crate::ledger::{Entry, LegalHold, State};
use crate::lifecycle::{Batches, Moment, now_us};
use crate::marts::{MartRun, period_name, start_of};

/// Copies that hold a person.
#[derive(Debug, Default)]
pub(super) struct Copies {
    /// Objects that were looked through.
    pub(super) examined: u64,
    /// Snapshots and quality states, by key.
    shared: Vec<String>,
    /// Reports, by key.
    reports: Vec<String>,
    /// Results that count.
    results: Vec<MartRun>,
    /// Results that do not, by key.
    dead: Vec<String>,
}

impl Copies {
    /// How many objects.
    pub(super) fn count(&self) -> u64 {
        (self.shared.len() + self.reports.len() + self.results.len() + self.dead.len()) as u64
    }

    /// Results of periods in a range that is held.
    pub(super) fn touched_by(&self, hold: &LegalHold) -> usize {
        let touches = |run: &&MartRun| {
            let (start, end) = (start_of(run.from_hour), start_of(run.from_hour + run.hours));
            hold.touches(start, end.saturating_sub(1))
        };
        self.results.iter().filter(touches).count()
    }
}

/// Looks through everything.
pub(super) async fn find(
    pipeline: &Pipeline,
    lake: &Lake,
    state: &State,
    subject: &Subject,
) -> Result<Copies, ErasureError> {
    let looking = Looking {
        lake,
        sealer: Sealer::of(pipeline).ok(),
        marks: Marks::of(subject),
    };
    let mut found = Copies::default();
    for (key, _) in lake.list("enrich").await? {
        found.examined += 1;
        if looking.in_snapshot(&key).await? {
            found.shared.push(key);
        }
    }
    for (key, _) in lake.list("quality").await? {
        found.examined += 1;
        if looking.in_states(&key).await? {
            found.shared.push(key);
        }
    }
    for (key, _) in lake.list("reports").await? {
        found.examined += 1;
        if looking.in_report(&key).await? {
            found.reports.push(key);
        }
    }
    let counting: BTreeMap<&str, &MartRun> = state
        .marts
        .all()
        .map(|run| (run.object.key.as_str(), run))
        .collect();
    for (key, bytes) in lake.list("models").await? {
        found.examined += 1;
        if looking.in_result(&key, bytes).await? {
            match counting.get(key.as_str()) {
                Some(run) => found.results.push((*run).clone()),
                None => found.dead.push(key),
            }
        }
    }
    Ok(found)
}

/// Whether objects hold the person. One that is gone meanwhile holds nobody.
struct Looking<'a> {
    lake: &'a Lake,
    sealer: Option<Sealer>,
    marks: Marks,
}

impl Looking<'_> {
    async fn in_snapshot(&self, key: &str) -> Result<bool, ErasureError> {
        let sealer = self.sealer.as_ref().filter(|_| key.ends_with(".sealed"));
        let Some(bytes) = self.bytes(key).await? else {
            return Ok(false);
        };
        let rows = open_rows(key, bytes, sealer)?;
        Ok(self.marks.in_rows(&rows)?.true_count() > 0)
    }

    async fn in_states(&self, key: &str) -> Result<bool, ErasureError> {
        let Some(bytes) = self.bytes(key).await? else {
            return Ok(false);
        };
        for state in read_states(&bytes) {
            let values = values_of(&state, self.sealer.as_ref()).map_err(|source| ErasureError::State {
                key: key.to_owned(),
                source,
            })?;
            if values.iter().any(|value| self.marks.in_value(value)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn in_report(&self, key: &str) -> Result<bool, ErasureError> {
        let Some(bytes) = self.bytes(key).await? else {
            return Ok(false);
        };
        Ok(self.marks.in_value(&parsed(key, &bytes)?))
    }

    async fn in_result(&self, key: &str, bytes: u64) -> Result<bool, ErasureError> {
        let (marks, object, of) = (self.marks.clone(), stored(self.lake, key, bytes), key.to_owned());
        let what = format!("looking through {key}");
        match aside::run(what, async move { rows_with(&marks, object, &of).await }).await? {
            Ok(rows) => Ok(rows > 0),
            Err(error) => match self.bytes(key).await? {
                None => Ok(false),
                Some(_) => Err(error.into()),
            },
        }
    }

    async fn bytes(&self, key: &str) -> Result<Option<Bytes>, LakeError> {
        match self.lake.get(key).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(LakeError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn parsed(key: &str, report: &[u8]) -> Result<Value, ErasureError> {
    serde_json::from_slice(report).map_err(|source| ErasureError::Report {
        key: key.to_owned(),
        source,
    })
}

/// Takes the person out of all of them; how many objects were deleted.
pub(super) async fn erase(
    batches: &mut Batches,
    subject: &Subject,
    found: &Copies,
) -> Result<u64, ErasureError> {
    let mut deleted = forget(batches, &found.shared).await?;
    let marks = Marks::of(subject);
    for key in &found.reports {
        blank(&batches.lake, &marks, key).await?;
    }
    (batches.hook)(Moment::Blanked);
    for run in &found.results {
        rewrite(batches, &marks, run).await?;
        deleted += 1;
    }
    for key in &found.dead {
        batches.lake.delete(key).await?;
        deleted += 1;
    }
    Ok(deleted)
}

/// Says in the ledger that nobody uses these objects from now on, then deletes them; how many. A crash between leaves them lying,
/// used by nobody: whoever looks for the person again finds them.
pub(crate) async fn forget(batches: &mut Batches, objects: &[String]) -> Result<u64, RunError> {
    // A snapshot that a batch at work looks up in stays, and is told as what is left.
    let needed: BTreeSet<&str> = batches
        .ledger
        .state()
        .open_batches()
        .flat_map(|(_, batch)| &batch.snapshots)
        .map(|snapshot| snapshot.object.key.as_str())
        .collect();
    let free = objects.iter().filter(|key| !needed.contains(key.as_str()));
    let objects: Vec<String> = free.cloned().collect();
    if objects.is_empty() {
        return Ok(0);
    }
    let epoch = batches.ledger.epoch();
    let forgotten = Entry::Forgotten {
        epoch,
        objects: objects.clone(),
    };
    batches.ledger.append(vec![forgotten]).await?;
    (batches.hook)(Moment::Forgotten);
    for key in &objects {
        batches.lake.delete(key).await?;
    }
    Ok(objects.len() as u64)
}

/// A report with `[erased]` where the person's values stood.
async fn blank(lake: &Lake, marks: &Marks, key: &str) -> Result<(), ErasureError> {
    let mut report = parsed(key, &lake.get(key).await?)?;
    marks.blank(&mut report);
    let body = serde_json::to_vec_pretty(&report).map_err(|source| ErasureError::Report {
        key: key.to_owned(),
        source,
    })?;
    lake.replace(key, body.into()).await?;
    Ok(())
}

/// A result without the person's rows, over the same input, in the place of the one with them.
async fn rewrite(batches: &mut Batches, marks: &Marks, old: &MartRun) -> Result<(), ErasureError> {
    let object = stored(&batches.lake, &old.object.key, old.object.bytes);
    let (marks, of) = (marks.clone(), old.object.key.clone());
    let what = format!("writing {of} again");
    let left = aside::run(what, async move { copy_without(&marks, object, &of).await }).await??;
    let (epoch, version) = (batches.ledger.epoch(), batches.ledger.state().marts.versions + 1);
    let unique = uuid::Uuid::new_v4().simple().to_string();
    let period = period_name(old.from_hour, old.hours);
    let key = keys::mart(&old.mart, &period, version, epoch, &unique[..8]);
    let content = left.content.unwrap_or_default();
    let object = WrittenObject {
        bytes: content.len() as u64,
        rows: left.rows,
        digest: blake3::hash(&content).to_hex().to_string(),
        key,
    };
    batches.lake.create(&object.key, Bytes::from(content)).await?;
    let run = MartRun {
        version,
        object,
        at_us: now_us(),
        ..old.clone()
    };
    let entry = Entry::Modelled {
        epoch,
        run: Box::new(run),
    };
    batches.ledger.append(vec![entry]).await?;
    (batches.hook)(Moment::Modelled);
    tracing::info!(
        model = old.mart,
        period,
        version,
        rows = left.erased,
        "a person is erased from a model's period"
    );
    batches.lake.delete(&old.object.key).await?;
    Ok(())
}
