//! The Data API of the simulator: JSON 1.1 over HTTP, the same engine behind it.
//!
//! | rule                                                                  | Redshift's guide                                        |
//! |-----------------------------------------------------------------------|---------------------------------------------------------|
//! | a batch is one transaction, in its order; one failure rolls it back   | "Using the Amazon Redshift Data API", BatchExecuteStatement |
//! | statements run on their own: SUBMITTED, STARTED, then an end          | the same, DescribeStatement                             |
//! | the same ClientToken is the same statement                            | the same, "Choosing an idempotency token"               |
//! | at most 40 statements in a batch, one statement in each               | "Considerations when calling the Amazon Redshift Data API" |
//! | exactly one of workgroup and cluster, and a database                  | the same                                                |
//! | results come in pages                                                 | GetStatementResult                                      |
//! | requests are signed for `redshift-data`                               | "Making API requests" (signature.rs)                    |

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::http::{Call, Caller, JSON};
use super::logins::{Answered, now};
use super::signature::{self, Key};
use super::wire::Answer;
use super::{Fault, Refused, Shared, connect};

/// Most statements of a batch.
const BATCH_MAX: usize = 40;
/// Rows of a page: few, so that pages are met.
const PAGE: usize = 25;

#[derive(Default)]
pub(super) struct Statements {
    all: Mutex<HashMap<String, Statement>>,
    tokens: Mutex<HashMap<String, String>>,
}

#[derive(Default)]
struct Statement {
    status: &'static str,
    error: Option<String>,
    /// Of a batch: the status of each.
    subs: Option<Vec<&'static str>>,
    rows: Vec<Vec<Option<String>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Execute {
    sql: Option<String>,
    sqls: Option<Vec<String>>,
    database: Option<String>,
    workgroup_name: Option<String>,
    cluster_identifier: Option<String>,
    client_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Ask {
    id: String,
    next_token: Option<String>,
}

/// An exception's name and words.
struct Exception(u16, &'static str, String);

fn invalid(text: impl Into<String>) -> Exception {
    Exception(400, "ValidationException", text.into())
}

/// Serves one client: statements, and logins.
pub(super) async fn serve(stream: TcpStream, shared: Arc<Shared>, key: Key) -> std::io::Result<()> {
    let mut caller = Caller::new(stream);
    while let Some(call) = caller.call().await? {
        let door = shared.door.lock().clone();
        let (status, content, body) = match (call.action("RedshiftData"), door) {
            (None, Some(door)) => door.logins.answer(&call, &key),
            (action, _) => {
                let action = action.unwrap_or_default().to_owned();
                let told = statement(&action, &call, &shared, &key);
                let is_batch = action == "BatchExecuteStatement";
                if is_batch && shared.take(|fault| fault == Fault::LoseAnswer).is_some() {
                    return Ok(());
                }
                told
            }
        };
        caller.answer(status, content, &body).await?;
    }
    Ok(())
}

fn statement(action: &str, call: &Call, shared: &Arc<Shared>, key: &Key) -> Answered {
    let executes = action.ends_with("ExecuteStatement");
    let answer = if executes && let Some(fault) = shared.take(Fault::is_of_requests) {
        Err(if fault == Fault::TooMany {
            let text = "active statements exceeded the limit".to_owned();
            Exception(400, "ActiveStatementsExceededException", text)
        } else {
            Exception(400, "ThrottlingException", "Rate exceeded".to_owned())
        })
    } else {
        answer(action, call, shared, key)
    };
    match answer {
        Ok(body) => (200, JSON, body.to_string()),
        Err(Exception(status, name, message)) => {
            let body = json!({ "__type": name, "Message": message, "message": message });
            (status, JSON, body.to_string())
        }
    }
}

fn answer(action: &str, call: &Call, shared: &Arc<Shared>, key: &Key) -> Result<Value, Exception> {
    signature::check(call, "redshift-data", key, now())
        .map_err(|fault| Exception(403, fault.names().1, format!("{fault:?}")))?;
    match action {
        "ExecuteStatement" | "BatchExecuteStatement" => execute(read(&call.body)?, shared),
        "DescribeStatement" => describe(&read(&call.body)?, shared),
        "GetStatementResult" => result(&read(&call.body)?, shared),
        other => Err(Exception(
            400,
            "UnknownOperationException",
            format!("the simulator knows no {other}"),
        )),
    }
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Exception> {
    serde_json::from_slice(body).map_err(|error| invalid(error.to_string()))
}

fn execute(asked: Execute, shared: &Arc<Shared>) -> Result<Value, Exception> {
    if asked.workgroup_name.is_some() == asked.cluster_identifier.is_some() {
        return Err(invalid(
            "exactly one of WorkgroupName and ClusterIdentifier is wanted",
        ));
    }
    if asked.database.as_ref().is_none_or(String::is_empty) {
        return Err(invalid("Database is missing"));
    }
    let is_batch = asked.sqls.is_some();
    let sqls = match (asked.sql, asked.sqls) {
        (Some(sql), None) => vec![sql],
        (None, Some(sqls)) if !sqls.is_empty() && sqls.len() <= BATCH_MAX => sqls,
        _ => return Err(invalid(format!("a Sql, or 1 to {BATCH_MAX} Sqls"))),
    };
    if let Some(several) = sqls.iter().find(|sql| several(sql)) {
        return Err(invalid(format!("several statements in one: {several}")));
    }
    let statements = &shared.statements;
    let mut tokens = statements.tokens.lock();
    if let Some(id) = asked.client_token.as_ref().and_then(|token| tokens.get(token)) {
        return Ok(json!({ "Id": id }));
    }
    let mut all = statements.all.lock();
    let id = format!("00000000-0000-0000-0000-{:012}", all.len());
    let statement = Statement {
        status: "SUBMITTED",
        subs: is_batch.then(|| vec!["SUBMITTED"; sqls.len()]),
        ..Statement::default()
    };
    all.insert(id.clone(), statement);
    if let Some(token) = asked.client_token {
        tokens.insert(token, id.clone());
    }
    let (shared, of) = (Arc::clone(shared), id.clone());
    tokio::spawn(async move { run(&shared, &of, &sqls).await });
    Ok(json!({ "Id": id, "Database": asked.database }))
}

/// Whether there is a semicolon outside of quotes, other than the last.
fn several(sql: &str) -> bool {
    let mut quote = None;
    let sql = sql.trim().trim_end_matches(';');
    sql.chars().any(|c| match quote {
        None if c == '\'' || c == '"' => {
            quote = Some(c);
            false
        }
        None => c == ';',
        Some(open) => {
            if c == open {
                quote = None;
            }
            false
        }
    })
}

async fn run(shared: &Arc<Shared>, id: &str, sqls: &[String]) {
    shared
        .statements
        .change(id, |statement| statement.status = "STARTED");
    let mut done = 0;
    let outcome = transaction(shared, sqls, &mut done).await;
    shared.statements.change(id, |statement| {
        let failed = outcome.is_err();
        if let Some(subs) = &mut statement.subs {
            for (at, sub) in subs.iter_mut().enumerate() {
                *sub = match at.cmp(&done) {
                    std::cmp::Ordering::Less => "FINISHED",
                    std::cmp::Ordering::Equal if failed => "FAILED",
                    std::cmp::Ordering::Equal | std::cmp::Ordering::Greater => "ABORTED",
                };
            }
        }
        match outcome {
            Ok(rows) => (statement.rows, statement.status) = (rows, "FINISHED"),
            Err(refused) => {
                statement.error = Some(format!("ERROR: {}", refused.message));
                statement.status = "FAILED";
            }
        }
    });
}

/// All of the statements, or nothing; the last one's rows. `done` counts those that went well.
async fn transaction(
    shared: &Arc<Shared>,
    sqls: &[String],
    done: &mut usize,
) -> Result<Vec<Vec<Option<String>>>, Refused> {
    let mut session = connect(shared).await?;
    session.run("BEGIN").await?;
    let mut rows = Vec::new();
    for sql in sqls {
        // A session that is dropped is rolled back.
        let parts = session.run(sql).await?;
        rows.clear();
        for part in parts {
            if let Answer::Row(cells) = part {
                rows.push(cells);
            }
        }
        *done += 1;
    }
    session.run("COMMIT").await?;
    Ok(rows)
}

impl Statements {
    fn change(&self, id: &str, change: impl FnOnce(&mut Statement)) {
        if let Some(statement) = self.all.lock().get_mut(id) {
            change(statement);
        }
    }
}

fn unknown(id: &str) -> Exception {
    let text = format!("Query does not exist: {id}");
    Exception(400, "ResourceNotFoundException", text)
}

fn describe(asked: &Ask, shared: &Arc<Shared>) -> Result<Value, Exception> {
    let all = shared.statements.all.lock();
    let statement = all.get(&asked.id).ok_or_else(|| unknown(&asked.id))?;
    let mut told = json!({
        "Id": asked.id,
        "Status": statement.status,
        "HasResultSet": !statement.rows.is_empty(),
    });
    if let Some(error) = &statement.error {
        told["Error"] = json!(error);
    }
    if let Some(subs) = &statement.subs {
        let sub = |(at, status): (usize, &&str)| {
            let mut sub = json!({ "Id": format!("{}:{}", asked.id, at + 1), "Status": status });
            if let Some(error) = statement.error.as_ref().filter(|_| *status == "FAILED") {
                sub["Error"] = json!(error);
            }
            sub
        };
        told["SubStatements"] = subs.iter().enumerate().map(sub).collect();
    }
    Ok(told)
}

fn result(asked: &Ask, shared: &Arc<Shared>) -> Result<Value, Exception> {
    let all = shared.statements.all.lock();
    // Of a batch, each statement has a result of its own, by `ID:NUMBER`; only the last one's is kept here.
    let (id, sub) = asked.id.split_once(':').unwrap_or((&asked.id, ""));
    let statement = all.get(id).ok_or_else(|| unknown(id))?;
    let last = statement.subs.as_ref().map(|subs| subs.len().to_string());
    if sub != last.unwrap_or_default() {
        return Err(unknown(&asked.id));
    }
    if statement.status != "FINISHED" {
        return Err(Exception(
            400,
            "ResourceNotFoundException",
            "Query does not have result. Please check query status with DescribeStatement.".to_owned(),
        ));
    }
    let from: usize = asked
        .next_token
        .as_ref()
        .map_or(Ok(0), |token| token.parse())
        .map_err(|_| invalid("NextToken is none of ours"))?;
    let cell = |cell: &Option<String>| match cell {
        Some(text) => json!({ "stringValue": text }),
        None => json!({ "isNull": true }),
    };
    let row = |row: &Vec<Option<String>>| Value::from(row.iter().map(cell).collect::<Vec<_>>());
    let records: Vec<Value> = statement.rows.iter().skip(from).take(PAGE).map(row).collect();
    let mut told = json!({ "Records": records, "TotalNumRows": statement.rows.len() });
    if from + PAGE < statement.rows.len() {
        told["NextToken"] = json!((from + PAGE).to_string());
    }
    Ok(told)
}
