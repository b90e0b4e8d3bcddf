//! How the spans of several processes become one trace.
//!
//! The libraries speak `tracing` only. Who exports spans says here, once for the process, how a span's context is
//! written down, and how a span is made to go on from one: W3C's `traceparent`. Where nobody exports, nothing is
//! written and nothing is read.

use std::sync::OnceLock;

use tracing::Span;

/// What the exporter knows.
#[derive(Debug, Clone, Copy)]
pub struct Links {
    /// A span's context as `traceparent`; none where the span is not exported.
    pub context_of: fn(&Span) -> Option<String>,
    /// Makes a span, which must not have been entered yet, the child of a context.
    pub continue_from: fn(&Span, &str),
}

static LINKS: OnceLock<Links> = OnceLock::new();

/// Says how contexts are written and read; the first one to say so counts.
pub fn link(links: Links) {
    let _ = LINKS.set(links);
}

/// A span's context, to be carried to another process.
#[must_use]
pub fn context_of(span: &Span) -> Option<String> {
    LINKS.get().and_then(|links| (links.context_of)(span))
}

/// Lets a span go on from a context of another process.
pub fn continue_from(span: &Span, context: &str) {
    if let Some(links) = LINKS.get() {
        (links.continue_from)(span, context);
    }
}
