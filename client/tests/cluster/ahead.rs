//! The next batch of a job is read while the last one is being committed.

use millrace_loadtest::proxy::{Fault, Proxy};

use crate::sandbox::Sandbox;

const SOURCE: &str = r#"s3: {url: "s3://millrace/raw/shop/", format: json}"#;
const EVENTS: u64 = 40_000;

/// The ways of the leader and of the worker to S3.
struct Ways {
    leader: Proxy,
    worker: Proxy,
}

/// A leader whose first manifest does not get through, and a worker that has read the second batch all the same. The
/// leader's writes get through when its way is told to let them.
fn with_a_manifest_on_its_way() -> (Sandbox, Ways, String) {
    let mut sandbox = Sandbox::start(1, 0);
    let (leaders, workers) = (
        Proxy::start(sandbox.s3()).unwrap(),
        Proxy::start(sandbox.s3()).unwrap(),
    );
    workers.set(Fault::Hold, 1);
    sandbox.coordinator("leader", &[("AWS_ENDPOINT_URL", &leaders.endpoint())]);
    sandbox.worker("worker-1", &[("AWS_ENDPOINT_URL", &workers.endpoint())]);
    sandbox.has_workers(1);
    sandbox.upload("shop", EVENTS, 51);
    sandbox.apply("shop", SOURCE);
    let job = sandbox.submit("shop", &[]);
    sandbox.at_work("worker-1");
    leaders.set(Fault::HoldWrites, 1);
    workers.set(Fault::None, 1);
    sandbox.until("the next batch is read", |sandbox| {
        let ahead = "millrace_batches_read_ahead_total{";
        (sandbox.metric("leader", ahead)? >= 1.0).then_some(())
    });
    // It has tasks, and gets no further than the first key.
    sandbox.at_work("worker-1");
    assert!(leaders.fired() > 0, "the manifest got through");
    assert_eq!(sandbox.job(&job)["events_read"], 0, "something is committed");
    let ways = Ways {
        leader: leaders,
        worker: workers,
    };
    (sandbox, ways, job)
}

fn finishes(sandbox: &Sandbox, job: &str) {
    let done = sandbox.done(job);
    assert_eq!(done["events_read"], EVENTS, "{done}");
    sandbox.judge("shop", "shop");
}

#[test]
fn a_batch_is_read_while_the_one_before_it_is_committed() {
    let (sandbox, ways, job) = with_a_manifest_on_its_way();
    ways.leader.set(Fault::None, 1);
    finishes(&sandbox, &job);
    assert_eq!(
        sandbox.logged("leader", "an attempt failed"),
        0,
        "what was read ahead was read again"
    );
}

/// The list of committed keys that it waits for cannot be put: it is read again, and its old tasks hold no slot until then.
#[test]
fn a_batch_that_was_read_ahead_in_vain_gives_its_slots_back() {
    let (sandbox, ways, job) = with_a_manifest_on_its_way();
    ways.leader.set_for(Fault::Forbidden, "/ledger/keys/");
    sandbox.until("it is to be read again", |sandbox| {
        (sandbox.logged("leader", "the batch behind it is read again") > 0).then_some(())
    });
    ways.leader.set(Fault::None, 1);
    finishes(&sandbox, &job);
}

/// Its last request arrives when another leads already, and has begun with both batches.
#[test]
fn a_leader_may_die_with_a_batch_on_its_way_and_the_next_one_read() {
    let (mut sandbox, ways, job) = with_a_manifest_on_its_way();
    sandbox.kill("leader");
    sandbox.coordinator("heir", &[]);
    sandbox.until("the heir finishes what it found", |sandbox| {
        (sandbox.logged("heir", "an interrupted batch is finished") > 0).then_some(())
    });
    ways.leader.set(Fault::None, 1);
    finishes(&sandbox, &job);
}

/// Cancelled with both under way: the first is committed, the second given up, and a second try takes the rest.
#[test]
fn a_job_may_be_cancelled_with_two_batches_under_way() {
    let (sandbox, ways, job) = with_a_manifest_on_its_way();
    sandbox.json(&["job", "cancel", &job]);
    ways.leader.set(Fault::None, 1);
    sandbox.until("the second batch is given up", |sandbox| {
        (sandbox.logged("leader", "the batch is given up") > 0).then_some(())
    });
    sandbox.json(&["job", "retry", &job]);
    finishes(&sandbox, &job);
}

/// Cancelled when the worker has begun to learn what the first batch committed, and waits for its keys: a second try knows
/// them all the same.
#[test]
fn a_job_may_be_cancelled_while_its_worker_learns_of_committed_keys() {
    let (sandbox, ways, job) = with_a_manifest_on_its_way();
    ways.worker.set_for(Fault::Hold, "/keys/hour");
    let before = ways.worker.fired();
    ways.leader.set(Fault::None, 1);
    sandbox.until("the worker asks for keys", |_| {
        (ways.worker.fired() > before).then_some(())
    });
    sandbox.json(&["job", "cancel", &job]);
    sandbox.at_rest("worker-1");
    ways.worker.set(Fault::None, 1);
    sandbox.json(&["job", "retry", &job]);
    finishes(&sandbox, &job);
}
