//! Faults at random while a job follows a topic; then the proof that nothing was lost and nothing came twice.
//!
//! In: `deploy/local/stack`, a seed, how many faults in how many seconds. Out: what was done and when, how long the cluster
//! was without a leader, and the verdicts of `millrace verify` and of the generator's ledger. Same seed, same faults in the
//! same order; what they hit depends on the machine.

mod cluster;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::check::{CheckError, Verdict, check};
use crate::fetch::{Access, FetchError, fetch};
use crate::generate::plan::Recipe;
use crate::generate::topic::{SendError, TopicOutput, send};
use crate::ledger::Sent;
use crate::proxy::{Fault as Misbehaviour, Proxy};
use cluster::Cluster;

/// How long the cluster may take to read what is left when the faults are over.
const DRAIN: Duration = Duration::from_secs(300);
/// How long anything else may take.
const PATIENCE: Duration = Duration::from_secs(90);

/// What to do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// `deploy/local/stack`.
    pub stack: PathBuf,
    /// Folder for everything; emptied first.
    pub folder: PathBuf,
    /// Decides about faults and events.
    pub seed: u64,
    /// Faults.
    pub faults: u32,
    /// Time that they are spread over.
    pub time: Duration,
    /// Events a second.
    pub rate: u64,
}

/// Faults that are chosen from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The leader is killed.
    LeaderKilled,
    /// A coordinator that does not lead is killed.
    FollowerKilled,
    /// The leader is stopped past its lease, then woken.
    LeaderFrozen,
    /// A worker is killed.
    WorkerKilled,
    /// A worker is stopped until it is taken for dead, then woken.
    WorkerFrozen,
    /// A worker is told to stop.
    WorkerDrained,
    /// One member of etcd is killed.
    EtcdMemberKilled,
    /// Two members of etcd are killed.
    EtcdQuorumLost,
    /// The broker is killed.
    BrokerKilled,
    /// The store answers 503.
    StoreUnavailable,
    /// The store does as asked and does not answer.
    StoreSilent,
    /// The store is slow.
    StoreSlow,
}

const ALL: [Fault; 12] = [
    Fault::LeaderKilled,
    Fault::WorkerKilled,
    Fault::StoreSilent,
    Fault::LeaderFrozen,
    Fault::WorkerFrozen,
    Fault::EtcdMemberKilled,
    Fault::BrokerKilled,
    Fault::StoreUnavailable,
    Fault::FollowerKilled,
    Fault::EtcdQuorumLost,
    Fault::WorkerDrained,
    Fault::StoreSlow,
];

/// A fault that happened.
#[derive(Debug, Clone, Serialize)]
pub struct Happened {
    /// Seconds since the begin.
    pub at: f64,
    /// What.
    pub fault: Fault,
    /// To whom.
    pub whom: String,
    /// Seconds until somebody else led, where the leader was hit.
    pub vacant: Option<f64>,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// As planned.
    pub seed: u64,
    /// Everything that was done.
    pub faults: Vec<Happened>,
    /// Batches that the job committed.
    pub batches: u64,
    /// Faults that `millrace verify` found.
    pub verify: Vec<String>,
    /// Ledger against lake.
    pub verdict: Verdict,
    /// Whether all is well.
    pub ok: bool,
}

/// Why there is no outcome.
#[derive(Debug, thiserror::Error)]
pub enum ChaosError {
    /// A script or the binary did not do what it was told.
    #[error("`{command}` failed: {text}")]
    Command {
        /// The command.
        command: String,
        /// What it said.
        text: String,
    },
    /// A file or a process.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// Something took too long.
    #[error("gave up waiting: {what}")]
    Late {
        /// For what.
        what: String,
    },
    /// A fault that hit nothing proves nothing.
    #[error("the fault {fault:?} did not happen: no call met it")]
    Missed {
        /// The fault.
        fault: Fault,
    },
    /// The producer.
    #[error(transparent)]
    Send(#[from] SendError),
    /// The lake.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The checker.
    #[error(transparent)]
    Check(#[from] CheckError),
}

/// Does it all; `tell` is told of each fault as it happens.
///
/// # Errors
/// When the cluster does not come up, does not come back after a fault, or the job fails.
pub fn run(plan: &Plan, tell: &dyn Fn(&str)) -> Result<Outcome, ChaosError> {
    let cluster = Cluster::up(plan)?;
    let proxy = Proxy::start(&cluster.variable("MILLRACE_S3_ENDPOINT")).map_err(|source| ChaosError::Io {
        what: "no proxy before the store",
        source,
    })?;
    cluster.apply(&proxy.endpoint())?;
    let producer = {
        let (recipe, output) = (recipe(plan), output(plan, &cluster));
        std::thread::spawn(move || send(&recipe, &output))
    };
    let job = cluster.follow()?;
    tell(&format!(
        "seed {}: {job} follows {} events a second",
        plan.seed, plan.rate
    ));
    let faults = faults(plan, &cluster, &proxy, tell)?;
    let sent = joined(producer)?;
    tell("the faults are over; waiting for the rest to be read");
    let batches = cluster.has_read(&job, sent.recipe.events)?;
    cluster.cancel(&job)?;
    let verify = cluster.verify()?;
    let access = Access {
        endpoint: Some(cluster.variable("MILLRACE_S3_ENDPOINT")),
        keys: Some((
            cluster.variable("AWS_ACCESS_KEY_ID"),
            cluster.variable("AWS_SECRET_ACCESS_KEY"),
        )),
    };
    let lake = fetch(&format!("{}/chaos", cluster.variable("MILLRACE_LAKE")), &access)?;
    let verdict = check(&plan.folder.join("sent"), lake.folder())?;
    let ok = verdict.ok && verify.is_empty();
    Ok(Outcome {
        seed: plan.seed,
        faults,
        batches,
        verify,
        verdict,
        ok,
    })
}

fn recipe(plan: &Plan) -> Recipe {
    Recipe {
        seed: plan.seed,
        events: plan.rate * plan.time.as_secs().max(1),
        ..Recipe::default()
    }
}

fn output(plan: &Plan, cluster: &Cluster) -> TopicOutput {
    TopicOutput {
        folder: plan.folder.join("sent"),
        brokers: cluster.variable("MILLRACE_KAFKA"),
        topic: "chaos".to_owned(),
        partitions: 6,
        replication: 1,
        codec: "lz4".to_owned(),
        rate: Some(plan.rate),
        stretch: None,
        sample_digits: None,
        options: Vec::new(),
        overwrite: true,
    }
}

fn joined(producer: std::thread::JoinHandle<Result<Sent, SendError>>) -> Result<Sent, ChaosError> {
    match producer.join() {
        Ok(sent) => Ok(sent?),
        Err(_) => Err(ChaosError::Late {
            what: "the producer ended unexpectedly".to_owned(),
        }),
    }
}

fn faults(
    plan: &Plan,
    cluster: &Cluster,
    proxy: &Proxy,
    tell: &dyn Fn(&str),
) -> Result<Vec<Happened>, ChaosError> {
    let (began, mut dice) = (Instant::now(), Dice(plan.seed));
    let mut happened = Vec::new();
    for number in 0..plan.faults {
        let due = plan
            .time
            .mul_f64(f64::from(number) / f64::from(plan.faults.max(1)));
        std::thread::sleep(due.saturating_sub(began.elapsed()));
        // Every kind once before any comes again, as far as there are enough of them.
        let kinds = ALL.len() as u64;
        let fault = ALL[((plan.seed + u64::from(number) * 5) % kinds) as usize];
        let at = began.elapsed().as_secs_f64();
        let (whom, vacant) = strike(fault, &mut dice, cluster, proxy)?;
        let after = vacant.map_or(String::new(), |vacant: f64| {
            format!("; another leads after {vacant:.1} s")
        });
        tell(&format!("{at:6.1} s  {fault:?}: {whom}{after}"));
        happened.push(Happened {
            at,
            fault,
            whom,
            vacant,
        });
    }
    Ok(happened)
}

/// Lets a fault happen and mends it: to whom, and how long nobody led.
fn strike(
    fault: Fault,
    dice: &mut Dice,
    cluster: &Cluster,
    proxy: &Proxy,
) -> Result<(String, Option<f64>), ChaosError> {
    let pause = |seconds| std::thread::sleep(Duration::from_secs(seconds));
    let worker = format!("worker-{}", dice.below(3) + 1);
    let member = format!("etcd-{}", dice.below(3) + 1);
    let alone = |whom: &str| Ok((whom.to_owned(), None));
    match fault {
        Fault::LeaderKilled | Fault::LeaderFrozen => {
            let leader = cluster.leader()?;
            let (down, up) = if fault == Fault::LeaderKilled {
                ("kill", "start")
            } else {
                ("pause", "resume")
            };
            cluster.stack(&[down, &leader])?;
            let vacant = cluster.succeeded(&leader)?;
            cluster.stack(&[up, &leader])?;
            Ok((leader, Some(vacant.as_secs_f64())))
        }
        Fault::FollowerKilled => {
            let leader = cluster.leader()?;
            let number = (1..=3).find(|i| leader != format!("coordinator-{i}"));
            let follower = format!("coordinator-{}", number.unwrap_or(1));
            cluster.stack(&["kill", &follower])?;
            cluster.stack(&["start", &follower])?;
            alone(&follower)
        }
        Fault::WorkerKilled | Fault::WorkerDrained => {
            let down = if fault == Fault::WorkerKilled {
                "kill"
            } else {
                "stop"
            };
            cluster.stack(&[down, &worker])?;
            cluster.stack(&["start", &worker])?;
            alone(&worker)
        }
        Fault::WorkerFrozen => {
            cluster.stack(&["pause", &worker])?;
            pause(8);
            cluster.stack(&["resume", &worker])?;
            alone(&worker)
        }
        Fault::EtcdMemberKilled => {
            cluster.stack(&["kill", &member])?;
            pause(3);
            cluster.stack(&["start", &member])?;
            alone(&member)
        }
        Fault::EtcdQuorumLost => {
            for verb in ["kill", "start"] {
                for member in ["etcd-1", "etcd-2"] {
                    cluster.stack(&[verb, member])?;
                }
                pause(if verb == "kill" { 8 } else { 0 });
            }
            alone("etcd-1, etcd-2")
        }
        Fault::BrokerKilled => {
            cluster.stack(&["kill", "kafka"])?;
            cluster.stack(&["start", "kafka"])?;
            alone("kafka")
        }
        Fault::StoreUnavailable => misbehave(fault, Misbehaviour::Unavailable, proxy),
        Fault::StoreSilent => misbehave(fault, Misbehaviour::Silent, proxy),
        Fault::StoreSlow => misbehave(fault, Misbehaviour::Slow, proxy),
    }
}

/// The store misbehaves until five calls have met it.
fn misbehave(fault: Fault, how: Misbehaviour, proxy: &Proxy) -> Result<(String, Option<f64>), ChaosError> {
    let (before, end) = (proxy.fired(), Instant::now() + PATIENCE);
    proxy.set(how, 3);
    while proxy.fired() < before + 5 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(50));
    }
    proxy.set(Misbehaviour::None, 1);
    match proxy.fired() - before {
        0 => Err(ChaosError::Missed { fault }),
        calls => Ok((format!("{calls} calls"), None)),
    }
}

/// Numbers that only look random (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}
