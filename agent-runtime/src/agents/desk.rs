//! Whose lines and progress are whose, among the tasks that one server has in hand.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tracing::Span;

use super::failure::{exception, quoted};
use super::log::{AgentLog, LastWords, Stream, last_words};
use super::output::progress;
use crate::{AgentError, TaskContext};

/// How long to wait for the log of a request that failed.
const REPORT_DEADLINE: Duration = Duration::from_millis(250);

/// How often the log is looked at for it.
const REPORT_INTERVAL: Duration = Duration::from_millis(25);

/// To which task the server's lines and progress belong.
#[derive(Debug)]
pub(super) struct Desk {
    out: AgentLog,
    err: AgentLog,
    /// The span of the newest task: the lines are logged with its ids.
    logs: Span,
    /// The tasks that the server works on.
    tasks: Vec<(u64, TaskContext)>,
    next_task: u64,
}

/// A task that the server works on, until dropped.
pub(super) struct InHand {
    desk: Arc<Mutex<Desk>>,
    number: u64,
    /// How many lines the server had written before.
    from: (usize, usize),
}

impl InHand {
    /// Takes a task in hand, which the lines and the progress of the server belong to from now on.
    pub fn take(shared: &Arc<Mutex<Desk>>, context: &TaskContext) -> Self {
        let mut desk = lock(shared);
        let number = desk.next_task;
        desk.next_task += 1;
        desk.tasks.push((number, context.clone()));
        desk.out.another_task();
        desk.err.another_task();
        desk.logs = Span::current();
        let from = (desk.out.count(), desk.err.count());
        Self { desk: Arc::clone(shared), number, from }
    }

    /// Why the server ended in this task. The server's last line is usually about something else.
    pub fn death(&self, how: &str) -> AgentError {
        let how = format!("the agent's server ended in the task: {how}");
        let words = lock(&self.desk).last_words(self.from);
        exception(&words, &how).unwrap_or_else(|| quoted(&how, &words))
    }

    /// The exception that the failed request has logged, if it can be found. `is_silent`: the answer
    /// gave no reason, so any exception is better than none.
    pub async fn exception(
        &self,
        request_id: &str,
        how: &str,
        is_silent: bool,
    ) -> Option<AgentError> {
        let found = async {
            loop {
                let error = {
                    let desk = lock(&self.desk);
                    let reported = desk.report(request_id, how);
                    // With several tasks, nobody knows to which one a traceback belongs.
                    let alone = is_silent && desk.tasks.len() == 1;
                    let logged = || exception(&desk.last_words(self.from), how);
                    reported.or_else(|| if alone { logged() } else { None })
                };
                if let Some(error) = error {
                    return error;
                }
                tokio::time::sleep(REPORT_INTERVAL).await;
            }
        };
        tokio::time::timeout(REPORT_DEADLINE, found).await.ok()
    }
}

/// What the Python SDK logs, as one line of JSON, when the agent's function fails.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    request_id: String,
    stack_trace: Vec<String>,
}

impl Desk {
    /// A desk without a task, whose lines are logged in the current span.
    pub fn open() -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self {
            out: AgentLog::new(Stream::Stdout),
            err: AgentLog::new(Stream::Stderr),
            logs: Span::current(),
            tasks: Vec::new(),
            next_task: 0,
        }))
    }

    /// What the server writes on one of its outputs.
    pub fn line(&mut self, stream: Stream, line: &[u8]) {
        let _in_span = self.logs.clone().entered();
        match stream {
            Stream::Stdout => self.out.line(line),
            Stream::Stderr => self.err.line(line),
        }
    }

    /// What it writes on the file descriptor for progress.
    pub fn progress(&self, line: &str) -> Result<(), String> {
        match self.tasks.as_slice() {
            _ if line.starts_with("result ") => {
                Err("the result of a server is its answer: return it from the function".to_owned())
            }
            [(_, context)] => progress(line, context),
            tasks => Err(format!("its task is not known: {} tasks run in the server", tasks.len())),
        }
    }

    pub fn last_words(&self, (from_out, from_err): (usize, usize)) -> LastWords {
        last_words(&self.out, &self.err, from_out, from_err)
    }

    /// The exception that the Python SDK has logged for a request.
    fn report(&self, request_id: &str, how: &str) -> Option<AgentError> {
        let lines = self.err.last_words(0).lines;
        let report = lines.iter().rev().find_map(|line| {
            let report = serde_json::from_str::<Report>(line).ok();
            report.filter(|report| report.request_id == request_id)
        })?;
        let trace = report.stack_trace.concat();
        let lines = trace.lines().map(str::to_owned).collect();
        exception(&LastWords { lines, old: 0 }, how)
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        lock(&self.desk).tasks.retain(|(number, _)| *number != self.number);
    }
}

pub(super) fn lock(desk: &Mutex<Desk>) -> MutexGuard<'_, Desk> {
    desk.lock().unwrap_or_else(PoisonError::into_inner)
}
