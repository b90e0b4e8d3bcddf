//! Files that load, and what they load as.

use super::*;
use crate::spec::model::{
    Column, ColumnType, ColumnValue, Compression, DataApi, DedupScope, HandoffUnit, Iam, Limits, OnDown,
    PartitionLevel, PiiClass, RedshiftAccess, RedshiftTarget, Source, Strategy, Warehouse, When,
};

/// A file that loads.
fn loaded(text: &str) -> Pipeline {
    check(text).unwrap_or_else(|report| panic!("{report}"))
}

fn column<'p>(pipeline: &'p Pipeline, name: &str) -> &'p Column {
    pipeline.column(name).unwrap_or_else(|| panic!("no {name}")).1
}

#[test]
fn the_shop_example_loads() {
    let pipeline = loaded(include_str!("../../../../../client/examples/shop/shop.yaml"));
    assert_eq!(pipeline.columns.len(), 14);
    assert_eq!(pipeline.lake.url, "file:///pipelines/lake");
}

#[test]
fn every_section_of_the_design_loads_as_it_is_written() {
    let pipeline = loaded(DESIGN);
    assert_eq!(pipeline.name.as_str(), "github");
    assert!(matches!(&pipeline.source, Source::Files { path, .. } if path == "/pipelines/events"));
    assert_eq!(column(&pipeline, "price").kind, ColumnType::Decimal(12, 2));
    assert_eq!(
        column(&pipeline, "labels").kind,
        ColumnType::List(Box::new(ColumnType::String))
    );
    assert_eq!(
        column(&pipeline, "labels").value,
        ColumnValue::From(vec!["labels".into()])
    );
    let path = vec!["payload".into(), "customer.id".into()];
    assert_eq!(column(&pipeline, "customer_id").value, ColumnValue::From(path));
    assert_eq!(pipeline.versions[0].when, When::Missing(vec!["id".into()]));
    assert_eq!(
        pipeline.versions[0].columns["event_id"],
        ColumnValue::Sql("repo".into())
    );
    let quality = pipeline.quality.as_ref().unwrap();
    assert_eq!(quality.suite, "/pipelines/suites/github.json");
    assert_eq!(quality.parameters["kinds"], serde_json::json!(["a", "b"]));
    let dedup = pipeline.dedup.as_ref().unwrap();
    assert_eq!(
        (dedup.key.as_slice(), dedup.scope),
        (["event_id".to_owned()].as_slice(), DedupScope::Partition)
    );
    assert_eq!(pipeline.privacy.strategy(PiiClass::Email), Strategy::Redact);
    assert!(pipeline.privacy.is_clear(Some("prod")));
    assert_eq!(pipeline.partition.by.last(), Some(&PartitionLevel::Source));
    assert_eq!(pipeline.partition.lateness_seconds, 7_200);
    assert_eq!(pipeline.lake.compression, Compression::Zstd(3));
    assert!(
        matches!(&pipeline.warehouse, Some(Warehouse::Redshift { sort_key, .. }) if sort_key == &["event_time"])
    );
    assert_eq!(pipeline.handoff, HandoffUnit::Job);
    assert_eq!(pipeline.retention.lake_seconds, Some(400 * 86_400));
    assert_eq!(pipeline.retention.keys_seconds, None, "for ever");
    let forgetting = loaded(&DESIGN.replace("warehouse: 90d", "warehouse: 90d, keys: 800d"));
    assert_eq!(forgetting.retention.keys_seconds, Some(800 * 86_400));
    assert_eq!(
        pipeline.limits,
        Limits {
            record_bytes: 1 << 20,
            depth: 64
        }
    );
}

#[test]
fn a_looked_up_column_takes_its_place_from_the_schema_or_is_appended() {
    let pipeline = loaded(DESIGN);
    assert_eq!(
        column(&pipeline, "region").value,
        ColumnValue::Enriched(0, "area".into())
    );
    assert_eq!(column(&pipeline, "region").pii, Some(PiiClass::Id));
    let last = pipeline.columns.last().unwrap();
    assert_eq!((last.name.as_str(), &last.kind), ("segment", &ColumnType::String));
}

#[test]
fn a_lookup_says_how_old_its_snapshot_may_be_and_what_happens_without_a_new_one() {
    let lookup = |text: &str| {
        let lookup = loaded(text).enrich.remove(0);
        (lookup.refresh_seconds, lookup.on_down, lookup.max_age_seconds)
    };
    assert_eq!(lookup(DESIGN), (Some(3_600), OnDown::Last, Some(21_600)));
    let waits = DESIGN.replace("max_age: 6h", "on_down: wait");
    assert_eq!(lookup(&waits), (Some(3_600), OnDown::Wait, None));
    assert_eq!(
        lookup(&DESIGN.replace(", refresh: 1h, max_age: 6h", "")),
        (None, OnDown::Last, None)
    );
}

#[test]
fn an_expression_sees_a_looked_up_column_where_its_key_is_seen() {
    // `region` stands below `is_bot`; its key is read from a path.
    loaded(&DESIGN.replace("actor LIKE '%[bot]'", "region = 'EU'"));
}

#[test]
fn what_is_left_out_has_the_documented_default() {
    let pipeline = loaded(SMALLEST);
    assert_eq!(
        pipeline.partition.by,
        [PartitionLevel::Date, PartitionLevel::Hour]
    );
    assert_eq!(pipeline.partition.lateness_seconds, 3_600);
    assert_eq!(
        (pipeline.lake.file_bytes, pipeline.lake.compression),
        (256 << 20, Compression::Zstd(1))
    );
    assert_eq!(
        pipeline.limits,
        Limits {
            record_bytes: 10 << 20,
            depth: 128
        }
    );
    assert_eq!(pipeline.handoff, HandoffUnit::Batch);
    assert!(pipeline.dedup.is_none() && pipeline.quality.is_none() && pipeline.warehouse.is_none());
}

#[test]
fn s3_and_kafka_sources_load() {
    let s3 = "s3: {url: \"s3://raw-events/a/*.gz\", format: csv, endpoint: \"http://127.0.0.1:9000\", region: eu-central-1}";
    let pipeline = loaded(&SMALLEST.replace("files: {path: events/, format: json}", s3));
    assert!(matches!(&pipeline.source, Source::S3 { url, .. } if url == "s3://raw-events/a/*.gz"));
    let kafka =
        "kafka: {brokers: \"127.0.0.1:9092\", topic: events, format: json, options: {fetch.min.bytes: 1000}}";
    let pipeline = loaded(&SMALLEST.replace("files: {path: events/, format: json}", kafka));
    assert!(
        matches!(&pipeline.source, Source::Kafka { options, .. } if options["fetch.min.bytes"] == "1000")
    );
}

#[test]
fn a_lake_is_a_folder_beside_the_file_or_a_url_that_is_kept() {
    for (written, url) in [
        ("./lake", "file:///pipelines/lake"),
        ("../a b/lake/", "file:///a%20b/lake"),
        ("/data/lake", "file:///data/lake"),
        ("file:///data/lake/", "file:///data/lake"),
        ("s3://bucket/prefix/", "s3://bucket/prefix"),
    ] {
        assert_eq!(
            loaded(&SMALLEST.replace("./lake", written)).lake.url,
            url,
            "{written}"
        );
    }
}

#[test]
fn the_digest_names_the_text_and_the_suite_but_not_the_environment() {
    let with = |env: &dyn Fn(&str) -> Option<String>, suite: &str| {
        let read = |_: &Path| Ok(suite.to_owned());
        load(DESIGN, "a.yaml", Path::new(BASE), env, &read)
            .unwrap_or_else(|report| panic!("{report}"))
            .digest
    };
    let other_key = |name: &str| {
        if name.contains("KEY") {
            Some("another-key-another-key".into())
        } else {
            env(name)
        }
    };
    let (suite, changed) = (r#"{"expectations": []}"#, r#"{"expectations": [] }"#);
    assert_eq!(with(&env, suite), with(&other_key, suite));
    assert_ne!(with(&env, suite), with(&env, changed));
}

#[test]
fn old_suites_and_anchors_are_read() {
    let text = DESIGN
        .replace("suites/github.json", "old.json")
        .replace("\"${env:CUSTOMERS_DSN}\"", "&dsn \"${env:CUSTOMERS_DSN}\"");
    loaded(&text.replace("\"${env:WAREHOUSE_DSN}\"", "*dsn"));
}

#[test]
fn redshift_is_reached_by_the_data_api() {
    let api = "data_api: {cluster: main, database: dev, db_user: loader, region: eu-central-1}";
    let text = DESIGN.replacen("dsn: \"${env:WAREHOUSE_DSN}\"", api, 1);
    let pipeline = check(&text).unwrap();
    let Some(Warehouse::Redshift { access, .. }) = pipeline.warehouse else {
        panic!("no Redshift");
    };
    let wanted = DataApi {
        target: RedshiftTarget::Cluster {
            name: "main".to_owned(),
            db_user: Some("loader".to_owned()),
        },
        database: "dev".to_owned(),
        secret_arn: None,
        region: Some("eu-central-1".to_owned()),
        endpoint: None,
    };
    assert_eq!(access, RedshiftAccess::DataApi(wanted));
}

#[test]
fn redshift_is_logged_in_to_by_iam() {
    let target = |name: &str, db_user: Option<&str>| RedshiftTarget::Cluster {
        name: name.to_owned(),
        db_user: db_user.map(str::to_owned),
    };
    let workgroup = RedshiftTarget::Workgroup("analytics".to_owned());
    for (declared, wanted) in [
        ("cluster: main, db_user: loader", target("main", Some("loader"))),
        ("cluster: main", target("main", None)),
        ("workgroup: analytics", workgroup),
    ] {
        let access = format!("dsn: \"postgres://h:5439/dev\", iam: {{{declared}, region: eu-central-1}}");
        let pipeline = loaded(&DESIGN.replacen("dsn: \"${env:WAREHOUSE_DSN}\"", &access, 1));
        let Some(Warehouse::Redshift { access, .. }) = pipeline.warehouse else {
            panic!("no Redshift");
        };
        let iam = Iam {
            target: wanted,
            region: Some("eu-central-1".to_owned()),
            endpoint: None,
        };
        let RedshiftAccess::Iam { dsn, iam: found } = access else {
            panic!("no login by IAM");
        };
        assert_eq!((dsn.reveal(), found), ("postgres://h:5439/dev", iam));
    }
}
