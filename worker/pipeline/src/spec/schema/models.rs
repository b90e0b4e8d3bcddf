//! `models`.

use serde_json::{Value, json};

use super::{
    described, duration, list_of, map_of, object, pattern, text, with_default, with_examples, words,
};

pub(super) fn models() -> Value {
    let name = with_examples(
        pattern(
            "The model's name, unique: a table of queries and of other models.",
            "^(\\$\\{env:\\w+\\}|[a-z][a-z0-9_]{0,62})$",
        ),
        json!(["sessions"]),
    );
    let sql = "One query. It sees the pipeline's events under the pipeline's name and as `events`, other models by their names; only \
               rows of the period, and of `look_back` before it. `$start` and `$end` are the period's bounds.";
    let look_back = "How much earlier than its period the rows begin that the query sees, in whole hours. Default: not at all.";
    let timeout =
        "The longest that the query may take for one period; then it is ended, and tried again later.";
    let table = with_examples(text("The table: `schema.table`."), json!(["analytics.sessions"]));
    let warehouse = object(
        "A table in the pipeline's warehouse, each period replaced in one transaction.",
        &["table"],
        [("table", table)],
    );
    let properties = [
        ("name", name),
        (
            "every",
            words(
                "Its period, in UTC. It is computed when all hours of it are complete, and again when late events reopened one.",
                &["hour", "day"],
            ),
        ),
        ("look_back", with_default(duration(look_back), json!("0h"))),
        ("timeout", with_default(duration(timeout), json!("2h"))),
        (
            "sql",
            with_examples(text(sql), json!(["SELECT count(*) AS orders FROM events"])),
        ),
        (
            "file",
            with_examples(
                text("The file that the query stands in, in the place of `sql`."),
                json!(["models/sessions.sql"]),
            ),
        ),
        ("description", text("For people: what a row is.")),
        (
            "columns",
            map_of(
                "For people: what a column means, by its name.",
                described("What it means.", json!({ "type": "string" })),
            ),
        ),
        ("warehouse", warehouse),
    ];
    let mut model = object(
        "A table that a query makes of complete hours; exactly one of `sql` and `file`.",
        &["name", "every"],
        properties,
    );
    model["oneOf"] = json!([{ "required": ["sql"] }, { "required": ["file"] }]);
    list_of("Tables made of complete hours: for dashboards.", model)
}
