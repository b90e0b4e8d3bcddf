//! How requests of AWS's client leave: by the HTTP client and with the credentials that S3 is reached with, so that there is
//! one stack of TLS and one chain of credentials in the binary.

use std::fmt;

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::future;
use aws_sdk_redshiftdata::config::http::HttpRequest;
use aws_sdk_redshiftdata::config::retry::RetryConfig;
use aws_sdk_redshiftdata::config::timeout::TimeoutConfig;
use aws_sdk_redshiftdata::config::{
    BehaviorVersion, IdentityCache, ProvideCredentials, Region, StalledStreamProtectionConfig,
};
use aws_sdk_redshiftdata::error::{BoxError, ConnectorError};
use aws_sdk_redshiftdata::{Client, Config};
use aws_smithy_runtime_api::client::http::{
    HttpConnector as SdkConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::http::StatusCode;
use http_body_util::BodyExt;
use millrace_pipeline::source::S3Options;
use millrace_pipeline::spec::model::DataApi;
use object_store::ClientOptions;
use object_store::aws::AwsCredentialProvider;
use object_store::client::{HttpClient, HttpConnector, HttpErrorKind, HttpRequestBody, ReqwestConnector};

use super::ApiError;

/// A client for this warehouse.
pub(super) fn client(api: &DataApi, s3: &S3Options) -> Result<Client, ApiError> {
    let unusable = |error: &dyn std::error::Error| ApiError::unusable(crate::causes::chain(error));
    let region = api.region.as_ref().or(s3.region.as_ref());
    let Some(region) = region else {
        return Err(ApiError::unusable(
            "no region is known; right is `warehouse.redshift.data_api.region: eu-central-1`".to_owned(),
        ));
    };
    let plain = api
        .endpoint
        .as_ref()
        .is_some_and(|endpoint| endpoint.starts_with("http://"));
    let options = ClientOptions::new().with_allow_http(plain);
    let http = ReqwestConnector::default().connect(&options);
    let connector = SharedHttpConnector::new(Connector(http.map_err(|error| unusable(&error))?));
    let credentials = s3.credentials().map_err(|error| unusable(&error))?;
    let mut config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(region.clone()))
        .credentials_provider(Chain(credentials))
        .http_client(http_client_fn(move |_, _| connector.clone()))
        // What is tried again, and when, is the handoff's to say: with the same token it is the same statement.
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        // The chain keeps them itself.
        .identity_cache(IdentityCache::no_cache());
    if let Some(endpoint) = &api.endpoint {
        config = config.endpoint_url(endpoint);
    }
    Ok(Client::from_conf(config.build()))
}

/// S3's credentials.
struct Chain(AwsCredentialProvider);

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Chain")
    }
}

impl ProvideCredentials for Chain {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            let found = self.0.get_credential().await;
            let found = found.map_err(CredentialsError::provider_error)?;
            Ok(Credentials::new(
                &found.key_id,
                &found.secret_key,
                found.token.clone(),
                None,
                "millrace",
            ))
        })
    }
}

/// S3's HTTP client.
#[derive(Debug)]
struct Connector(HttpClient);

impl SdkConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let client = self.0.clone();
        HttpConnectorFuture::new(async move { send(&client, request).await })
    }
}

async fn send(client: &HttpClient, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
    let user = |error: BoxError| ConnectorError::user(error);
    let request = request.try_into_http1x().map_err(|error| user(error.into()))?;
    // Requests of the Data API are JSON in memory.
    let request = request.map(|body| HttpRequestBody::from(body.bytes().unwrap_or_default().to_vec()));
    let answer = client.execute(request).await.map_err(|error| {
        if error.kind() == HttpErrorKind::Timeout {
            ConnectorError::timeout(error.into())
        } else {
            ConnectorError::io(error.into())
        }
    })?;
    let status = StatusCode::try_from(answer.status().as_u16()).map_err(|error| user(error.into()))?;
    let (parts, body) = answer.into_parts();
    let body = body
        .collect()
        .await
        .map_err(|error| ConnectorError::io(error.into()))?;
    let mut response = HttpResponse::new(status, body.to_bytes().into());
    for (name, value) in &parts.headers {
        if let Ok(value) = value.to_str() {
            response
                .headers_mut()
                .insert(name.as_str().to_owned(), value.to_owned());
        }
    }
    Ok(response)
}
