//! A session with a warehouse of either kind.

use millrace_pipeline::spec::model::{HandoffUnit, Pipeline, Warehouse};
use millrace_proto::manifest::Manifest;

use super::data_api::Salt;
use super::decide::{Candidate, Loaded};
use super::{HandoffError, login, postgres, redshift};
use crate::lake::Lake;
use crate::ledger::State;
use crate::lifecycle::Hook;

/// What became of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Its rows are in the warehouse now.
    Loaded,
    /// Another loader was first.
    WasThere,
}

/// A batch that is to be loaded.
pub(super) struct Load {
    pub(super) candidate: Candidate,
    pub(super) manifest: Manifest,
}

/// What is known from one session to the next.
#[derive(Clone, Default)]
pub(super) struct Remembered {
    /// What tells this process's tries of a load from those before.
    pub(super) salt: Salt,
    pub(super) login: login::Kept,
}

/// An open session, the table checked.
pub(super) enum Session {
    Postgres(postgres::Session),
    Redshift(redshift::Session),
}

impl Session {
    pub(super) async fn open(
        pipeline: &Pipeline,
        lake: &Lake,
        state: &State,
        remembered: &Remembered,
    ) -> Result<Self, HandoffError> {
        match &pipeline.warehouse {
            Some(Warehouse::Postgres { dsn, .. }) => {
                Ok(Self::Postgres(postgres::Session::open(dsn, pipeline).await?))
            }
            Some(Warehouse::Redshift { access, iam_role, .. }) => {
                let way = redshift::Way::open(access, lake, remembered).await?;
                let role = iam_role.as_deref();
                Ok(Self::Redshift(
                    redshift::Session::open(way, role, pipeline, (lake, state)).await?,
                ))
            }
            None => Err(HandoffError::Dsn),
        }
    }

    /// What the load ledger holds of this pipeline.
    pub(super) async fn loaded(&self, pipeline: &Pipeline) -> Result<Loaded, HandoffError> {
        match self {
            Self::Postgres(session) => session.loaded(pipeline).await,
            Self::Redshift(session) => session.loaded(pipeline).await,
        }
    }

    /// Most batches of one transaction.
    pub(super) fn batches_max(&self, unit: HandoffUnit) -> usize {
        match (self, unit) {
            (Self::Postgres(_), HandoffUnit::Batch) => 1,
            (Self::Postgres(_), HandoffUnit::Job) => usize::MAX,
            (Self::Redshift(_), HandoffUnit::Batch | HandoffUnit::Job) => redshift::BATCHES_MAX,
        }
    }

    /// Loads the first of these batches, or more; how many.
    pub(super) async fn load(
        &self,
        pipeline: &Pipeline,
        lake: &Lake,
        loads: &[Load],
        hook: &Hook,
    ) -> Result<(Outcome, usize), HandoffError> {
        match self {
            Self::Redshift(session) => session.load(pipeline, lake, loads, hook).await,
            Self::Postgres(session) => {
                let outcome = session.load(pipeline, lake, loads, hook).await?;
                Ok((outcome, loads.len()))
            }
        }
    }
}
