//! The logins that the simulator gives by IAM, and what becomes of them when somebody comes with one.
//!
//! | rule                                                                        | page                                            | test |
//! |-----------------------------------------------------------------------------|-------------------------------------------------|------|
//! | `GetClusterCredentials` and `GetClusterCredentialsWithIAM` are of the query protocol, version 2012-12-01, answered in XML | "Amazon Redshift API Reference": the actions, "Common Parameters" | `each_call_gives_a_user_and_a_password_for_a_while` |
//! | `GetCredentials` is JSON 1.1, target `RedshiftServerless.GetCredentials`    | "Amazon Redshift Serverless API Reference": GetCredentials | the same |
//! | requests are signed, for `redshift` and for `redshift-serverless`           | "Making API requests" (signature.rs)            | `a_call_that_is_not_signed_gives_nothing` |
//! | `DbUser` is required by the first, no parameter of the others, and without colon and slash | GetClusterCredentials            | `what_the_actions_do_not_take_is_refused` |
//! | a password is good for 900 seconds, or 900 to 3600 as asked for             | each of them, `DurationSeconds`                 | the same, and `a_login_ends` |
//! | the user is prefixed with `IAM:`; one that belongs to a role with `IAMR:`   | GetClusterCredentials; "Mapping IAM identities" | `each_call_gives_a_user_and_a_password_for_a_while` |
//! | an unknown cluster is `ClusterNotFound`, 404; a workgroup `ResourceNotFoundException` | each of them, "Errors"                | `an_unknown_cluster_or_workgroup_is_told` |
//! | the first one does not look whether there is such a user: logging in does   | GetClusterCredentials, `AutoCreate`             | `a_user_that_is_not_there_gets_a_password_and_is_not_let_in` |
//! | a login is for the database that was named                                  | each of them, `DbName`                          | `a_login_ends` |
//!
//! How the password is asked for is not documented: in clear text here, over TLS only.

use std::io;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_rustls::TlsAcceptor;

use super::http::{Call, FORM, JSON, XML};
use super::signature::{self, Key};
use crate::generate::line::date;
use crate::generate::random::mix;

/// What there is to log in to.
#[derive(Debug, Clone)]
pub struct Account {
    /// A provisioned cluster.
    pub cluster: String,
    /// A workgroup of Redshift Serverless.
    pub workgroup: String,
    /// A user of the cluster's database.
    pub user: String,
    /// The role that asks.
    pub role: String,
}

/// Who is let in, and by what.
pub(super) struct Door {
    pub(super) tls: TlsAcceptor,
    pub(super) logins: Logins,
}

impl Door {
    /// Both in PEM: the certificate with those that it goes back to, and its key.
    pub(super) fn new(account: Account, certificate: &[u8], key: &[u8]) -> io::Result<Self> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate).collect();
        let chain = chain.map_err(io::Error::other)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(io::Error::other)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|config| config.with_no_client_auth().with_single_cert(chain, key))
            .map_err(io::Error::other)?;
        Ok(Self {
            tls: TlsAcceptor::from(Arc::new(config)),
            logins: Logins::new(account),
        })
    }
}

pub(super) struct Logins {
    account: Account,
    given: Mutex<Vec<Given>>,
    asked: Mutex<Vec<String>>,
    /// Seconds that this clock is ahead.
    off: Mutex<i64>,
}

#[derive(Debug, Clone)]
struct Given {
    user: String,
    password: String,
    database: String,
    until: i64,
}

/// An answer: status, type, body.
pub(super) type Answered = (u16, &'static str, String);

/// A refusal: status, the error's name and words.
struct No(u16, &'static str, String);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct OfWorkgroup {
    workgroup_name: Option<String>,
    db_name: Option<String>,
    duration_seconds: Option<i64>,
}

impl Logins {
    fn new(account: Account) -> Self {
        Self {
            account,
            given: Mutex::default(),
            asked: Mutex::default(),
            off: Mutex::default(),
        }
    }

    /// Sets the clock, so many seconds ahead of the machine's.
    pub(super) fn set_clock(&self, off: i64) {
        *self.off.lock() = off;
    }

    /// The actions that were asked, in their order.
    pub(super) fn asked(&self) -> Vec<String> {
        self.asked.lock().clone()
    }

    /// The answer to a request.
    pub(super) fn answer(&self, call: &Call, key: &Key) -> Answered {
        if call.header("x-amz-target").is_empty() {
            return match self.of_cluster(call, key) {
                Ok((action, given)) => (200, XML, xml(&action, &given)),
                Err(No(status, code, message)) => (status, XML, xml_error(code, &message)),
            };
        }
        match self.of_workgroup(call, key) {
            Ok(given) => {
                let told =
                    json!({"dbUser": given.user, "dbPassword": given.password, "expiration": given.until});
                (200, JSON, told.to_string())
            }
            Err(No(status, code, message)) => (
                status,
                JSON,
                json!({"__type": code, "message": message}).to_string(),
            ),
        }
    }

    fn of_workgroup(&self, call: &Call, key: &Key) -> Result<Given, No> {
        signature::check(call, "redshift-serverless", key, now())
            .map_err(|fault| No(403, fault.names().1, format!("{fault:?}")))?;
        let invalid = |text: String| No(400, "ValidationException", text);
        if call.action("RedshiftServerless") != Some("GetCredentials") || call.header("content-type") != JSON
        {
            let text = "the simulator knows GetCredentials in JSON 1.1 only".to_owned();
            return Err(No(400, "UnknownOperationException", text));
        }
        let asked: Value = serde_json::from_slice(&call.body).map_err(|error| invalid(error.to_string()))?;
        let asked: OfWorkgroup = serde_json::from_value(asked).map_err(|error| invalid(error.to_string()))?;
        self.asked.lock().push("GetCredentials".to_owned());
        let workgroup = asked.workgroup_name.unwrap_or_default();
        if workgroup != self.account.workgroup {
            let text = format!("Workgroup {workgroup} not found.");
            return Err(No(404, "ResourceNotFoundException", text));
        }
        let seconds = asked.duration_seconds.unwrap_or(900);
        let user = format!("IAMR:{}", self.account.role);
        self.give(user, asked.db_name, seconds)
            .ok_or_else(|| invalid(format!("durationSeconds {seconds} is not within 900 and 3600")))
    }

    fn of_cluster(&self, call: &Call, key: &Key) -> Result<(String, Given), No> {
        signature::check(call, "redshift", key, now())
            .map_err(|fault| No(403, fault.names().0, format!("{fault:?}")))?;
        let invalid = |text: String| No(400, "InvalidParameterValue", text);
        if !call.header("content-type").starts_with(FORM) {
            return Err(No(400, "MalformedQueryString", "a form is expected".to_owned()));
        }
        let mut form = pairs(&String::from_utf8_lossy(&call.body));
        let mut take = |name: &str| {
            let at = form.iter().position(|(there, _)| there == name)?;
            Some(form.swap_remove(at).1)
        };
        if take("Version").as_deref() != Some("2012-12-01") {
            return Err(No(400, "InvalidAction", "no such version".to_owned()));
        }
        let action = take("Action").unwrap_or_default();
        let (cluster, database) = (take("ClusterIdentifier").unwrap_or_default(), take("DbName"));
        let seconds = take("DurationSeconds").map_or(Ok(900), |text| text.parse());
        let user = match action.as_str() {
            "GetClusterCredentials" => take("DbUser")
                .filter(|user| !user.is_empty())
                .ok_or_else(|| No(400, "MissingParameter", "DbUser is missing".to_owned()))
                .map(|user| format!("IAM:{user}"))?,
            "GetClusterCredentialsWithIAM" => format!("IAMR:{}", self.account.role),
            other => return Err(No(400, "InvalidAction", format!("no action {other}"))),
        };
        if user[4..].contains([':', '/']) && action == "GetClusterCredentials" {
            return Err(invalid(format!("DbUser {user} has a colon or a slash")));
        }
        if let Some((name, _)) = form.first() {
            return Err(invalid(format!("{action} takes no {name}")));
        }
        self.asked.lock().push(action.clone());
        if cluster != self.account.cluster {
            return Err(No(
                404,
                "ClusterNotFound",
                format!("Cluster {cluster} not found."),
            ));
        }
        let seconds = seconds.map_err(|_| invalid("DurationSeconds is no number".to_owned()))?;
        let given = self
            .give(user, database, seconds)
            .ok_or_else(|| invalid(format!("DurationSeconds {seconds} is not within 900 and 3600")))?;
        Ok((action, given))
    }

    fn give(&self, user: String, database: Option<String>, seconds: i64) -> Option<Given> {
        let mut all = self.given.lock();
        let nanoseconds = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_nanos();
        let given = Given {
            user,
            // With what has to be escaped in XML.
            password: format!("{:016x}&<'\">{}", mix(nanoseconds as u64), all.len()),
            database: database.unwrap_or_default(),
            until: self.now() + seconds,
        };
        if !(900..=3_600).contains(&seconds) {
            return None;
        }
        all.push(given.clone());
        Some(given)
    }

    /// Whether somebody is let in.
    pub(super) fn admits(&self, user: &str, password: &str, database: &str) -> bool {
        let is_there = user
            .strip_prefix("IAM:")
            .is_none_or(|name| name == self.account.user);
        is_there
            && self.given.lock().iter().any(|given| {
                (given.user.as_str(), given.password.as_str()) == (user, password)
                    && (given.database.is_empty() || given.database == database)
                    && self.now() < given.until
            })
    }

    /// Seconds since 1970.
    fn now(&self) -> i64 {
        now() + *self.off.lock()
    }
}

/// Seconds since 1970, by the machine's clock.
pub(super) fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

fn xml(action: &str, given: &Given) -> String {
    let seconds = u64::try_from(given.until).unwrap_or_default();
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute) = (seconds / 3_600 % 24, seconds / 60 % 60);
    format!(
        "<{action}Response xmlns=\"http://redshift.amazonaws.com/doc/2012-12-01/\">\n  <{action}Result>\n    \
         <Expiration>{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}Z</Expiration>\n    \
         <DbUser>{}</DbUser>\n    <DbPassword>{}</DbPassword>\n  </{action}Result>\n</{action}Response>",
        seconds % 60,
        escaped(&given.user),
        escaped(&given.password)
    )
}

fn xml_error(code: &str, message: &str) -> String {
    format!(
        "<ErrorResponse xmlns=\"http://redshift.amazonaws.com/doc/2012-12-01/\">\n  <Error>\n    <Type>Sender</Type>\n    \
         <Code>{code}</Code>\n    <Message>{}</Message>\n  </Error>\n</ErrorResponse>",
        escaped(message)
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

/// The pairs of a form.
fn pairs(form: &str) -> Vec<(String, String)> {
    let pair = |pair: &str| {
        pair.split_once('=')
            .map(|(name, value)| (plain(name), plain(value)))
    };
    form.split('&').filter_map(pair).collect()
}

/// A text of a form, decoded.
fn plain(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digits: String = rest.by_ref().take(2).map(char::from).collect();
                bytes.push(u8::from_str_radix(&digits, 16).unwrap_or(b'?'));
            }
            other => bytes.push(other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redshift_sim::signature::signed;

    fn key() -> Key {
        Key {
            id: "AKID".to_owned(),
            secret: "secret".to_owned(),
        }
    }

    fn logins() -> Logins {
        Logins::new(Account {
            cluster: "main".to_owned(),
            workgroup: "analytics".to_owned(),
            user: "loader".to_owned(),
            role: "load".to_owned(),
        })
    }

    const BY_USER: &str = "Action=GetClusterCredentials&DbUser=loader";
    const BY_IAM: &str = "Action=GetClusterCredentialsWithIAM";

    /// The answer to a form of the cluster `main`.
    fn ask(logins: &Logins, form: &str) -> Answered {
        let body = format!("Version=2012-12-01&ClusterIdentifier=main&DbName=dev&{form}");
        logins.answer(
            &signed("redshift", &[("content-type", FORM)], &body, &key(), now()),
            &key(),
        )
    }

    fn ask_serverless(logins: &Logins, body: &str) -> Answered {
        let headers = [
            ("content-type", JSON),
            ("x-amz-target", "RedshiftServerless.GetCredentials"),
        ];
        logins.answer(
            &signed("redshift-serverless", &headers, body, &key(), now()),
            &key(),
        )
    }

    fn last(logins: &Logins) -> Given {
        logins.given.lock().last().unwrap().clone()
    }

    #[test]
    fn each_call_gives_a_user_and_a_password_for_a_while() {
        let logins = logins();
        let (status, _, text) = ask(&logins, BY_USER);
        assert!(
            status == 200 && text.contains("<DbUser>IAM:loader</DbUser>"),
            "{text}"
        );
        assert!(
            text.contains("<GetClusterCredentialsResult>") && text.contains("&amp;&lt;&#39;&quot;&gt;0<")
        );
        let (status, _, text) = ask(&logins, BY_IAM);
        assert!(
            status == 200 && text.contains("<DbUser>IAMR:load</DbUser>"),
            "{text}"
        );
        let (status, _, text) = ask_serverless(
            &logins,
            r#"{"workgroupName": "analytics", "durationSeconds": 3600}"#,
        );
        let told: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((status, &told["dbUser"]), (200, &json!("IAMR:load")));
        assert!((told["expiration"].as_i64().unwrap() - now() - 3_600).abs() < 60);
        let all = logins.given.lock().clone();
        for given in all {
            assert!(logins.admits(&given.user, &given.password, "dev"), "{given:?}");
            assert!(
                !logins.admits(&given.user, "another", "dev")
                    && !logins.admits("IAM:x", &given.password, "dev")
            );
        }
        assert!(!logins.admits("loader", "", "dev"));
    }

    #[test]
    fn a_call_that_is_not_signed_gives_nothing() {
        let logins = logins();
        let body = format!("Version=2012-12-01&ClusterIdentifier=main&{BY_IAM}");
        let mut call = signed("redshift-data", &[("content-type", FORM)], &body, &key(), now());
        let (status, _, text) = logins.answer(&call, &key());
        assert!(
            status == 403 && text.contains("<Code>SignatureDoesNotMatch</Code>"),
            "{text}"
        );
        call.headers.retain(|(name, _)| name != "authorization");
        let (status, _, text) = logins.answer(&call, &key());
        assert!(
            status == 403 && text.contains("<Code>MissingAuthenticationToken</Code>"),
            "{text}"
        );
        assert!(logins.given.lock().is_empty());
    }

    #[test]
    fn what_the_actions_do_not_take_is_refused() {
        let logins = logins();
        for form in [
            "Action=GetClusterCredentials",
            "Action=GetClusterCredentials&DbUser=a%3Ab",
            "Action=GetClusterCredentialsWithIAM&DbUser=loader",
            "Action=GetClusterCredentialsWithIAM&DurationSeconds=899",
            "Action=GetClusterCredentialsWithIAM&DurationSeconds=3601",
            "Action=GetClusterCredentialsWithIAM&DurationSeconds=long",
            "Action=DescribeClusters",
        ] {
            assert_eq!(ask(&logins, form).0, 400, "{form}");
        }
        for body in [
            "{",
            r#"{"workgroupName": "analytics", "dbUser": "me"}"#,
            r#"{"workgroupName": "analytics", "durationSeconds": 1}"#,
        ] {
            assert_eq!(ask_serverless(&logins, body).0, 400, "{body}");
        }
        assert!(logins.given.lock().is_empty());
    }

    #[test]
    fn an_unknown_cluster_or_workgroup_is_told() {
        let logins = logins();
        let body = format!("Version=2012-12-01&ClusterIdentifier=mian&{BY_IAM}");
        let (status, _, text) = logins.answer(
            &signed("redshift", &[("content-type", FORM)], &body, &key(), now()),
            &key(),
        );
        assert!(
            status == 404 && text.contains("<Code>ClusterNotFound</Code>"),
            "{text}"
        );
        let (status, _, text) = ask_serverless(&logins, r#"{"workgroupName": "other"}"#);
        assert!(
            status == 404 && text.contains("ResourceNotFoundException"),
            "{text}"
        );
    }

    #[test]
    fn a_login_ends() {
        let logins = logins();
        ask(&logins, BY_IAM);
        let given = last(&logins);
        assert!(logins.admits(&given.user, &given.password, "dev"));
        assert!(!logins.admits(&given.user, &given.password, "other"));
        logins.set_clock(800);
        assert!(logins.admits(&given.user, &given.password, "dev"));
        logins.set_clock(900);
        assert!(!logins.admits(&given.user, &given.password, "dev"));
    }

    #[test]
    fn a_user_that_is_not_there_gets_a_password_and_is_not_let_in() {
        let logins = logins();
        assert_eq!(ask(&logins, "Action=GetClusterCredentials&DbUser=nobody").0, 200);
        let given = last(&logins);
        assert!(!logins.admits(&given.user, &given.password, "dev"));
    }
}
