//! Where a range cannot be read: an error that names it, or a wait that ends well.

use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::error::DataFusionError;
use futures::StreamExt;
use millrace_pipeline::source::kafka::{KafkaOptions, TopicPartition};

use super::broker::{Broker, Message, send, shared, until};
use super::{Reader, messages, splits};

fn numbered(count: usize) -> Vec<Message> {
    (0..count)
        .map(|n| Message::of(format!("{{\"n\":{n}}}")))
        .collect()
}

/// The whole text of an error that repeating does not help: those that it does are I/O errors.
fn final_text(error: &DataFusionError) -> String {
    assert!(matches!(error, DataFusionError::External(_)), "{error:?}");
    error.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_that_are_not_there_are_an_error_and_never_skipped() {
    let broker = shared();
    let reader = Reader::new(broker.options());
    broker.create("short", 1, &[]).await;
    send(&broker.producer(&[]), "short", 0, &numbered(100));
    let object = reader.partitions("short").await.remove(0).object;
    broker.delete_before("short", 0, 40).await;
    let error = reader.read(&splits(&object, &[10, 60])).await.unwrap_err();
    let text = final_text(&error);
    assert!(text.contains("offsets 10..60 of `kafka://short/0`"), "{text}");
    assert!(text.contains("40..100") && text.contains("retention"), "{text}");
    let error = reader.read(&splits(&object, &[90, 120])).await.unwrap_err();
    let text = final_text(&error);
    assert!(text.contains("90..120") && text.contains("cut off"), "{text}");
    let (read, missing) = reader.read(&splits(&object, &[40, 60])).await.unwrap();
    assert_eq!((read.len(), missing), (20, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_made_anew_is_not_read_for_the_old_one() {
    let broker = shared();
    let reader = Reader::new(broker.options());
    broker.create("again", 1, &[]).await;
    send(&broker.producer(&[]), "again", 0, &numbered(20));
    let old = reader.partitions("again").await.remove(0);
    // The reader's client knows the old topic.
    reader.read(&splits(&old.object, &[0, 20])).await.unwrap();
    broker.delete("again").await;
    broker.create("again", 1, &[]).await;
    send(&broker.producer(&[]), "again", 0, &numbered(30));
    let error = reader.read(&splits(&old.object, &[0, 20])).await.unwrap_err();
    let text = final_text(&error);
    assert!(text.contains("`kafka://again/0` was made anew"), "{text}");
    assert!(text.contains(&old.object.version), "{text}");
    let new = reader.partitions("again").await.remove(0);
    assert_ne!(new.object.version, old.object.version);
    assert_eq!(
        reader.read(&splits(&new.object, &[0, 30])).await.unwrap().0.len(),
        30
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_does_not_exist_is_named() {
    let broker = shared();
    let reader = Reader::new(broker.options());
    let place = TopicPartition {
        topic: "nowhere".to_owned(),
        partition: 0,
    };
    for id in ["", "01234567-89ab-cdef-fedc-ba9876543210"] {
        let error = reader
            .read(&splits(&place.object(id), &[0, 1]))
            .await
            .unwrap_err();
        let text = error.to_string();
        assert!(text.contains("`nowhere` does not exist"), "{text}");
    }
    let nobody = Reader::new(KafkaOptions::default());
    assert!(nobody.read(&splits(&place.object(""), &[0, 1])).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_and_sasl_are_passed_through_and_a_wrong_password_is_refused() {
    let broker = shared();
    broker.create("secret", 1, &[]).await;
    send(&broker.producer(&[]), "secret", 0, &numbered(50));
    let reader = Reader::new(broker.sasl("millrace-local-only"));
    let object = reader.partitions("secret").await.remove(0).object;
    assert_eq!(reader.read(&splits(&object, &[0, 50])).await.unwrap().0.len(), 50);

    let wrong = Reader::new(broker.sasl("guessed-wrongly"));
    let began = Instant::now();
    let error = wrong.read(&splits(&object, &[0, 50])).await.unwrap_err();
    let text = final_text(&error);
    assert!(text.to_lowercase().contains("authentication"), "{text}");
    assert!(!text.contains("guessed-wrongly"), "{text}");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_killed_and_comes_back_costs_no_message() {
    let broker = Arc::new(Broker::start());
    let reader = Reader {
        chunk_bytes: 10_000,
        ..Reader::new(broker.options())
    };
    broker.create("restart", 1, &[]).await;
    let count = 400_000;
    send(&broker.producer(&[]), "restart", 0, &numbered(count));
    let object = reader.partitions("restart").await.remove(0).object;
    let mut stream = reader.scan(&splits(&object, &[0, count as u64 / 2, count as u64]));
    let mut next = 0;
    let mut restarted = None;
    while let Some(chunk) = stream.next().await {
        for (offset, payload) in messages(&chunk.unwrap()) {
            assert_eq!(offset, next);
            assert_eq!(payload, format!("{{\"n\":{next}}}").into_bytes());
            next += 1;
        }
        if next > 1000 && restarted.is_none() {
            broker.script(&["kill"]);
            let broker = Arc::clone(&broker);
            restarted = Some(tokio::task::spawn_blocking(move || broker.script(&["start"])));
        }
    }
    assert_eq!(next, count as u64);
    // Unless the broker was killed while it was read, nothing was shown.
    restarted.unwrap().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_whose_consumer_goes_away_ends_though_the_broker_is_silent() {
    let broker = Broker::start();
    let reader = Reader {
        chunk_bytes: 1000,
        ..Reader::new(broker.options())
    };
    broker.create("silent", 1, &[]).await;
    send(&broker.producer(&[]), "silent", 0, &numbered(400_000));
    let object = reader.partitions("silent").await.remove(0).object;
    let mut stream = reader.scan(&splits(&object, &[0, 400_000]));
    stream.next().await.unwrap().unwrap();
    broker.script(&["kill"]);
    // Takes what had come before, so that the reader waits for the dead broker.
    while tokio::time::timeout(Duration::from_secs(1), stream.next())
        .await
        .is_ok()
    {}
    assert!(Arc::strong_count(&reader.clients) > 1);
    drop(stream);
    until("the reader ends", async || {
        Arc::strong_count(&reader.clients) == 1
    })
    .await;
}
