//! From the lake into the warehouse: each committed batch once.
//!
//! In: the lake's ledger, its manifests and data files. Out: rows in the warehouse's table, and a row per batch in its load
//! ledger, `millrace_loads`, in the same transaction (invariant 5). Nothing is kept anywhere else: what is to be done is the
//! difference of the two ledgers, so any process may begin at any time, and two at once do each other no harm.
//!
//! | the batch is...             | then                                                                     |
//! |-----------------------------|--------------------------------------------------------------------------|
//! | committed                   | it is loaded, in the order of planning                                   |
//! | committed and held          | it waits for an operator, the others pass it by                          |
//! | released, or discarded      | it is loaded in the next round, or never                                 |
//! | in the load ledger          | done; with another digest: nothing is loaded until a person looks        |
//!
//! | when the warehouse...              | the handoff                                                          |
//! |------------------------------------|----------------------------------------------------------------------|
//! | is down, restarts, is full         | tries again with growing pauses; the lake goes on, batches wait       |
//! | refuses for good                   | says which table, column, file and rule, and tries again each minute  |

mod catalogue;
mod connection;
mod copy;
mod decide;
mod error;
pub mod hold;
mod jsonb;
mod leading;
mod postgres;
pub mod preflight;
mod read;
mod redshift;
mod table;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_pipeline::spec::model::{Pipeline, Warehouse};
use millrace_proto::manifest::Manifest;
use tokio::sync::watch;

use crate::commit;
use crate::lake::Lake;
use crate::ledger::State;
use postgres::Outcome;

pub use copy::CellError;
pub use decide::{Candidate, Loaded, Standing, candidates};
pub use error::{HandoffError, Refusal};
pub use leading::tend;
pub use table::{Comparison, FoundColumn, TableFault, compare};

/// First pause after a failure; doubles.
const PAUSE: Duration = Duration::from_millis(250);
/// Longest pause while the warehouse is expected to come back.
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// Pause where a person must act.
const PERSON_PAUSE: Duration = Duration::from_secs(60);
/// How often decisions about held batches are looked for.
const DECISIONS_EVERY: Duration = Duration::from_secs(5);
/// Batches that wait longer than this are alarmed.
const LAG_ALARM: Duration = Duration::from_secs(60);

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

/// A pipeline's handoff.
pub struct Handoff {
    pipeline: Arc<Pipeline>,
    lake: Lake,
    session: Option<(Session, Loaded)>,
    /// Batches known to wait, for the log.
    waiting: usize,
}

impl Handoff {
    /// A handoff; none for a pipeline without a warehouse.
    #[must_use]
    pub fn new(pipeline: Arc<Pipeline>, lake: Lake) -> Option<Self> {
        pipeline.warehouse.as_ref()?;
        Some(Self {
            pipeline,
            lake,
            session: None,
            waiting: 0,
        })
    }

    /// Loads whatever is committed and not loaded, in order.
    ///
    /// # Errors
    /// The first thing that went wrong. What was loaded before stays; the next round begins with a new connection and
    /// the load ledger's word.
    pub async fn round(&mut self, state: &State) -> Result<Round, HandoffError> {
        let round = self.try_round(state).await;
        if round.is_err() {
            self.session = None;
        }
        round
    }

    async fn try_round(&mut self, state: &State) -> Result<Round, HandoffError> {
        if self.session.is_none() {
            self.session = Some(self.connect().await?);
        }
        let Some((session, loaded)) = &mut self.session else {
            return Ok(Round::default());
        };
        let all = candidates(state, loaded, &decisions(&self.lake, state).await?)?;
        let mut round = Round {
            held: all.iter().filter(|one| one.standing == Standing::Held).count() as u64,
            ..Round::default()
        };
        let waiting: Vec<Candidate> = all
            .into_iter()
            .filter(|one| one.standing == Standing::Waiting)
            .collect();
        self.waiting = waiting.len();
        let mut rest = VecDeque::from(waiting);
        while !rest.is_empty() {
            let began = Instant::now();
            let loads = next_loads(&self.lake, &rest, session.batches_max()).await?;
            let (outcome, count) = session.load(&self.pipeline, &self.lake, &loads).await?;
            if outcome == Outcome::WasThere {
                // Whoever was first may have loaded another lake's batch of this name: the next round looks.
                *loaded = session.loaded(&self.pipeline).await?;
                candidates(state, loaded, &BTreeMap::new())?;
                rest.retain(|candidate| !loaded.contains_key(&candidate.batch));
                continue;
            }
            rest.drain(..count);
            self.waiting = rest.len();
            let milliseconds = began.elapsed().as_millis();
            for Load { candidate, manifest } in loads.into_iter().take(count) {
                round.batches += 1;
                round.rows += candidate.rows;
                tracing::info!(
                    pipeline = %self.pipeline.name, batch = %candidate.batch, attempt = %candidate.attempt,
                    rows = candidate.rows, files = manifest.files.len(), milliseconds, waiting = self.waiting,
                    "a batch is loaded"
                );
                loaded.insert(candidate.batch, candidate.digest);
            }
        }
        Ok(round)
    }

    async fn connect(&self) -> Result<(Session, Loaded), HandoffError> {
        let session = Session::open(&self.pipeline).await?;
        let loaded = session.loaded(&self.pipeline).await?;
        Ok((session, loaded))
    }

    /// Where every committed batch stands.
    ///
    /// # Errors
    /// When the warehouse or the lake cannot be read.
    pub async fn standings(&mut self, state: &State) -> Result<Vec<Candidate>, HandoffError> {
        let (_, loaded) = self.connect().await?;
        candidates(state, &loaded, &decisions(&self.lake, state).await?)
    }

    /// Rounds until one succeeds, for as long as `patience` allows and trying again may help.
    ///
    /// # Errors
    /// The last round's.
    pub async fn settle(&mut self, state: &State, patience: Duration) -> Result<Round, HandoffError> {
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
    }

    /// Loads what is committed, and what will be, until `states` ends.
    pub async fn follow(mut self, mut states: watch::Receiver<Arc<State>>) {
        let mut pause = PAUSE;
        let mut behind: Option<Instant> = None;
        loop {
            let state = Arc::clone(&states.borrow_and_update());
            let wait = match self.round(&state).await {
                Ok(round) => {
                    (pause, behind) = (PAUSE, None);
                    (round.held > 0).then_some(DECISIONS_EVERY)
                }
                Err(error) => {
                    let since = *behind.get_or_insert_with(Instant::now);
                    self.report(&error, since.elapsed());
                    let wait = if error.is_retryable() { pause } else { PERSON_PAUSE };
                    pause = (pause * 2).min(PAUSE_MAX);
                    Some(wait)
                }
            };
            let changed = async {
                // New batches do not help while the warehouse is down.
                if behind.is_some() {
                    std::future::pending::<()>().await;
                }
                if states.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            match wait {
                Some(wait) => {
                    let _ = tokio::time::timeout(wait, changed).await;
                }
                None => changed.await,
            }
        }
    }

    fn report(&self, error: &HandoffError, behind: Duration) {
        let (pipeline, waiting) = (&self.pipeline.name, self.waiting);
        let (text, seconds) = (error.text(), behind.as_secs());
        if error.is_retryable() && behind < LAG_ALARM {
            tracing::warn!(%pipeline, waiting, error = text, "the warehouse takes no batches now");
        } else {
            tracing::error!(%pipeline, waiting, behind_seconds = seconds, error = text, "the warehouse falls behind");
        }
    }
}

/// A batch that is to be loaded.
struct Load {
    candidate: Candidate,
    manifest: Manifest,
}

/// The next batches with their manifests.
async fn next_loads(lake: &Lake, rest: &VecDeque<Candidate>, most: usize) -> Result<Vec<Load>, HandoffError> {
    let mut loads = Vec::new();
    for candidate in rest.iter().take(most) {
        let candidate = candidate.clone();
        let manifest = commit::committed(lake, &candidate.batch, &candidate.digest).await?;
        loads.push(Load { candidate, manifest });
    }
    Ok(loads)
}

/// A session with a warehouse of either kind.
enum Session {
    Postgres(postgres::Session),
    Redshift(redshift::Session),
}

impl Session {
    async fn open(pipeline: &Pipeline) -> Result<Self, HandoffError> {
        match &pipeline.warehouse {
            Some(Warehouse::Postgres { dsn, .. }) => {
                Ok(Self::Postgres(postgres::Session::open(dsn, pipeline).await?))
            }
            Some(Warehouse::Redshift { dsn, iam_role, .. }) => {
                let role = iam_role.as_deref();
                Ok(Self::Redshift(
                    redshift::Session::open(dsn, role, pipeline).await?,
                ))
            }
            None => Err(HandoffError::Dsn),
        }
    }

    async fn loaded(&self, pipeline: &Pipeline) -> Result<Loaded, HandoffError> {
        match self {
            Self::Postgres(session) => session.loaded(pipeline).await,
            Self::Redshift(session) => session.loaded(pipeline).await,
        }
    }

    /// Most batches of one load.
    fn batches_max(&self) -> usize {
        match self {
            Self::Postgres(_) => 1,
            Self::Redshift(_) => redshift::BATCHES_MAX,
        }
    }

    /// Loads the first of these batches, or more; how many.
    async fn load(
        &self,
        pipeline: &Pipeline,
        lake: &Lake,
        loads: &[Load],
    ) -> Result<(Outcome, usize), HandoffError> {
        match (self, loads) {
            (Self::Redshift(session), loads) => session.load(pipeline, lake, loads).await,
            (Self::Postgres(session), [first, ..]) => {
                let outcome = session
                    .load(pipeline, lake, &first.candidate, &first.manifest)
                    .await?;
                Ok((outcome, 1))
            }
            (Self::Postgres(_), []) => Ok((Outcome::WasThere, 0)),
        }
    }
}

/// Decisions, where there is anything to decide.
async fn decisions(
    lake: &Lake,
    state: &State,
) -> Result<BTreeMap<millrace_proto::ids::BatchId, hold::Decision>, HandoffError> {
    if state.committed().any(|(_, batch)| batch.held) {
        hold::decisions(lake).await
    } else {
        Ok(BTreeMap::new())
    }
}
