//! Jobs and pipelines, kept in etcd: what was asked for, and what became of it.
//!
//! In: mutations of the leader, each one transaction guarded by its epoch (invariant 2); reads of anyone.
//! Out: jobs, pipelines, and streams of their changes.
//!
//! ```text
//! /<prefix>/jobs/<job id>                    Job, as protobuf
//! /<prefix>/requests/<request id>            job id: the same request gives the same job
//! /<prefix>/active/<pipeline>/<job id>       there while the job is pending or running
//! /<prefix>/pipelines/<name>/<version, 8>    Pipeline, as protobuf
//! /<prefix>/counters/jobs                    number of the last job
//! /<prefix>/counters/pipelines/<name>        last version; outlives the pipeline, so no version means two things
//! ```
//!
//! A transaction may be sent twice when a response is lost: its compares refuse it the second time, and what is
//! found then tells that it was ours.

mod error;
mod jobs;
mod page;
mod pipelines;
mod prune;
pub mod state;
mod watch;

use std::sync::Arc;

use etcd_client::{KeyValue, TxnOp};
use millrace_proto::v1::{Job, JobInput, JobState};

use crate::election::Leadership;
use crate::etcd::{Etcd, Outcome, key};
pub use error::RegistryError;
pub use prune::Retention;

/// Largest value that is stored; etcd takes requests of 1.5 MiB.
const VALUE_BYTES_MAX: usize = 900 << 10;

/// The registry below a prefix. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Registry {
    etcd: Etcd,
    prefix: String,
    counter: Arc<tokio::sync::Mutex<Counter>>,
}

/// The job counter as this process saw it last; a transaction that finds another one is tried again.
#[derive(Debug, Default)]
struct Counter {
    last: u64,
    revision: i64,
}

/// A job as it is asked for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NewJob {
    /// The caller's id of the request: the same one again gives the same job.
    pub request_id: String,
    /// The applied pipeline.
    pub pipeline: String,
    /// Its version; 0: the newest.
    pub pipeline_version: u32,
    /// What is read; none: the pipeline's own source.
    pub input: Option<JobInput>,
    /// Decides about masking. Empty: masked.
    pub environment: String,
    /// Who submits it.
    pub submitter: String,
}

/// Which jobs are listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobFilter {
    /// Only of this pipeline.
    pub pipeline: Option<String>,
    /// Only in this state.
    pub state: Option<JobState>,
}

impl JobFilter {
    fn takes(&self, job: &Job) -> bool {
        self.pipeline.as_ref().is_none_or(|name| *name == job.pipeline)
            && self.state.is_none_or(|state| state == job.state())
    }

    fn text(&self) -> String {
        let pipeline = self.pipeline.as_deref().unwrap_or_default();
        format!("jobs {pipeline} {}", self.state.map_or("", state::name))
    }
}

impl Registry {
    /// The registry below a prefix.
    #[must_use]
    pub fn new(etcd: Etcd, prefix: &str) -> Self {
        Self {
            etcd,
            prefix: prefix.to_owned(),
            counter: Arc::default(),
        }
    }

    fn key(&self, rest: &str) -> String {
        key(&self.prefix, rest)
    }

    fn job_key(&self, id: &str) -> String {
        self.key(&format!("jobs/{id}"))
    }

    fn active_key(&self, pipeline: &str, id: &str) -> String {
        self.key(&format!("active/{pipeline}/{id}"))
    }

    fn request_key(&self, id: &str) -> String {
        self.key(&format!("requests/{id}"))
    }

    fn version_key(&self, name: &str, version: u32) -> String {
        self.key(&format!("pipelines/{name}/{version:08}"))
    }
}

/// The read that tells a failed guard from another failed compare. It is the last one of each `otherwise`.
fn read_leader(lead: &Leadership) -> TxnOp {
    TxnOp::get(lead.key(), None)
}

/// Whether the guard held when a transaction was refused.
fn still_leads(lead: &Leadership, outcome: &Outcome) -> Result<(), RegistryError> {
    let epoch = lead.epoch();
    let leader = outcome.reads.last().and_then(|found| found.first());
    let current = leader.map(KeyValue::create_revision);
    if current.and_then(|current| u64::try_from(current).ok()) == Some(epoch) {
        Ok(())
    } else {
        Err(RegistryError::NotLeader { epoch })
    }
}

/// Refuses before anything is sent when our own clock says that the lease may have ended.
fn leads(lead: &Leadership) -> Result<(), RegistryError> {
    if lead.is_held() {
        return Ok(());
    }
    let epoch = lead.epoch();
    Err(RegistryError::NotLeader { epoch })
}

fn check_size(what: &'static str, name: &str, bytes: &[u8]) -> Result<(), RegistryError> {
    if bytes.len() <= VALUE_BYTES_MAX {
        return Ok(());
    }
    Err(RegistryError::TooLarge {
        what,
        name: name.to_owned(),
        bytes: bytes.len(),
        limit: VALUE_BYTES_MAX,
    })
}

/// Names become keys, so they hold no `/`.
fn check_name(what: &'static str, text: &str) -> Result<(), RegistryError> {
    let bytes = text.as_bytes();
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':');
    if (1..=128).contains(&bytes.len()) && bytes.iter().all(plain) {
        return Ok(());
    }
    Err(RegistryError::Name {
        what,
        text: text.chars().take(128).collect(),
        rule: "1 to 128 letters, digits, `-`, `_`, `.` or `:`",
    })
}
