//! What AWS answers: a login, or why there is none. A login is a secret: no part of such an answer is ever quoted.

use chrono::{DateTime, Utc};
use millrace_pipeline::spec::model::Secret;
use serde::Deserialize;

use super::Login;
use super::question::Protocol;
use crate::handoff::data_api::ApiError;

/// The login of an answer.
pub(super) fn read(status: u16, text: &str, protocol: Protocol) -> Result<Login, ApiError> {
    let is_xml = protocol == Protocol::Query;
    if status != 200 {
        let (code, message) = if is_xml {
            refusal_of_xml(text)
        } else {
            refusal_of_json(text)
        };
        return Err(ApiError::named(&code, message, status));
    }
    let login = if is_xml { of_xml(text) } else { of_json(text) };
    login.ok_or_else(|| ApiError::unusable("the answer holds no login".to_owned()))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Given {
    db_user: String,
    db_password: String,
    /// Seconds since 1970, with a fraction.
    expiration: f64,
}

fn of_json(text: &str) -> Option<Login> {
    let given: Given = serde_json::from_str(text).ok()?;
    Some(Login {
        user: given.db_user,
        password: Secret::new(given.db_password),
        until_us: (given.expiration * 1e6) as i64,
    })
}

fn of_xml(text: &str) -> Option<Login> {
    let until: DateTime<Utc> = element(text, "Expiration")?.parse().ok()?;
    Some(Login {
        user: element(text, "DbUser")?,
        password: Secret::new(element(text, "DbPassword")?),
        until_us: until.timestamp_micros(),
    })
}

fn refusal_of_json(text: &str) -> (String, String) {
    let answer: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let of = |name: &str| answer.get(name).and_then(|value| value.as_str());
    let code = of("__type").unwrap_or("Unknown");
    let code = code.rsplit('#').next().unwrap_or(code);
    let message = of("message").or(of("Message")).unwrap_or("no message");
    (code.to_owned(), message.to_owned())
}

fn refusal_of_xml(text: &str) -> (String, String) {
    let of = |name, otherwise: &str| element(text, name).unwrap_or_else(|| otherwise.to_owned());
    (of("Code", "Unknown"), of("Message", "no message"))
}

/// The text of an element without children. AWS's answers have no attributes on those, and no CDATA.
fn element(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (mut rest, _) = rest.split_once(&format!("</{name}>"))?;
    let mut plain = String::new();
    while let Some((before, after)) = rest.split_once('&') {
        let (entity, after) = after.split_once(';')?;
        plain.push_str(before);
        plain.push(character(entity)?);
        rest = after;
    }
    plain.push_str(rest);
    Some(plain)
}

/// What an entity stands for.
fn character(entity: &str) -> Option<char> {
    match entity {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        other => {
            let number = other.strip_prefix('#')?;
            let code = match number.strip_prefix('x') {
                Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                None => number.parse().ok()?,
            };
            char::from_u32(code)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_read_from_xml_with_its_entities() {
        let xml = "<GetClusterCredentialsResponse xmlns=\"http://redshift.amazonaws.com/doc/2012-12-01/\"><GetClusterCredentialsResult>\
                   <DbUser>IAM:loader</DbUser><Expiration>2026-01-31T12:00:00.500Z</Expiration>\
                   <DbPassword>a&amp;b&lt;c&#x2F;&#47;</DbPassword></GetClusterCredentialsResult></GetClusterCredentialsResponse>";
        let login = read(200, xml, Protocol::Query).unwrap();
        assert_eq!(
            (login.user.as_str(), login.password.reveal()),
            ("IAM:loader", "a&b<c//")
        );
        assert_eq!(login.until_us, 1_769_860_800_500_000);
    }

    #[test]
    fn a_login_is_read_from_json() {
        let json = "{\"dbUser\":\"IAMR:load\",\"dbPassword\":\"p\",\"expiration\":1769860800.5,\"nextRefreshTime\":1.0}";
        let login = read(200, json, Protocol::Json("")).unwrap();
        assert_eq!(
            (login.user.as_str(), login.until_us),
            ("IAMR:load", 1_769_860_800_500_000)
        );
    }

    #[test]
    fn an_answer_that_is_none_is_not_quoted() {
        for (text, protocol) in [
            (
                "<DbUser>x</DbUser><DbPassword>hunter2</DbPassword>",
                Protocol::Query,
            ),
            (
                "<Expiration>soon</Expiration><DbPassword>&hunter2;</DbPassword>",
                Protocol::Query,
            ),
            ("{\"dbPassword\":\"hunter2\"}", Protocol::Json("")),
        ] {
            let error = read(200, text, protocol).unwrap_err();
            assert_eq!(error.to_string(), "NoClient: the answer holds no login");
        }
    }

    #[test]
    fn a_refusal_names_its_code_in_either_protocol() {
        let xml = "<ErrorResponse><Error><Type>Sender</Type><Code>ClusterNotFound</Code><Message>no such</Message></Error></ErrorResponse>";
        let error = read(404, xml, Protocol::Query).unwrap_err();
        assert_eq!(
            (error.to_string().as_str(), error.is_passing),
            ("ClusterNotFound: no such", false)
        );
        let json = "{\"__type\":\"com.amazonaws#AccessDeniedException\",\"message\":\"no\"}";
        let error = read(400, json, Protocol::Json("")).unwrap_err();
        assert_eq!(
            (error.to_string().as_str(), error.kind()),
            ("AccessDeniedException: no", "credentials")
        );
        let error = read(503, "<html>", Protocol::Json("")).unwrap_err();
        assert_eq!(
            (error.to_string().as_str(), error.is_passing),
            ("Unknown: no message", true)
        );
    }
}
