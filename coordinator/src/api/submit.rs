//! Whether a job can be what its request says: pure, every fault at once.

use millrace_pipeline::spec::model::Source;
use millrace_proto::v1::{JobInput, RangeInput, SubmitJobRequest, job_input::Input};
use prost_types::Timestamp;
use tonic::Status;

use super::errors::Violations;

const HOUR_SECONDS: i64 = 3600;
/// Longest follow interval: an hour is the longest that a table may be stale by choice.
const INTERVAL_MILLIS_MAX: u32 = 3_600_000;

/// Checks what the request says by itself.
pub(crate) fn check(request: &SubmitJobRequest, violations: &mut Violations) {
    request_id(&request.request_id, violations);
    if request.pipeline.is_empty() {
        violations.add("pipeline", "the name of an applied pipeline");
    }
    if request.environment.len() > 63 {
        violations.add("environment", "a name of at most 63 bytes, or nothing");
    }
    match request.input.as_ref().and_then(|input| input.input.as_ref()) {
        Some(Input::Hour(hour)) => whole_hour("input.hour.hour", hour.hour, violations),
        Some(Input::Range(range)) => check_range(range, violations),
        Some(Input::Prefix(prefix)) if prefix.url.is_empty() => {
            violations.add("input.prefix.url", "`s3://bucket/prefix/` or an absolute path");
        }
        Some(Input::Follow(follow)) if follow.interval_millis > INTERVAL_MILLIS_MAX => {
            violations.add(
                "input.follow.interval_millis",
                format!("at most {INTERVAL_MILLIS_MAX}, an hour"),
            );
        }
        Some(Input::Models(models)) => {
            check_times(
                "input.models",
                models.from.as_ref(),
                models.to.as_ref(),
                violations,
            );
        }
        Some(
            Input::Prefix(_)
            | Input::Follow(_)
            | Input::Redrive(_)
            | Input::Retention(_)
            | Input::Hold(_)
            | Input::ReleaseHold(_)
            | Input::Erasure(_),
        )
        | None => {}
    }
}

/// Upkeep has a service of its own, which asks for another role and keeps values sealed.
pub(crate) fn refuse_upkeep(request: &SubmitJobRequest) -> Result<(), Status> {
    let input = request.input.as_ref().and_then(|input| input.input.as_ref());
    let is_upkeep = matches!(
        input,
        Some(Input::Retention(_) | Input::Hold(_) | Input::ReleaseHold(_) | Input::Erasure(_))
    );
    let mut violations = Violations::default();
    if is_upkeep {
        violations.add("input", "something to read; `RetentionService` asks for the rest");
    }
    violations.into_result()
}

/// A request's id must be a UUID.
pub(crate) fn request_id(id: &str, violations: &mut Violations) {
    if uuid::Uuid::try_parse(id).is_err() {
        violations.add(
            "request_id",
            "a UUID, the same one again when the request is repeated",
        );
    }
}

/// Checks that the pipeline can be read that way.
pub(crate) fn fits(input: Option<&JobInput>, source: &Source, violations: &mut Violations) {
    let is_kafka = matches!(source, Source::Kafka { .. });
    let (field, needs_kafka) = match input.and_then(|input| input.input.as_ref()) {
        Some(Input::Hour(_)) => ("input.hour", true),
        Some(Input::Range(_)) => ("input.range", true),
        Some(Input::Follow(_)) => ("input.follow", true),
        Some(Input::Prefix(_)) => ("input.prefix", false),
        Some(
            Input::Redrive(_)
            | Input::Models(_)
            | Input::Retention(_)
            | Input::Hold(_)
            | Input::ReleaseHold(_)
            | Input::Erasure(_),
        ) => return,
        None if is_kafka => {
            let right =
                "`hour`, `range` or `follow`: the pipeline's source is a Kafka topic, which has no end";
            return violations.add("input", right);
        }
        None => return,
    };
    if needs_kafka && !is_kafka {
        let right = "`prefix`, or nothing for the source as a whole: the pipeline does not read from Kafka";
        violations.add(field, right);
    }
    if !needs_kafka && is_kafka {
        violations.add(
            field,
            "`hour`, `range` or `follow`: the pipeline reads from Kafka",
        );
    }
}

fn whole_hour(field: &str, time: Option<Timestamp>, violations: &mut Violations) {
    let whole =
        time.is_some_and(|time| time.seconds >= 0 && time.seconds % HOUR_SECONDS == 0 && time.nanos == 0);
    if !whole {
        violations.add(field, "the start of an hour, such as 2026-01-01T05:00:00Z");
    }
}

fn check_range(range: &RangeInput, violations: &mut Violations) {
    check_times("input.range", range.from.as_ref(), range.to.as_ref(), violations);
}

fn check_times(field: &str, from: Option<&Timestamp>, to: Option<&Timestamp>, violations: &mut Violations) {
    let sound = |time: Option<&Timestamp>| {
        time.is_some_and(|time| time.seconds >= 0 && (0..1_000_000_000).contains(&time.nanos))
    };
    if !sound(from) {
        violations.add(format!("{field}.from"), "a time from 1970 on");
    }
    if !sound(to) {
        violations.add(format!("{field}.to"), "a time from 1970 on");
    }
    let key = |time: Option<&Timestamp>| time.map(|time| (time.seconds, time.nanos));
    if sound(from) && sound(to) && key(from) >= key(to) {
        violations.add(format!("{field}.to"), "a time after `from`");
    }
}

/// The request's violations as a status.
pub(crate) fn checked(request: &SubmitJobRequest) -> Result<(), Status> {
    let mut violations = Violations::default();
    check(request, &mut violations);
    violations.into_result()
}

#[cfg(test)]
mod tests {
    use millrace_pipeline::spec::model::Format;
    use millrace_proto::v1::{FollowInput, HourInput, PrefixInput, RedriveInput};
    use tonic_types::StatusExt;

    use super::*;

    const ID: &str = "6f1c2f0e-54a1-4d6e-a2a5-0c9f5f7a3b11";

    fn time(seconds: i64) -> Option<Timestamp> {
        Some(Timestamp { seconds, nanos: 0 })
    }

    fn request(input: Input) -> SubmitJobRequest {
        SubmitJobRequest {
            request_id: ID.to_owned(),
            pipeline: "shop".to_owned(),
            input: Some(JobInput { input: Some(input) }),
            ..SubmitJobRequest::default()
        }
    }

    fn fields(request: &SubmitJobRequest) -> Vec<String> {
        let Err(status) = checked(request) else {
            return Vec::new();
        };
        let bad = status.get_details_bad_request().unwrap();
        bad.field_violations
            .into_iter()
            .map(|violation| violation.field)
            .collect()
    }

    #[test]
    fn every_wrong_field_is_named() {
        let mut bad = request(Input::Hour(HourInput { hour: time(3601) }));
        bad.request_id = "7".to_owned();
        bad.pipeline.clear();
        assert_eq!(fields(&bad), ["request_id", "pipeline", "input.hour.hour"]);
    }

    #[test]
    fn ranges_go_forward_and_hours_are_whole() {
        let range = |from, to| {
            fields(&request(Input::Range(RangeInput {
                from: time(from),
                to: time(to),
            })))
        };
        assert!(range(1, 2).is_empty());
        assert_eq!(range(2, 2), ["input.range.to"]);
        assert_eq!(range(-1, 2), ["input.range.from"]);
        assert!(fields(&request(Input::Hour(HourInput { hour: time(7200) }))).is_empty());
        assert_eq!(
            fields(&request(Input::Hour(HourInput { hour: None }))),
            ["input.hour.hour"]
        );
    }

    #[test]
    fn an_input_fits_the_source_or_is_refused() {
        let kafka = Source::Kafka {
            brokers: vec!["127.0.0.1:9092".to_owned()],
            topic: "events".to_owned(),
            format: Format::Json,
            options: Default::default(),
            client_rack: None,
        };
        let files = Source::Files {
            path: "/events".to_owned(),
            format: Format::Json,
        };
        let fits = |input: Option<Input>, source: &Source| {
            let mut violations = Violations::default();
            super::fits(
                input.map(|input| JobInput { input: Some(input) }).as_ref(),
                source,
                &mut violations,
            );
            violations.into_result().is_ok()
        };
        let hour = || Some(Input::Hour(HourInput { hour: time(0) }));
        let prefix = || Some(Input::Prefix(PrefixInput { url: "/x".to_owned() }));
        let follow = || Some(Input::Follow(FollowInput::default()));
        let redrive = || Some(Input::Redrive(RedriveInput {}));
        let kinds = [hour(), follow(), prefix(), redrive(), None];
        let on_kafka = kinds.clone().map(|input| fits(input, &kafka));
        assert_eq!(on_kafka, [true, true, false, true, false]);
        assert_eq!(
            kinds.map(|input| fits(input, &files)),
            [false, false, true, true, true]
        );
    }
}
