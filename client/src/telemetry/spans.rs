//! Spans of `tracing` as spans of a trace.
//!
//! In: spans as they open, change and close. Out: each closed one, handed to the exporter, or dropped where the
//! exporter does not keep up: nobody waits for a trace.
//!
//! A span without a parent begins a trace; one that goes on from another process's context joins that one. Contexts are
//! written as W3C's `traceparent`: `00-<trace>-<span>-01`.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::wire::{self, KIND_INTERNAL, KeyValue, STATUS_ERROR, Value, attribute};

/// Events that a span keeps; more are counted.
const EVENTS_MAX: usize = 32;

/// The spans that are open, by the subscriber's id. One subscriber has the process.
static OPEN: LazyLock<Mutex<HashMap<u64, wire::Span>>> = LazyLock::new(Mutex::default);

/// Hands closed spans on.
pub(super) struct Spans {
    pub(super) closed: mpsc::Sender<wire::Span>,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        // Before the table is locked: what formats a value may open spans of its own.
        let mut fields = Vec::new();
        attributes.record(&mut Fields(&mut fields));
        let parent = if attributes.is_contextual() {
            context.lookup_current().map(|span| span.id())
        } else {
            attributes.parent().cloned()
        };
        let mut open = OPEN.lock();
        let parent = parent.and_then(|parent| open.get(&parent.into_u64()));
        let span = wire::Span {
            trace_id: parent.map_or_else(fresh::<16>, |parent| parent.trace_id.clone()),
            span_id: fresh::<8>(),
            parent_span_id: parent.map(|parent| parent.span_id.clone()).unwrap_or_default(),
            name: attributes.metadata().name().to_owned(),
            kind: KIND_INTERNAL,
            start_unix_nanos: unix_nanos(),
            attributes: fields,
            ..wire::Span::default()
        };
        open.insert(id.into_u64(), span);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
        let mut fields = Vec::new();
        values.record(&mut Fields(&mut fields));
        if let Some(span) = OPEN.lock().get_mut(&id.into_u64()) {
            span.attributes
                .retain(|known| fields.iter().all(|field| field.key != known.key));
            span.attributes.append(&mut fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let Some(within) = context.event_span(event) else {
            return;
        };
        let mut attributes = vec![attribute(
            "level",
            Value::Text(event.metadata().level().to_string()),
        )];
        event.record(&mut Fields(&mut attributes));
        let message = attributes.iter().position(|field| field.key == "message");
        let message = message.map(|at| attributes.swap_remove(at));
        let name = message.and_then(|message| text(&message)).unwrap_or_default();
        let mut open = OPEN.lock();
        let Some(span) = open.get_mut(&within.id().into_u64()) else {
            return;
        };
        if *event.metadata().level() == Level::ERROR {
            span.status = Some(wire::Status {
                message: name.clone(),
                code: STATUS_ERROR,
            });
        }
        if span.events.len() >= EVENTS_MAX {
            span.events_dropped += 1;
            return;
        }
        span.events.push(wire::Event {
            unix_nanos: unix_nanos(),
            name,
            attributes,
        });
    }

    fn on_close(&self, id: Id, _: Context<'_, S>) {
        let closed = OPEN.lock().remove(&id.into_u64());
        if let Some(mut span) = closed {
            span.end_unix_nanos = unix_nanos();
            // Full: the collector does not keep up, and a trace is not worth waiting for.
            let _ = self.closed.try_send(span);
        }
    }
}

/// A span's context, where it is one of a trace.
pub(super) fn context_of(span: &tracing::Span) -> Option<String> {
    let open = OPEN.lock();
    let span = open.get(&span.id()?.into_u64())?;
    Some(format!("00-{}-{}-01", hex(&span.trace_id), hex(&span.span_id)))
}

/// Lets a span go on from a context; one that cannot be read is left out.
pub(super) fn continue_from(span: &tracing::Span, context: &str) {
    let parts: Vec<&str> = context.split('-').collect();
    let ["00", trace, parent, _] = parts.as_slice() else {
        return;
    };
    let (Some(trace), Some(parent), Some(id)) = (unhex(trace, 16), unhex(parent, 8), span.id()) else {
        return;
    };
    if let Some(span) = OPEN.lock().get_mut(&id.into_u64()) {
        (span.trace_id, span.parent_span_id) = (trace, parent);
    }
}

fn fresh<const BYTES: usize>() -> Vec<u8> {
    let bytes: [u8; 16] = *uuid::Uuid::new_v4().as_bytes();
    // The last ones: the first hold the version.
    bytes[16 - BYTES..].to_vec()
}

fn unix_nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str, length: usize) -> Option<Vec<u8>> {
    if text.len() != 2 * length || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let pair = |at: usize| u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..length).map(pair).collect();
    bytes.filter(|bytes| bytes.iter().any(|byte| *byte != 0))
}

fn text(field: &KeyValue) -> Option<String> {
    match field.value.as_ref()?.value.as_ref()? {
        Value::Text(text) => Some(text.clone()),
        Value::Bool(_) | Value::Int(_) | Value::Double(_) => None,
    }
}

/// Fields as attributes; a later value takes an earlier one's place.
struct Fields<'a>(&'a mut Vec<KeyValue>);

impl Fields<'_> {
    fn add(&mut self, field: &Field, value: Value) {
        let name = field.name().trim_start_matches("r#");
        self.0.retain(|known| known.key != name);
        self.0.push(attribute(name, value));
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add(field, Value::Text(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, Value::Text(value.to_owned()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, Value::Int(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, Value::Int(i64::try_from(value).unwrap_or(i64::MAX)));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, Value::Double(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, Value::Bool(value));
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// The spans that close while `what` runs, in that order.
    fn closed(room: usize, what: impl FnOnce()) -> Vec<wire::Span> {
        let (sender, mut receiver) = mpsc::channel(room);
        let layer = Spans { closed: sender };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), what);
        std::iter::from_fn(|| receiver.try_recv().ok()).collect()
    }

    #[test]
    fn spans_of_two_processes_are_one_trace() {
        // As one test: the table of open spans is the process's.
        let spans = closed(8, || {
            let job = tracing::info_span!("job", job = "j1", epoch = 7);
            let batch = tracing::info_span!(parent: &job, "batch", batch = tracing::field::Empty);
            batch.record("batch", "b1");
            let context = context_of(&batch).unwrap();
            assert_eq!(context.len(), 55, "{context}");
            // The other process knows the text only.
            let task = tracing::info_span!(parent: None, "task");
            continue_from(&task, &context);
            task.in_scope(|| tracing::error!(rows = 3, "it failed"));
            let stray = tracing::info_span!(parent: None, "stray");
            for broken in [
                "",
                "00-1-2-01",
                "00-00000000000000000000000000000000-0000000000000000-01",
            ] {
                continue_from(&stray, broken);
            }
            drop((task, stray, batch, job));
        });
        let [task, stray, batch, job] = spans.as_slice() else {
            panic!("{spans:?}")
        };
        assert!(job.parent_span_id.is_empty() && stray.parent_span_id.is_empty());
        assert_eq!(batch.parent_span_id, job.span_id);
        assert_eq!(task.parent_span_id, batch.span_id);
        assert!([batch, task].iter().all(|span| span.trace_id == job.trace_id));
        assert_ne!(stray.trace_id, job.trace_id);
        assert_eq!(
            batch.attributes,
            [attribute("batch", Value::Text("b1".to_owned()))]
        );
        assert_eq!(task.status.as_ref().unwrap().message, "it failed");
        assert!(
            task.events[0]
                .attributes
                .contains(&attribute("rows", Value::Int(3)))
        );
        assert!(job.end_unix_nanos >= job.start_unix_nanos && job.start_unix_nanos > 0);
    }

    #[test]
    fn nobody_waits_for_an_exporter_that_does_not_keep_up() {
        let spans = closed(1, || {
            for _ in 0..1000 {
                tracing::info_span!("one of many").in_scope(|| {});
            }
        });
        assert_eq!(spans.len(), 1);
    }
}
