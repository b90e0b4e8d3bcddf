//! `kill -9` at any moment and a second run give exactly what an undisturbed run gives.

use std::process::Stdio;
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};

use crate::sandbox::{SCALE, Sandbox};
use crate::shop::assert_lake_is_what_was_sent;

const EVENTS: u64 = 120_000 / SCALE;

#[cfg(unix)]
fn was_killed(status: std::process::ExitStatus) -> bool {
    std::os::unix::process::ExitStatusExt::signal(&status).is_some()
}

/// The named steps of a batch, the first time and the second time that they come.
#[test]
fn a_kill_at_each_named_step_loses_and_doubles_nothing() {
    for moment in [
        "opened",
        "planned",
        "written",
        "published",
        "committed",
        "finished",
    ] {
        for time in ["1", "2"] {
            if time == "2" && matches!(moment, "opened" | "finished") {
                continue; // they come once a run
            }
            let sandbox = Sandbox::shop(EVENTS / 2, 21);
            let crashed = sandbox
                .run_command(&[])
                .env("MILLRACE_CRASH_AT", format!("{moment}:{time}"))
                .output()
                .unwrap();
            assert!(
                was_killed(crashed.status),
                "the crash at {moment}:{time} did not fire"
            );
            sandbox.run(&[]);
            assert_lake_is_what_was_sent(&sandbox);
            assert_eq!(
                sandbox.verify(),
                Vec::<String>::new(),
                "after a kill at {moment}:{time}"
            );
        }
    }
}

/// After the last commit there is nothing new to read: the report must come all the same.
#[test]
fn a_kill_before_the_report_leaves_it_to_the_next_run() {
    let result = |sandbox: &Sandbox| {
        let reports = sandbox.objects("reports");
        assert_eq!(reports.len(), 1, "{reports:?}");
        let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&reports[0]).unwrap()).unwrap();
        (report["statistics"].clone(), report["results"].clone())
    };
    let undisturbed = Sandbox::shop(2_000, 23);
    undisturbed.run(&[]);
    let sandbox = Sandbox::shop(2_000, 23);
    let crashed = sandbox
        .run_command(&[])
        .env("MILLRACE_CRASH_AT", "committed")
        .output()
        .unwrap();
    assert!(was_killed(crashed.status));
    assert_eq!(sandbox.objects("reports").len(), 0);
    let second = sandbox.run(&[]);
    assert_eq!(second["events_read"].as_u64(), Some(0));
    assert!(!second["quality"].is_null());
    assert_eq!(result(&sandbox), result(&undisturbed));
    assert!(sandbox.run(&[])["quality"].is_null());
    assert_eq!(
        result(&sandbox),
        result(&undisturbed),
        "a third run writes no other"
    );
}

/// 20 random moments in the life of a run.
#[test]
fn a_kill_at_random_moments_loses_and_doubles_nothing() {
    let seed: u64 = std::env::var("MILLRACE_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(0xC4A5);
    eprintln!("seed: {seed} (MILLRACE_SEED sets another)");
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let undisturbed = Sandbox::shop(EVENTS, 22);
    let started = Instant::now();
    let expected = undisturbed.run(&[]);
    let mut whole = started.elapsed();
    let (mut kills, mut misses) = (0, 0);
    while kills < 20 {
        let sandbox = Sandbox::shop(EVENTS, 22);
        let after = whole.mul_f64(random.random_range(0.02..0.98));
        if !kill_after(&sandbox, after) {
            // Other tests made the first run slow: this one was done by then.
            whole = whole.min(after);
            misses += 1;
            assert!(
                misses < 40,
                "{misses} runs ended before their kill, {kills} did not"
            );
            continue;
        }
        kills += 1;
        sandbox.run(&[]);
        assert_lake_is_what_was_sent(&sandbox);
        assert_eq!(sandbox.verify(), Vec::<String>::new(), "killed after {after:?}");
        let rows = sandbox.rows().len() as u64;
        assert_eq!(Some(rows), expected["events_written"].as_u64());
    }
    eprintln!("{kills} kills met a running process, {misses} came too late");
}

/// Kills a run so long after its start; whether it was still running.
fn kill_after(sandbox: &Sandbox, after: Duration) -> bool {
    let mut run = sandbox
        .run_command(&[])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(after); // the fault's own time, not a wait for a state
    run.kill().unwrap();
    was_killed(run.wait().unwrap())
}
