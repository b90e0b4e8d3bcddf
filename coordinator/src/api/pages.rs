//! Pages of a list (AIP-158).
//!
//! A token is opaque: it holds where the page before ended, and a digest of the list that it belongs to, so
//! that a token of another list, another filter or nobody's making is refused and not misread.

use tonic::Status;

use super::errors::invalid;

/// Items of a page where the caller does not say.
const DEFAULT: usize = 50;
/// Items of a page at most.
const MAX: usize = 1000;
const DIGEST_BYTES: usize = 8;

/// Which page is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Page {
    /// At most so many items.
    pub(crate) size: usize,
    /// Only what comes after this item; none for the first page.
    pub(crate) after: Option<String>,
    list: String,
}

impl Page {
    /// Reads a request's fields. `list` names the list and everything that it was filtered by.
    pub(crate) fn of(size: i32, token: &str, list: impl Into<String>) -> Result<Self, Status> {
        let list = list.into();
        let size = Self::check_size(size)?;
        let after = match token {
            "" => None,
            token => Some(read(token, &list).ok_or_else(|| {
                invalid(
                    "page_token",
                    "the `next_page_token` of a response to the same request",
                )
            })?),
        };
        Ok(Self { size, after, list })
    }

    /// How many items a page has.
    pub(crate) fn check_size(size: i32) -> Result<usize, Status> {
        match usize::try_from(size) {
            Ok(0) => Ok(DEFAULT),
            Ok(size) => Ok(size.min(MAX)),
            Err(_) => Err(invalid("page_size", "0 for the default of 50, or 1 to 1000")),
        }
    }

    /// The token of the page after `last`; empty when there is none.
    pub(crate) fn next(&self, last: Option<&str>) -> String {
        let Some(last) = last else { return String::new() };
        let mut bytes = digest(&self.list, last).to_vec();
        bytes.extend_from_slice(last.as_bytes());
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Cuts a list that is one longer than the page, where there is a next one, and names that next one.
    pub(crate) fn cut<T>(&self, items: &mut Vec<T>, key: impl Fn(&T) -> &str) -> String {
        let more = items.len() > self.size;
        items.truncate(self.size);
        self.next(items.last().filter(|_| more).map(key))
    }
}

fn digest(list: &str, after: &str) -> [u8; DIGEST_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(list.len() as u64).to_le_bytes());
    hasher.update(list.as_bytes());
    hasher.update(after.as_bytes());
    let mut short = [0; DIGEST_BYTES];
    short.copy_from_slice(&hasher.finalize().as_bytes()[..DIGEST_BYTES]);
    short
}

fn read(token: &str, list: &str) -> Option<String> {
    if !token.is_ascii() || !token.len().is_multiple_of(2) || token.len() > 2048 {
        return None;
    }
    let bytes: Option<Vec<u8>> = token
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    let bytes = bytes?;
    let (tag, after) = bytes.split_at_checked(DIGEST_BYTES)?;
    let after = String::from_utf8(after.to_vec()).ok()?;
    (digest(list, &after) == tag).then_some(after)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_token_leads_back_to_its_place_and_to_no_other_list(after in "\\PC{1,40}", list in "\\PC{0,20}") {
            let token = Page::of(0, "", list.clone()).unwrap().next(Some(&after));
            prop_assert_eq!(Page::of(7, &token, list.clone()).unwrap().after, Some(after));
            let other = Page::of(7, &token, list + "x");
            prop_assert!(other.is_err());
        }

        #[test]
        fn a_foreign_token_is_refused(token in "\\PC{1,60}") {
            prop_assert!(Page::of(0, &token, "jobs").is_err());
        }
    }

    #[test]
    fn sizes_have_a_default_and_an_end() {
        let size = |size| Page::of(size, "", "jobs").map(|page| page.size);
        assert_eq!(
            (size(0).unwrap(), size(3).unwrap(), size(i32::MAX).unwrap()),
            (50, 3, 1000)
        );
        assert!(size(-1).is_err());
    }

    #[test]
    fn only_a_list_that_goes_on_has_a_next_page() {
        let page = Page::of(2, "", "jobs").unwrap();
        let mut items = vec!["a".to_owned(), "b".to_owned(), "c".to_owned()];
        assert_eq!(page.cut(&mut items, |item| item), page.next(Some("b")));
        assert_eq!(items.len(), 2);
        assert_eq!(page.cut(&mut items, |item| item), "");
    }
}
