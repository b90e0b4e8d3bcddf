//! Services that fail under a running job: etcd, Kafka, S3.

use std::time::{Duration, Instant};

use millrace_loadtest::proxy::{Fault, Proxy};

use crate::inputs::topic;
use crate::sandbox::{Sandbox, producer};

const SOURCE: &str = r#"s3: {url: "s3://millrace/raw/shop/", format: json}"#;

#[test]
fn one_member_of_etcd_may_die() {
    let mut sandbox = Sandbox::start(3, 0).with(2, 2);
    sandbox.upload("shop", 60_000, 41);
    sandbox.apply("shop", SOURCE);
    let job = sandbox.submit("shop", &[]);
    sandbox.has_read(&job, 1);
    sandbox.service("etcd", &["kill", "--node", "1"]);
    let done = sandbox.done(&job);
    assert_eq!(done["events_read"], 60_000, "{done}");
    sandbox.judge("shop", "shop");
}

#[test]
fn etcd_without_quorum_stops_everything_and_nothing_goes_wrong_when_it_is_back() {
    let mut sandbox = Sandbox::start(3, 0).with(2, 2);
    sandbox.upload("shop", 60_000, 42);
    sandbox.apply("shop", SOURCE);
    let job = sandbox.submit("shop", &[]);
    sandbox.has_read(&job, 1);
    sandbox.service("etcd", &["kill", "--node", "1"]);
    sandbox.service("etcd", &["kill", "--node", "2"]);
    // Longer than the lease: whoever led must have stopped acting.
    let gone = Instant::now();
    let leads = |sandbox: &Sandbox| {
        (1..=2)
            .map(|i| sandbox.logged(&format!("coordinator-{i}"), "no longer leads"))
            .sum::<usize>()
    };
    sandbox.until("nobody acts as the leader", |sandbox| {
        (leads(sandbox) > 0).then_some(())
    });
    eprintln!("without quorum the leader stopped after {:.1?}", gone.elapsed());
    sandbox.until("30 seconds have passed", |_| {
        (gone.elapsed() > Duration::from_secs(30)).then_some(())
    });
    sandbox.service("etcd", &["start", "--node", "1"]);
    sandbox.service("etcd", &["start", "--node", "2"]);
    let done = sandbox.done(&job);
    assert_eq!(done["events_read"], 60_000, "{done}");
    sandbox.judge("shop", "shop");
}

/// The broker goes while a batch is under way: its events are read and nothing of it is committed.
#[test]
fn the_broker_may_be_restarted_under_a_follow_job() {
    let mut sandbox = Sandbox::start(1, 1).with(1, 1);
    let proxy = Proxy::start(sandbox.s3()).unwrap();
    sandbox.worker("worker-2", &[("AWS_ENDPOINT_URL", &proxy.endpoint())]);
    sandbox.has_workers(2);
    sandbox.apply("shop", &topic(&sandbox, "shop"));
    let (folder, brokers) = (sandbox.path("shop"), sandbox.kafka());
    let sending = std::thread::spawn(move || producer(folder, brokers, "shop", 60_000, 43, Some(6_000)));
    sandbox.has_topic("shop");
    let job = sandbox.submit("shop", &["--follow", "--interval", "1s"]);
    sandbox.has_read(&job, 1);
    proxy.set(Fault::HoldWrites, 1);
    sandbox.until("a batch is being written", |_| (proxy.fired() > 0).then_some(()));
    // Its task can be younger than its last heartbeat.
    sandbox.at_work("worker-2");
    sandbox.service("kafka", &["kill"]);
    let read = |sandbox: &Sandbox| sandbox.job(&job)["events_read"].clone();
    let before = read(&sandbox);
    sandbox.service("kafka", &["start"]);
    assert_eq!(
        (sandbox.slots_busy("worker-2"), read(&sandbox)),
        (Some(1), before),
        "the batch ended while its writes were held"
    );
    proxy.set(Fault::None, 1);
    let sent = sending.join().unwrap();
    sandbox.has_read(&job, sent.recipe.events);
    sandbox.json(&["job", "cancel", &job]);
    sandbox.judge("shop", "shop");
}

#[test]
fn a_broker_of_three_may_die_and_others_lead_its_partitions() {
    let mut sandbox = Sandbox::start(1, 3).with(1, 2);
    sandbox.apply("shop", &topic(&sandbox, "shop"));
    let (folder, brokers) = (sandbox.path("shop"), sandbox.kafka());
    let sending = std::thread::spawn(move || producer(folder, brokers, "shop", 60_000, 45, Some(5_000)));
    sandbox.has_topic("shop");
    let job = sandbox.submit("shop", &["--follow", "--interval", "1s"]);
    sandbox.has_read(&job, 1);
    let before = sandbox.leaders("shop");
    let gone = before[0];
    sandbox.service("kafka", &["kill", "--node", &gone.to_string()]);
    sandbox.until("others lead", |sandbox| {
        let now = sandbox.leaders("shop");
        let led = now.iter().all(|&leader| leader >= 0 && leader != gone);
        led.then_some(())
    });
    let sent = sending.join().unwrap();
    sandbox.has_read(&job, sent.recipe.events);
    sandbox.json(&["job", "cancel", &job]);
    sandbox.judge("shop", "shop");
}

/// A job through a store that misbehaves so: everything is written once all the same.
fn through(fault: Fault, every: u64) {
    let mut sandbox = Sandbox::start(1, 0);
    let proxy = Proxy::start(sandbox.s3()).unwrap();
    sandbox.set_s3(&proxy.endpoint());
    let sandbox = sandbox.with(1, 2);
    sandbox.upload("shop", 40_000, 44);
    sandbox.apply("shop", SOURCE);
    proxy.set(fault, every);
    let job = sandbox.submit("shop", &[]);
    let done = sandbox.done(&job);
    eprintln!("{fault:?}: {} of {} calls", proxy.fired(), proxy.calls());
    assert!(proxy.fired() >= 3, "the fault happened {} times", proxy.fired());
    proxy.set(Fault::None, 1);
    assert_eq!(done["events_read"], 40_000, "{done}");
    sandbox.judge("shop", "shop");
}

#[test]
fn s3_may_answer_503() {
    through(Fault::Unavailable, 5);
}

#[test]
fn s3_may_do_what_it_is_asked_and_never_say_so() {
    through(Fault::Silent, 7);
}

#[test]
fn s3_may_be_slow() {
    through(Fault::Slow, 2);
}
