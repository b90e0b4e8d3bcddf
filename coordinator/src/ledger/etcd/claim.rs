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
    match lake.get(&keys::ledger_head()).await {
        Err(LakeError::Missing { .. }) => {}
        Ok(_) => return Err(LedgerError::Embedded { url: url() }),
        Err(error) => return Err(error.into()),
    }
    let owner = owner(lake, pipeline).await?;
    if owner.pipeline != *pipeline {
        return Err(LedgerError::Foreign {
            url: url(),
            owner: owner.pipeline,
            ours: pipeline.clone(),
        });
    }
    let fits = match known {
        Some(known) => known == owner.id,
        None => lake.list("manifests").await?.is_empty(),
    };
    if fits {
        Ok(owner.id)
    } else {
        Err(LedgerError::Orphan { url: url() })
    }
}

/// Who owns the lake; we do if nobody did.
async fn owner(lake: &Lake, pipeline: &PipelineName) -> Result<Owner, LedgerError> {
    let key = keys::ledger_owner();
    loop {
        match lake.get(&key).await {
            Ok(bytes) => return serde_json::from_slice(&bytes).map_err(damaged(&key)),
            Err(LakeError::Missing { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let ours = Owner {
            pipeline: pipeline.clone(),
            id: uuid::Uuid::new_v4().simple().to_string(),
        };
        match lake.create(&key, Bytes::from(encode(&key, &ours)?)).await {
            Ok(()) | Err(LakeError::Exists { .. }) => {} // whoever it was: read it
            Err(error) => return Err(error.into()),
        }
    }
}
