//! Names of things. A newtype each, so that a batch's id never stands where a job's id belongs.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a text is not an id.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{text}` is not a {what}: use 1 to 63 of a-z, 0-9, `-` and `_`, starting with a letter or a digit")]
pub struct IdError {
    /// The text as given.
    pub text: String,
    /// Which id it was meant to be.
    pub what: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                if is_id(&text) { Ok(Self(text)) } else { Err(IdError { text, what: $what }) }
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// What a pipeline is called; part of object keys, so it is kept plain.
    PipelineName,
    "pipeline name"
);
id!(
    /// One request to run a pipeline over an input.
    JobId,
    "job id"
);
id!(
    /// The unit of commit and of retry. Sorts in the order of planning within a pipeline.
    BatchId,
    "batch id"
);

fn is_id(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes[0].is_ascii_alphanumeric()
        && bytes
            .iter()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
}

/// One run of a batch: the leader's epoch, then a number that grows with each try.
///
/// Written `e<epoch>a<number>`; stands in every object name that the attempt writes (invariant 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Attempt {
    /// The fencing token of the leader that started this attempt.
    pub epoch: u64,
    /// 1 for the first try under this epoch.
    pub number: u32,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{}a{}", self.epoch, self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_plain_text_that_fits_an_object_key() {
        assert!(PipelineName::try_from("github-2017".to_owned()).is_ok());
        for bad in ["", "-a", "a/b", "A", "é", &"a".repeat(64)] {
            assert!(PipelineName::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_attempt_reads_as_epoch_and_number() {
        assert_eq!(Attempt { epoch: 7, number: 2 }.to_string(), "e7a2");
    }
}
