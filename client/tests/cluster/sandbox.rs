//! A cluster of real processes in a folder: etcd, MinIO and Kafka by `deploy/local`, coordinators and workers of our binary.
//!
//! Stories run one after another: each has the machine for itself, and processes of its own on free ports. Whatever a
//! sandbox started is gone when it is dropped, by process id.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use millrace_loadtest::check::{Verdict, check};
use millrace_loadtest::fetch::{Access, Fetched, fetch};
use millrace_loadtest::generate::plan::Recipe;
use millrace_loadtest::generate::topic::{TopicOutput, is_led, leaders, send};
use millrace_loadtest::ledger::Sent;
use millrace_loadtest::proxy::{Fault, Proxy};
use serde_json::Value;
use tempfile::TempDir;

use crate::warehouse::Warehouse;

/// How long anything may take before a story gives up on it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
const HASH_KEY: &str = "a-key-for-tests-only";
/// Batches are small, so that every job has several.
const BATCH_MIB: u64 = 2;
/// A warehouse that is behind for longer is alarmed: soon, so that stories need not wait for it.
const SERVICE_LEVEL_SECONDS: u64 = 1;

/// Runs a command on a disk of so many KiB at a folder, all of which are taken.
const SMALL_DISK: &str =
    r#"mount -t tmpfs -o size="$1"k tmpfs "$2" && { cat /dev/zero > "$2/taken"; shift 2; exec "$@"; }"#;

/// One story at a time.
static TURN: Mutex<()> = Mutex::new(());

pub(crate) struct Sandbox {
    processes: BTreeMap<String, Process>,
    services: Vec<&'static str>,
    folder: TempDir,
    s3: String,
    pub(crate) warehouse: Option<Warehouse>,
    /// What else stands in the file of every coordinator and of every worker, and in the environment of commands.
    pub(crate) more: More,
    _turn: MutexGuard<'static, ()>,
}

#[derive(Default)]
pub(crate) struct More {
    pub(crate) coordinator: String,
    pub(crate) worker: String,
    pub(crate) command: Vec<(&'static str, String)>,
}

struct Process {
    child: Child,
    api: Option<u16>,
    metrics: u16,
}

impl Sandbox {
    /// Services for a story: MinIO, so many members of etcd, so many brokers.
    pub(crate) fn start(etcd: u8, brokers: u8) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("s3/data/millrace")).unwrap();
        let mut sandbox = Self {
            processes: BTreeMap::new(),
            services: Vec::new(),
            folder,
            s3: String::new(),
            warehouse: None,
            more: More::default(),
            _turn: turn,
        };
        sandbox.service("s3", &["start"]);
        sandbox.service("etcd", &["start", "--nodes", &etcd.to_string()]);
        if brokers > 0 {
            sandbox.service("kafka", &["start", "--nodes", &brokers.to_string()]);
        }
        sandbox.s3 = sandbox.text("s3/endpoint");
        sandbox
    }

    /// The same with one member of etcd, without brokers, with this many coordinators and workers of one slot.
    pub(crate) fn cluster(coordinators: u8, workers: u8) -> Self {
        Self::start(1, 0).with(coordinators, workers)
    }

    /// The same, but the last worker stays at whatever it is given until the proxy between it and S3 lets go.
    pub(crate) fn with_one_held(coordinators: u8, workers: u8) -> (Self, Proxy) {
        let mut sandbox = Self::cluster(coordinators, workers - 1);
        let proxy = Proxy::start(sandbox.s3()).unwrap();
        proxy.set(Fault::Hold, 1);
        let endpoint = proxy.endpoint();
        sandbox.worker(&format!("worker-{workers}"), &[("AWS_ENDPOINT_URL", &endpoint)]);
        sandbox.has_workers(usize::from(workers));
        (sandbox, proxy)
    }

    /// Adds coordinators and workers, the first coordinator leading.
    pub(crate) fn with(mut self, coordinators: u8, workers: u8) -> Self {
        for i in 1..=coordinators {
            self.coordinator(&format!("coordinator-{i}"), &[]);
        }
        for i in 1..=workers {
            self.worker(&format!("worker-{i}"), &[]);
        }
        self.has_workers(usize::from(workers));
        self
    }

    /// Waits until just so many workers are known to the leader.
    pub(crate) fn has_workers(&self, workers: usize) {
        self.until(&format!("{workers} workers"), |sandbox| {
            let cluster = sandbox.try_json(&["cluster", "show"])?;
            (cluster["workers"].as_array()?.len() == workers).then_some(())
        });
    }

    /// Waits until a worker has something to do.
    pub(crate) fn at_work(&self, worker: &str) {
        self.until(&format!("{worker} is at work"), |sandbox| {
            (sandbox.slots_busy(worker)? > 0).then_some(())
        });
    }

    /// Waits until a worker has nothing to do.
    pub(crate) fn at_rest(&self, worker: &str) {
        self.until(&format!("{worker} is at rest"), |sandbox| {
            (sandbox.slots_busy(worker)? == 0).then_some(())
        });
    }

    /// What a worker says of its slots.
    pub(crate) fn slots_busy(&self, worker: &str) -> Option<u64> {
        let cluster = self.try_json(&["cluster", "show"])?;
        let mut workers = cluster["workers"].as_array()?.iter();
        workers.find(|shown| shown["name"] == worker)?["slots_busy"].as_u64()
    }

    /// Waits until a worker has nothing to do, and lies on a result of a stage of an attempt that runs.
    pub(crate) fn has_result(&self, worker: &str, stage: u32) {
        let stages = format!("{worker}.work/shuffle/*/{stage}/*/data*.arrow");
        let pattern = self.path(&stages).display().to_string();
        self.until(&format!("{worker} holds a result of stage {stage}"), |sandbox| {
            if sandbox.slots_busy(worker)? > 0 {
                return None;
            }
            let mut found = glob::glob(&pattern).unwrap().flatten();
            found
                .find(|file| file.metadata().is_ok_and(|file| file.len() > 0))
                .map(|_| ())
        });
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.path(name)).unwrap();
        text.trim().to_owned()
    }

    /// Runs a script of `deploy/local` for a service in this sandbox.
    pub(crate) fn service(&mut self, name: &'static str, arguments: &[&str]) {
        if arguments[0] == "start" && !self.services.contains(&name) {
            self.services.push(name);
        }
        assert!(self.script(name, arguments), "{name}.sh {arguments:?}");
    }

    pub(crate) fn script(&self, name: &str, arguments: &[&str]) -> bool {
        let mut script = Command::new(root().join("deploy/local").join(format!("{name}.sh")));
        script.args(arguments).arg("--dir").arg(self.path(name));
        script
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        script.status().unwrap().success()
    }

    /// Where MinIO answers.
    pub(crate) fn s3(&self) -> &str {
        &self.s3
    }

    /// What coordinators, workers and commands use from here on as S3: a proxy before MinIO.
    pub(crate) fn set_s3(&mut self, endpoint: &str) {
        endpoint.clone_into(&mut self.s3);
    }

    pub(crate) fn kafka(&self) -> String {
        self.text("kafka/endpoint")
    }

    fn etcd(&self) -> String {
        let endpoints = self.text("etcd/endpoints");
        format!("{{endpoints: [\"{}\"]}}", endpoints.replace(',', "\", \""))
    }

    /// Starts a coordinator, which may be gone before it serves; its API's port.
    pub(crate) fn coordinator_begins(&mut self, name: &str, variables: &[(&str, &str)]) -> u16 {
        let (api, scheduler) = (free_port(), free_port());
        let config = format!(
            "name: {name}\nlisten: 127.0.0.1:{api}\nscheduler_listen: 127.0.0.1:{scheduler}\nbatch_mib: {BATCH_MIB}\n\
             service_level_seconds: {SERVICE_LEVEL_SECONDS}\netcd: {}\n",
            self.etcd()
        );
        let command = self.environment(Command::new(env!("CARGO_BIN_EXE_millrace")));
        self.process(command, "coordinator", name, &config, variables, Some(api));
        api
    }

    /// Starts a coordinator and waits until it serves.
    pub(crate) fn coordinator(&mut self, name: &str, variables: &[(&str, &str)]) {
        let api = self.coordinator_begins(name, variables);
        self.until("a coordinator serves", |sandbox| {
            let client = Command::new(env!("CARGO_BIN_EXE_millrace"))
                .envs(sandbox.more.command.iter().map(|(name, value)| (name, value)))
                .args([
                    "cluster",
                    "show",
                    "--output",
                    "json",
                    "--timeout",
                    "2",
                    "--coordinators",
                ])
                .arg(format!("127.0.0.1:{api}"))
                .output()
                .unwrap();
            client.status.success().then_some(())
        });
    }

    /// Starts a worker of one slot.
    pub(crate) fn worker(&mut self, name: &str, variables: &[(&str, &str)]) {
        self.worker_with(name, "", variables);
    }

    /// The same with more lines in its configuration.
    pub(crate) fn worker_with(&mut self, name: &str, more: &str, variables: &[(&str, &str)]) {
        let config = self.worker_config(name, more);
        let command = self.environment(Command::new(env!("CARGO_BIN_EXE_millrace")));
        self.process(command, "worker", name, &config, variables, None);
    }

    /// The same on a disk of so many KiB: a file system in memory that only this process sees.
    pub(crate) fn worker_on_small_disk(&mut self, name: &str, kib: u64) {
        let unshare = ["--mount", "--map-root-user"];
        let may_mount = Command::new("unshare").args(unshare).arg("true").status();
        assert!(
            may_mount.is_ok_and(|status| status.success()),
            "this story needs a disk of its own: `unshare {} true` must work here (user and mount namespaces)",
            unshare.join(" ")
        );
        let config = self.worker_config(name, "");
        let folder = self.path(&format!("{name}.work"));
        std::fs::create_dir_all(&folder).unwrap();
        let mut command = Command::new("unshare");
        command
            .args(unshare)
            .args(["sh", "-c", SMALL_DISK, "sh", &kib.to_string()])
            .arg(&folder);
        command.arg(env!("CARGO_BIN_EXE_millrace"));
        let command = self.environment(command);
        self.process(command, "worker", name, &config, &[], None);
    }

    fn worker_config(&self, name: &str, more: &str) -> String {
        format!(
            "name: {name}\nslots: 1\nmemory_bytes: {}\ndrain_seconds: 20\nwork_dir: {}\netcd: {}\n{more}\n",
            256 << 20,
            self.path(&format!("{name}.work")).display(),
            self.etcd()
        )
    }

    fn process(
        &mut self,
        mut command: Command,
        kind: &str,
        name: &str,
        config: &str,
        variables: &[(&str, &str)],
        api: Option<u16>,
    ) {
        let (file, metrics) = (self.path(&format!("{name}.yaml")), free_port());
        let more = if api.is_some() {
            &self.more.coordinator
        } else {
            &self.more.worker
        };
        let config = format!("{config}metrics_listen: 127.0.0.1:{metrics}\n{more}");
        std::fs::write(&file, config).unwrap();
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.path(&format!("{name}.log")))
            .unwrap();
        command.args(["--log", "info", kind, "--config"]).arg(file);
        command.envs(variables.iter().copied());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::from(log));
        let child = command.spawn().unwrap();
        let process = Process { child, api, metrics };
        self.processes.insert(name.to_owned(), process);
    }

    /// What a process answers to a GET beside its metrics: the status, and the text.
    pub(crate) fn http(&self, name: &str, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.processes[name].metrics)).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), body.to_owned())
    }

    fn environment(&self, mut command: Command) -> Command {
        command
            .env("MILLRACE_HASH_KEY", HASH_KEY)
            .env_remove("MILLRACE_ENVIRONMENT")
            .env_remove("MILLRACE_CRASH_AT")
            .env("AWS_ENDPOINT_URL", &self.s3)
            .env("AWS_ACCESS_KEY_ID", "millrace")
            .env("AWS_SECRET_ACCESS_KEY", "millrace-local-only")
            .env("AWS_REGION", "us-east-1");
        command
    }

    /// Sends a signal: `KILL`, `STOP`, `CONT`, `TERM`.
    pub(crate) fn signal(&self, name: &str, signal: &str) {
        let pid = self.processes[name].child.id().to_string();
        let status = Command::new("kill").args(["-s", signal, &pid]).status().unwrap();
        assert!(status.success(), "kill -s {signal} {name}");
    }

    /// Waits until a process has ended; the signal that ended it, if one did.
    pub(crate) fn ended(&mut self, name: &str) -> Option<i32> {
        let mut process = self.processes.remove(name).unwrap();
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = process.child.try_wait().unwrap() {
                return status.signal();
            }
            if Instant::now() >= end {
                process.child.kill().unwrap();
                process.child.wait().unwrap();
                panic!("{name} did not end");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Kills a process at once.
    pub(crate) fn kill(&mut self, name: &str) {
        self.signal(name, "KILL");
        assert_eq!(self.ended(name), Some(9));
    }

    /// Where the coordinators that run answer.
    pub(crate) fn apis(&self) -> Vec<String> {
        let ports = self.processes.values().filter_map(|process| process.api);
        ports.map(|port| format!("127.0.0.1:{port}")).collect()
    }

    /// The most memory that a process ever held.
    pub(crate) fn most_memory_kib(&self, name: &str) -> u64 {
        let status = format!("/proc/{}/status", self.processes[name].child.id());
        let status = std::fs::read_to_string(status).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// `millrace <arguments>` against the coordinators that run.
    pub(crate) fn millrace(&self, arguments: &[&str]) -> Output {
        let addresses = self.apis();
        let mut command = self.environment(Command::new(env!("CARGO_BIN_EXE_millrace")));
        command
            .args(arguments)
            .envs(self.more.command.iter().map(|(name, value)| (name, value)))
            .env("MILLRACE_COORDINATORS", addresses.join(","))
            .output()
            .unwrap()
    }

    /// The same with `--output json`, read; none when it failed.
    pub(crate) fn try_json(&self, arguments: &[&str]) -> Option<Value> {
        let output = self.millrace(&[arguments, &["--output", "json"]].concat());
        output.status.success().then_some(())?;
        serde_json::from_slice(&output.stdout).ok()
    }

    /// The same, and it must not fail.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let output = self.millrace(&[arguments, &["--output", "json"]].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {stderr}");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{arguments:?}: {stderr}"))
    }

    /// Polls until there is something.
    pub(crate) fn until<T>(&self, what: &str, found: impl FnMut(&Self) -> Option<T>) -> T {
        self.within(PATIENCE, what, found)
    }

    /// The same with a deadline of its own.
    pub(crate) fn within<T>(
        &self,
        patience: Duration,
        what: &str,
        mut found: impl FnMut(&Self) -> Option<T>,
    ) -> T {
        let end = Instant::now() + patience;
        loop {
            if let Some(found) = found(self) {
                return found;
            }
            assert!(Instant::now() < end, "gave up after {patience:?}: {what}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The leader's name and epoch.
    pub(crate) fn leader(&self) -> (String, u64) {
        self.until("somebody leads", |sandbox| {
            let cluster = sandbox.try_json(&["cluster", "show"])?;
            Some((cluster["leader"].as_str()?.to_owned(), cluster["epoch"].as_u64()?))
        })
    }

    /// Applies the shop's pipeline under a name, over a source given as YAML; its lake is of the same name.
    pub(crate) fn apply(&self, name: &str, source: &str) {
        self.apply_as(name, source, ("", ""), "");
    }

    /// The same with one text of the file replaced by another.
    pub(crate) fn apply_changed(&self, name: &str, source: &str, change: (&str, &str)) {
        self.apply_as(name, source, change, "");
    }

    /// The same with more lines of YAML, in the place of those with the same keys.
    pub(crate) fn apply_with(&self, name: &str, source: &str, more: &str) {
        self.apply_as(name, source, ("", ""), more);
    }

    fn apply_as(&self, name: &str, source: &str, (text, by): (&str, &str), more: &str) {
        let is_replaced = |line: &str| {
            let key = |line: &str| line.split_once(':').map(|(key, _)| key.to_owned());
            !line.starts_with([' ', '#']) && more.lines().any(|other| key(other) == key(line))
        };
        let example = root().join("client/examples/shop");
        let whole = std::fs::read_to_string(example.join("shop.yaml")).unwrap();
        assert!(whole.contains(text), "{text}");
        let text = whole.replacen(text, by, 1);
        let text: Vec<String> = text
            .lines()
            .filter(|line| !is_replaced(line))
            .map(|line| match line {
                "pipeline: shop" => format!("pipeline: {name}"),
                line if line.starts_with("  files:") => format!("  {source}"),
                line if line.starts_with("lake:") => format!("lake: {{url: \"s3://millrace/{name}\"}}"),
                line => line.to_owned(),
            })
            .collect();
        let file = self.path(&format!("{name}-pipeline.yaml"));
        std::fs::write(&file, format!("{}\n{more}\n", text.join("\n"))).unwrap();
        std::fs::copy(example.join("suite.json"), self.path("suite.json")).unwrap();
        self.json(&["pipeline", "apply", file.to_str().unwrap()]);
    }

    /// Sends events to the topic `name`, with the ledger in the folder `name`. `rate`: lines a second.
    pub(crate) fn produce(&self, name: &str, events: u64, seed: u64, rate: Option<u64>) -> Sent {
        producer(self.path(name), self.kafka(), name, events, seed, rate)
    }

    /// The same with times from `start_ms` on, spread over so many hours.
    pub(crate) fn produce_at(&self, name: &str, events: u64, seed: u64, start_ms: u64, hours: f64) -> Sent {
        let recipe = Recipe {
            start_ms,
            hours,
            ..recipe(events, seed)
        };
        send(&recipe, &output(self.path(name), self.kafka(), name, None)).unwrap()
    }

    /// Waits until somebody has made a topic.
    pub(crate) fn has_topic(&self, topic: &str) {
        self.until("the topic is there", |sandbox| {
            is_led(&sandbox.kafka(), topic).unwrap().then_some(())
        });
    }

    /// The node that each partition of a topic is read from now.
    pub(crate) fn leaders(&self, topic: &str) -> Vec<i32> {
        leaders(&self.kafka(), topic).unwrap()
    }

    /// Submits a job; its id.
    pub(crate) fn submit(&self, pipeline: &str, more: &[&str]) -> String {
        let job = self.json(&[&["job", "submit", pipeline], more].concat());
        job["job"].as_str().unwrap().to_owned()
    }

    /// A job as it is.
    pub(crate) fn job(&self, id: &str) -> Value {
        self.until("a job is told", |sandbox| sandbox.try_json(&["job", "show", id]))
    }

    /// Waits until a job is done, and it must succeed.
    pub(crate) fn done(&self, id: &str) -> Value {
        let job = self.until(&format!("{id} ends"), |sandbox| {
            let job = sandbox.try_json(&["job", "show", id])?;
            let ended = !matches!(job["state"].as_str()?, "pending" | "running");
            ended.then_some(job)
        });
        assert_eq!(job["state"], "succeeded", "{job}");
        job
    }

    /// Waits until a job has read so many events.
    pub(crate) fn has_read(&self, id: &str, events: u64) {
        self.until(&format!("{id} has read {events} events"), |sandbox| {
            let job = sandbox.try_json(&["job", "show", id])?;
            assert_ne!(job["state"], "failed", "{job}");
            (job["events_read"].as_u64()? >= events).then_some(())
        });
    }

    /// The lake of a pipeline against the ledger of what was sent, by set equality; and `verify`.
    pub(crate) fn judge(&self, pipeline: &str, ledger: &str) {
        let verdict = self.compare(pipeline, ledger);
        assert!(verdict.ok, "{}", serde_json::to_string_pretty(&verdict).unwrap());
        self.verify(pipeline);
    }

    /// What the generator's ledger says of a pipeline's lake.
    pub(crate) fn compare(&self, pipeline: &str, ledger: &str) -> Verdict {
        check(&self.path(ledger), self.lake(pipeline).folder()).unwrap()
    }

    /// A copy of a pipeline's lake.
    pub(crate) fn lake(&self, pipeline: &str) -> Fetched {
        let access = Access {
            endpoint: Some(self.text("s3/endpoint")),
            keys: Some(("millrace".to_owned(), "millrace-local-only".to_owned())),
        };
        fetch(&format!("s3://millrace/{pipeline}"), &access).unwrap()
    }

    /// `millrace verify NAME` finds nothing wrong.
    pub(crate) fn verify(&self, pipeline: &str) {
        let verdict = self.json(&["verify", pipeline]);
        assert_eq!(verdict["faults"].as_array().map(Vec::len), Some(0), "{verdict}");
    }

    /// The value of a metric, named as `/metrics` names it; none while it is not told.
    pub(crate) fn metric(&self, name: &str, metric: &str) -> Option<f64> {
        let (_, text) = self.http(name, "/metrics");
        let line = text.lines().find(|line| line.starts_with(metric))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    /// How often a process has logged this.
    pub(crate) fn logged(&self, name: &str, what: &str) -> usize {
        let log = std::fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default();
        log.lines().filter(|line| line.contains(what)).count()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        for process in self.processes.values_mut() {
            // A process that has ended already is what we want.
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
        for name in self.services.clone() {
            self.script(name, &["kill"]);
        }
        // PostgreSQL's data lies where its user may go.
        if let Ok(data) = std::fs::canonicalize(self.path("postgres/data")) {
            let _ = std::fs::remove_dir_all(data);
        }
        if std::thread::panicking() {
            for entry in std::fs::read_dir(self.folder.path())
                .into_iter()
                .flatten()
                .flatten()
            {
                let path = entry.path();
                if path.extension().is_some_and(|extension| extension == "log") {
                    let log = std::fs::read_to_string(&path).unwrap_or_default();
                    let lines: Vec<&str> = log.lines().collect();
                    let last = lines[lines.len().saturating_sub(40)..].join("\n");
                    eprintln!("--- {}\n{last}", path.display());
                }
            }
        }
    }
}

pub(crate) fn recipe(events: u64, seed: u64) -> Recipe {
    eprintln!("events: {events}, seed: {seed}");
    Recipe {
        seed,
        events,
        ..Recipe::default()
    }
}

/// Sends events to a topic; a thread of its own may do so while a story goes on.
pub(crate) fn producer(
    folder: PathBuf,
    brokers: String,
    topic: &str,
    events: u64,
    seed: u64,
    rate: Option<u64>,
) -> Sent {
    send(&recipe(events, seed), &output(folder, brokers, topic, rate)).unwrap()
}

fn output(folder: PathBuf, brokers: String, topic: &str, rate: Option<u64>) -> TopicOutput {
    TopicOutput {
        folder,
        topic: topic.to_owned(),
        partitions: 4,
        // As many as there are brokers.
        replication: u32::try_from(brokers.split(',').count()).unwrap(),
        brokers,
        codec: "lz4".to_owned(),
        rate,
        stretch: None,
        sample_digits: None,
        options: Vec::new(),
        overwrite: false,
    }
}

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_path_buf()
}

/// The first port that may be taken, and how many may: below those that the kernel hands to clients and those of services,
/// so that nobody comes in between.
const PORTS: u16 = 10_000;

/// A port that nobody uses now.
fn free_port() -> u16 {
    static TURN: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % u32::from(PORTS)).unwrap();
    loop {
        let turn = start.wrapping_add(TURN.fetch_add(1, Ordering::Relaxed));
        let port = PORTS + turn % PORTS;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
