//! Quarantine and hours, from a lake that a real run wrote.

use std::process::Command;

use millrace_client::v1::{self, HourState, job_input::Input};

use crate::cluster::{HASH_KEY, Single, files_pipeline};

/// Runs a pipeline embedded over some lines.
pub(crate) fn run(folder: &std::path::Path, lines: &str) -> String {
    let (events, lake) = (folder.join("events.ndjson"), folder.join("lake"));
    std::fs::write(&events, lines).unwrap();
    let text = files_pipeline("shop", events.to_str().unwrap(), lake.to_str().unwrap());
    let file = folder.join("shop.yaml");
    std::fs::write(&file, &text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_millrace"));
    let done = command
        .env("HASH_KEY", HASH_KEY)
        .arg("run")
        .arg(&file)
        .args(["--threads", "1"])
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn rejected_events_are_summed_up_paged_and_redriven() {
    let cluster = Single::start().await;
    let folder = tempfile::tempdir().unwrap();
    let good = |n: u32, hour: u32| format!("{{\"id\": \"e{n}\", \"at\": \"2026-01-01T{hour:02}:10:00Z\"}}\n");
    let mut lines: String = (0..10).map(|n| good(n, n / 5)).collect();
    lines.push_str("{\"id\": \"x\", \"at\": \"never\"}\nnot json\n{\"id\": 7}\n");
    cluster.apply(run(folder.path(), &lines)).await;

    let summary = cluster.client.summarize_quarantine("shop").await.unwrap();
    assert_eq!(summary.events, 3);
    let reasons = summary.reasons;
    assert!(
        reasons.iter().map(|reason| reason.events).sum::<u64>() >= 3,
        "{reasons:?}"
    );
    let mut request = v1::ListQuarantineRequest {
        pipeline: "shop".to_owned(),
        page_size: 2,
        ..Default::default()
    };
    let first = cluster.client.list_quarantine(request.clone()).await.unwrap();
    request.page_token = first.next_page_token;
    let second = cluster.client.list_quarantine(request).await.unwrap();
    assert_eq!(
        (
            first.events.len(),
            second.events.len(),
            second.next_page_token.as_str()
        ),
        (2, 1, "")
    );
    assert!(first.events[0].object.ends_with("events.ndjson") && first.events[0].reasons[0].contains("kind"));

    let hours = v1::ListHoursRequest {
        pipeline: "shop".to_owned(),
        ..Default::default()
    };
    let hours = cluster.client.list_hours(hours).await.unwrap();
    let told: Vec<_> = hours
        .hours
        .iter()
        .map(|hour| (hour.hour.as_str(), hour.counts.unwrap().written))
        .collect();
    assert_eq!(told, [("2026-01-01T01", 5), ("2026-01-01T00", 5)]);
    // The run was over everything that there was.
    assert!(hours.hours.iter().all(|hour| hour.state() == HourState::Complete));
    assert!(hours.lag_seconds == 0.0 && hours.watermark.is_some());
    assert!(hours.partitions[0].partition == "objects" && hours.partitions[0].closed);

    let job = cluster.client.redrive_quarantine("shop", "prod").await.unwrap();
    let job = cluster.client.get_job(&job).await.unwrap();
    assert_eq!(job.environment, "prod");
    assert!(matches!(job.input.unwrap().input, Some(Input::Redrive(_))));
}
