//! `grpc-timeout`: how long a caller waits, as it stands on the wire.

use std::time::Duration;

use tonic::codegen::http::{HeaderMap, HeaderValue};

/// The header.
pub(crate) const HEADER: &str = "grpc-timeout";

/// How long the caller waits; none where it does not say, or says nonsense.
pub(crate) fn of(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(HEADER)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

/// The header's value for what is left.
pub(crate) fn value(left: Duration) -> HeaderValue {
    let millis = left.as_millis().clamp(1, 99_999_999);
    HeaderValue::try_from(format!("{millis}m")).unwrap_or(HeaderValue::from_static("1m"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_and_nonsense_is_no_deadline() {
        let of = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, HeaderValue::from_static(text));
            super::of(&headers)
        };
        assert_eq!(of("2S"), Some(Duration::from_secs(2)));
        assert_eq!(of("1500m"), Some(Duration::from_millis(1500)));
        assert_eq!(of("1H"), Some(Duration::from_secs(3600)));
        for bad in ["", "S", "5", "-1S", "123456789S", "5x"] {
            assert_eq!(of(bad), None, "{bad}");
        }
        assert_eq!(value(Duration::from_secs(3)), "3000m");
        assert_eq!(value(Duration::ZERO), "1m");
    }
}
