//! Events with what a customer database knows: a real PostgreSQL, read by the walk and by `psql` beside it.
//!
//! The oracle is a map made of `psql`'s answer: nothing of the lookup is used here.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use serde_json::Value;

use crate::database::Database;
use crate::privacy::everything_written;
use crate::sandbox::{Sandbox, read_parquet, root, summary};

const EVENTS: u64 = 3_000;

/// What stands in every customer's name, and nowhere else.
const NAME: &str = "Customer Clearname";

/// The example's pipeline over its database, and generated events of customers of whom it knows two in three.
struct Shop {
    // Goes first: its data's place is told in the other's folder.
    database: Database,
    sandbox: Sandbox,
}

impl Shop {
    fn start(seed: u64) -> Self {
        let sandbox = Sandbox::example("shop/customers.yaml");
        sandbox.send(EVENTS, seed);
        let database = Database::start(&sandbox);
        database
            .sql("CREATE TABLE customers (id bigint PRIMARY KEY, full_name text, segment text, since date)");
        let mut shop = Self { database, sandbox };
        let users: BTreeSet<i64> = shop.sent_users();
        let known = users.iter().filter(|user| *user % 3 != 0);
        let rows: Vec<String> = known
            .map(|user| {
                format!(
                    "({user}, '{NAME} {user}', 'segment ' || {user} % 5, DATE '2024-06-01' + {user} % 400)"
                )
            })
            .collect();
        assert!(rows.len() > 20 && rows.len() < users.len());
        shop.database
            .sql(&format!("INSERT INTO customers VALUES {}", rows.join(", ")));
        shop.database
            .sql("UPDATE customers SET segment = NULL WHERE id % 7 = 0");
        shop.declare("refresh: 1h ", "");
        shop
    }

    /// Writes the pipeline with one text replaced by another; without `refresh` unless that says otherwise.
    fn declare(&mut self, text: &str, by: &str) {
        let example = root().join("client/examples/shop/customers.yaml");
        let whole = std::fs::read_to_string(example).unwrap();
        assert!(whole.contains(text), "{text}");
        let yaml = whole
            .replace(text, by)
            .replace("    refresh: 1h ", "    #")
            .replace("${env:CUSTOMERS_DSN}", &self.database.dsn);
        self.sandbox.set_pipeline(&yaml);
    }

    fn sent(&self) -> impl Iterator<Item = Value> {
        let files = self.sandbox.objects_of("sent/events");
        let lines = files.into_iter().flat_map(|file| {
            let bytes = std::fs::read(file).unwrap();
            let lines: Vec<Vec<u8>> = bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
            lines
        });
        lines.filter_map(|line| serde_json::from_slice::<Value>(&line).ok())
    }

    fn sent_users(&self) -> BTreeSet<i64> {
        self.sent()
            .filter_map(|event| event["user_id"].as_i64())
            .collect()
    }

    /// Segment and first day of each customer, as `psql` says.
    fn customers(&self) -> BTreeMap<String, (String, String)> {
        let rows = self
            .database
            .sql("SELECT id, coalesce(segment, ''), since FROM customers");
        let row = |row: &str| {
            let cells: Vec<&str> = row.split('|').collect();
            (cells[0].to_owned(), (cells[1].to_owned(), cells[2].to_owned()))
        };
        rows.lines().map(row).collect()
    }

    /// One more file of input, of one event of each of these customers.
    fn send_one_each(&self, file: &str, users: impl Iterator<Item = i64>) {
        let event = |user: i64| {
            format!(
                "{{\"event_id\": \"{file}-{user}\", \"event_time\": \"2026-01-01T05:00:00Z\", \"user_id\": {user}, \"channel\": \"web\"}}\n"
            )
        };
        self.sandbox.input(file, users.map(event).collect::<String>());
    }

    fn manifests(&self) -> Vec<Value> {
        let manifests = self.sandbox.objects("manifests").into_iter();
        manifests
            .map(|path| serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
            .collect()
    }

    /// The rows of one file of input that [`Self::send_one_each`] made.
    fn rows_of(&self, file: &str) -> Vec<BTreeMap<String, String>> {
        let mut rows = self.sandbox.rows();
        rows.retain(|row| row["event_id"].starts_with(file));
        rows
    }
}

/// Each row has what its customer has in this table.
fn assert_joined(rows: &[BTreeMap<String, String>], customers: &BTreeMap<String, (String, String)>) {
    let mut found = 0;
    for row in rows {
        let customer = row.get("user_id").and_then(|user| customers.get(user));
        let (segment, since) = match customer {
            Some((segment, since)) => (Some(segment).filter(|text| !text.is_empty()), Some(since)),
            None => (None, None),
        };
        assert_eq!(row.get("segment"), segment, "{row:?}");
        let day = row.get("customer_since").map(|day| day[..10].to_owned());
        assert_eq!(day.as_ref(), since, "{row:?}");
        let regular = since.map(|since| (since.as_str() < "2025-01-01").to_string());
        assert_eq!(row.get("is_regular"), regular.as_ref(), "{row:?}");
        assert_eq!(row.contains_key("customer"), customer.is_some(), "{row:?}");
        found += usize::from(customer.is_some());
    }
    assert!(found > 0, "nothing was looked up");
}

#[test]
fn events_get_what_the_table_holds_and_names_never_lie_clear() {
    let shop = Shop::start(71);
    let done = shop.sandbox.run(&[]);
    let customers = shop.customers();
    let rows = shop.sandbox.rows();
    assert_eq!(done["events_written"], rows.len());
    assert_joined(&rows, &customers);
    let told = &done["enrich"]["customers"];
    assert_eq!(told["rows"], customers.len());
    let strangers = |row: &&BTreeMap<String, String>| {
        row.get("user_id")
            .is_some_and(|user| !customers.contains_key(user))
    };
    let strangers = rows.iter().filter(strangers).count() as u64;
    let unmatched = told["unmatched"].as_u64().unwrap();
    assert!(strangers > 0 && unmatched >= strangers, "{done}, {strangers}");
    assert!(
        unmatched <= strangers + done["duplicates"].as_u64().unwrap() + done["quarantined"].as_u64().unwrap()
    );

    let sealed = shop.sandbox.objects("enrich/customers");
    assert!(
        sealed.len() == 1 && sealed[0].extension().is_some_and(|end| end == "sealed"),
        "{sealed:?}"
    );
    let holds_name = |sandbox: &Sandbox| {
        let written = everything_written(sandbox);
        aho_corasick::AhoCorasick::new([NAME]).unwrap().is_match(&written)
    };
    assert!(!holds_name(&shop.sandbox), "a name lies clear in the lake");
    assert_eq!(shop.sandbox.verify(), Vec::<String>::new());

    // Where names may be clear the same search finds them.
    std::fs::remove_dir_all(shop.sandbox.path("lake")).unwrap();
    shop.sandbox.run(&["--environment", "prod"]);
    assert!(holds_name(&shop.sandbox), "the search misses names");
    let snapshot = &shop.sandbox.objects("enrich/customers")[0];
    assert_eq!(read_parquet(snapshot).len(), customers.len());
    assert_joined(&shop.sandbox.rows(), &customers);
}

#[test]
fn a_batch_keeps_its_snapshot_through_a_crash_and_the_next_one_has_a_newer() {
    let mut shop = Shop::start(72);
    shop.sandbox.run(&[]);
    let before = shop.customers();
    let first: BTreeSet<_> = shop.sandbox.rows().into_iter().collect();

    let some = || before.keys().take(40).map(|id| id.parse::<i64>().unwrap());
    shop.send_one_each("second", some());
    let mut run = shop.sandbox.run_command(&[]);
    let killed = run.env("MILLRACE_CRASH_AT", "planned").output().unwrap();
    assert!(!killed.status.success(), "the fault did not happen");
    shop.database
        .sql("UPDATE customers SET segment = 'moved', since = since + 1");
    shop.send_one_each("third", some());
    shop.sandbox.run(&[]);
    assert_joined(&shop.rows_of("second"), &before);
    let after = shop.customers();
    assert_joined(&shop.rows_of("third"), &after);
    assert_eq!(shop.rows_of("third").len(), 40);
    let now: BTreeSet<_> = shop.sandbox.rows().into_iter().collect();
    assert!(now.is_superset(&first), "rows that were committed changed");

    // Nothing changed: a snapshot is taken again, and it is the object that is there.
    shop.send_one_each("fourth", some());
    shop.sandbox.run(&[]);
    assert_eq!(shop.sandbox.objects("enrich/customers").len(), 2);
    let used = |manifest: &Value| manifest["enrich"][0]["version"].as_str().unwrap().to_owned();
    let used: Vec<String> = shop.manifests().iter().map(used).collect();
    let last = used.len() - 1;
    assert_eq!(
        (&used[last], &used[last - 2]),
        (&used[last - 1], &used[0]),
        "{used:?}"
    );
    assert_ne!(used[last], used[0]);

    // The database is gone: the last one is used, and at this age that is alarmed.
    shop.database.kill();
    shop.declare("max_age: 6h", "max_age: 0s");
    shop.send_one_each("fifth", some());
    let output = shop.sandbox.run_command(&[]).output().unwrap();
    summary(&output);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("the last snapshot is used, and it is too old"),
        "{said}"
    );
    assert_joined(&shop.rows_of("fifth"), &after);

    let compacted = shop.sandbox.command(&["compact"], &[]).output().unwrap();
    assert!(
        compacted.status.success(),
        "{}",
        String::from_utf8_lossy(&compacted.stderr)
    );
    assert_joined(&shop.rows_of("second"), &before);
    assert_joined(&shop.rows_of("third"), &after);
    assert_eq!(shop.sandbox.verify(), Vec::<String>::new());
}

/// What a run says until it says this.
fn says(run: &mut Child, what: &str) {
    let mut lines = BufReader::new(run.stderr.take().unwrap()).lines();
    assert!(
        lines.any(|line| line.unwrap().contains(what)),
        "it never said `{what}`"
    );
    // Read on, so that it does not wait for a reader.
    std::thread::spawn(move || lines.for_each(drop));
}

#[test]
fn a_database_that_is_down_or_a_table_that_does_not_fit_is_named_and_a_run_may_wait() {
    let mut shop = Shop::start(73);
    let refused = |shop: &Shop, parts: &[&str]| {
        let output = shop.sandbox.run_command(&[]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        for part in parts {
            assert!(said.contains(part), "{part} is not in {said}");
        }
        assert!(!said.contains(NAME), "{said}");
        assert_eq!(shop.sandbox.objects("manifests").len(), 0);
    };
    shop.database.sql("ALTER TABLE customers DROP CONSTRAINT customers_pkey; INSERT INTO customers SELECT * FROM customers LIMIT 2");
    refused(
        &shop,
        &["`customers`", "2 values of `id` stand in several rows, 4 in all"],
    );
    shop.database
        .sql("DELETE FROM customers a USING customers b WHERE a.id = b.id AND a.ctid > b.ctid");
    shop.declare("customer_since: since", "customer_since: full_name");
    refused(
        &shop,
        &["`customers`", "`full_name` are no date", "`customer_since`"],
    );
    shop.declare("customer_since: since", "customer_since: sinec");
    refused(&shop, &["refused to give table `customers`", "sinec"]);
    shop.declare("max_age: 6h", "max_age: 6h");
    shop.database.kill();
    refused(
        &shop,
        &["lookup `customers` has no snapshot yet", "does not answer"],
    );

    shop.declare("on_down: last ", "on_down: wait #");
    let yaml = std::fs::read_to_string(shop.sandbox.pipeline()).unwrap();
    shop.sandbox
        .set_pipeline(&yaml.replace("    max_age: 6h", "    #"));
    let mut run = shop.sandbox.run_command(&[]);
    let mut run = run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    says(&mut run, "waits for lookup `customers`");
    shop.database.restart();
    let output = run.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_joined(&shop.sandbox.rows(), &shop.customers());
    assert_eq!(shop.sandbox.verify(), Vec::<String>::new());
}

#[test]
fn an_event_whose_customer_was_missing_is_taken_back_with_the_table_of_today() {
    let mut shop = Shop::start(74);
    let column = "{name: segment,        type: string,   ";
    shop.declare(column, "{name: segment, type: string, required: true, ");
    shop.sandbox.run(&[]);
    let judged = shop.sandbox.rows();
    assert!(judged.iter().all(|row| row.contains_key("segment")));
    shop.database
        .sql("UPDATE customers SET segment = 'late' WHERE segment IS NULL");
    let redriven = shop
        .sandbox
        .command(&["quarantine", "redrive"], &["--output", "json"]);
    let redriven = { redriven }.output().unwrap();
    assert!(
        redriven.status.success(),
        "{}",
        String::from_utf8_lossy(&redriven.stderr)
    );
    let rows = shop.sandbox.rows();
    let late = rows.iter().filter(|row| row["segment"] == "late").count();
    assert!(late > 0 && rows.len() == judged.len() + late, "{late}");
    assert_eq!(shop.sandbox.verify(), Vec::<String>::new());
}
