//! The schema's keys are those that the readers know, and it accepts what they accept.

use std::collections::BTreeSet;

use super::*;
use crate::spec::sections::{ROOT, intake, marts, outlet, rules, table};

fn properties<'a>(schema: &'a Value, path: &[&str]) -> &'a Value {
    path.iter().fold(schema, |at, step| {
        if *step == "[]" {
            &at["items"]
        } else {
            &at["properties"][*step]
        }
    })
}

#[test]
fn the_keys_of_the_schema_are_those_that_the_readers_know() {
    let root = json_schema();
    let sections: [(&[&str], &[&str]); 26] = [
        (&[], ROOT),
        (&["source"], intake::SOURCE),
        (&["source", "files"], intake::FILES),
        (&["source", "s3"], intake::S3),
        (&["source", "kafka"], intake::KAFKA),
        (&["schema", "[]"], table::COLUMN),
        (&["versions", "[]"], table::VERSION),
        (&["versions", "[]", "when"], table::WHEN),
        (&["enrich", "[]"], rules::ENRICH),
        (&["enrich", "[]", "from"], rules::ENRICH_FROM),
        (&["enrich", "[]", "from", "postgres"], rules::ENRICH_POSTGRES),
        (&["quality"], rules::QUALITY),
        (&["dedup"], rules::DEDUP),
        (&["privacy"], rules::PRIVACY),
        (
            &["privacy", "strategies"],
            &["email", "name", "ip", "phone", "id", "free_text"],
        ),
        (&["partition"], outlet::PARTITION),
        (&["lake"], outlet::LAKE),
        (&["warehouse"], outlet::WAREHOUSE),
        (&["warehouse", "postgres"], outlet::POSTGRES),
        (&["warehouse", "redshift"], outlet::REDSHIFT),
        (&["warehouse", "redshift", "iam"], outlet::IAM),
        (&["warehouse", "redshift", "data_api"], outlet::DATA_API),
        (&["models", "[]"], marts::MODEL),
        (&["models", "[]", "warehouse"], marts::MODEL_WAREHOUSE),
        (&["retention"], outlet::RETENTION),
        (&["limits"], outlet::LIMITS),
    ];
    for (path, known) in sections {
        let keys = properties(&root, path)["properties"]
            .as_object()
            .unwrap_or_else(|| panic!("{path:?}"));
        let keys: BTreeSet<&str> = keys.keys().map(String::as_str).collect();
        assert_eq!(keys, known.iter().copied().collect(), "{path:?}");
    }
    let overrides = &root["properties"]["versions"]["items"]["properties"]["columns"]["additionalProperties"];
    assert_eq!(
        overrides["properties"].as_object().unwrap().len(),
        table::OVERRIDE.len()
    );
}

#[test]
fn every_key_of_the_schema_is_described_and_no_map_takes_unknown_keys() {
    fn walk(schema: &Value, path: &str) {
        for (key, one) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{key}");
            assert!(
                one["description"].as_str().is_some_and(|text| text.len() > 5),
                "{path} is not described"
            );
            if one["type"] == "object" {
                assert!(
                    !one["additionalProperties"].is_null(),
                    "{path} takes unknown keys"
                );
            }
            walk(one, &path);
            walk(&one["items"], &path);
            walk(&one["additionalProperties"], &path);
        }
    }
    walk(&json_schema(), "");
}
