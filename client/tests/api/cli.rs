//! The commands, run as people and scripts run them.

use std::process::{Command, Output, Stdio};

use millrace_client::v1::{Counts, JobState};
use serde_json::Value;

use crate::cluster::{Single, files_pipeline, kafka_pipeline};

fn millrace(cluster: &Single, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millrace"));
    command
        .args(arguments)
        .env("MILLRACE_COORDINATORS", cluster.node.address.to_string());
    command.env_remove("MILLRACE_TOKEN").stdin(Stdio::null());
    command
}

async fn run(cluster: &Single, arguments: &[&str]) -> Output {
    let mut command = millrace(cluster, arguments);
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

/// The exit code, and the one JSON object on stdout.
async fn json(cluster: &Single, arguments: &[&str]) -> (i32, Value) {
    let output = run(cluster, &[arguments, &["--output", "json"]].concat()).await;
    let text = String::from_utf8(output.stdout).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: `{text}`, {said}"));
    (output.status.code().unwrap(), value)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_and_its_jobs_by_the_command_line() {
    let cluster = Single::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shop.yaml");
    std::fs::create_dir(folder.path().join("suites")).unwrap();
    std::fs::write(
        folder.path().join("suites/a.json"),
        r#"{"name": "a", "expectations": []}"#,
    )
    .unwrap();
    let text = files_pipeline("shop", "/events", "/lake") + "quality: {suite: suites/a.json}\n";
    std::fs::write(&file, &text).unwrap();
    let file = file.to_str().unwrap();

    let (code, applied) = json(&cluster, &["pipeline", "apply", file]).await;
    assert_eq!(
        (code, &applied["version"], &applied["changed"]),
        (0, &1.into(), &true.into())
    );
    let (_, shown) = json(&cluster, &["pipeline", "show", "shop"]).await;
    assert_eq!(shown["text"], text);
    assert!(shown["files"]["suites/a.json"].is_string());
    let (_, listed) = json(&cluster, &["pipeline", "list"]).await;
    assert_eq!(listed["pipelines"][0]["pipeline"], "shop");

    let id = uuid::Uuid::new_v4().to_string();
    let (code, job) = json(&cluster, &["job", "submit", "shop", "--request-id", &id]).await;
    assert_eq!((code, &job["state"]), (0, &"pending".into()));
    let name = job["job"].as_str().unwrap().to_owned();
    assert_eq!(
        json(&cluster, &["job", "submit", "shop", "--request-id", &id])
            .await
            .1["job"],
        name
    );
    assert_eq!(
        json(&cluster, &["job", "list", "--pipeline", "shop"]).await.1["jobs"][0]["job"],
        name
    );
    assert_eq!(json(&cluster, &["job", "show", &name]).await.1["request_id"], id);
    assert_eq!(
        json(&cluster, &["job", "cancel", &name]).await.1["state"],
        "cancelled"
    );
    assert_eq!(
        json(&cluster, &["job", "retry", &name]).await.1["state"],
        "pending"
    );
    let refused = run(&cluster, &["pipeline", "delete", "shop"]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("has active jobs"));
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_ends_with_the_job_and_its_exit_code() {
    let cluster = Single::start().await;
    cluster.apply(files_pipeline("shop", "/events", "/lake")).await;
    for (held, state, code) in [
        (0, JobState::Succeeded, 0),
        (1, JobState::Succeeded, 3),
        (0, JobState::Failed, 1),
    ] {
        let id = uuid::Uuid::new_v4().to_string();
        let arguments = [
            "job",
            "submit",
            "shop",
            "--request-id",
            &id,
            "--wait",
            "--output",
            "json",
        ];
        let waiting = millrace(&cluster, &arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let job = loop {
            if let Some(job) = cluster.registry.job_of_request(&id).await.unwrap() {
                break job;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        };
        cluster.becomes(&job.job_id, JobState::Running).await;
        let lead = cluster.node.leads().await;
        let counts = Counts {
            read: 10,
            written: 8,
            duplicates: 1,
            quarantined: 1,
            late: 0,
        };
        let change = |job: &mut millrace_client::v1::Job| {
            job.counts = Some(counts);
            job.batches_held = held;
            job.set_state(state);
        };
        cluster
            .registry
            .update_job(&lead, &job.job_id, change)
            .await
            .unwrap();
        let output = tokio::task::spawn_blocking(move || waiting.wait_with_output().unwrap())
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{said}");
        let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            (&shown["events_read"], &shown["job"]),
            (&10.into(), &job.job_id.clone().into())
        );
        assert!(said.contains("submitted"), "progress goes to stderr: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_told_with_the_field_and_exit_code_two() {
    let cluster = Single::start().await;
    cluster.apply(kafka_pipeline("live")).await;
    let refused = run(&cluster, &["job", "submit", "live"]).await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("input: ") && said.contains("`hour`"), "{said}");
    for arguments in [
        &["job", "submit", "live", "--hour", "2026-01-01"][..],
        &["job", "submit", "live", "--from", "2026-01-01T00:00:00Z"],
    ] {
        assert_eq!(
            run(&cluster, arguments).await.status.code(),
            Some(2),
            "{arguments:?}"
        );
    }
    let (code, job) = json(&cluster, &["job", "submit", "live", "--hour", "2026-01-01T05"]).await;
    assert_eq!((code, &job["input"]["hour"]), (0, &"2026-01-01T05:00:00Z".into()));
    let (_, job) = json(
        &cluster,
        &["job", "submit", "live", "--follow", "--interval", "2s"],
    )
    .await;
    assert_eq!(job["input"]["follow"]["interval_millis"], 2000);
    let mut nowhere = millrace(&cluster, &["job", "list"]);
    nowhere.env_remove("MILLRACE_COORDINATORS");
    let nowhere = nowhere.output().unwrap();
    assert_eq!(nowhere.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&nowhere.stderr).contains("MILLRACE_COORDINATORS"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_is_shown_by_names_and_shells_are_completed() {
    let cluster = Single::start().await;
    let beat = millrace_client::v1::JoinClusterRequest {
        protocol_version: millrace_client::v1::PROTOCOL_VERSION,
        worker: Some(millrace_client::v1::Worker {
            name: "w1".to_owned(),
            executor_id: "e1".to_owned(),
            slots: 2,
            ..Default::default()
        }),
    };
    cluster.client.join_cluster(beat).await.unwrap();
    let (_, shown) = json(&cluster, &["cluster", "show"]).await;
    assert_eq!(
        (&shown["leader"], &shown["workers"][0]["name"]),
        (&"c1".into(), &"w1".into())
    );
    assert_eq!(
        json(&cluster, &["cluster", "drain", "w1"]).await.1["state"],
        "draining"
    );
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&cluster, &["completions", shell]).await;
        assert!(
            script.status.success() && String::from_utf8_lossy(&script.stdout).contains("completions"),
            "{shell}"
        );
    }
}
