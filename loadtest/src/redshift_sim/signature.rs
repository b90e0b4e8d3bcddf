//! Whether a request is signed as AWS demands it, "Create a signed AWS API request" (Signature Version 4) in the guide of IAM.
//!
//! | rule                                                          | test                                           |
//! |---------------------------------------------------------------|------------------------------------------------|
//! | there is an `Authorization`, with credential, headers, signature | `a_request_without_a_signature_is_refused`  |
//! | the scope names the day of `X-Amz-Date` and the service        | `a_signature_for_another_service_is_refused`  |
//! | the request is at most 15 minutes old                          | `an_old_signature_is_refused`                 |
//! | the signature is that of the known key over method, headers and body | `whatever_is_changed_is_noticed`        |

use std::fmt::Write as _;

use ring::{digest, hmac};

use super::http::Call;

/// Seconds for which a signature is good, either way.
const GOOD_SECONDS: i64 = 15 * 60;

/// A key of AWS, which the simulator knows.
#[derive(Clone)]
pub struct Key {
    /// Its public part.
    pub id: String,
    /// Its secret.
    pub secret: String,
}

/// What is wrong with a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unsigned {
    Missing,
    Incomplete,
    Expired,
    UnknownKey,
    Wrong,
}

impl Unsigned {
    /// The error's name in the query protocol, and in JSON.
    pub(super) fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Missing => (
                "MissingAuthenticationToken",
                "MissingAuthenticationTokenException",
            ),
            Self::Incomplete => ("IncompleteSignature", "IncompleteSignatureException"),
            Self::Expired => ("RequestExpired", "InvalidSignatureException"),
            Self::UnknownKey => ("InvalidClientTokenId", "UnrecognizedClientException"),
            Self::Wrong => ("SignatureDoesNotMatch", "InvalidSignatureException"),
        }
    }
}

/// Checks a request for a service at a time, in seconds since 1970.
pub(super) fn check(call: &Call, service: &str, key: &Key, now: i64) -> Result<(), Unsigned> {
    let authorization = call.header("authorization");
    let rest = authorization
        .strip_prefix("AWS4-HMAC-SHA256 ")
        .ok_or(Unsigned::Missing)?;
    let part = |name: &str| {
        rest.split(", ")
            .find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
    };
    let (Some(credential), Some(headers), Some(signature)) =
        (part("Credential"), part("SignedHeaders"), part("Signature"))
    else {
        return Err(Unsigned::Incomplete);
    };
    let (id, scope) = credential.split_once('/').ok_or(Unsigned::Incomplete)?;
    let [day, region, of, "aws4_request"] = scope.split('/').collect::<Vec<_>>()[..] else {
        return Err(Unsigned::Incomplete);
    };
    let date = call.header("x-amz-date");
    let names: Vec<&str> = headers.split(';').collect();
    if !names.contains(&"host") || !names.contains(&"x-amz-date") || !date.starts_with(day) {
        return Err(Unsigned::Incomplete);
    }
    let signed = seconds(date).ok_or(Unsigned::Incomplete)?;
    if (now - signed).abs() > GOOD_SECONDS {
        return Err(Unsigned::Expired);
    }
    if id != key.id {
        return Err(Unsigned::UnknownKey);
    }
    let text = format!(
        "AWS4-HMAC-SHA256\n{date}\n{scope}\n{}",
        sha256(canonical(call, &names, headers).as_bytes())
    );
    let mut secret = format!("AWS4{}", key.secret).into_bytes();
    for step in [day, region, of, "aws4_request"] {
        secret = sign(&secret, step);
    }
    let is_right = hex(&sign(&secret, &text)) == signature && of == service;
    is_right.then_some(()).ok_or(Unsigned::Wrong)
}

/// The request as it is signed.
fn canonical(call: &Call, names: &[&str], headers: &str) -> String {
    let mut text = call.line.replacen(' ', "\n", 1);
    text.push_str("\n\n");
    for name in names {
        let _ = writeln!(text, "{name}:{}", call.header(name));
    }
    let _ = write!(text, "\n{headers}\n{}", sha256(&call.body));
    text
}

fn sign(key: &[u8], text: &str) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, text.as_bytes()).as_ref().to_vec()
}

fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Seconds since 1970 of `20260131T120000Z`.
fn seconds(date: &str) -> Option<i64> {
    let (day, time) = date.strip_suffix('Z')?.split_once('T')?;
    let number = |text: &str, from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let (year, month) = (number(day, 0, 4)?, number(day, 4, 6)?);
    // Years begin in March: the day that is sometimes there is the last one.
    let (years, months) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days =
        365 * years + years / 4 - years / 100 + years / 400 + (153 * months + 2) / 5 + number(day, 6, 8)?
            - 719_469;
    Some(days * 86_400 + number(time, 0, 2)? * 3_600 + number(time, 2, 4)? * 60 + number(time, 4, 6)?)
}

/// A signed call, for tests.
#[cfg(test)]
pub(super) fn signed(service: &str, more: &[(&str, &str)], body: &str, key: &Key, now: i64) -> Call {
    let seconds = u64::try_from(now).unwrap();
    let (year, month, day) = crate::generate::line::date(seconds / 86_400);
    let day = format!("{year:04}{month:02}{day:02}");
    let (hour, minute) = (seconds / 3_600 % 24, seconds / 60 % 60);
    let date = format!("{day}T{hour:02}{minute:02}{:02}Z", seconds % 60);
    let first = [("host", "localhost"), ("x-amz-date", date.as_str())];
    let headers = more.iter().chain(&first);
    let mut headers: Vec<_> = headers
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    headers.sort();
    let names: Vec<String> = headers.iter().map(|(name, _)| name.clone()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut call = Call {
        line: "POST /".to_owned(),
        headers,
        body: body.as_bytes().to_vec(),
    };
    let scope = format!("{day}/eu-central-1/{service}/aws4_request");
    let text = canonical(&call, &names, &names.join(";"));
    let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", sha256(text.as_bytes()));
    let secret = scope
        .split('/')
        .fold(format!("AWS4{}", key.secret).into_bytes(), |secret, step| {
            sign(&secret, step)
        });
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={}, Signature={}",
        key.id,
        names.join(";"),
        hex(&sign(&secret, &text))
    );
    call.headers.push(("authorization".to_owned(), authorization));
    call
}

#[cfg(test)]
mod tests {
    use super::*;

    /// AWS's own example: `get-vanilla` of its suite of tests for Signature Version 4.
    fn example() -> (Call, Key, i64) {
        let authorization = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
                             SignedHeaders=host;x-amz-date, \
                             Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31";
        let headers = [
            ("host", "example.amazonaws.com"),
            ("x-amz-date", "20150830T123600Z"),
            ("authorization", authorization),
        ];
        let call = Call {
            line: "GET /".to_owned(),
            headers: headers
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec(),
            body: Vec::new(),
        };
        let key = Key {
            id: "AKIDEXAMPLE".to_owned(),
            secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned(),
        };
        (call, key, 1_440_938_160)
    }

    #[test]
    fn the_documented_example_is_signed() {
        let (call, key, now) = example();
        assert_eq!(check(&call, "service", &key, now), Ok(()));
    }

    #[test]
    fn a_request_without_a_signature_is_refused() {
        let (mut call, key, now) = example();
        call.headers[2].1 = "AWS4-HMAC-SHA256 Credential=a/b".to_owned();
        assert_eq!(check(&call, "service", &key, now), Err(Unsigned::Incomplete));
        call.headers.pop();
        assert_eq!(check(&call, "service", &key, now), Err(Unsigned::Missing));
    }

    #[test]
    fn a_signature_for_another_service_is_refused() {
        let (mut call, key, now) = example();
        assert_eq!(check(&call, "redshift", &key, now), Err(Unsigned::Wrong));
        call.headers[2].1 = call.headers[2].1.replace("20150830/", "20150831/");
        assert_eq!(check(&call, "service", &key, now), Err(Unsigned::Incomplete));
    }

    #[test]
    fn an_old_signature_is_refused() {
        let (call, key, now) = example();
        assert_eq!(check(&call, "service", &key, now + 900), Ok(()));
        for off in [-901, 901] {
            assert_eq!(check(&call, "service", &key, now + off), Err(Unsigned::Expired));
        }
    }

    #[test]
    fn whatever_is_changed_is_noticed() {
        let (call, key, now) = example();
        let changed = [
            Call {
                line: "POST /".to_owned(),
                ..call.clone()
            },
            Call {
                body: b"x".to_vec(),
                ..call.clone()
            },
            Call {
                headers: [&[("host".to_owned(), "other".to_owned())], &call.headers[1..]].concat(),
                ..call.clone()
            },
        ];
        for call in changed {
            assert_eq!(
                check(&call, "service", &key, now),
                Err(Unsigned::Wrong),
                "{call:?}"
            );
        }
        let other = Key {
            secret: "other".to_owned(),
            ..key.clone()
        };
        assert_eq!(check(&call, "service", &other, now), Err(Unsigned::Wrong));
        let unknown = Key {
            id: "OTHER".to_owned(),
            ..key
        };
        assert_eq!(check(&call, "service", &unknown, now), Err(Unsigned::UnknownKey));
    }
}
