//! What makes a change behind our back visible: every ledger object carries the hash of the one before.
//!
//! In: the ledger's objects in order, and its head. Out: their entries, or the first place that does not
//! fit.
//!
//! ```text
//! ledger/000000000000.json   {"previous": null,     "entries": [...]}
//! ledger/000000000001.json   {"previous": "<hex>",  "entries": [...]}   BLAKE3 of the object before
//! ledger/head.json           {"place": 1, "digest": "<hex>"}            how far it reached at least
//! ```
//!
//! The chain alone cannot tell that its end was cut off or that its last object was changed: the head does.
//! It is written after the object that it names, so a crash between the two leaves it behind, never ahead,
//! and a reader that fetches it first never finds it ahead of what it lists.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Entry, LedgerError};

/// One object of the sequence.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Link {
    /// BLAKE3 of the object before, in hex; none for the first.
    pub(super) previous: Option<String>,
    /// The writer that put it: tells our own put, whose response was lost, from an equal one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) by: Option<String>,
    /// What happened at once.
    pub(super) entries: Vec<Entry>,
}

/// How far the sequence reached when it was written last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Head {
    /// Place of an object in the sequence.
    pub(super) place: u64,
    /// BLAKE3 of that object, in hex.
    pub(super) digest: String,
}

/// A sequence that holds together.
#[derive(Debug, Default)]
pub(super) struct Chain {
    /// All entries, in order.
    pub(super) entries: Vec<Entry>,
    /// Digest of the last object; none for an empty sequence.
    pub(super) last: Option<String>,
}

/// The digest by which an object is known to the next one and to the head.
pub(super) fn digest(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// Follows the sequence from its first object to its last.
pub(super) fn follow(objects: &[(String, Bytes)], head: Option<&Head>) -> Result<Chain, LedgerError> {
    let mut chain = Chain::default();
    for (place, (key, bytes)) in objects.iter().enumerate() {
        let link: Link = serde_json::from_slice(bytes).map_err(|source| LedgerError::Damaged {
            key: key.clone(),
            source,
        })?;
        if link.previous != chain.last {
            // Which of the two was changed cannot be told: both are named.
            let before = place.checked_sub(1).and_then(|before| objects.get(before));
            return Err(LedgerError::Chain {
                key: key.clone(),
                before: before.map_or_else(|| "nothing".to_owned(), |(key, _)| key.clone()),
            });
        }
        chain.entries.extend(link.entries);
        let digest = digest(bytes);
        if let Some(head) = head
            && head.place == place as u64
            && head.digest != digest
        {
            return Err(LedgerError::Changed { key: key.clone() });
        }
        chain.last = Some(digest);
    }
    let reached = objects.len() as u64;
    match head {
        Some(head) if head.place >= reached => Err(LedgerError::Cut {
            expected: millrace_proto::keys::ledger(head.place),
        }),
        // The second object is only written once the head names the first.
        None if reached > 1 => Err(LedgerError::Headless {
            key: millrace_proto::keys::ledger_head(),
        }),
        Some(_) | None => Ok(chain),
    }
}

#[cfg(test)]
mod tests {
    use millrace_proto::ids::PipelineName;
    use millrace_proto::keys;
    use proptest::prelude::*;

    use super::*;

    fn sequence(length: u64) -> (Vec<(String, Bytes)>, Option<Head>) {
        let mut objects: Vec<(String, Bytes)> = Vec::new();
        let mut head = None;
        for place in 0..length {
            let link = Link {
                previous: objects.last().map(|(_, bytes)| digest(bytes)),
                by: None,
                entries: vec![Entry::Opened {
                    pipeline: PipelineName::try_from(format!("p{place}")).unwrap(),
                    epoch: None,
                }],
            };
            let bytes = Bytes::from(serde_json::to_vec(&link).unwrap());
            head = Some(Head {
                place,
                digest: digest(&bytes),
            });
            objects.push((keys::ledger(place), bytes));
        }
        (objects, head)
    }

    #[test]
    fn a_whole_sequence_gives_its_entries() {
        for length in 0..4 {
            let (objects, head) = sequence(length);
            let chain = follow(&objects, head.as_ref()).unwrap();
            assert_eq!(chain.entries.len() as u64, length);
        }
    }

    #[test]
    fn a_head_that_lags_is_what_a_crash_leaves() {
        let (_, head) = sequence(2);
        let (objects, _) = sequence(3);
        assert!(follow(&objects, head.as_ref()).is_ok());
        assert!(follow(&objects[..1], None).is_ok());
    }

    #[test]
    fn a_cut_end_is_named() {
        let (objects, head) = sequence(3);
        let error = follow(&objects[..2], head.as_ref()).unwrap_err();
        assert!(error.to_string().contains("ledger/000000000002.json"), "{error}");
        assert!(
            follow(&objects, None)
                .unwrap_err()
                .to_string()
                .contains("head.json")
        );
    }

    proptest! {
        /// Also a change that still parses, also in the last object.
        #[test]
        fn one_changed_bit_anywhere_is_found(place in 0usize..4, byte in any::<prop::sample::Index>(), bit in 0u8..8) {
            let (mut objects, head) = sequence(4);
            let mut bytes = objects[place].1.to_vec();
            let at = byte.index(bytes.len());
            bytes[at] ^= 1 << bit;
            objects[place].1 = bytes.into();
            prop_assert!(follow(&objects, head.as_ref()).is_err());
        }
    }
}
