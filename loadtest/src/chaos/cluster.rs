//! The cluster under test, by its scripts and its command line: what a user has.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{ChaosError, DRAIN, PATIENCE, Plan};
use crate::generate::topic::is_led;

const PIPELINE: &str = include_str!("../../../client/examples/shop/cluster.yaml");
const SUITE: &str = include_str!("../../../client/examples/shop/suite.json");

/// A cluster that goes down with this value.
pub(super) struct Cluster {
    stack: PathBuf,
    folder: PathBuf,
    variables: BTreeMap<String, String>,
    millrace: String,
}

impl Cluster {
    /// Three coordinators, three workers, nothing in their stores.
    pub(super) fn up(plan: &Plan) -> Result<Self, ChaosError> {
        let mut cluster = Self {
            stack: plan.stack.clone(),
            folder: plan.folder.clone(),
            variables: BTreeMap::new(),
            millrace: String::new(),
        };
        cluster.stack(&["down", "--wipe"])?;
        cluster.stack(&["up"])?;
        for line in cluster.stack(&["env"])?.lines() {
            let assigned = line.strip_prefix("export ").and_then(|line| line.split_once('='));
            if let Some((name, value)) = assigned {
                let value = value.trim_matches('\'').to_owned();
                cluster.variables.insert(name.to_owned(), value);
            }
        }
        let binary = std::fs::read_to_string(plan.folder.join("stack/binary"));
        let binary = binary.map_err(|source| ChaosError::Io {
            what: "the stack does not say which binary it runs",
            source,
        })?;
        binary.trim().clone_into(&mut cluster.millrace);
        Ok(cluster)
    }

    /// One of the stack's variables; empty if there is none such.
    pub(super) fn variable(&self, name: &str) -> String {
        self.variables.get(name).cloned().unwrap_or_default()
    }

    /// `stack <arguments>`; what it printed.
    pub(super) fn stack(&self, arguments: &[&str]) -> Result<String, ChaosError> {
        let mut command = Command::new(&self.stack);
        command
            .args(arguments)
            .env("STACK_DIR", self.folder.join("stack"));
        command.env("WORKERS", "3");
        done(command, &format!("stack {}", arguments.join(" ")))
    }

    fn millrace(&self, arguments: &[&str]) -> Result<Value, ChaosError> {
        let mut command = Command::new(&self.millrace);
        command
            .args(arguments)
            .args(["--output", "json"])
            .envs(&self.variables);
        let text = done(command, &format!("millrace {}", arguments.join(" ")))?;
        serde_json::from_str(&text).map_err(|error| ChaosError::Command {
            command: arguments.join(" "),
            text: error.to_string(),
        })
    }

    fn until<T>(
        &self,
        what: &str,
        patience: Duration,
        mut found: impl FnMut(&Self) -> Option<T>,
    ) -> Result<T, ChaosError> {
        let end = Instant::now() + patience;
        loop {
            if let Some(found) = found(self) {
                return Ok(found);
            }
            if Instant::now() >= end {
                let what = what.to_owned();
                return Err(ChaosError::Late { what });
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Applies the shop's pipeline as `chaos`, its lake behind that endpoint.
    pub(super) fn apply(&self, endpoint: &str) -> Result<(), ChaosError> {
        let text = PIPELINE
            .replace("pipeline: shop", "pipeline: chaos")
            .replace("topic: shop", "topic: chaos")
            .replace("${env:MILLRACE_LAKE}/shop", "${env:MILLRACE_LAKE}/chaos")
            .replace("${env:MILLRACE_S3_ENDPOINT}", endpoint);
        let file = self.folder.join("chaos.yaml");
        let write = |path: PathBuf, text: &str| {
            std::fs::write(path, text).map_err(|source| ChaosError::Io {
                what: "the pipeline cannot be written",
                source,
            })
        };
        write(self.folder.join("suite.json"), SUITE)?;
        write(file.clone(), &text)?;
        self.millrace(&["pipeline", "apply", &file.to_string_lossy()])?;
        Ok(())
    }

    /// Submits the job, once the topic is there; its id.
    pub(super) fn follow(&self) -> Result<String, ChaosError> {
        let brokers = self.variable("MILLRACE_KAFKA");
        self.until("the topic is there", PATIENCE, |_| {
            is_led(&brokers, "chaos").ok()?.then_some(())
        })?;
        let job = self.millrace(&["job", "submit", "chaos", "--follow", "--interval", "1s"])?;
        Ok(job["job"].as_str().unwrap_or_default().to_owned())
    }

    /// The leader's name.
    pub(super) fn leader(&self) -> Result<String, ChaosError> {
        self.until("somebody leads", PATIENCE, |cluster| {
            let shown = cluster.millrace(&["cluster", "show", "--timeout", "3"]).ok()?;
            shown["leader"].as_str().map(str::to_owned)
        })
    }

    /// How long it took until another one led.
    pub(super) fn succeeded(&self, last: &str) -> Result<Duration, ChaosError> {
        let began = Instant::now();
        // The others are asked: one that is frozen takes calls and never answers.
        let all = self.variable("MILLRACE_COORDINATORS");
        let names = (1..).map(|number| format!("coordinator-{number}"));
        let others: Vec<&str> = all
            .split(',')
            .zip(names)
            .filter(|(_, name)| name != last)
            .map(|(address, _)| address)
            .collect();
        let others = others.join(",");
        self.until("another coordinator leads", PATIENCE, |cluster| {
            let ask = ["cluster", "show", "--timeout", "3", "--coordinators", &others];
            let shown = cluster.millrace(&ask).ok()?;
            let leader = shown["leader"].as_str()?;
            (leader != last).then(|| began.elapsed())
        })
    }

    /// Waits until the job has read everything; its batches.
    pub(super) fn has_read(&self, job: &str, events: u64) -> Result<u64, ChaosError> {
        let told = |cluster: &Self| cluster.millrace(&["job", "show", job]).ok();
        let over = |shown: &Value| {
            let running = matches!(shown["state"].as_str(), Some("running" | "pending"));
            !running || shown["events_read"].as_u64().is_some_and(|read| read >= events)
        };
        let what = format!("{job} reads {events} events");
        let shown = self.until(&what, DRAIN, |cluster| told(cluster).filter(over))?;
        if shown["events_read"].as_u64() == Some(events) {
            return Ok(shown["batches"].as_u64().unwrap_or_default());
        }
        Err(ChaosError::Command {
            command: what,
            text: shown.to_string(),
        })
    }

    pub(super) fn cancel(&self, job: &str) -> Result<(), ChaosError> {
        self.millrace(&["job", "cancel", job]).map(|_| ())
    }

    /// What `millrace verify` finds wrong.
    pub(super) fn verify(&self) -> Result<Vec<String>, ChaosError> {
        let mut command = Command::new(&self.millrace);
        command
            .args(["verify", "chaos", "--output", "json"])
            .envs(&self.variables);
        let output = command.output().map_err(|source| ChaosError::Io {
            what: "`millrace verify` cannot be run",
            source,
        })?;
        let verdict: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let faults = verdict["faults"].as_array().ok_or_else(|| ChaosError::Command {
            command: "millrace verify chaos".to_owned(),
            text: String::from_utf8_lossy(&output.stderr).into_owned(),
        })?;
        Ok(faults
            .iter()
            .map(|fault| fault.as_str().unwrap_or_default().to_owned())
            .collect())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Whoever runs this reads the stack's folder when something stays.
        let _ = self.stack(&["down"]);
    }
}

fn done(mut command: Command, name: &str) -> Result<String, ChaosError> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| ChaosError::Io {
            what: "a command cannot be run",
            source,
        })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(ChaosError::Command {
        command: name.to_owned(),
        text: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}
