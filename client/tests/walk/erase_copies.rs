//! A person leaves the copies of what they sent too: snapshots of lookups, quality states and reports, results of models.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::database::Database;
use crate::sandbox::{Sandbox, read_parquet, summary};

const ADA: &str = "ada@example.com";
/// Another person, of today.
const BOB: &str = "somebody14@example.com";

/// Names nobody, so that the report shows the first twenty; the smallest address is Ada's.
fn suite() -> String {
    let warning = |kind: &str, more: Value| {
        let mut kwargs = json!({"column": "email"});
        kwargs
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        json!({"type": kind, "kwargs": kwargs, "meta": {}, "severity": "warning"})
    };
    json!({"name": "people", "expectations": [
        warning("expect_column_values_to_match_regex", json!({"regex": "^nobody"})),
        warning("expect_column_min_to_be_between", json!({"min_value": "b"})),
    ]})
    .to_string()
}

fn pipeline(database: &Database) -> String {
    let dsn = &database.dsn;
    format!(
        "version: 1
pipeline: people
source: {{files: {{path: sent/events, format: json}}}}
schema:
  - {{name: id, type: string, required: true}}
  - {{name: at, type: timestamp, required: true}}
  - {{name: customer, type: int64}}
  - {{name: email, type: string, pii: email}}
  - {{name: contact, type: string, pii: email}}
enrich:
  - name: contacts
    from: {{postgres: {{dsn: \"{dsn}\", table: contacts}}}}
    key: {{customer: id}}
    add: {{contact: address}}
    refresh: 1h
quality: {{suite: suite.json}}
dedup: {{key: [id]}}
privacy: {{clear_in: [prod], hash_key: \"a-key-for-tests-of-erasure\"}}
partition: {{time: at, by: [date, hour]}}
lake: {{url: ./lake}}
retention: {{lake: 30d}}
models:
  - name: buyers
    every: day
    sql: \"SELECT email AS buyer, count(*) AS events FROM people GROUP BY email\"
    warehouse: {{table: analytics.buyers}}
warehouse: {{postgres: {{dsn: \"{dsn}\", table: analytics.people}}}}
"
    )
}

/// Ten events of one hour, the fourth one of Ada, who is customer 3.
fn events(first: usize, at: &str) -> String {
    let event = |n: usize| {
        let email = if n % 10 == 3 {
            ADA.to_owned()
        } else {
            format!("somebody{n}@example.com")
        };
        let event = json!({"id": format!("e{n}"), "at": at, "customer": n % 10, "email": email});
        format!("{event}\n")
    };
    (first..first + 10).map(event).collect()
}

struct People {
    // Goes first: its data's place is told in the other's folder.
    database: Database,
    sandbox: Sandbox,
    environment: Vec<&'static str>,
}

impl People {
    /// A day of 2020 of which the events have expired and the model's result has not, and today.
    fn start(environment: &[&'static str]) -> Self {
        let mut sandbox = Sandbox::with_pipeline("");
        let database = Database::start(&sandbox);
        database.sql("CREATE TABLE contacts (id bigint PRIMARY KEY, address text)");
        database.sql(
            "INSERT INTO contacts SELECT n, 'contact' || n || '@example.com' FROM generate_series(0, 9) AS n",
        );
        database.sql(&format!("UPDATE contacts SET address = '{ADA}' WHERE id = 3"));
        std::fs::write(sandbox.path("suite.json"), suite()).unwrap();
        sandbox.set_pipeline(&pipeline(&database));
        let people = Self {
            database,
            sandbox,
            environment: environment.to_vec(),
        };
        people
            .sandbox
            .input("old.json", events(0, "2020-01-01T01:00:00Z"));
        people
            .sandbox
            .input("new.json", events(10, &chrono::Utc::now().to_rfc3339()));
        people.run();
        people.asked(&["models", "run"], &[]);
        people.asked(&["retention", "apply"], &[]);
        people
    }

    /// In one task, which reads everything: the state of another might hold nobody.
    fn run(&self) -> Value {
        let mut run = self
            .sandbox
            .command(&["run"], &["--output", "json", "--threads", "1", "--input"]);
        run.arg(self.sandbox.path("sent/events")).args(&self.environment);
        summary(&run.output().unwrap())
    }

    fn asked(&self, command: &[&str], more: &[&str]) -> Value {
        let more = [&["--output", "json"], more].concat();
        let output = self.sandbox.command(command, &more).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {said}");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said}"))
    }

    fn erase(&self) -> Value {
        self.asked(&["erase"], &["--pii-id", ADA, "--apply"])
    }

    /// Objects that hold one of some texts, as bytes or in a cell.
    fn holding(&self, texts: &[&str]) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for path in self.sandbox.objects("") {
            let mut all = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
            if path.extension().is_some_and(|end| end == "parquet") {
                for row in read_parquet(&path) {
                    row.values().for_each(|value| all.push_str(value));
                }
            }
            if texts.iter().any(|text| all.contains(text)) {
                let path = path.strip_prefix(self.sandbox.path("lake")).unwrap();
                let folder = path.components().next().unwrap().as_os_str();
                found.insert(folder.to_string_lossy().into_owned());
            }
        }
        found
    }

    /// The mask of an event's address, or the address where that stands in the lake.
    fn mark(&self, event: &str) -> String {
        let rows = self.sandbox.rows();
        let of = rows.iter().find(|row| row["id"] == event);
        of.unwrap()["email"].clone()
    }

    fn buyers(&self, condition: &str) -> String {
        self.database.sql(&format!(
            "SELECT count(*) FROM analytics.buyers WHERE {condition}"
        ))
    }

    /// Rows of the model's results that count in the lake.
    fn rows_of_results(&self) -> u64 {
        let mut query = Command::new(env!("CARGO_BIN_EXE_millrace"));
        query.args([
            "query",
            "SELECT count(*) AS n FROM models.buyers",
            "--output",
            "json",
        ]);
        let output = query
            .arg("--lake")
            .arg(self.sandbox.path("lake"))
            .output()
            .unwrap();
        let rows: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        rows[0]["n"].as_u64().unwrap()
    }

    fn is_nowhere(&self, mark: &str, when: &str) {
        assert_eq!(self.holding(&[ADA, mark]), BTreeSet::new(), "{when}");
        assert_eq!(self.sandbox.verify(), Vec::<String>::new(), "{when}");
    }
}

#[test]
fn a_person_leaves_snapshots_reports_and_results_of_hours_that_have_expired() {
    for (environment, held) in [
        (vec![], vec!["data", "models", "reports"]),
        (
            vec!["--environment", "prod"],
            vec!["data", "enrich", "models", "quality", "reports"],
        ),
    ] {
        let people = People::start(&environment);
        let (mark, another) = (people.mark("e13"), people.mark("e14"));
        // Where they must not lie clear, snapshots and states are sealed: a text is found in neither.
        let held: BTreeSet<String> = held.into_iter().map(str::to_owned).collect();
        assert_eq!(people.holding(&[ADA, &mark]), held, "nothing could be proved");
        let (hers, his) = (format!("buyer = '{mark}'"), format!("buyer = '{another}'"));
        assert_eq!(
            (people.buyers(&hers), people.buyers("true")),
            ("2".to_owned(), "20".to_owned())
        );
        let snapshots = people.sandbox.objects("enrich");
        assert_eq!(snapshots.len(), 1);
        assert!(!people.sandbox.objects("quality").is_empty());

        people.database.sql("DELETE FROM contacts WHERE id = 3"); // as the README asks
        let done = people.erase();
        // A snapshot, a state, a report, two results.
        assert!(done["copies"].as_u64() >= Some(5), "{done}");
        assert_eq!(
            (&done["rows"], &done["model_rows"], &done["remaining"]),
            (&1.into(), &2.into(), &0.into()),
            "{done}"
        );
        people.is_nowhere(&mark, "after the erasure");
        assert_eq!(
            (people.buyers(&hers), people.buyers("true")),
            ("0".to_owned(), "18".to_owned())
        );
        // The state held her, sealed or not; his values are left where they stood in a copy of their own.
        for folder in ["enrich", "quality"] {
            assert_eq!(people.sandbox.objects(folder), Vec::<PathBuf>::new());
        }
        let his_still = ["data", "models", "reports"].map(str::to_owned);
        assert_eq!(people.holding(&[BOB, &another]), BTreeSet::from(his_still));
        assert_eq!(people.buyers(&his), "1");
        assert_eq!(people.rows_of_results(), 18);

        // The next batch reads the table again, and looks up in what it has now.
        people
            .sandbox
            .input("more.json", events(20, &chrono::Utc::now().to_rfc3339()));
        assert_eq!(people.run()["events_written"], 10);
        assert_eq!(people.sandbox.objects("enrich").len(), 1);
        assert_ne!(people.sandbox.objects("enrich"), snapshots);
        people.database.sql("DELETE FROM analytics.millrace_models");
        people.asked(&["models", "run"], &[]);
        let again = people.erase();
        assert_eq!(
            (&again["rows"], &again["remaining"]),
            (&1.into(), &0.into()),
            "she came again"
        );
        people.is_nowhere(&mark, "after a second erasure");
    }
}

/// The next run must not look for a snapshot that is gone, and a report that has to be written must not look for a state.
#[test]
fn a_kill_while_copies_are_erased_harms_no_later_run() {
    for moment in [
        "forgotten",
        "blanked",
        "modelled",
        "claimed",
        "copied",
        "finished",
    ] {
        let people = People::start(&["--environment", "prod"]);
        let mark = people.mark("e13");
        people.database.sql("DELETE FROM contacts WHERE id = 3");
        let mut command = people.sandbox.command(&["erase"], &["--pii-id", ADA, "--apply"]);
        let crashed = command.env("MILLRACE_CRASH_AT", moment).output().unwrap();
        assert_eq!(
            crashed.status.signal(),
            Some(9),
            "the crash at {moment} did not fire"
        );
        assert_eq!(
            people.sandbox.verify(),
            Vec::<String>::new(),
            "killed at {moment}"
        );
        people
            .sandbox
            .input("more.json", events(24, &chrono::Utc::now().to_rfc3339()));
        people.run();
        assert_eq!(
            people.sandbox.verify(),
            Vec::<String>::new(),
            "a run after {moment}"
        );
        assert_eq!(people.erase()["remaining"], 0, "asked again after {moment}");
        people.is_nowhere(&mark, moment);
        // Of the day that has expired, and of today: hers alone are missing.
        people.asked(&["models", "run"], &[]);
        let (old, new) = ("period < '2021-01-01'", "period > '2021-01-01'");
        assert_eq!(
            (people.buyers(old), people.buyers(new)),
            ("9".to_owned(), "18".to_owned()),
            "{moment}"
        );
    }
}

/// The events of that day have expired: what was made of them is all there is.
#[test]
fn a_legal_hold_keeps_the_results_of_its_range_too() {
    let people = People::start(&[]);
    let mark = people.mark("e13");
    let range = ["--from", "2020-01-01T00:00:00Z", "--to", "2020-01-02T00:00:00Z"];
    let hold = [&range[..], &["--reason", "a court asks"]].concat();
    people.asked(&["retention", "hold"], &hold);
    let before = people.holding(&[ADA, &mark]);
    let mut command = people.sandbox.command(&["erase"], &["--pii-id", ADA, "--apply"]);
    let refused = command.output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && said.contains("legal hold (h1)"),
        "{said}"
    );
    assert_eq!(people.holding(&[ADA, &mark]), before);
    people.asked(&["retention", "release"], &["h1", "--reason", "over"]);
    assert_eq!(people.erase()["remaining"], 0);
    people.is_nowhere(&mark, "after the release");
}
