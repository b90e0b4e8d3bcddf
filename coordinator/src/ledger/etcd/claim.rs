//! A lake belongs to one ledger: what is committed in it is known to that ledger alone.
//!
//! | the lake...                                    | etcd has its ledger | then                                       |
//! |------------------------------------------------|---------------------|--------------------------------------------|
//! | has no owner                                   | no                  | we become it                               |
//! | has our pipeline as its owner                  | the same            | fine                                       |
//! | has our pipeline as its owner, nothing committed | no                | fine: a crash came before the first append |
//! | has our pipeline as its owner, batches committed | no, or another    | refused: etcd was wiped or is another's, and everything would be read twice |
//! | has another pipeline as its owner              |                     | refused                                    |
//! | keeps a ledger of its own (embedded runs)      |                     | refused                                    |

use bytes::Bytes;
use millrace_proto::ids::PipelineName;
use millrace_proto::keys;
use serde::{Deserialize, Serialize};

use super::{damaged, encode};
use crate::lake::{Lake, LakeError};
use crate::ledger::LedgerError;

/// Whose a lake is, as an object in it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Owner {
    pipeline: PipelineName,
    id: String,
}

/// Makes sure that the lake is this ledger's; gives the lake's id.
pub(super) async fn claim(
    lake: &Lake,
    pipeline: &PipelineName,
    known: Option<&str>,
) -> Result<String, LedgerError> {
    let url = || lake.url.clone();
    let is_new = known.is_none();
    // Side by side: a job waits for all of it.
    let listed = async {
        if is_new {
            lake.list("manifests").await
        } else {
            Ok(Vec::new())
        }
    };
    let head = keys::ledger_head();
    let (head, owner, manifests) = futures::join!(lake.get(&head), read_owner(lake), listed);
    match head {
        Err(LakeError::Missing { .. }) => {}
        Ok(_) => return Err(LedgerError::Embedded { url: url() }),
        Err(error) => return Err(error.into()),
    }
    let owner = match owner? {
        Some(owner) => owner,
        None => become_owner(lake, pipeline).await?,
    };
    if owner.pipeline != *pipeline {
        return Err(LedgerError::Foreign {
            url: url(),
            owner: owner.pipeline,
            ours: pipeline.clone(),
        });
    }
    let fits = known.map_or(manifests?.is_empty(), |known| known == owner.id);
    if fits {
        Ok(owner.id)
    } else {
        Err(LedgerError::Orphan { url: url() })
    }
}

/// Who owns the lake, if anybody does.
async fn read_owner(lake: &Lake) -> Result<Option<Owner>, LedgerError> {
    let key = keys::ledger_owner();
    match lake.get(&key).await {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(damaged(&key)),
        Err(LakeError::Missing { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// We do if nobody was faster.
async fn become_owner(lake: &Lake, pipeline: &PipelineName) -> Result<Owner, LedgerError> {
    let key = keys::ledger_owner();
    let ours = Owner {
        pipeline: pipeline.clone(),
        id: uuid::Uuid::new_v4().simple().to_string(),
    };
    let bytes = Bytes::from(encode(&key, &ours)?);
    match lake.create(&key, bytes).await {
        Ok(()) => return Ok(ours),
        Err(LakeError::Exists { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let missing = || LakeError::Missing { key: key.clone() };
    Ok(read_owner(lake).await?.ok_or_else(missing)?)
}
