//! Globs: `*` and `?` within a name, `**` across folders, `[a-z]`, `{a,b}`.
//!
//! In: a path as a user writes it. Out: the folder above the first wildcard, and what to match below it.
//! The `glob` crate knows no braces, so `{a,b}` is written out first; braces may nest.

use glob::{MatchOptions, Pattern};

/// As a shell matches: a wildcard does not cross `/`, and hidden names are the caller's business.
pub(super) const MATCHING: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

const ALTERNATIVES_MAX: usize = 4096;

/// Whether there is anything to match.
pub(super) fn is_glob(path: &str) -> bool {
    path.contains(['*', '?', '[', '{'])
}

/// The longest folder without a wildcard, with its `/`: what has to be listed. `a/b*/c` gives `a/`.
pub(super) fn base(path: &str) -> &str {
    let wild = path.find(['*', '?', '[', '{']).unwrap_or(path.len());
    path[..wild].rfind('/').map_or("", |slash| &path[..=slash])
}

/// Every pattern that the braces stand for.
///
/// # Errors
/// What is wrong with the pattern, for people.
pub(super) fn expand(path: &str) -> Result<Vec<Pattern>, String> {
    let mut texts = Vec::new();
    braces(path, &mut texts)?;
    texts
        .iter()
        .map(|text| Pattern::new(text).map_err(|error| format!("{} at position {}", error.msg, error.pos)))
        .collect()
}

fn braces(path: &str, out: &mut Vec<String>) -> Result<(), String> {
    let Some(open) = path.find('{') else {
        if out.len() == ALTERNATIVES_MAX {
            return Err(format!("its braces stand for more than {ALTERNATIVES_MAX} names"));
        }
        out.push(path.to_owned());
        return Ok(());
    };
    let (mut depth, mut starts) = (0_usize, vec![open + 1]);
    for (at, byte) in path.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b',' if depth == 1 => starts.push(at + 1),
            b'}' if depth == 1 => {
                starts.push(at + 1);
                for pair in starts.windows(2) {
                    // Each alternative ends one before the next starts: at a comma or at the brace.
                    braces(
                        &format!(
                            "{}{}{}",
                            &path[..open],
                            &path[pair[0]..pair[1] - 1],
                            &path[at + 1..]
                        ),
                        out,
                    )?;
                }
                return Ok(());
            }
            b'}' => depth -= 1,
            _ => {}
        }
    }
    Err(format!("the brace at position {open} is not closed"))
}

/// Whether a key, or a folder above it, matches: a folder stands for all that lies below it.
pub(super) fn matches(patterns: &[Pattern], key: &str) -> bool {
    let folders = key
        .char_indices()
        .filter(|(_, c)| *c == '/')
        .map(|(at, _)| &key[..at]);
    folders.chain(std::iter::once(key)).any(|path| {
        patterns
            .iter()
            .any(|pattern| pattern.matches_with(path, MATCHING))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_match_as_in_a_shell_and_a_folder_stands_for_its_files() {
        for (pattern, key, expected) in [
            ("a/*.json", "a/b.json", true),
            ("a/*.json", "a/b/c.json", false),
            ("a/**/*.json", "a/b.json", true),
            ("a/**/*.json", "a/b/c/d.json", true),
            ("a/**", "a/b/c", true),
            ("a/dt=*", "a/dt=1/h=2/x.json", true),
            ("a/?.[jt]son", "a/b.json", true),
            ("a/?.[!j]son", "a/b.json", false),
            ("a/{b,c{1,2}}/x", "a/c2/x", true),
            ("a/{b,c{1,2}}/x", "a/c3/x", false),
            ("a/x.json{,.gz}", "a/x.json.gz", true),
            ("a/x.json{,.gz}", "a/x.json", true),
        ] {
            assert_eq!(
                matches(&expand(pattern).unwrap(), key),
                expected,
                "{pattern} {key}"
            );
        }
    }

    #[test]
    fn what_is_no_glob_is_said_with_its_position() {
        assert!(expand("a/{b").unwrap_err().contains("position 2"));
        assert!(expand("a/**b").unwrap_err().contains("position"));
        assert!(expand(&"{a,b}".repeat(40)).unwrap_err().contains("4096"));
    }

    #[test]
    fn listing_starts_at_the_last_folder_without_a_wildcard() {
        assert_eq!(base("a/b/c*/d"), "a/b/");
        assert_eq!(base("*.json"), "");
        assert!(!is_glob("a/b.json"));
    }
}
