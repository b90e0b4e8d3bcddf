//! `schema`, `versions`, `enrich`, `quality`, `dedup` and `privacy`.

use serde_json::{Value, json};

use super::{
    described, dsn, duration, list_of, map_of, object, one_of, pattern, text, texts, with_default,
    with_examples, words,
};

const CLASSES: [&str; 6] = ["email", "name", "ip", "phone", "id", "free_text"];

fn from() -> Value {
    let from = text(
        "Path into the record: names with dots between. A name that holds dots stands in double quotes, where a backslash keeps \
         the next character. Default: the column's name.",
    );
    with_examples(from, json!(["actor.login", "headers.\"user.agent\""]))
}

fn sql() -> Value {
    let sql = text(
        "A DataFusion expression over the columns above this one. A record on which it fails goes to quarantine, the others do not.",
    );
    with_examples(sql, json!(["actor LIKE '%[bot]'"]))
}

fn column_type() -> Value {
    let text = "Type of the column. timestamp: UTC, microseconds. json: a subtree's text as it came. decimal(p,s): exact, precision 1 to 38. \
                list<t>: a list of one of the other types.";
    let simple =
        "string|bool|int32|int64|float64|date|timestamp|json|decimal\\( *[0-9]{1,2} *, *[0-9]{1,2} *\\)";
    let kind = pattern(
        text,
        &format!("^({simple}|list< *({simple}) *>|\\$\\{{env:\\w+\\}})$"),
    );
    with_examples(
        kind,
        json!([
            "string",
            "bool",
            "int32",
            "int64",
            "float64",
            "decimal(12,2)",
            "date",
            "timestamp",
            "json",
            "list<string>"
        ]),
    )
}

fn column() -> Value {
    let name = pattern(
        "The column's name, unique: 1 to 63 of a-z, 0-9 and `_`, starting with a letter; not a level of `partition.by`.",
        "^(\\$\\{env:\\w+\\}|[a-z][a-z0-9_]{0,62})$",
    );
    let required = described(
        "Whether null is a reason for quarantine.",
        json!({ "type": "boolean", "default": false }),
    );
    let pii = "Class of personal data; `privacy` says where it is masked. Without a word in `privacy.strategies`: email keeps its domain and \
               hashes the rest, name, phone and id are hashed, ip is cut to /24 or /48, free_text is redacted.";
    let properties = [
        ("name", name),
        ("type", column_type()),
        ("from", from()),
        ("sql", sql()),
        ("required", required),
        ("pii", words(pii, &CLASSES)),
        (
            "description",
            text("For people: stands in the data dictionary and as the warehouse's column comment."),
        ),
    ];
    let mut column = object(
        "A column of the table; at most one of `from` and `sql`.",
        &["name", "type"],
        properties,
    );
    column["not"] = json!({ "required": ["from", "sql"] });
    column
}

pub(super) fn schema() -> Value {
    let mut schema = list_of("The table, in column order.", column());
    schema["minItems"] = json!(1);
    schema
}

pub(super) fn versions() -> Value {
    let when = one_of(
        "Which records are of this version: exactly one of these.",
        [
            (
                "missing",
                described("The path is absent from the record, or null.", from()),
            ),
            (
                "sql",
                described(
                    "A boolean expression over the columns as they are without versions.",
                    sql(),
                ),
            ),
        ],
    );
    let value = one_of(
        "Where the value comes from in this version.",
        [("from", from()), ("sql", sql())],
    );
    let mut columns = map_of("What differs from the schema, by column; at least one.", value);
    columns["minProperties"] = json!(1);
    let version = object(
        "A format that records used to have.",
        &["name", "when", "columns"],
        [
            ("name", text("The version's name, unique: shown in counts.")),
            ("when", when),
            ("columns", columns),
        ],
    );
    list_of("Old formats of the record; the first that matches wins.", version)
}

pub(super) fn enrich() -> Value {
    let table = with_examples(
        text("The table: `table` or `schema.table`."),
        json!(["customers"]),
    );
    let postgres = object(
        "A PostgreSQL database.",
        &["dsn", "table"],
        [("dsn", dsn()), ("table", table)],
    );
    let mut key = map_of(
        "Our column and theirs: `{customer_id: id}`, exactly one pair.",
        json!({ "type": "string" }),
    );
    key["minProperties"] = json!(1);
    key["maxProperties"] = json!(1);
    let add = "Our columns and theirs: `{our_column: their_column}`. Ours takes its place, type and class from a column of the schema \
               without `from` and `sql`; one that the schema does not have is appended to the table as a string.";
    let mut add = map_of(add, json!({ "type": "string" }));
    add["minProperties"] = json!(1);
    let on_down = "What a batch does that needs a new snapshot while none can be taken. last: it uses the last one. wait: it waits.";
    let lookup = object(
        "A lookup by key in a snapshot. A key that is not there gives nulls, and is counted.",
        &["name", "from", "key", "add"],
        [
            ("name", text("The lookup's name, unique.")),
            (
                "from",
                one_of("Where the snapshot is taken.", [("postgres", postgres)]),
            ),
            ("key", key),
            ("add", add),
            (
                "refresh",
                duration("Age at which a snapshot is taken anew; without it one is taken for each batch."),
            ),
            (
                "on_down",
                with_default(words(on_down, &["last", "wait"]), json!("last")),
            ),
            (
                "max_age",
                duration("Age from which on using the last snapshot is alarmed; at least `refresh`."),
            ),
        ],
    );
    list_of("Lookups that add columns.", lookup)
}

pub(super) fn quality() -> Value {
    let share = json!({ "type": ["number", "string"], "minimum": 0, "maximum": 1, "default": 0 });
    let breach = "What a breach of `minimum_clean` does. hold: the batch is committed and not handed to the warehouse. fail: it is not \
                  committed. warn: it is reported.";
    let parameters = map_of(
        "Values of the suite's `$PARAMETER`s; they override the suite's own.",
        json!({}),
    );
    let properties = [
        (
            "suite",
            with_examples(
                text("File of a Great Expectations suite (JSON, format 0.x or 1.x)."),
                json!(["suites/github.json"]),
            ),
        ),
        (
            "minimum_clean",
            described("Least share of clean events in a batch, from 0 to 1.", share),
        ),
        (
            "on_breach",
            with_default(words(breach, &["hold", "fail", "warn"]), json!("hold")),
        ),
        ("parameters", parameters),
    ];
    let text =
        "Expectations. Events that fail a critical one go to quarantine; warning and info are counted.";
    object(text, &["suite"], properties)
}

pub(super) fn dedup() -> Value {
    let key =
        texts("Key columns. Of the events with one key, one is kept in each event hour, across all batches.");
    let scope = "Where copies of a key can meet. global: anywhere. partition: only in the same input partition, which saves asking other workers.";
    let properties = [
        ("key", with_examples(key, json!([["event_id"], "event_id"]))),
        (
            "scope",
            with_default(words(scope, &["global", "partition"]), json!("global")),
        ),
    ];
    object("Deduplication.", &["key"], properties)
}

pub(super) fn privacy() -> Value {
    let hash_key = "Key of the hashes and of the quarantine's cipher, at least 16 bytes. It is a secret: best taken from the environment, \
                    and never shown. Another key gives other hashes, and does not open what is sealed.";
    let hash_keeping = "hash: 32 hex digits (a number for int32 and int64), equal values stay equal. redact: `[redacted]`, null where the \
                        column is not text. keep: left as it is.";
    let plain = ["hash", "redact", "keep"];
    let strategies = object(
        "What masking does, by class, where it is not the default.",
        &[],
        [
            (
                "email",
                words(
                    &format!(
                        "{hash_keeping} Default hash_keep_domain: only what stands before `@` is hashed."
                    ),
                    &["hash", "hash_keep_domain", "redact", "keep"],
                ),
            ),
            ("name", words(&format!("{hash_keeping} Default: hash."), &plain)),
            (
                "ip",
                words(
                    &format!("{hash_keeping} Default truncate: the network, /24 or /48."),
                    &["hash", "truncate", "redact", "keep"],
                ),
            ),
            ("phone", words(&format!("{hash_keeping} Default: hash."), &plain)),
            ("id", words(&format!("{hash_keeping} Default: hash."), &plain)),
            (
                "free_text",
                words(&format!("{hash_keeping} Default: redact."), &plain),
            ),
        ],
    );
    let properties = [
        (
            "clear_in",
            with_default(
                texts(
                    "Environments in which personal data stays clear; in any other, or none named, it is masked.",
                ),
                json!([]),
            ),
        ),
        (
            "hash_key",
            with_examples(text(hash_key), json!(["${env:MILLRACE_HASH_KEY}"])),
        ),
        ("strategies", strategies),
    ];
    object(
        "Masking, and sealing of the quarantine. Required with any `pii` column.",
        &["hash_key"],
        properties,
    )
}
