//! From the lake into the warehouse: each committed batch once.
//!
//! In: the lake's ledger, its manifests and data files. Out: rows in the warehouse's table, and a row per batch in its load
//! ledger, `millrace_loads`, in the same transaction (invariant 5). Nothing is kept anywhere else: what is to be done is the
//! difference of the two ledgers, so any process may begin at any time, and two at once do each other no harm.
//!
//! | the batch is...             | then                                                                     |
//! |-----------------------------|--------------------------------------------------------------------------|
//! | committed                   | it is loaded, in the order of planning                                   |
//! | the same, with `handoff: job` | when its job has ended, in one transaction with the job's other batches |
//! | committed and held          | it waits for an operator, the others pass it by                          |
//! | released, or discarded      | it is loaded in the next round, or never                                 |
//! | expired in the lake         | loaded without what expired                                              |
//! | in the load ledger          | done; with another digest: nothing is loaded until a person looks        |
//!
//! | when the warehouse...              | the handoff                                                          |
//! |------------------------------------|----------------------------------------------------------------------|
//! | is down, restarts, is full         | tries again with growing pauses; the lake goes on, batches wait       |
//! | refuses for good                   | says which table, column, file and rule, and tries again each minute  |

mod ask;
mod backlog;
mod catalogue;
pub(crate) mod connection;
mod copy;
mod data_api;
mod days;
mod decide;
mod error;
mod expired;
mod follow;
pub mod hold;
mod jsonb;
mod leading;
mod login;
pub mod marts;
mod postgres;
pub mod preflight;
mod read;
mod redshift;
pub mod removal;
pub mod report;
mod session;
pub mod statistics;
mod table;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use millrace_pipeline::spec::model::{HandoffUnit, Pipeline};
use millrace_proto::ids::{BatchId, JobId};

use crate::commit;
use crate::lake::Lake;
use crate::ledger::State;
use crate::lifecycle::Hook;
use crate::metrics::handoff::HandoffMetrics;
use backlog::Backlog;
use expired::Expired;
use session::{Load, Outcome, Remembered, Session};

pub use copy::CellError;
pub use data_api::ApiError;
pub use decide::{Candidate, Loaded, Standing, candidates};
pub use error::{HandoffError, Refusal};
pub use leading::tend;
pub(crate) use leading::{applied_pipelines, open_jobs};
pub use table::{Comparison, FoundColumn, TableFault, compare};

/// First pause after a failure; doubles.
const PAUSE: Duration = Duration::from_millis(250);
/// Longest pause while the warehouse is expected to come back.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long a committed batch may wait where nobody says otherwise.
pub const SERVICE_LEVEL: Duration = Duration::from_secs(300);

/// What one round came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Round {
    /// Batches loaded.
    pub batches: u64,
    /// Their rows.
    pub rows: u64,
    /// Batches that are held.
    pub held: u64,
}

/// What a handoff goes by.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// The lake's ledger.
    pub state: State,
    /// Jobs that have not ended, where batches wait for that: looked at before the ledger.
    pub open: BTreeSet<JobId>,
}

/// Whom a handoff tells what it does.
#[derive(Clone)]
pub struct Watched {
    /// Told of each moment of each load.
    pub hook: Hook,
    /// What is counted.
    pub metrics: HandoffMetrics,
    /// How long a committed batch may wait before it is alarmed.
    pub service_level: Duration,
}

impl Default for Watched {
    fn default() -> Self {
        Self {
            hook: Arc::new(|_| {}),
            metrics: HandoffMetrics::default(),
            service_level: SERVICE_LEVEL,
        }
    }
}

/// A pipeline's handoff.
pub struct Handoff {
    pipeline: Arc<Pipeline>,
    lake: Lake,
    watched: Watched,
    session: Option<Session>,
    remembered: Remembered,
    /// What the load ledger held when it was looked at last.
    loaded: Option<Loaded>,
    expired: Expired,
    backlog: Backlog,
}

impl Handoff {
    /// A handoff; none for a pipeline without a warehouse.
    #[must_use]
    pub fn new(pipeline: Arc<Pipeline>, lake: Lake, watched: Watched) -> Option<Self> {
        pipeline.warehouse.as_ref()?;
        Some(Self {
            backlog: Backlog::new(pipeline.name.as_str(), watched.metrics.clone()),
            pipeline,
            lake,
            watched,
            session: None,
            remembered: Remembered::default(),
            loaded: None,
            expired: Expired::default(),
        })
    }

    /// Loads whatever is committed and not loaded, in order; every job counts as ended.
    ///
    /// # Errors
    /// The first thing that went wrong. What was loaded before stays; the next round begins with a new connection and
    /// the load ledger's word.
    pub fn round<'a>(&'a mut self, state: &'a State) -> BoxFuture<'a, Result<Round, HandoffError>> {
        async move { self.round_of(state, &BTreeSet::new()).await }.boxed()
    }

    async fn round_of(&mut self, state: &State, open: &BTreeSet<JobId>) -> Result<Round, HandoffError> {
        let round = self.try_round(state, open).await;
        if let Err(error) = &round {
            self.session = None;
            let metrics = &self.watched.metrics;
            metrics.failed(self.pipeline.name.as_str(), error.kind());
        }
        round
    }

    async fn try_round(&mut self, state: &State, open: &BTreeSet<JobId>) -> Result<Round, HandoffError> {
        let decisions = decisions(&self.lake, state).await?;
        self.expired.look(&self.lake, state).await?;
        if self.session.is_none()
            && let Err(error) = self.connect(state).await
        {
            // What was committed before we ever reached the warehouse may be there: only what comes since waits for sure.
            let loaded = self.loaded.get_or_insert_with(|| all_committed(state));
            let waiting = candidates(state, loaded, &decisions, open).unwrap_or_default();
            self.backlog.look(&self.lake, waiting.iter()).await;
            return Err(error);
        }
        let (Some(session), Some(loaded)) = (&self.session, &mut self.loaded) else {
            return Ok(Round::default());
        };
        let all = candidates(state, loaded, &decisions, open)?;
        let (rest, others): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|one| one.standing == Standing::Waiting);
        let mut rest = VecDeque::from(rest);
        let held = others.iter().filter(|one| one.standing == Standing::Held);
        let mut round = Round {
            held: held.count() as u64,
            ..Round::default()
        };
        let unit = self.pipeline.handoff;
        if unit == HandoffUnit::Job {
            by_job(&mut rest);
        }
        loop {
            self.backlog.look(&self.lake, rest.iter().chain(&others)).await;
            if rest.is_empty() {
                return Ok(round);
            }
            let began = Instant::now();
            let most = session.batches_max(unit);
            let loads = next_loads(&self.lake, &rest, most, unit, &self.expired).await?;
            let (outcome, count) = session
                .load(&self.pipeline, &self.lake, &loads, &self.watched.hook)
                .await?;
            if outcome == Outcome::WasThere {
                // Whoever was first may have loaded another lake's batch of this name: the next round looks.
                *loaded = session.loaded(&self.pipeline).await?;
                candidates(state, loaded, &BTreeMap::new(), open)?;
                rest.retain(|candidate| !loaded.contains_key(&candidate.batch));
                continue;
            }
            rest.drain(..count);
            let took = began.elapsed();
            for Load { candidate, manifest } in loads.into_iter().take(count) {
                round.batches += 1;
                round.rows += candidate.rows;
                tracing::info!(
                    pipeline = %self.pipeline.name, batch = %candidate.batch, attempt = %candidate.attempt,
                    rows = candidate.rows, files = manifest.files.len(), together = count,
                    milliseconds = took.as_millis(), waiting = rest.len(), "a batch is loaded"
                );
                let metrics = &self.watched.metrics;
                metrics.loaded(self.pipeline.name.as_str(), candidate.rows);
                loaded.insert(candidate.batch, candidate.digest);
            }
            self.watched.metrics.took(self.pipeline.name.as_str(), took);
        }
    }

    async fn connect(&mut self, state: &State) -> Result<(), HandoffError> {
        let session = Session::open(&self.pipeline, &self.lake, state, &self.remembered).await?;
        self.loaded = Some(session.loaded(&self.pipeline).await?);
        self.session = Some(session);
        Ok(())
    }

    /// Rounds until one succeeds, for as long as `patience` allows and trying again may help.
    ///
    /// # Errors
    /// The last round's.
    pub fn settle<'a>(
        &'a mut self,
        state: &'a State,
        patience: Duration,
    ) -> BoxFuture<'a, Result<Round, HandoffError>> {
        async move {
        let (began, mut pause) = (Instant::now(), PAUSE);
        let mut done = Round::default();
        loop {
            match self.round(state).await {
                Ok(round) => {
                    done.batches += round.batches;
                    done.rows += round.rows;
                    return Ok(Round {
                        held: round.held,
                        ..done
                    });
                }
                Err(error) if error.is_retryable() && began.elapsed() + pause < patience => {
                    tracing::warn!(pipeline = %self.pipeline.name, error = error.text(), "the handoff is tried again");
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }.boxed()
    }
}

/// Where every committed batch stands. Nothing is made or changed in the warehouse.
///
/// # Errors
/// When the warehouse or the lake cannot be read.
pub fn standings<'a>(
    pipeline: &'a Pipeline,
    lake: &'a Lake,
    known: &'a Known,
) -> BoxFuture<'a, Result<Vec<Candidate>, HandoffError>> {
    async move {
        let loaded = catalogue::look(pipeline, lake).await?;
        candidates(
            &known.state,
            &loaded,
            &decisions(lake, &known.state).await?,
            &known.open,
        )
    }
    .boxed()
}

/// The batches that a breach held back, decided upon or not. The warehouse is not asked: what was released counts as waiting.
///
/// # Errors
/// When the lake cannot be read.
pub fn held<'a>(lake: &'a Lake, known: &'a Known) -> BoxFuture<'a, Result<Vec<Candidate>, HandoffError>> {
    async move {
        let decisions = decisions(lake, &known.state).await?;
        let mut all = candidates(&known.state, &Loaded::new(), &decisions, &known.open)?;
        let is_held = |batch: &BatchId| known.state.batches.get(batch).is_some_and(|batch| batch.held);
        all.retain(|candidate| is_held(&candidate.batch));
        Ok(all)
    }
    .boxed()
}

/// The next batches with their manifests: of one job, where jobs are handed off as wholes.
async fn next_loads(
    lake: &Lake,
    rest: &VecDeque<Candidate>,
    most: usize,
    unit: HandoffUnit,
    expired: &Expired,
) -> Result<Vec<Load>, HandoffError> {
    let first = rest.front().map(|candidate| &candidate.job);
    let together = |candidate: &&Candidate| unit == HandoffUnit::Batch || Some(&candidate.job) == first;
    let mut loads = Vec::new();
    for candidate in rest.iter().take_while(together).take(most) {
        let mut candidate = candidate.clone();
        let mut manifest = commit::committed(lake, &candidate.batch, &candidate.digest).await?;
        expired.sift(&mut manifest.files);
        candidate.rows = manifest.files.iter().map(|file| file.object.rows).sum();
        loads.push(Load { candidate, manifest });
    }
    Ok(loads)
}

/// Batches of a job one after the other, jobs in the order of their first batches.
fn by_job(rest: &mut VecDeque<Candidate>) {
    let mut order: BTreeMap<JobId, usize> = BTreeMap::new();
    for candidate in rest.iter() {
        let next = order.len();
        order.entry(candidate.job.clone()).or_insert(next);
    }
    rest.make_contiguous()
        .sort_by_key(|candidate| order.get(&candidate.job).copied());
}

fn all_committed(state: &State) -> Loaded {
    let digest = |batch: &crate::ledger::Batch| batch.manifest.clone().unwrap_or_default();
    state
        .committed()
        .map(|(id, batch)| (id.clone(), digest(batch)))
        .collect()
}

/// Decisions, where there is anything to decide.
async fn decisions(lake: &Lake, state: &State) -> Result<BTreeMap<BatchId, hold::Decision>, HandoffError> {
    if state.committed().any(|(_, batch)| batch.held) {
        hold::decisions(lake).await
    } else {
        Ok(BTreeMap::new())
    }
}
