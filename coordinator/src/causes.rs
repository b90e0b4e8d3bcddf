//! An error and its causes in one line, for faults, logs and records that people read.

/// An error and its causes, joined by `: `. A cause that its error quotes at its end already is not said twice.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Outer {
        #[error("the lake failed")]
        Plain(#[source] std::io::Error),
        #[error("the lake failed: {0}")]
        Quoting(#[source] std::io::Error),
    }

    #[test]
    fn a_cause_is_said_once() {
        let cause = || std::io::Error::other("no route");
        for error in [Outer::Plain(cause()), Outer::Quoting(cause())] {
            assert_eq!(chain(&error), "the lake failed: no route");
        }
    }
}
