//! A keyed hash for short values: what a masked name or id becomes.
//!
//! SipHash-2-4 with 128 bits of output is a pseudorandom function made for short inputs: without the
//! key a mask can neither be computed nor tested against guesses. Each class has its own key, so that a
//! phone number among the ids does not show as the same mask.

use siphasher::sip128::{Hasher128, SipHasher24};

use crate::spec::model::{PiiClass, Secret};

/// The keyed hash of one class.
#[derive(Clone)]
pub(super) struct KeyedHash(SipHasher24);

impl KeyedHash {
    /// Derives the class's key from the pipeline's secret.
    pub(super) fn new(secret: &Secret, class: PiiClass) -> Self {
        let key = blake3::derive_key(context(class), secret.reveal().as_bytes());
        let half: [u8; 16] = std::array::from_fn(|i| key[i]);
        Self(SipHasher24::new_with_key(&half))
    }

    /// The hash of a text's bytes.
    #[inline]
    pub(super) fn digest(&self, value: &[u8]) -> [u8; 16] {
        self.0.hash(value).as_bytes()
    }

    /// The hash of a number, whatever its width in the column.
    #[inline]
    pub(super) fn number(&self, value: i64) -> u64 {
        let mut hasher = self.0;
        std::hash::Hasher::write(&mut hasher, &value.to_le_bytes());
        hasher.finish128().h1
    }
}

/// Written once and for ever: another text here would give every stored mask another value.
fn context(class: PiiClass) -> &'static str {
    match class {
        PiiClass::Email => "millrace 2026-01-01 privacy mask email",
        PiiClass::Name => "millrace 2026-01-01 privacy mask name",
        PiiClass::Ip => "millrace 2026-01-01 privacy mask ip",
        PiiClass::Phone => "millrace 2026-01-01 privacy mask phone",
        PiiClass::Id => "millrace 2026-01-01 privacy mask id",
        PiiClass::FreeText => "millrace 2026-01-01 privacy mask free text",
    }
}

/// Two hex digits for every byte.
const HEX: [[u8; 2]; 256] = {
    let digits = *b"0123456789abcdef";
    let mut table = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    table
};

/// Appends `2 * N` lower-case hex digits.
#[inline]
pub(super) fn push_hex<const N: usize>(bytes: [u8; N], out: &mut Vec<u8>) {
    let digits: [[u8; 2]; N] = std::array::from_fn(|i| HEX[usize::from(bytes[i])]);
    out.extend_from_slice(digits.as_flattened());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stored masks must not change with a release of ours or of a dependency.
    #[test]
    fn masks_are_the_same_in_every_release() {
        let hash = KeyedHash::new(&Secret::new("a secret for tests".into()), PiiClass::Email);
        let mut hex = Vec::new();
        push_hex(hash.digest(b"ada"), &mut hex);
        assert_eq!(
            String::from_utf8(hex).unwrap(),
            "4c4434be07c2975e460723bea76cf9ef"
        );
        assert_eq!(hash.number(42), 10_348_773_813_538_676_850);
    }

    #[test]
    fn classes_and_secrets_give_unrelated_hashes() {
        let (one, other) = (Secret::new("one".into()), Secret::new("other".into()));
        let id = KeyedHash::new(&one, PiiClass::Id).digest(b"7");
        assert_ne!(id, KeyedHash::new(&one, PiiClass::Phone).digest(b"7"));
        assert_ne!(id, KeyedHash::new(&other, PiiClass::Id).digest(b"7"));
    }
}
