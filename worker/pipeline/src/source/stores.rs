//! The object stores behind URLs: one place knows how `file:///absolute/path` and `s3://bucket/key` are opened.
//!
//! In: plain values ([`S3Options`]). Out: an `object_store` client and the path in it.
//!
//! Nothing is read from the environment here: without keys in the options, `object_store`'s own chain (task
//! role, instance role) applies, and whatever else a deployment needs (a container's credentials URI, a web
//! identity token file) comes in through [`S3Options::settings`].
//!
//! S3 keys stand in URLs as they are, nothing is percent-encoded; `file://` URLs are encoded as URLs are.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use object_store::aws::{
    AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, AwsCredentialProvider, S3ConditionalPut,
};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore};
use parking_lot::Mutex;

use super::kafka::{KafkaClients, KafkaOptions};
use crate::spec::model::{Lake, Secret};

/// How S3 is reached. Everything is optional: nothing at all means AWS with the role of the machine.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct S3Options {
    /// Endpoint of an S3-compatible server, `http://127.0.0.1:9000`.
    pub endpoint: Option<String>,
    /// Region.
    pub region: Option<String>,
    /// Access key. Goes with `secret_access_key`.
    pub access_key_id: Option<String>,
    /// Secret key.
    pub secret_access_key: Option<Secret>,
    /// Token of temporary credentials.
    pub session_token: Option<Secret>,
    /// Whether plain HTTP is allowed. Default: when `endpoint` starts with `http://`.
    pub allow_http: Option<bool>,
    /// Whether requests go to `bucket.host` instead of `host/bucket`. Default: no.
    pub virtual_hosted: Option<bool>,
    /// Further settings by `object_store`'s names, `aws_container_credentials_relative_uri` for instance.
    /// The fields above win.
    pub settings: BTreeMap<String, Secret>,
}

impl S3Options {
    /// A pipeline's lake: its store, and its root there.
    ///
    /// # Errors
    /// When its address or the options are not usable.
    pub fn open_lake(&self, lake: &Lake) -> Result<(Arc<dyn ObjectStore>, Path), StoreError> {
        let there = self.at(lake.endpoint.as_deref(), lake.region.as_deref());
        Stores::new(there).open(&lake.url)
    }

    /// The credentials by which S3 is reached, for another service of AWS: renewed before they end.
    ///
    /// # Errors
    /// When the options are not usable.
    pub fn credentials(&self) -> Result<AwsCredentialProvider, StoreError> {
        // A bucket belongs to each client, and credentials to none.
        Ok(Arc::clone(connect("credentials", self)?.credentials()))
    }

    /// The same access at the endpoint and region that a pipeline declares; what it leaves out stays.
    #[must_use]
    pub fn at(&self, endpoint: Option<&str>, region: Option<&str>) -> Self {
        let mut options = self.clone();
        if let Some(endpoint) = endpoint {
            options.endpoint = Some(endpoint.to_owned());
        }
        if let Some(region) = region {
            options.region = Some(region.to_owned());
        }
        options
    }
}

/// Why a URL does not lead to a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Not one of the two schemes.
    #[error("`{url}` is no place for objects: use file:///absolute/path or s3://bucket/key")]
    Scheme {
        /// As given.
        url: String,
    },
    /// A `file://` URL that is no path of this machine.
    #[error("`{url}` names no path on this machine: use file:///absolute/path")]
    File {
        /// As given.
        url: String,
    },
    /// An S3 URL without a bucket.
    #[error("`{url}` names no bucket: use s3://bucket/key")]
    Bucket {
        /// As given.
        url: String,
    },
    /// A key that no store can hold.
    #[error("`{url}` is not a usable object path")]
    Path {
        /// As given.
        url: String,
        /// What is wrong with it.
        source: object_store::path::Error,
    },
    /// An unknown key in [`S3Options::settings`].
    #[error("`{key}` is not an S3 setting")]
    Setting {
        /// The key.
        key: String,
        /// What the client says.
        source: object_store::Error,
    },
    /// The client refuses its options.
    #[error("no S3 client for bucket `{bucket}`")]
    Client {
        /// The bucket.
        bucket: String,
        /// What it says.
        source: object_store::Error,
    },
}

/// Where a URL points, before any client is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A path on this machine.
    File(PathBuf),
    /// A bucket and a key, which may be empty.
    S3 {
        /// Bucket.
        bucket: String,
        /// Key, as it is.
        key: String,
    },
}

impl Place {
    /// Reads a URL.
    ///
    /// # Errors
    /// When it is neither `file:///absolute/path` nor `s3://bucket/key`.
    pub fn parse(url: &str) -> Result<Self, StoreError> {
        if let Some(rest) = url.strip_prefix("s3://") {
            let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
            if bucket.is_empty() {
                return Err(StoreError::Bucket { url: url.to_owned() });
            }
            return Ok(Self::S3 {
                bucket: bucket.to_owned(),
                key: key.to_owned(),
            });
        }
        if !url.starts_with("file://") {
            return Err(StoreError::Scheme { url: url.to_owned() });
        }
        url::Url::parse(url)
            .ok()
            .and_then(|parsed| parsed.to_file_path().ok())
            .map(Self::File)
            .ok_or_else(|| StoreError::File { url: url.to_owned() })
    }
}

/// Opens stores and keeps their clients: one for this machine's files, one a bucket. For a pipeline that reads a topic
/// it knows the brokers too.
#[derive(Debug, Default)]
pub struct Stores {
    options: S3Options,
    files: Arc<LocalFileSystem>,
    buckets: Mutex<HashMap<String, Arc<AmazonS3>>>,
    kafka: Option<(KafkaOptions, Arc<KafkaClients>)>,
}

impl Stores {
    /// Stores that reach S3 by these options. No connection is made yet.
    #[must_use]
    pub fn new(options: S3Options) -> Self {
        Self {
            options,
            ..Self::default()
        }
    }

    /// The same stores, and the brokers behind `kafka://topic/partition`. `clients` are shared by all pipelines of a
    /// process: connections are dear.
    #[must_use]
    pub fn with_kafka(mut self, options: KafkaOptions, clients: Arc<KafkaClients>) -> Self {
        self.kafka = Some((options, clients));
        self
    }

    /// How the brokers are reached, if there are any.
    #[must_use]
    pub fn kafka(&self) -> Option<&(KafkaOptions, Arc<KafkaClients>)> {
        self.kafka.as_ref()
    }

    /// The store behind a URL, and the path in it.
    ///
    /// Conditional puts (`PutMode::Create`) work on all of them, S3-compatible servers included.
    ///
    /// # Errors
    /// When the URL or the options are not usable.
    pub fn open(&self, url: &str) -> Result<(Arc<dyn ObjectStore>, Path), StoreError> {
        let invalid = |source| StoreError::Path {
            url: url.to_owned(),
            source,
        };
        match Place::parse(url)? {
            Place::File(path) => {
                let path = Path::from_absolute_path(path).map_err(invalid)?;
                Ok((Arc::clone(&self.files) as Arc<dyn ObjectStore>, path))
            }
            Place::S3 { bucket, key } => {
                let path = Path::parse(key).map_err(invalid)?;
                Ok((self.bucket(&bucket)?, path))
            }
        }
    }

    fn bucket(&self, bucket: &str) -> Result<Arc<dyn ObjectStore>, StoreError> {
        let mut buckets = self.buckets.lock();
        if let Some(client) = buckets.get(bucket) {
            return Ok(Arc::clone(client) as Arc<dyn ObjectStore>);
        }
        let client = Arc::new(connect(bucket, &self.options)?);
        buckets.insert(bucket.to_owned(), Arc::clone(&client));
        Ok(client)
    }
}

fn connect(bucket: &str, options: &S3Options) -> Result<AmazonS3, StoreError> {
    // Requests that failed on their way are repeated by the client itself: ten times within three minutes.
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_conditional_put(S3ConditionalPut::ETagMatch);
    for (key, value) in &options.settings {
        let known = AmazonS3ConfigKey::from_str(key).map_err(|source| StoreError::Setting {
            key: key.clone(),
            source,
        })?;
        builder = builder.with_config(known, value.reveal());
    }
    let plain = options
        .endpoint
        .as_ref()
        .is_some_and(|endpoint| endpoint.starts_with("http://"));
    builder = builder
        .with_client_options(ClientOptions::new().with_allow_http(options.allow_http.unwrap_or(plain)));
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(region) = &options.region {
        builder = builder.with_region(region);
    }
    if let Some(virtual_hosted) = options.virtual_hosted {
        builder = builder.with_virtual_hosted_style_request(virtual_hosted);
    }
    if let Some(id) = &options.access_key_id {
        builder = builder.with_access_key_id(id);
    }
    if let Some(secret) = &options.secret_access_key {
        builder = builder.with_secret_access_key(secret.reveal());
    }
    if let Some(token) = &options.session_token {
        builder = builder.with_token(token.reveal());
    }
    builder.build().map_err(|source| StoreError::Client {
        bucket: bucket.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_leads_to_a_path_or_to_a_key_as_it_is() {
        let file = Place::parse("file:///tmp/a%20b.json").unwrap();
        assert_eq!(file, Place::File(PathBuf::from("/tmp/a b.json")));
        let key = Place::parse("s3://raw/a%20b c?#.json").unwrap();
        assert_eq!(
            key,
            Place::S3 {
                bucket: "raw".into(),
                key: "a%20b c?#.json".into()
            }
        );
        for bad in ["/tmp/a", "gs://a/b", "s3:///key", "file://host.example/a", ""] {
            assert!(Place::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bucket_is_connected_once_and_secrets_stay_hidden() {
        let options = S3Options {
            access_key_id: Some("id".into()),
            secret_access_key: Some(Secret::new("hush".into())),
            ..S3Options::default()
        };
        let stores = Stores::new(options.at(Some("http://127.0.0.1:9"), None));
        let (first, path) = stores.open("s3://raw/a/b.json").unwrap();
        let (second, _) = stores.open("s3://raw/c").unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(path.as_ref(), "a/b.json");
        assert!(!format!("{stores:?}").contains("hush"));
    }

    #[test]
    fn an_unknown_setting_is_named() {
        let mut options = S3Options::default();
        options
            .settings
            .insert("aws_colour".into(), Secret::new("blue".into()));
        let error = Stores::new(options).open("s3://raw/a").unwrap_err();
        assert_eq!(error.to_string(), "`aws_colour` is not an S3 setting");
    }
}
