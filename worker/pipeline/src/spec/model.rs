//! The validated pipeline. Every step reads this; only [`super`] builds it.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use millrace_proto::ids::PipelineName;
use serde::{Deserialize, Serialize};

use super::marts::Mart;

/// A pipeline file, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Pipeline {
    /// Its name; part of ids and metrics.
    pub name: PipelineName,
    /// Where events come from.
    pub source: Source,
    /// The table, in column order.
    pub columns: Vec<Column>,
    /// Old formats, first match wins.
    pub versions: Vec<Version>,
    /// Lookups that add columns.
    pub enrich: Vec<Enrich>,
    /// Expectations.
    pub quality: Option<Quality>,
    /// Deduplication.
    pub dedup: Option<Dedup>,
    /// Masking.
    pub privacy: Privacy,
    /// How the lake is cut.
    pub partition: Partition,
    /// Where files go.
    pub lake: Lake,
    /// Where committed batches are loaded.
    pub warehouse: Option<Warehouse>,
    /// When committed batches are loaded.
    pub handoff: HandoffUnit,
    /// How long things are kept.
    pub retention: Retention,
    /// What a single record may be.
    pub limits: Limits,
    /// Tables made of complete hours, each behind those that it reads.
    pub marts: Vec<Mart>,
    /// BLAKE3 of the file's text with `${env:...}` unresolved, in hex: names this version of the pipeline.
    pub digest: String,
}

impl Pipeline {
    /// The table as Arrow sees it.
    #[must_use]
    pub fn table(&self) -> SchemaRef {
        Arc::new(Schema::new(
            self.columns.iter().map(Column::field).collect::<Vec<_>>(),
        ))
    }

    /// Position and declaration of a column.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<(usize, &Column)> {
        self.columns
            .iter()
            .enumerate()
            .find(|(_, column)| column.name == name)
    }
}

/// Bytes in.
#[derive(Clone, PartialEq)]
pub enum Source {
    /// A file, folder or glob on this machine. Relative paths are relative to the pipeline file.
    Files {
        /// As written, made absolute.
        path: String,
        /// Record format.
        format: Format,
    },
    /// A prefix of an S3-compatible store.
    S3 {
        /// `s3://bucket/prefix`, a glob is allowed in the last segments.
        url: String,
        /// Record format.
        format: Format,
        /// Endpoint of an S3-compatible server; none means AWS.
        endpoint: Option<String>,
        /// Region.
        region: Option<String>,
    },
    /// A topic.
    Kafka {
        /// Bootstrap brokers, each `host:port`.
        brokers: Vec<String>,
        /// Topic.
        topic: String,
        /// Record format.
        format: Format,
        /// Rack to read from, where replicas stand in several: `client.rack`. A worker that knows its own wins.
        client_rack: Option<String>,
        /// librdkafka options, passed through.
        options: BTreeMap<String, String>,
    },
}

impl Source {
    /// The record format, whatever the source.
    #[must_use]
    pub fn format(&self) -> Format {
        match self {
            Self::Files { format, .. } | Self::S3 { format, .. } | Self::Kafka { format, .. } => *format,
        }
    }
}

/// Kafka's options may hold passwords: only their names are shown.
impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Files { path, format } => write!(f, "Files {{ path: {path:?}, format: {format:?} }}"),
            Self::S3 {
                url,
                format,
                endpoint,
                region,
            } => {
                write!(
                    f,
                    "S3 {{ url: {url:?}, format: {format:?}, endpoint: {endpoint:?}, region: {region:?} }}"
                )
            }
            Self::Kafka {
                brokers,
                topic,
                format,
                client_rack,
                options,
            } => {
                let options: Vec<&String> = options.keys().collect();
                write!(
                    f,
                    "Kafka {{ brokers: {brokers:?}, topic: {topic:?}, format: {format:?}, client_rack: {client_rack:?}, options: {options:?} }}"
                )
            }
        }
    }
}

/// Record format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// Comma-separated values with a header line.
    Csv,
    /// Avro object container files.
    Avro,
    /// Parquet files.
    Parquet,
}

/// A column of the table.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: ColumnType,
    /// Where its value comes from.
    pub value: ColumnValue,
    /// Whether null is a reason for quarantine.
    pub required: bool,
    /// Personal data class.
    pub pii: Option<PiiClass>,
    /// For people: the data dictionary and the warehouse's column comment.
    pub description: Option<String>,
}

impl Column {
    /// The column as Arrow sees it.
    #[must_use]
    pub fn field(&self) -> Field {
        Field::new(&self.name, self.kind.arrow(), !self.required)
    }
}

/// Where a column's value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ColumnValue {
    /// A path into the record.
    From(Path),
    /// A DataFusion expression over the columns above it.
    Sql(String),
    /// A lookup: index into [`Pipeline::enrich`] and the looked-up field.
    Enriched(usize, String),
}

/// A path into a record: `actor.login` is `["actor", "login"]`.
pub type Path = Vec<String>;

/// Types of columns.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ColumnType {
    /// UTF-8 text.
    String,
    /// True or false.
    Bool,
    /// 32-bit integer.
    Int32,
    /// 64-bit integer.
    Int64,
    /// 64-bit floating point.
    Float64,
    /// Exact decimal: precision 1..=38, scale 0..=precision.
    Decimal(u8, i8),
    /// Calendar day.
    Date,
    /// Microseconds since 1970 UTC.
    Timestamp,
    /// A JSON subtree's text as it came.
    Json,
    /// A list of one of the other types.
    List(Box<Self>),
}

impl ColumnType {
    /// The Arrow type that the data path uses for it.
    #[must_use]
    pub fn arrow(&self) -> DataType {
        match self {
            Self::String | Self::Json => DataType::Utf8View,
            Self::Bool => DataType::Boolean,
            Self::Int32 => DataType::Int32,
            Self::Int64 => DataType::Int64,
            Self::Float64 => DataType::Float64,
            Self::Decimal(precision, scale) => DataType::Decimal128(*precision, *scale),
            Self::Date => DataType::Date32,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::List(item) => DataType::List(Arc::new(Field::new("item", item.arrow(), true))),
        }
    }
}

/// Classes of personal data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PiiClass {
    /// Email address.
    Email,
    /// A person's or account's name.
    Name,
    /// IPv4 or IPv6 address.
    Ip,
    /// Telephone number.
    Phone,
    /// An identifier of a person.
    Id,
    /// Text in which anything may stand.
    FreeText,
}

/// What masking does to a value. Null stays null.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// Keyed hash, 32 hex digits; int32/int64 columns get a keyed number >= 0. Equal values stay equal.
    Hash,
    /// Keyed hash of the part before `@`, the domain kept (lower case).
    HashKeepDomain,
    /// IPv4 keeps /24, IPv6 keeps /48; what is no address is redacted.
    Truncate,
    /// The text `[redacted]`; for columns that are not text, null.
    Redact,
    /// Left as it is: the pipeline's owner declares it safe.
    Keep,
}

impl PiiClass {
    /// The strategy where `privacy.strategies` says nothing.
    #[must_use]
    pub fn default_strategy(self) -> Strategy {
        match self {
            Self::Email => Strategy::HashKeepDomain,
            Self::Name | Self::Phone | Self::Id => Strategy::Hash,
            Self::Ip => Strategy::Truncate,
            Self::FreeText => Strategy::Redact,
        }
    }
}

/// An old format.
#[derive(Debug, Clone, PartialEq)]
pub struct Version {
    /// Its name, shown in counts.
    pub name: String,
    /// Which records are of it.
    pub when: When,
    /// What differs, by column name.
    pub columns: BTreeMap<String, ColumnValue>,
}

/// Condition of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    /// The path is absent from the record (null counts as absent).
    Missing(Path),
    /// A boolean DataFusion expression over the table's columns as `from`/`sql` give them without versions.
    Sql(String),
}

/// A lookup by key in a snapshot.
#[derive(Debug, Clone, PartialEq)]
pub struct Enrich {
    /// Its name.
    pub name: String,
    /// Connection string of the PostgreSQL database.
    pub dsn: Secret,
    /// Table there.
    pub table: String,
    /// Our column, and theirs.
    pub key: (String, String),
    /// Our new columns, and theirs.
    pub add: BTreeMap<String, String>,
    /// Age at which a snapshot is taken anew, in seconds; none takes one for each batch.
    pub refresh_seconds: Option<u64>,
    /// What a batch does that needs a new snapshot while none can be taken.
    pub on_down: OnDown,
    /// Age of a snapshot from which on using it is alarmed, in seconds.
    pub max_age_seconds: Option<u64>,
}

/// What a batch does that needs a new snapshot while the database gives none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDown {
    /// It uses the last one.
    #[default]
    Last,
    /// It waits.
    Wait,
}

/// Expectations and what their breach does.
#[derive(Debug, Clone, PartialEq)]
pub struct Quality {
    /// Absolute path of the Great Expectations suite.
    pub suite: String,
    /// The suite's JSON text, read when the pipeline was checked.
    pub suite_text: String,
    /// Least share of clean events, 0..=1.
    pub minimum_clean: f64,
    /// What a breach does.
    pub on_breach: OnBreach,
    /// Values of `$PARAMETER` that override the suite's own.
    pub parameters: serde_json::Map<String, serde_json::Value>,
}

/// What a breach of `minimum_clean` does to the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnBreach {
    /// Commit the batch, do not hand it off.
    Hold,
    /// Do not commit the batch.
    Fail,
    /// Commit and hand off; the breach is reported.
    Warn,
}

/// Deduplication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dedup {
    /// Key columns.
    pub key: Vec<String>,
    /// Whether keys are co-located by partition, so that no other worker is asked.
    pub scope: DedupScope,
}

/// Where copies of a key can meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DedupScope {
    /// Anywhere.
    Global,
    /// Only in the same input partition.
    Partition,
}

/// Masking.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Privacy {
    /// Environments in which personal data stays clear.
    pub clear_in: Vec<String>,
    /// Key of the hashes and of the quarantine's cipher.
    pub hash_key: Option<Secret>,
    /// Overrides of the classes' default strategies.
    pub strategies: BTreeMap<PiiClass, Strategy>,
}

impl Privacy {
    /// Whether personal data stays clear in this environment; none named means no.
    #[must_use]
    pub fn is_clear(&self, environment: Option<&str>) -> bool {
        environment.is_some_and(|name| self.clear_in.iter().any(|clear| clear == name))
    }

    /// What masking does to a class.
    #[must_use]
    pub fn strategy(&self, class: PiiClass) -> Strategy {
        self.strategies
            .get(&class)
            .copied()
            .unwrap_or_else(|| class.default_strategy())
    }
}

/// How the lake is cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// The event time's column.
    pub time: String,
    /// Levels, in path order.
    pub by: Vec<PartitionLevel>,
    /// The column behind [`PartitionLevel::Source`].
    pub source: Option<String>,
    /// How far behind the newest event one may be before it counts as late, in seconds.
    pub lateness_seconds: u64,
}

/// A level of the lake's folders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PartitionLevel {
    /// `date=YYYY-MM-DD`, UTC, of the event time.
    Date,
    /// `hour=HH`, UTC, of the event time.
    Hour,
    /// `source=S`, the value of the source column after masking.
    Source,
}

/// Where files go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lake {
    /// `file:///absolute/path` or `s3://bucket/prefix`.
    pub url: String,
    /// Endpoint of an S3-compatible server; none means AWS.
    pub endpoint: Option<String>,
    /// Region.
    pub region: Option<String>,
    /// Size at which a data file is rolled.
    pub file_bytes: u64,
    /// Compression of data files.
    pub compression: Compression,
}

/// Compression of data files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// None.
    None,
    /// Snappy.
    Snappy,
    /// LZ4 (raw).
    Lz4,
    /// Zstandard, level 1..=22.
    Zstd(i32),
}

/// The warehouse that committed batches are loaded into.
#[derive(Debug, Clone, PartialEq)]
pub enum Warehouse {
    /// PostgreSQL.
    Postgres {
        /// Connection string.
        dsn: Secret,
        /// `schema.table`.
        table: String,
    },
    /// Redshift.
    Redshift {
        /// How it is reached.
        access: RedshiftAccess,
        /// `schema.table`.
        table: String,
        /// Sort key columns.
        sort_key: Vec<String>,
        /// Distribution key column.
        dist_key: Option<String>,
        /// Role that COPY assumes.
        iam_role: Option<String>,
    },
}

/// How Redshift is reached.
#[derive(Debug, Clone, PartialEq)]
pub enum RedshiftAccess {
    /// By the PostgreSQL protocol, with this connection string.
    Dsn(Secret),
    /// The same, as a user whom AWS gives for a while: the connection string names none.
    Iam {
        /// Where, and which database.
        dsn: Secret,
        /// Who gives the user.
        iam: Iam,
    },
    /// By the Data API: HTTPS with AWS credentials, no connection to the cluster.
    DataApi(DataApi),
}

/// A warehouse behind the Data API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataApi {
    /// What runs it.
    pub target: RedshiftTarget,
    /// Its database.
    pub database: String,
    /// Secret of Secrets Manager with the database's user; without it and without a user, IAM names the user.
    pub secret_arn: Option<String>,
    /// Region; default: the lake's, then the machine's.
    pub region: Option<String>,
    /// Where the API is, if not at AWS.
    pub endpoint: Option<String>,
}

/// A login that AWS gives for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Iam {
    /// What it is a login to.
    pub target: RedshiftTarget,
    /// Region; default: the lake's, then the machine's.
    pub region: Option<String>,
    /// Where logins are given, if not at AWS.
    pub endpoint: Option<String>,
}

/// What runs a warehouse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedshiftTarget {
    /// A workgroup of Redshift Serverless.
    Workgroup(String),
    /// A provisioned cluster.
    Cluster {
        /// Its identifier.
        name: String,
        /// The database's user, whose temporary credentials are fetched; without it IAM names the user.
        db_user: Option<String>,
    },
}

/// What is handed to the warehouse at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HandoffUnit {
    /// Each batch when it is committed.
    #[default]
    Batch,
    /// A job's batches together, when it has ended. A `follow` job has no end: its batches are handed off each.
    Job,
}

/// How long things are kept, in seconds; none means for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Data files.
    pub lake_seconds: Option<u64>,
    /// Quarantine files.
    pub quarantine_seconds: Option<u64>,
    /// Warehouse rows.
    pub warehouse_seconds: Option<u64>,
    /// Key files: what is sent again later than that is a new event.
    pub keys_seconds: Option<u64>,
    /// Files that a compaction replaced, from then on. Default one day.
    pub replaced_seconds: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            lake_seconds: None,
            quarantine_seconds: None,
            warehouse_seconds: None,
            keys_seconds: None,
            replaced_seconds: 86_400,
        }
    }
}

/// What a single record may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest record, in bytes. Default 10 MiB.
    pub record_bytes: u64,
    /// Deepest nesting. Default 128.
    pub depth: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            record_bytes: 10 << 20,
            depth: 128,
        }
    }
}

/// A text that never shows in output: `Debug` and `Display` hide it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, for the one place that uses it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[secret]")
    }
}
