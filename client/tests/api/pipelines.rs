//! Pipelines: checked as they come, stored as they came.

use std::collections::HashMap;

use millrace_client::v1::{ApplyPipelineRequest, CheckPipelineRequest};

use crate::cluster::{HASH_KEY, Single, files_pipeline};

const SUITE: &str = r#"{"name": "shop", "expectations": []}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_a_new_version_and_the_same_again_is_not() {
    let cluster = Single::start().await;
    let client = &cluster.client;
    let apply = async |text: &str, suite: &str| {
        let request = ApplyPipelineRequest {
            text: text.to_owned(),
            files: HashMap::from([("suites/shop.json".to_owned(), suite.as_bytes().to_vec())]),
            file_name: "shop.yaml".to_owned(),
        };
        let response = client.apply_pipeline(request).await.unwrap();
        (response.pipeline.unwrap(), response.changed)
    };
    let text = files_pipeline("shop", "/events", "/lake") + "quality: {suite: suites/shop.json}\n";
    let (first, changed) = apply(&text, SUITE).await;
    assert_eq!(
        (first.version, changed, first.applier.as_str()),
        (1, true, "anonymous")
    );
    assert!(
        first.text.contains("${env:HASH_KEY}") && !first.text.contains(HASH_KEY),
        "secrets stay where they are"
    );
    let (again, changed) = apply(&text, SUITE).await;
    assert_eq!((again.version, changed), (1, false));
    let (second, changed) = apply(&text, &SUITE.replace("shop", "shop2")).await;
    assert_eq!((second.version, changed), (2, true));
    assert_eq!(client.get_pipeline("shop", 1).await.unwrap(), first);
    assert_eq!(client.get_pipeline("shop", 0).await.unwrap(), second);
    cluster.apply(files_pipeline("game", "/events", "/lake")).await;
    let names: Vec<_> = client
        .list_pipelines()
        .await
        .unwrap()
        .into_iter()
        .map(|one| (one.name, one.version))
        .collect();
    assert_eq!(names, [("game".to_owned(), 1), ("shop".to_owned(), 2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_faulty_pipeline_is_refused_with_every_fault_and_its_line() {
    let cluster = Single::start().await;
    let text = files_pipeline("shop", "events", "./lake").replace("type: timestamp", "type: tiem");
    let request = ApplyPipelineRequest {
        text: text.clone(),
        files: HashMap::new(),
        file_name: "shop.yaml".to_owned(),
    };
    let error = cluster.client.apply_pipeline(request).await.unwrap_err();
    let refusal = error.refusal().unwrap();
    assert_eq!(refusal.reason, "PIPELINE_FAULTS");
    assert!(
        refusal.violations[0].field.starts_with("shop.yaml:7:"),
        "{refusal}"
    );
    let check = async |text: String| {
        let request = CheckPipelineRequest {
            text,
            ..Default::default()
        };
        cluster.client.check_pipeline(request).await.unwrap()
    };
    let faults = check(text).await;
    assert_eq!((faults[0].line, faults[0].path.as_str()), (7, "schema[1].type"));
    let relative = check(files_pipeline("shop", "events", "./lake")).await;
    let paths: Vec<_> = relative.iter().map(|fault| fault.path.as_str()).collect();
    assert_eq!(paths, ["source.files.path", "lake.url"]);
    assert_eq!(check(files_pipeline("shop", "/events", "/lake")).await, []);
    let unset = check(files_pipeline("shop", "/events", "/lake").replace("HASH_KEY", "NOT_HERE")).await;
    assert!(unset[0].problem.contains("NOT_HERE"), "{}", unset[0].problem);
    assert!(
        cluster.client.list_pipelines().await.unwrap().is_empty(),
        "checking stores nothing"
    );
}
