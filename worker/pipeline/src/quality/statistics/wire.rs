//! The bytes of a quality state: little-endian numbers and counted texts, nothing else.

use serde_json::Value;

/// Why a state could not be read.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Fewer bytes than the state says it has.
    #[error("a quality state ends after {0} bytes, in the middle of a value")]
    CutOff(usize),
    /// Of another version of the program, or of another suite.
    #[error("a quality state has {found} where {expected} should be")]
    Unknown {
        /// What was read.
        found: u64,
        /// What would be right.
        expected: &'static str,
    },
    /// A text that is no text.
    #[error("a quality state holds a text that is not UTF-8")]
    Text(#[from] std::str::Utf8Error),
    /// A value that is no JSON.
    #[error("a quality state holds a value that is not JSON")]
    Value(#[from] serde_json::Error),
    /// Could not be unsealed.
    #[error("a quality state could not be opened: is the hash key the one it was sealed with?")]
    Sealed(#[source] crate::privacy::PrivacyError),
    /// Two states of different suites.
    #[error(
        "quality states of {ours} and of {theirs} tallies cannot be merged: they are of different suites"
    )]
    Shape {
        /// Tallies here.
        ours: usize,
        /// Tallies there.
        theirs: usize,
    },
}

/// Writes.
#[derive(Debug, Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    pub(crate) fn u128(&mut self, value: u128) {
        self.0.extend(value.to_le_bytes());
    }

    pub(crate) fn f64(&mut self, value: f64) {
        self.u64(value.to_bits());
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.u64(text.len() as u64);
        self.0.extend(text.as_bytes());
    }

    pub(crate) fn value(&mut self, value: &Value) {
        self.text(&value.to_string());
    }
}

/// Reads what [`Writer`] wrote.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) fn is_at_end(&self) -> bool {
        self.at == self.bytes.len()
    }

    fn take(&mut self, bytes: usize) -> Result<&'a [u8], StateError> {
        let end = self
            .at
            .checked_add(bytes)
            .ok_or(StateError::CutOff(self.bytes.len()))?;
        let taken = self
            .bytes
            .get(self.at..end)
            .ok_or(StateError::CutOff(self.bytes.len()))?;
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], StateError> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| StateError::CutOff(self.at))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, StateError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u32(&mut self) -> Result<u32, StateError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, StateError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn u128(&mut self) -> Result<u128, StateError> {
        Ok(u128::from_le_bytes(self.array()?))
    }

    pub(crate) fn f64(&mut self) -> Result<f64, StateError> {
        Ok(f64::from_bits(self.u64()?))
    }

    /// A count of things of at least `size` bytes each: never more than the bytes that are left hold.
    pub(crate) fn count(&mut self, size: usize) -> Result<usize, StateError> {
        let count = self.u64()?;
        let left = (self.bytes.len() - self.at) / size.max(1);
        usize::try_from(count)
            .ok()
            .filter(|count| *count <= left)
            .ok_or(StateError::CutOff(self.bytes.len()))
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, StateError> {
        let bytes = self.count(1)?;
        Ok(std::str::from_utf8(self.take(bytes)?)?)
    }

    pub(crate) fn value(&mut self) -> Result<Value, StateError> {
        Ok(serde_json::from_str(self.text()?)?)
    }
}
