//! Pages of a list: an opaque token is where the next page starts, bound to what was asked.

use super::RegistryError;

/// Entries of a page when the caller does not say.
const PAGE_DEFAULT: usize = 50;
/// Most entries of a page.
const PAGE_MAX: usize = 1000;

/// How many entries a page has.
pub(super) fn size(asked: i32) -> usize {
    match usize::try_from(asked) {
        Ok(0) | Err(_) => PAGE_DEFAULT,
        Ok(asked) => asked.min(PAGE_MAX),
    }
}

/// The token of the page that follows `last` in the list that `of` names.
pub(super) fn token(of: &str, last: &str) -> String {
    let seal = &blake3::hash(of.as_bytes()).to_hex()[..8];
    let hex: String = last.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("{seal}{hex}")
}

/// The entry after which a page starts; none for the first page.
pub(super) fn after(of: &str, token: &str) -> Result<Option<String>, RegistryError> {
    if token.is_empty() {
        return Ok(None);
    }
    let seal = &blake3::hash(of.as_bytes()).to_hex()[..8];
    let hex = token.strip_prefix(seal).ok_or(RegistryError::Token)?;
    let bytes: Option<Vec<u8>> = (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok())
        .collect();
    let last = String::from_utf8(bytes.ok_or(RegistryError::Token)?).map_err(|_| RegistryError::Token)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if last.is_empty() || !last.bytes().all(plain) {
        return Err(RegistryError::Token);
    }
    Ok(Some(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_leads_on_in_its_own_list_only() {
        let token = token("jobs", "j0000000042");
        assert_eq!(after("jobs", &token).unwrap().as_deref(), Some("j0000000042"));
        for (of, token) in [
            ("jobs state=failed", token.as_str()),
            ("jobs", "zz"),
            ("jobs", "é"),
            ("jobs", &token[1..]),
        ] {
            assert!(
                matches!(after(of, token), Err(RegistryError::Token)),
                "{of} {token}"
            );
        }
    }
}
