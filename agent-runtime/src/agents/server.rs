//! A server that hosts the agent, as a process of the runtime's own.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use nix::sys::signal::Signal;
use serde::Deserialize;
use tokio::process::Child;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::Span;

use super::CommandLine;
use super::command::PROGRESS_FD;
use super::failure::{exception, failure, quoted};
use super::output::{AgentLog, Stream, progress, read_lines, read_progress};
use super::process_group::{ProcessGroup, how};
use crate::{AgentError, TaskContext};

/// How long the last lines of a server that has ended are waited for.
const LAST_WORDS: Duration = Duration::from_millis(250);

/// How long the log of a request that failed is waited for.
const REPORT_DEADLINE: Duration = Duration::from_millis(500);

/// A server's process; killed when dropped.
#[derive(Debug)]
pub(super) struct Server {
    /// Where it is to listen (`PORT`).
    pub port: u16,
    /// How it ended, once its last lines are in the log.
    ended: watch::Receiver<Option<String>>,
    terminate: CancellationToken,
    kill: CancellationToken,
    desk: Arc<Mutex<Desk>>,
}

/// Whose lines and progress are whose.
#[derive(Debug)]
struct Desk {
    out: AgentLog,
    err: AgentLog,
    /// Of the newest task: the lines are logged with its ids.
    logs: Span,
    /// The tasks in hand.
    tasks: Vec<(u64, TaskContext)>,
    next_task: u64,
}

/// One task in hand; until dropped.
pub(super) struct InHand {
    desk: Arc<Mutex<Desk>>,
    number: u64,
}

impl Server {
    /// Starts the server of a session. It may take some time until it listens.
    pub fn start(
        command_line: &CommandLine,
        environment: &BTreeMap<String, String>,
    ) -> Result<Self, AgentError> {
        let port = free_port()?;
        let (sender, said) = tokio::net::unix::pipe::pipe()?;
        let sender = FdMapping { parent_fd: sender.into_blocking_fd()?, child_fd: PROGRESS_FD };
        let of_session = environment.iter().filter(|(name, _)| *name == "SESSION_ID");
        let of_session = of_session.map(|(name, value)| (name.clone(), value.clone())).collect();
        let mut command = command_line.command(&of_session);
        command
            .env("PORT", port.to_string())
            .env("UVICORN_PORT", port.to_string())
            .env("HOST", "127.0.0.1")
            .env("PROGRESS_FD", PROGRESS_FD.to_string())
            .stdin(Stdio::null())
            .fd_mappings(vec![sender])
            .map_err(|error| error.to_string())?;
        let mut child = command.spawn().map_err(|error| command_line.not_started(&error))?;
        drop(command);
        let group = ProcessGroup::of(&child).ok_or("the server has no process id")?;
        let desk = Arc::new(Mutex::new(Desk {
            out: AgentLog::new(Stream::Stdout),
            err: AgentLog::new(Stream::Stderr),
            logs: Span::current(),
            tasks: Vec::new(),
            next_task: 0,
        }));
        let (stdout, stderr, at) = (child.stdout.take(), child.stderr.take(), Arc::clone(&desk));
        let read = async move {
            // Whatever looks like a result too: that of a server is its answer.
            let said = read_progress(said, false, |line| lock(&at).progress(line));
            let stdout = read_lines(stdout, |line| lock(&at).line(Stream::Stdout, line));
            let stderr = read_lines(stderr, |line| lock(&at).line(Stream::Stderr, line));
            tokio::join!(said, stdout, stderr);
        };
        let (ended, when_ended) = watch::channel(None);
        let (terminate, kill) = (CancellationToken::new(), CancellationToken::new());
        let (told, killed) = (terminate.clone(), kill.clone());
        tokio::spawn(async move {
            let read = tokio::spawn(read);
            let how = watch_over(child, group, told, killed).await;
            let _ = tokio::time::timeout(LAST_WORDS, read).await;
            ended.send_replace(Some(how));
        });
        Ok(Self { port, ended: when_ended, terminate, kill, desk })
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.ended.borrow().is_some()
    }

    /// Resolves when it has ended, with how.
    pub async fn ended(&self) -> String {
        let mut ended = self.ended.clone();
        let how = ended.wait_for(Option::is_some).await;
        how.ok().and_then(|how| how.clone()).unwrap_or_else(|| "it was killed".to_owned())
    }

    /// Asks it to end. It is killed when the guard is dropped.
    pub fn terminate(&self) -> DropGuard {
        self.terminate.cancel();
        self.kill.clone().drop_guard()
    }

    /// Takes a task in hand, which its lines and its progress belong to from now on.
    pub fn take(&self, context: &TaskContext) -> InHand {
        let mut desk = lock(&self.desk);
        let number = desk.next_task;
        desk.next_task += 1;
        desk.tasks.push((number, context.clone()));
        desk.out = AgentLog::new(Stream::Stdout);
        desk.err = AgentLog::new(Stream::Stderr);
        desk.logs = Span::current();
        InHand { desk: Arc::clone(&self.desk), number }
    }

    /// Why it ended before it listened, in its last words.
    pub fn last_words(&self, how: &str) -> AgentError {
        lock(&self.desk).last_lines(|lines| failure(lines, how))
    }

    /// Why it ended in a task. Its last line is as a rule not about that.
    pub fn death(&self, how: &str) -> AgentError {
        let how = format!("the agent's server ended in the task: {how}");
        let explain =
            |lines: &[&str]| exception(lines, &how).unwrap_or_else(|| quoted(&how, lines));
        lock(&self.desk).last_lines(explain)
    }

    /// A failure that the server's last lines may explain.
    pub fn with_last_lines(&self, words: &str) -> AgentError {
        lock(&self.desk).last_lines(|lines| quoted(words, lines))
    }

    /// The exception that a failed request has logged, as far as it can be found.
    pub async fn exception_of(&self, request_id: &str, how: &str) -> Option<AgentError> {
        let found = async {
            loop {
                if let Some(error) = lock(&self.desk).exception_of(request_id, how) {
                    return error;
                }
                tokio::time::sleep(LAST_WORDS / 10).await;
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
    fn line(&mut self, stream: Stream, line: &[u8]) {
        let _in_span = self.logs.clone().entered();
        match stream {
            Stream::Stdout => self.out.line(line),
            Stream::Stderr => self.err.line(line),
        }
    }

    fn progress(&self, line: &str) -> Result<(), String> {
        match self.tasks.as_slice() {
            _ if line.starts_with("result ") => {
                Err("the result of a server is its answer: return it from the function".to_owned())
            }
            [(_, context)] => progress(line, context),
            tasks => Err(format!("its task is not known: {} are in hand", tasks.len())),
        }
    }

    /// Hands on the last lines of stderr, or if that is silent of stdout.
    fn last_lines(&self, explain: impl FnOnce(&[&str]) -> AgentError) -> AgentError {
        let silent = self.err.tail().all(str::is_empty);
        let log = if silent { &self.out } else { &self.err };
        explain(&Vec::from_iter(log.tail()))
    }

    fn exception_of(&self, request_id: &str, how: &str) -> Option<AgentError> {
        let report = self.err.tail().find_map(|line| {
            let report = serde_json::from_str::<Report>(line).ok();
            report.filter(|report| report.request_id == request_id)
        });
        if let Some(report) = report {
            let lines = report.stack_trace.concat();
            return exception(&Vec::from_iter(lines.lines()), how);
        }
        exception(&Vec::from_iter(self.err.tail()), how)
    }
}

/// A port on which nothing listens, outside of the range from which the operating system gives ports to
/// whoever asks for any.
fn free_port() -> Result<u16, AgentError> {
    const RANGE: std::ops::Range<u16> = 20_000..32_768;
    let mut ports = std::iter::repeat_with(|| fastrand::u16(RANGE)).take(100);
    let free = ports.find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok());
    Ok(free.ok_or("no port is free for the agent's server")?)
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill.cancel();
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        lock(&self.desk).tasks.retain(|(number, _)| *number != self.number);
    }
}

fn lock(desk: &Mutex<Desk>) -> MutexGuard<'_, Desk> {
    desk.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for the end of a server, and brings it about when asked to.
async fn watch_over(
    mut child: Child,
    group: ProcessGroup,
    terminate: CancellationToken,
    kill: CancellationToken,
) -> String {
    let mut told = false;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            () = kill.cancelled() => {
                group.signal(Signal::SIGKILL);
                break child.wait().await;
            }
            () = terminate.cancelled(), if !told => {
                told = true;
                group.signal(Signal::SIGTERM);
            }
        }
    };
    if told {
        // Its children may still save their work.
        tokio::select! {
            () = group.empty() => {}
            () = kill.cancelled() => {}
        }
    }
    status.map_or_else(|error| error.to_string(), how)
}
