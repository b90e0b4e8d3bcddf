//! The catalog of the GitHub example against golden files, of a table with every type, and of hostile texts.
//!
//! `MILLRACE_BLESS=1 cargo test` writes the golden files anew: read the difference before it is committed.

use std::path::{Path, PathBuf};

use super::encodings::Statistics;
use super::{ddl, docs};
use crate::spec;
use crate::spec::model::*;

fn example() -> Pipeline {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../client/examples/github");
    let text = std::fs::read_to_string(folder.join("github.yaml")).unwrap();
    let env = |_: &str| Some("6d61646520757020666f722074657374732c206e6f7468696e6720656c736521".to_owned());
    let read = |path: &Path| std::fs::read_to_string(path);
    // The dictionary must not depend on where the repository lies.
    let folder = folder.canonicalize().unwrap();
    spec::load(&text, "github.yaml", &folder, &env, &read).unwrap()
}

fn agrees_with_golden(name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/catalog/golden")
        .join(name);
    if std::env::var_os("MILLRACE_BLESS").is_some() {
        std::fs::write(&path, found).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    assert!(
        found == golden,
        "{name} differs from its golden file; found:\n{found}"
    );
}

/// A pipeline with every type, names that need quotes, and markup wherever a text is free.
pub(super) fn hostile() -> Pipeline {
    let list = ColumnType::List(Box::new(ColumnType::Int64));
    let columns = [
        ("event_time", ColumnType::Timestamp, None),
        ("user", ColumnType::String, Some(PiiClass::Email)),
        ("Ünïcode \"x\"", ColumnType::Json, Some(PiiClass::FreeText)),
        ("flag", ColumnType::Bool, Some(PiiClass::Id)),
        ("small", ColumnType::Int32, Some(PiiClass::Id)),
        ("big", ColumnType::Int64, None),
        ("ratio", ColumnType::Float64, None),
        ("price", ColumnType::Decimal(12, 2), None),
        ("day", ColumnType::Date, None),
        ("order", list, None),
        ("address", ColumnType::String, Some(PiiClass::Ip)),
    ];
    let mut pipeline = example();
    pipeline.columns = columns
        .into_iter()
        .map(|(name, kind, pii)| Column {
            name: name.to_owned(),
            kind,
            value: ColumnValue::Sql("'</code><script>alert(1)</script>'".to_owned()),
            required: true,
            pii,
            description: Some("it's <script>alert('x')</script> & \"more\" | `y`".to_owned()),
        })
        .collect();
    pipeline.versions = vec![Version {
        name: "<b>old</b>".to_owned(),
        when: When::Sql("a < 1 && '<script>'".to_owned()),
        columns: std::collections::BTreeMap::from([(
            "user".to_owned(),
            ColumnValue::From(vec!["<img src=x>".to_owned()]),
        )]),
    }];
    pipeline.privacy.clear_in = vec!["<prod>".to_owned()];
    pipeline.warehouse = Some(Warehouse::Redshift {
        access: RedshiftAccess::Dsn(Secret::new("postgres://secret".to_owned())),
        table: "analytics.order".to_owned(),
        sort_key: vec!["user".to_owned(), "event_time".to_owned()],
        dist_key: Some("user".to_owned()),
        iam_role: None,
    });
    if let Some(quality) = &mut pipeline.quality {
        quality.suite_text = r#"{"expectation_suite_name": "old", "expectations": [
            {"expectation_type": "expect_column_values_to_be_in_set",
             "kwargs": {"column": "user", "value_set": ["<script>alert(2)</script>", 1]}, "meta": {"severity": "<i>"}},
            {"expectation_type": "expect_something_unheard_of", "kwargs": {"column": "big", "speed": {"$PARAMETER": "v"}}},
            {"expectation_type": "expect_column_pair_values_a_to_be_greater_than_b",
             "kwargs": {"column_A": "big", "column_B": "small", "mostly": 0.9}}],
            "evaluation_parameters": {"v": 7}}"#
            .to_owned();
    }
    pipeline
}

#[test]
fn the_examples_catalog_is_what_the_golden_files_say() {
    let pipeline = example();
    agrees_with_golden("github.postgres.sql", &ddl::postgres(&pipeline));
    agrees_with_golden(
        "github.redshift.sql",
        &ddl::redshift(&pipeline, &Statistics::default()),
    );
    agrees_with_golden("github.md", &docs::markdown(&pipeline, None));
    agrees_with_golden("github.json", &docs::json(&pipeline, Some("staging")));
    agrees_with_golden(
        "hostile.redshift.sql",
        &ddl::redshift(&hostile(), &Statistics::default()),
    );
    if let Some(folder) = std::env::var_os("MILLRACE_PAGES") {
        let folder = PathBuf::from(folder);
        std::fs::write(folder.join("github.html"), docs::html(&pipeline, None)).unwrap();
        std::fs::write(
            folder.join("hostile.html"),
            docs::html(&hostile(), Some("<prod>")),
        )
        .unwrap();
    }
}

#[test]
fn no_text_of_a_pipeline_becomes_markup() {
    let page = docs::html(&hostile(), Some("<prod>"));
    assert_eq!(page.matches("<script>").count(), 1, "the page's own script");
    for markup in ["<img", "<b>old", "<prod>", "<i>"] {
        assert!(!page.contains(markup), "{markup}");
    }
    let text = docs::markdown(&hostile(), None);
    assert!(
        !text.contains("meaning | <script>") && text.contains("&lt;script>alert('x')"),
        "{text}"
    );
}

#[test]
fn the_page_asks_for_no_other_file_and_shows_no_secret() {
    for page in [
        docs::html(&example(), None),
        docs::html(&hostile(), None),
        docs::json(&hostile(), None),
    ] {
        for sign in [
            "http://",
            " src=\"",
            "@import",
            "url(",
            "<link",
            "postgres://secret",
            "6d6164652075702066",
        ] {
            assert!(!page.contains(sign), "{sign}");
        }
    }
}

#[test]
fn both_generations_of_suites_are_put_in_words() {
    let page = docs::markdown(&hostile(), None);
    assert!(
        page.contains("Rule: big must be greater than small, in at least 90 % of rows (critical)"),
        "{page}"
    );
    assert!(
        page.contains("Rule: something unheard of (speed 7) (critical)"),
        "{page}"
    );
    let page = docs::markdown(&example(), None);
    assert!(
        page.contains("Rule: must not be empty, in at least 99.9 % of rows (warning)"),
        "{page}"
    );
    assert!(
        page.contains("Rule: must have a length at least 1 and at most 60 (warning)"),
        "{page}"
    );
}

#[test]
fn masking_is_shown_by_what_the_policy_does() {
    let page = docs::markdown(&hostile(), None);
    assert!(page.contains("`203.0.113.77` becomes `203.0.113.0`"), "{page}");
    assert!(page.contains("@example.org`"), "{page}");
    assert!(
        page.contains("Personal data: personal identifier; masked, it is left empty"),
        "{page}"
    );
}

#[test]
fn a_required_column_that_masking_empties_may_be_null() {
    let sql = ddl::postgres(&hostile());
    assert!(sql.contains("\n    flag boolean,"), "{sql}");
    assert!(sql.contains("\n    small integer NOT NULL,"), "{sql}");
}

#[test]
fn models_stand_in_the_dictionary_with_columns_query_and_what_they_are_made_of() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../client/examples/shop");
    let text = std::fs::read_to_string(folder.join("models.yaml")).unwrap();
    let env = |_: &str| Some("6d61646520757020666f722074657374732c206e6f7468696e6720656c736521".to_owned());
    let read = |path: &Path| std::fs::read_to_string(path);
    let pipeline = spec::load(&text, "models.yaml", &folder.canonicalize().unwrap(), &env, &read).unwrap();
    let dictionary: serde_json::Value = serde_json::from_str(&docs::json(&pipeline, None)).unwrap();
    let model = |name: &str| {
        let models = dictionary["models"].as_array().unwrap();
        models.iter().find(|model| model["name"] == name).unwrap().clone()
    };
    assert_eq!(model("sessions")["reads"], serde_json::json!(["shop"]));
    assert_eq!(model("sessions")["look_back"], "12 hours");
    assert_eq!(
        model("daily_revenue")["reads"],
        serde_json::json!(["revenue_by_segment"])
    );
    let columns = model("daily_revenue")["columns"].to_string();
    assert!(
        columns.contains("\"net\"") && columns.contains("\"period\""),
        "{columns}"
    );
    for text in [docs::markdown(&pipeline, None), docs::html(&pipeline, None)] {
        for part in [
            "daily_funnel",
            "by hour, over complete hours",
            "lag(event_time) OVER",
        ] {
            assert!(text.contains(part), "{part}");
        }
    }
}
