//! What AWS is asked for a login: the action, its parameters, and where it goes.

use millrace_pipeline::spec::model::RedshiftTarget;
use object_store::client::{HttpRequest, HttpRequestBody};
use serde_json::json;

/// How long a login is asked for: the longest there is.
const SECONDS: u32 = 3_600;

/// How a service is spoken with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// A form, answered in XML.
    Query,
    /// JSON 1.1 both ways; the action is a header.
    Json(&'static str),
}

pub(super) struct Question {
    /// Whom the request is signed for, and the first part of the host's name.
    pub(super) service: &'static str,
    pub(super) protocol: Protocol,
    body: String,
}

impl Question {
    pub(super) fn of(target: &RedshiftTarget, database: &str) -> Self {
        match target {
            RedshiftTarget::Workgroup(name) => Self {
                service: "redshift-serverless",
                protocol: Protocol::Json("RedshiftServerless.GetCredentials"),
                body: json!({"workgroupName": name, "dbName": database, "durationSeconds": SECONDS})
                    .to_string(),
            },
            RedshiftTarget::Cluster { name, db_user } => Self {
                service: "redshift",
                protocol: Protocol::Query,
                body: form(name, db_user.as_deref(), database),
            },
        }
    }

    /// Where AWS answers it.
    pub(super) fn url(&self, region: &str) -> String {
        let is_in_china = region.starts_with("cn-");
        let domain = if is_in_china {
            "amazonaws.com.cn"
        } else {
            "amazonaws.com"
        };
        format!("https://{}.{region}.{domain}/", self.service)
    }

    /// The request, unsigned; none where the address is none.
    pub(super) fn request(&self, url: &str) -> Option<HttpRequest> {
        let mut request = HttpRequest::new(HttpRequestBody::from(self.body.clone().into_bytes()));
        *request.method_mut() = "POST".parse().ok()?;
        // The authorizer signs whole addresses only.
        *request.uri_mut() = url::Url::parse(url).ok()?.as_str().parse().ok()?;
        let headers = request.headers_mut();
        match self.protocol {
            Protocol::Query => {
                let content = "application/x-www-form-urlencoded; charset=utf-8";
                headers.insert("content-type", content.parse().ok()?);
            }
            Protocol::Json(action) => {
                headers.insert("content-type", "application/x-amz-json-1.1".parse().ok()?);
                headers.insert("x-amz-target", action.parse().ok()?);
            }
        }
        Some(request)
    }
}

fn form(cluster: &str, db_user: Option<&str>, database: &str) -> String {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.append_pair("Version", "2012-12-01")
        .append_pair("ClusterIdentifier", cluster)
        .append_pair("DbName", database)
        .append_pair("DurationSeconds", &SECONDS.to_string());
    match db_user {
        Some(user) => form
            .append_pair("Action", "GetClusterCredentials")
            .append_pair("DbUser", user),
        None => form.append_pair("Action", "GetClusterCredentialsWithIAM"),
    };
    form.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_target_is_asked_by_its_own_action() {
        let cluster = |db_user: Option<&str>| RedshiftTarget::Cluster {
            name: "main".to_owned(),
            db_user: db_user.map(str::to_owned),
        };
        let by_user = Question::of(&cluster(Some("a&b")), "dev");
        assert!(
            by_user.body.contains("Action=GetClusterCredentials&DbUser=a%26b"),
            "{}",
            by_user.body
        );
        let by_iam = Question::of(&cluster(None), "dev");
        assert!(
            by_iam.body.ends_with("Action=GetClusterCredentialsWithIAM"),
            "{}",
            by_iam.body
        );
        let serverless = Question::of(&RedshiftTarget::Workgroup("w".to_owned()), "dev");
        assert_eq!(
            serverless.protocol,
            Protocol::Json("RedshiftServerless.GetCredentials")
        );
        assert_eq!(
            serverless.url("cn-north-1"),
            "https://redshift-serverless.cn-north-1.amazonaws.com.cn/"
        );
        assert_eq!(
            by_iam.url("eu-central-1"),
            "https://redshift.eu-central-1.amazonaws.com/"
        );
        assert!(by_iam.request("redshift.somewhere").is_none());
    }
}
