//! Seals the bytes of a rejected record, so that quarantine holds no clear personal data.
//!
//! A sealed record is a version byte, a 24-byte nonce, then XChaCha20-Poly1305's ciphertext and tag. The
//! nonce is a hash of bytes from the operating system and of the record: should the first ever fail or
//! repeat (a snapshot of a machine resumed twice), two different records still get different nonces.
//!
//! Whole objects are sealed alike, and named by a keyed hash of their clear bytes.

use chacha20poly1305::aead::rand_core::RngCore;
use chacha20poly1305::aead::{Aead, KeyInit, OsRng, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

use super::PrivacyError;
use crate::spec::model::{Pipeline, Secret};

const VERSION: u8 = 1;
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
const LEAST_BYTES: usize = 1 + NONCE_BYTES + TAG_BYTES;

/// Seals and opens records with a key derived from the pipeline's secret.
#[derive(Clone)]
pub struct Sealer {
    cipher: XChaCha20Poly1305,
    nonce_key: [u8; 32],
    name_key: [u8; 32],
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer([secret])")
    }
}

impl Sealer {
    /// The sealer of a pipeline, whatever the environment: redrive opens with it what was sealed.
    ///
    /// # Errors
    /// When the pipeline has no `privacy.hash_key`.
    pub fn of(pipeline: &Pipeline) -> Result<Self, PrivacyError> {
        super::policy::secret(&pipeline.privacy)
            .map(Self::new)
            .ok_or_else(|| PrivacyError::MissingKey {
                what: "sealed records need a secret to be opened".to_owned(),
                environment: "whichever it is".to_owned(),
            })
    }

    pub(crate) fn new(secret: &Secret) -> Self {
        let secret = secret.reveal().as_bytes();
        let key = blake3::derive_key("millrace 2026-01-01 quarantine seal", secret);
        Self {
            cipher: XChaCha20Poly1305::new(&key.into()),
            nonce_key: blake3::derive_key("millrace 2026-01-01 quarantine nonce", secret),
            name_key: blake3::derive_key("millrace 2026-01-01 sealed object name", secret),
        }
    }

    /// Seals a record's bytes; the result is 41 bytes longer and different each time.
    #[must_use]
    pub fn seal(&self, clear: &[u8]) -> Vec<u8> {
        let nonce = self.nonce(clear);
        let payload = Payload {
            msg: clear,
            aad: &[VERSION],
        };
        // The cipher's one error is a message of 256 GiB: such a record is over every limit long before.
        let ciphertext = self.cipher.encrypt(&nonce, payload).unwrap_or_default();
        let mut sealed = Vec::with_capacity(1 + NONCE_BYTES + ciphertext.len());
        sealed.push(VERSION);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&ciphertext);
        sealed
    }

    /// The bytes that were sealed.
    ///
    /// # Errors
    /// When the bytes are not whole, not ours, or sealed with another secret.
    pub fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, PrivacyError> {
        if sealed.len() < LEAST_BYTES {
            return Err(PrivacyError::SealedTooShort {
                bytes: sealed.len(),
                least: LEAST_BYTES,
            });
        }
        let (version, rest) = (sealed[0], &sealed[1..]);
        if version != VERSION {
            return Err(PrivacyError::SealedVersion(version));
        }
        let (nonce, ciphertext) = rest.split_at(NONCE_BYTES);
        let payload = Payload {
            msg: ciphertext,
            aad: &[version],
        };
        self.cipher
            .decrypt(XNonce::from_slice(nonce), payload)
            .map_err(|_| PrivacyError::SealedOtherwise)
    }

    /// Names clear bytes: the same for the same bytes, and without the secret nobody can tell whose name it is.
    #[must_use]
    pub fn name(&self, clear: &[u8]) -> blake3::Hash {
        blake3::keyed_hash(&self.name_key, clear)
    }

    fn nonce(&self, clear: &[u8]) -> XNonce {
        let mut random = [0; 32];
        // A failure leaves zeros: then the nonce is a function of the record alone, which is still safe.
        let _ = OsRng.try_fill_bytes(&mut random);
        let mut hasher = blake3::Hasher::new_keyed(&self.nonce_key);
        hasher.update(&random).update(clear);
        let digest = hasher.finalize();
        XNonce::clone_from_slice(&digest.as_bytes()[..NONCE_BYTES])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sealer(secret: &str) -> Sealer {
        Sealer::new(&Secret::new(secret.into()))
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens_to_the_same_bytes(clear in proptest::collection::vec(any::<u8>(), 0..300)) {
            let sealer = sealer("s");
            let sealed = sealer.seal(&clear);
            prop_assert_eq!(sealed.len(), clear.len() + LEAST_BYTES);
            prop_assert_ne!(&sealed, &sealer.seal(&clear));
            prop_assert_eq!(sealer.open(&sealed).unwrap(), clear);
        }

        #[test]
        fn a_changed_bit_or_a_cut_is_refused(clear in proptest::collection::vec(any::<u8>(), 0..50), at in any::<prop::sample::Index>(), bit in 0_u8..8) {
            let sealer = sealer("s");
            let mut sealed = sealer.seal(&clear);
            let at = at.index(sealed.len());
            prop_assert!(sealer.open(&sealed[..at]).is_err());
            sealed[at] ^= 1 << bit;
            prop_assert!(sealer.open(&sealed).is_err());
        }
    }

    #[test]
    fn another_secret_does_not_open_it() {
        let sealed = sealer("one").seal(b"ada@example.com");
        assert!(matches!(
            sealer("other").open(&sealed),
            Err(PrivacyError::SealedOtherwise)
        ));
    }

    #[test]
    fn a_sealer_shows_no_key() {
        assert_eq!(format!("{:?}", sealer("hush")), "Sealer([secret])");
    }
}
