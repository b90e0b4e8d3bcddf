//! The next period that is due, computed and committed.
//!
//! | step               | a crash after it                                                                       |
//! |--------------------|----------------------------------------------------------------------------------------|
//! | computed: the object is there, the ledger does not name it | the next writer computes the period again, under another name |
//! | committed          | nothing is left to do; objects that nothing names are swept some time                      |

use millrace_pipeline::spec::marts::Mart;
use millrace_proto::ids::JobId;
use millrace_proto::keys;

use super::compute::{Source, compute};
use super::due::{self, Period, Standing};
use super::state::MartRun;
use super::{MartError, period_name};
use crate::job::RunError;
use crate::ledger::Entry;
use crate::lifecycle::{Batches, Moment, now_us};

/// What a query may use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Compute threads.
    pub threads: usize,
    /// Memory of its operators, in bytes.
    pub memory_bytes: usize,
}

/// Computes the next period that is due; none when there is none. `is_free` says which may be tried.
///
/// # Errors
/// The ledger's, or [`RunError::Mart`]: then others may be tried.
pub async fn step(
    batches: &mut Batches,
    marts: &[Mart],
    limits: Limits,
    is_free: &(dyn Fn(&Mart, &Period) -> bool + Sync),
) -> Result<Option<MartRun>, RunError> {
    let periods = due::periods(
        batches.ledger.state(),
        marts,
        batches.pipeline.partition.lateness_seconds,
    );
    let free = |period: &Period| marts.get(period.mart).is_some_and(|mart| is_free(mart, period));
    let Some(period) = due::next(&periods, &free) else {
        return Ok(None);
    };
    one(batches, marts, period, None, limits).await
}

/// Computes the next period of a backfill, whether it is due or not: those whose input is complete, each once; none when there
/// is none. `is_asked` says which are meant.
///
/// # Errors
/// As [`step`].
pub async fn backfill(
    batches: &mut Batches,
    marts: &[Mart],
    job: &JobId,
    limits: Limits,
    is_asked: &(dyn Fn(&Mart, &Period) -> bool + Sync),
) -> Result<Option<MartRun>, RunError> {
    let periods = due::periods(
        batches.ledger.state(),
        marts,
        batches.pipeline.partition.lateness_seconds,
    );
    let is_left = |period: &&Period| {
        let done = period.run.as_ref().and_then(|run| run.job.as_ref()) == Some(job);
        let asked = marts.get(period.mart).is_some_and(|mart| is_asked(mart, period));
        period.standing != Standing::Waiting && !period.expired && !done && asked
    };
    // By mart: one that reads another finds it done.
    let Some(period) = periods.iter().find(is_left) else {
        return Ok(None);
    };
    one(batches, marts, period, Some(job), limits).await
}

async fn one(
    batches: &mut Batches,
    marts: &[Mart],
    period: &Period,
    job: Option<&JobId>,
    limits: Limits,
) -> Result<Option<MartRun>, RunError> {
    let Some(mart) = marts.get(period.mart) else {
        return Ok(None);
    };
    let name = period_name(period.from_hour, period.hours);
    let (epoch, version) = (batches.ledger.epoch(), batches.ledger.state().marts.versions + 1);
    let unique = uuid::Uuid::new_v4().simple().to_string();
    let key = keys::mart(&mart.name, &name, version, epoch, &unique[..8]);
    let source = Source {
        pipeline: &batches.pipeline,
        lake: &batches.lake,
        state: batches.ledger.state(),
    };
    let began = std::time::Instant::now();
    let object = compute(&source, mart, period, &key, limits).await;
    let object = object.map_err(|source: MartError| RunError::Mart {
        mart: mart.name.clone(),
        period: name.clone(),
        source: Box::new(source),
    })?;
    (batches.hook)(Moment::Computed);
    let run = MartRun {
        mart: mart.name.clone(),
        from_hour: period.from_hour,
        hours: period.hours,
        version,
        object,
        input: period.input.clone(),
        definition: mart.digest.clone(),
        job: job.cloned(),
        at_us: now_us(),
    };
    let entry = Entry::Modelled {
        epoch,
        run: Box::new(run.clone()),
    };
    batches.ledger.append(vec![entry]).await?;
    (batches.hook)(Moment::Modelled);
    tracing::info!(
        pipeline = %batches.pipeline.name, model = mart.name, period = name, version, epoch,
        rows = run.object.rows, milliseconds = began.elapsed().as_millis(), "a model's period is computed"
    );
    Ok(Some(run))
}
