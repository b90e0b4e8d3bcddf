//! `source`, `partition`, `lake`, `warehouse`, `retention` and `limits`.

use serde_json::{Value, json};

use super::{
    described, dsn, duration, map_of, object, one_of, pattern, size, text, texts, with_default,
    with_examples, words,
};

pub(super) fn source() -> Value {
    one_of(
        "Where events come from: exactly one of these.",
        [("files", files()), ("s3", s3()), ("kafka", kafka())],
    )
}

fn format() -> Value {
    let text = "Record format. json: one object a line. csv: a header line, then records. avro: object container files. \
                parquet: Parquet files. Files that end in .gz or .zst are decompressed.";
    words(text, &["json", "csv", "avro", "parquet"])
}

fn files() -> Value {
    let path = text("A file, a folder (read with all its subfolders) or a glob on this machine.");
    let path = with_examples(path, json!(["events/", "events/*.json.gz"]));
    object(
        "Files on this machine.",
        &["path", "format"],
        [("path", path), ("format", format())],
    )
}

fn s3() -> Value {
    let url = pattern(
        "A prefix; a glob is allowed in the last segments.",
        "^(s3://|\\$\\{env:)",
    );
    let properties = [
        (
            "url",
            with_examples(url, json!(["s3://raw/events/dt=2026-01-01/"])),
        ),
        ("format", format()),
        ("endpoint", endpoint()),
        ("region", region()),
    ];
    object(
        "Objects of an S3-compatible store. Credentials come from the environment.",
        &["url", "format"],
        properties,
    )
}

fn kafka() -> Value {
    let brokers = texts("Bootstrap brokers, each `host:port`.");
    let options = map_of(
        "Options of librdkafka, passed through: TLS, SASL, sizes. Those that exactness rests on are Millrace's own: group.id, enable.auto.commit, \
         enable.auto.offset.store, enable.partition.eof, auto.offset.reset, isolation.level, bootstrap.servers, client.rack.",
        json!({ "type": ["string", "number", "boolean"] }),
    );
    let properties = [
        ("brokers", with_examples(brokers, json!([["127.0.0.1:9092"]]))),
        (
            "topic",
            pattern("The topic.", "^(\\$\\{env:\\w+\\}|[A-Za-z0-9._-]{1,249})$"),
        ),
        (
            "format",
            words("Format of a message: each is one record.", &["json"]),
        ),
        (
            "client_rack",
            with_examples(
                text(
                    "Rack to read from where replicas stand in several (`broker.rack`). A worker that knows its own zone wins.",
                ),
                json!(["eu-central-1a"]),
            ),
        ),
        (
            "options",
            with_examples(options, json!([{ "security.protocol": "ssl" }])),
        ),
    ];
    object(
        "A Kafka topic. Offsets are kept by Millrace.",
        &["brokers", "topic", "format"],
        properties,
    )
}

fn endpoint() -> Value {
    let text = "Endpoint of an S3-compatible server; without it AWS. No credentials in it.";
    with_examples(
        pattern(text, "^(https?://|\\$\\{env:)"),
        json!(["http://127.0.0.1:9000"]),
    )
}

fn region() -> Value {
    with_examples(
        text("Region of the bucket; without it what the environment says."),
        json!(["eu-central-1"]),
    )
}

pub(super) fn partition() -> Value {
    let levels = json!({ "type": "array", "items": { "enum": ["date", "hour", "source"] }, "uniqueItems": true, "minItems": 1 });
    let by = "The lake's folders, in path order; `hour` only after `date`. date: `date=YYYY-MM-DD`, hour: `hour=HH`, both UTC and of \
              the event time. source: `source=S`, the (masked) value of the `source` column. They stand in the files too, last.";
    let by = with_default(described(by, levels), json!(["date", "hour"]));
    let lateness = duration(
        "How far behind the newest event one may be before it counts as late. Late events are written all the same. An \
         event hour is complete, and its files are compacted, when every input partition has been read so far past its end.",
    );
    let properties = [
        (
            "time",
            text("The event time: a column of type timestamp with `required: true`, not masked."),
        ),
        ("by", by),
        (
            "source",
            text(
                "The column behind the level `source`: of type string, bool, int32, int64 or date, with few values.",
            ),
        ),
        ("lateness", with_default(lateness, json!("1h"))),
    ];
    object("How the lake is cut.", &["time"], properties)
}

pub(super) fn lake() -> Value {
    let url = "Where files go: a folder, or a prefix of an S3-compatible store. `--lake` overrides it.";
    let compression = "Compression of data files. zstd takes a level of 1 to 22.";
    let compression = pattern(
        compression,
        "^(none|snappy|lz4|zstd(\\( *([1-9]|1[0-9]|2[0-2]) *\\))?|\\$\\{env:\\w+\\})$",
    );
    let compression = with_examples(
        compression,
        json!(["zstd(1)", "zstd(9)", "snappy", "lz4", "none"]),
    );
    let file_bytes = size("Size at which a data file is rolled, from 1MiB to 4GiB.");
    let properties = [
        (
            "url",
            with_examples(text(url), json!(["./lake", "s3://bucket/prefix"])),
        ),
        ("endpoint", endpoint()),
        ("region", region()),
        ("file_bytes", with_default(file_bytes, json!("256MiB"))),
        ("compression", with_default(compression, json!("zstd(1)"))),
    ];
    object(
        "The lake: Parquet files, quarantine, key index and manifests.",
        &["url"],
        properties,
    )
}

fn table() -> Value {
    let schema = pattern(
        "The table: `schema.table`.",
        "^(\\$\\{env:\\w+\\}|[a-z_][a-z0-9_]{0,62}\\.[a-z_][a-z0-9_]{0,62})$",
    );
    with_examples(schema, json!(["analytics.github"]))
}

pub(super) fn warehouse() -> Value {
    let postgres = object(
        "PostgreSQL.",
        &["dsn", "table"],
        [("dsn", dsn()), ("table", table())],
    );
    let redshift = [
        ("dsn", dsn()),
        ("iam", iam()),
        ("data_api", data_api()),
        ("table", table()),
        ("sort_key", texts("Sort key columns; none of type json or list.")),
        (
            "dist_key",
            text("Distribution key column; not of type json or list."),
        ),
        (
            "iam_role",
            with_examples(
                text("Role that COPY assumes."),
                json!(["arn:aws:iam::123456789012:role/copy", "default"]),
            ),
        ),
    ];
    let mut redshift = object(
        "Amazon Redshift, loaded by COPY from the lake; reached by exactly one of dsn and data_api.",
        &["table"],
        redshift,
    );
    redshift["oneOf"] = json!([{ "required": ["dsn"] }, { "required": ["data_api"] }]);
    redshift["dependentRequired"] = json!({ "iam": ["dsn"] });
    let text = "Where committed batches are loaded, each once: exactly one of these.";
    one_of(text, [("postgres", postgres), ("redshift", redshift)])
}

fn iam() -> Value {
    let properties = [
        ("cluster", text("Identifier of a provisioned cluster.")),
        (
            "workgroup",
            with_examples(text("Workgroup of Redshift Serverless."), json!(["analytics"])),
        ),
        (
            "db_user",
            text("User of a cluster's database; without it IAM names the user."),
        ),
        ("region", region()),
        ("endpoint", endpoint()),
    ];
    let mut object = object(
        "A login by IAM for the dsn, which then names no user and no password. Exactly one of cluster and workgroup.",
        &[],
        properties,
    );
    object["oneOf"] = json!([{ "required": ["cluster"] }, { "required": ["workgroup"] }]);
    object
}

fn data_api() -> Value {
    let properties = [
        (
            "workgroup",
            with_examples(text("Workgroup of Redshift Serverless."), json!(["analytics"])),
        ),
        ("cluster", text("Identifier of a provisioned cluster.")),
        ("database", with_examples(text("The database."), json!(["dev"]))),
        (
            "secret_arn",
            text("Secret of Secrets Manager with the database's user; without it IAM names the user."),
        ),
        (
            "db_user",
            text("User of a cluster's database, where there is no secret."),
        ),
        ("region", region()),
        ("endpoint", endpoint()),
    ];
    let mut object = object(
        "The Data API: HTTPS with AWS credentials instead of a connection. Exactly one of workgroup and cluster.",
        &["database"],
        properties,
    );
    object["oneOf"] = json!([{ "required": ["workgroup"] }, { "required": ["cluster"] }]);
    object
}

pub(super) fn handoff() -> Value {
    let text = "What is loaded into the warehouse at once. batch: each batch when it is committed. job: a job's batches together, \
                when it has ended, however it ended; those of a follow job, which has no end, each.";
    with_default(words(text, &["batch", "job"]), json!("batch"))
}

pub(super) fn retention() -> Value {
    let properties = [
        (
            "lake",
            duration(
                "Data files, by event hour: more than `partition.lateness`. Their keys stay, see `keys`.",
            ),
        ),
        (
            "quarantine",
            duration("Quarantine files, by the day they were written: at most as long as the lake."),
        ),
        (
            "warehouse",
            duration("Warehouse rows, by event time: at most as long as the lake."),
        ),
        (
            "keys",
            duration(
                "The key index, by event hour: at least as long as lake and warehouse. Without it for ever: a repeat is a repeat, \
                 however late. With it, what is sent again after its hour's keys have left is a new event.",
            ),
        ),
        (
            "replaced",
            with_default(
                duration(
                    "Files that a compaction or an expiry replaced, from then on: as long as the longest query may read them. What \
                     waits for the warehouse stays longer.",
                ),
                json!("1d"),
            ),
        ),
    ];
    object(
        "How long things are kept before `millrace retention apply` lets go of them; what is not named is kept for ever, but for \
         what was replaced.",
        &[],
        properties,
    )
}

pub(super) fn limits() -> Value {
    let depth = json!({ "type": "integer", "minimum": 1, "maximum": 1000, "default": 128 });
    let properties = [
        (
            "record_bytes",
            with_default(
                size("Longest record, from 1KiB to 1GiB; longer ones go to quarantine."),
                json!("10MiB"),
            ),
        ),
        (
            "depth",
            described(
                "Deepest nesting of a record; deeper ones go to quarantine.",
                depth,
            ),
        ),
    ];
    object("What a single record may be.", &[], properties)
}
