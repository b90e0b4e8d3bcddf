//! What a job reads, as the command line says it.

use chrono::{DateTime, NaiveDateTime, Utc};
use clap::Args;
use millrace_client::v1::{self, FollowInput, HourInput, JobInput, PrefixInput, RangeInput};

#[derive(Debug, Args)]
pub(crate) struct Input {
    /// One hour of the topic, by the records' timestamps: `2026-01-01T05`, in UTC.
    #[arg(long, value_parser = hour, conflicts_with_all = ["from", "to", "prefix", "follow"])]
    hour: Option<DateTime<Utc>>,
    /// First timestamp of a range of the topic: `2026-01-01T05:00:00Z`.
    #[arg(long, value_parser = instant, requires = "to")]
    from: Option<DateTime<Utc>>,
    /// First timestamp after the range.
    #[arg(long, value_parser = instant, requires = "from")]
    to: Option<DateTime<Utc>>,
    /// Files or S3 objects below this place, each once for ever.
    #[arg(long, value_name = "URL", conflicts_with_all = ["from", "to", "follow"])]
    prefix: Option<String>,
    /// Everything from now on, without end.
    #[arg(long, conflicts_with_all = ["from", "to"])]
    follow: bool,
    /// With `--follow`: a batch begins at the latest so long after the one before it, `500ms` to `1h`. Default: 10s.
    #[arg(long, value_name = "TIME", value_parser = millis, requires = "follow")]
    interval: Option<u32>,
    /// With `--follow`: or after so many events. Default: 1000000.
    #[arg(long, value_name = "N", requires = "follow")]
    max_events: Option<u64>,
}

impl Input {
    /// The request's input; none: the pipeline's own source, whole.
    pub(crate) fn message(&self) -> Option<JobInput> {
        use v1::job_input::Input as Is;
        let input = if let Some(hour) = self.hour {
            Is::Hour(HourInput {
                hour: Some(timestamp(hour)),
            })
        } else if let (Some(from), Some(to)) = (self.from, self.to) {
            Is::Range(RangeInput {
                from: Some(timestamp(from)),
                to: Some(timestamp(to)),
            })
        } else if let Some(url) = self.prefix.clone() {
            Is::Prefix(PrefixInput { url })
        } else if self.follow {
            Is::Follow(FollowInput {
                interval_millis: self.interval.unwrap_or_default(),
                max_events: self.max_events.unwrap_or_default(),
            })
        } else {
            return None;
        };
        Some(JobInput { input: Some(input) })
    }
}

pub(crate) fn timestamp(time: DateTime<Utc>) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: time.timestamp(),
        nanos: i32::try_from(time.timestamp_subsec_nanos()).unwrap_or_default(),
    }
}

fn hour(text: &str) -> Result<DateTime<Utc>, String> {
    let full = format!("{text}:00:00");
    if let Ok(time) = NaiveDateTime::parse_from_str(&full, "%Y-%m-%dT%H:%M:%S") {
        return Ok(time.and_utc());
    }
    let time = instant(text).map_err(|_| "an hour, such as 2026-01-01T05".to_owned())?;
    if time.timestamp() % 3600 == 0 {
        Ok(time)
    } else {
        Err("a whole hour, such as 2026-01-01T05".to_owned())
    }
}

pub(crate) fn instant(text: &str) -> Result<DateTime<Utc>, String> {
    let time = DateTime::parse_from_rfc3339(text);
    time.map(|time| time.to_utc())
        .map_err(|_| "a time as in RFC 3339, such as 2026-01-01T05:00:00Z".to_owned())
}

fn millis(text: &str) -> Result<u32, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("a number with `ms`, `s`, `m` or `h`, such as 10s".to_owned()),
    };
    let millis = number
        .parse::<u32>()
        .ok()
        .and_then(|number| number.checked_mul(factor));
    millis
        .filter(|millis| *millis > 0)
        .ok_or_else(|| "more than nothing, and at most 1h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_are_whole_and_times_have_a_zone() {
        let five = "2026-01-01T05:00:00+00:00".parse::<DateTime<Utc>>().unwrap();
        for text in [
            "2026-01-01T05",
            "2026-01-01T05:00:00Z",
            "2026-01-01T06:00:00+01:00",
        ] {
            assert_eq!(hour(text), Ok(five), "{text}");
        }
        for bad in ["2026-01-01", "2026-01-01T05:30:00Z", "05", ""] {
            assert!(hour(bad).is_err(), "{bad}");
        }
        assert!(instant("2026-01-01T05:00:00").is_err());
    }

    #[test]
    fn intervals_have_units() {
        assert_eq!(
            (millis("500ms"), millis("10s"), millis("1h")),
            (Ok(500), Ok(10_000), Ok(3_600_000))
        );
        for bad in ["10", "s", "-1s", "0s", "1d", "99999999h"] {
            assert!(millis(bad).is_err(), "{bad}");
        }
    }
}
