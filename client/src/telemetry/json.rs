//! A line as one flat JSON object.
//!
//! In: an event and the spans around it. Out: `{"time", "level", "target", "message", ...}`, then the event's fields, then
//! those of the spans. Where a name stands twice the innermost counts: a span says for everything in it what an event
//! need not repeat.

use std::fmt::{self, Debug};

use serde_json::{Map, Value, json};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// Formats a line; the fields of spans must be formatted as JSON.
pub(super) struct OneObject;

impl<S, N> FormatEvent<S, N> for OneObject
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let now = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
        let mut line = Line(Map::new());
        line.add("time", json!(now));
        line.add("level", json!(metadata.level().as_str().to_lowercase()));
        line.add("target", json!(metadata.target()));
        event.record(&mut line);
        // From the innermost outwards.
        for span in context.event_scope().into_iter().flatten() {
            let extensions = span.extensions();
            let Some(fields) = extensions.get::<FormattedFields<N>>() else {
                continue;
            };
            let fields: Map<String, Value> = serde_json::from_str(&fields.fields).unwrap_or_default();
            for (name, value) in fields {
                line.add(&name, value);
            }
        }
        let text = serde_json::to_string(&line.0).map_err(|_| fmt::Error)?;
        writeln!(writer, "{text}")
    }
}

struct Line(Map<String, Value>);

impl Line {
    /// Adds a field, unless one stands there under the name.
    fn add(&mut self, name: &str, value: Value) {
        // A name of the language's own, such as `r#type`.
        let name = name.trim_start_matches("r#");
        self.0.entry(name).or_insert(value);
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add(field.name(), json!(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field.name(), json!(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field.name(), json!(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field.name(), json!(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field.name(), json!(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field.name(), json!(value));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut cause = value.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        self.add(field.name(), json!(text));
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::format::JsonFields;
    use tracing_subscriber::fmt::layer;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is logged while `what` runs.
    fn logged(what: impl FnOnce()) -> Vec<Value> {
        let written = Written::default();
        let writer = written.clone();
        let layer = layer()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .fmt_fields(JsonFields::new())
            .event_format(OneObject);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), what);
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn a_line_is_one_object_with_the_fields_of_its_spans() {
        let lines = logged(|| {
            let _job = tracing::error_span!("job", job = "j1", epoch = 7).entered();
            let attempt = tracing::error_span!("attempt", batch = "b1", attempt = tracing::field::Empty);
            attempt.record("attempt", "e7a2");
            let _attempt = attempt.entered();
            tracing::warn!(rows = 3, batch = %"b2", "two\nlines \"quoted\"");
        });
        let [line] = lines.as_slice() else {
            panic!("{lines:?}")
        };
        assert_eq!(line["level"], "warn");
        assert_eq!(line["message"], "two\nlines \"quoted\"");
        assert_eq!((&line["job"], &line["epoch"]), (&json!("j1"), &json!(7)));
        assert_eq!((&line["attempt"], &line["rows"]), (&json!("e7a2"), &json!(3)));
        assert_eq!(line["batch"], "b2", "the innermost counts");
        assert!(chrono::DateTime::parse_from_rfc3339(line["time"].as_str().unwrap()).is_ok());
    }

    #[test]
    fn an_error_is_told_with_its_causes() {
        let inner = io::Error::other("the disk is full");
        let error = anyhow::Error::new(inner).context("the file was not written");
        let lines = logged(|| {
            let error: &(dyn std::error::Error + 'static) = error.as_ref();
            tracing::error!(error, "failed");
        });
        assert_eq!(lines[0]["error"], "the file was not written: the disk is full");
    }
}
