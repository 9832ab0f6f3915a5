//! The executions that Step Functions knows: as DescribeExecution answers them, each with its history.

#![expect(clippy::indexing_slicing, reason = "of a JSON value, which has null where nothing is")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use chrono::Utc;
use journal::text::headline;
use serde_json::{Value, json};
use tokio::task::AbortHandle;

use crate::asl::ExecutionEnd;

/// An execution.
pub(crate) struct Record {
    /// The start request: the same request again gets the same answer.
    pub request: Value,
    pub described: Value,
    pub history: Vec<Value>,
    /// Of an execution that runs.
    pub abort: Option<AbortHandle>,
}

/// All executions by their ARNs.
pub(crate) struct Executions {
    records: Mutex<BTreeMap<String, Record>>,
    /// The file with a line for each start and each end.
    file: Option<Mutex<File>>,
    /// Gets a line for each start and each end.
    say: Option<fn(&str)>,
}

impl Executions {
    /// Reads the executions in the file, and adds new ones to it. An execution without an end counts as
    /// aborted, because the process that ran it has ended.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn open(file: Option<&Path>, say: Option<fn(&str)>) -> Result<Self> {
        let Some(path) = file else {
            return Ok(Self { records: Mutex::default(), file: None, say });
        };
        let mut records = BTreeMap::new();
        for line in std::fs::read_to_string(path).unwrap_or_default().lines() {
            // A line may be cut, if the machine stopped.
            let Ok(described) = serde_json::from_str::<Value>(line) else { continue };
            let Some(arn) = described["executionArn"].as_str().map(str::to_owned) else { continue };
            let (request, history) = (Value::Null, Vec::new());
            records.insert(arn, Record { request, described, history, abort: None });
        }
        let file = File::options().create(true).append(true).open(path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        let this = Self { records: Mutex::default(), file: Some(Mutex::new(file)), say };
        for record in records.values_mut().filter(|it| it.described["status"] == "RUNNING") {
            record.described["status"] = json!("ABORTED");
            record.described["stopDate"] = epoch_seconds();
            record.described["cause"] = json!("the local system was ended");
            this.keep(&record.described);
        }
        Ok(Self { records: Mutex::new(records), ..this })
    }

    /// Adds an execution. If there is one with its ARN, the answer is that of `taken` instead.
    pub fn add<T>(&self, arn: &str, record: Record, taken: impl FnOnce(&Record) -> T) -> Option<T> {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(record) = records.get(arn) {
            return Some(taken(record));
        }
        self.keep(&record.described);
        self.tell(&record.described, "started");
        records.insert(arn.to_owned(), record);
        None
    }

    /// Looks at an execution, or changes it.
    pub fn with<T>(&self, arn: &str, look: impl FnOnce(&mut Record) -> T) -> Option<T> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).get_mut(arn).map(look)
    }

    /// All executions as they are described, newest first.
    pub fn newest_first(&self) -> Vec<Value> {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = Vec::from_iter(records.values().map(|record| record.described.clone()));
        let started = |described: &Value| described["startDate"].as_f64().unwrap_or_default();
        all.sort_by(|a, b| started(b).total_cmp(&started(a)));
        all
    }

    /// Notes a step in an execution's history.
    pub fn note(&self, arn: &str, kind: &str, details: Option<(&str, Value)>) {
        self.with(arn, |record| {
            let id = record.history.len() + 1;
            let mut event = json!({
                "id": id, "previousEventId": id - 1, "timestamp": epoch_seconds(), "type": kind,
            });
            if let Some((name, details)) = details {
                event[name] = details;
            }
            record.history.push(event);
        });
    }

    /// Notes how an execution ended; `None`: somebody stopped it, with this error and cause.
    pub fn end(&self, arn: &str, end: Result<ExecutionEnd, (Value, Value)>) {
        let (status, fields) = match end {
            Ok(ExecutionEnd::Succeeded(output)) => {
                ("Succeeded", json!({"output": output.to_string()}))
            }
            Ok(ExecutionEnd::Failed { error, cause }) => {
                ("Failed", json!({"error": error, "cause": cause}))
            }
            Err((error, cause)) => ("Aborted", json!({"error": error, "cause": cause})),
        };
        let details = format!("execution{status}EventDetails");
        self.note(arn, &format!("Execution{status}"), Some((&details, fields.clone())));
        let described = self.with(arn, |record| {
            record.abort = None;
            record.described["status"] = json!(status.to_ascii_uppercase());
            record.described["stopDate"] = epoch_seconds();
            for (name, value) in fields.as_object().into_iter().flatten() {
                record.described[name] = value.clone();
            }
            record.described.clone()
        });
        if let Some(described) = described {
            self.keep(&described);
            self.tell(&described, &status.to_ascii_lowercase());
        }
    }

    fn keep(&self, described: &Value) {
        if let Some(file) = &self.file {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            // The execution goes on; only the next process will miss it.
            let _ = writeln!(file, "{described}");
        }
    }

    fn tell(&self, described: &Value, what: &str) {
        let Some(say) = self.say else { return };
        let text = |name: &str| described[name].as_str().unwrap_or_default().to_owned();
        let input: Value = serde_json::from_str(&text("input")).unwrap_or_default();
        let session = input["session_id"].as_str().map_or_else(|| text("name"), str::to_owned);
        let cause = described["cause"].as_str().unwrap_or_default();
        let error = described["error"].as_str();
        let error = error.map(|error| format!(": {}", headline(error, cause)));
        let took = described["stopDate"].as_f64().zip(described["startDate"].as_f64());
        let took = took.map(|(stop, start)| format!(" after {:.1} s", stop - start));
        say(&format!(
            "session {session} {what}{}{}",
            took.unwrap_or_default(),
            error.unwrap_or_default()
        ));
    }
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds are exact for as long as it matters")]
pub(crate) fn epoch_seconds() -> Value {
    json!(Utc::now().timestamp_millis() as f64 / 1e3)
}
