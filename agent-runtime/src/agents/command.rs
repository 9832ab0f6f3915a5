//! Any program, in any language, run once for each invocation.

use std::collections::VecDeque;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use journal::text::{tail, truncate};
use journal::{SdkFault, SettingError};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::value::{RawValue, to_raw_value};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::output::{STDERR_TAIL_BYTES, read_progress, read_stderr, read_stdout};
use crate::{Agent, AgentError, Input, Invocation};

/// The file descriptor on which a command reports its progress.
const PROGRESS_FD: i32 = 3;

/// How long a command's own background processes may hold its output open after it has exited.
const OUTPUT_GRACE: Duration = Duration::from_secs(1);

/// How long a command that has to end may save its work, from SIGTERM to SIGKILL.
const GRACE: Duration = Duration::from_secs(3);

/// How often the processes of a command that has to end are looked for.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// How long to keep reading from processes that left the group.
const LEFTOVER_GRACE: Duration = Duration::from_millis(250);

/// Runs a command for each invocation.
///
/// - Input: the invocation's, byte for byte on stdin. `SESSION_ID` and the rest of the invocation's
///   environment are set on top of the container's own.
/// - Result: stdout, as JSON if it parses, else as text.
/// - Log: each line of stderr is a log line.
/// - Progress: lines on file descriptor 3 (`PROGRESS_FD` has the number): `started PHASE`,
///   `completed PHASE` or `failed PHASE`, and a text if there is one (see
///   [`TaskContext`](crate::TaskContext)).
/// - Failure: an exit code other than 0, or a signal. The message is the end of stderr. A line
///   `error TYPE` on the descriptor gives the type.
///
/// The command leads a process group. If the task has to end, the group gets SIGTERM, and SIGKILL
/// three seconds later. What is left of it when the command has exited is killed.
#[derive(Debug, Clone)]
pub struct CommandAgent {
    program: String,
    arguments: Vec<String>,
}

impl CommandAgent {
    /// Reads `AGENT_COMMAND`, split into words as a shell splits them; no shell is started.
    ///
    /// # Errors
    /// If it is missing, empty, or its quotes do not match.
    pub fn from_env(env: impl Fn(&str) -> Option<String>) -> Result<Self, SettingError> {
        const EXPECTED: &str =
            "it must be the command to run for each invocation, with matching quotes";
        journal::settings::required(env, "AGENT_COMMAND", EXPECTED, |command| {
            let mut words = shell_words::split(command).ok()?.into_iter();
            Some(Self { program: words.next()?, arguments: words.collect() })
        })
    }
}

impl Agent for CommandAgent {
    type Output = Box<RawValue>;

    fn grace(&self) -> Duration {
        GRACE
    }

    async fn run(&self, invocation: Invocation) -> Result<Box<RawValue>, AgentError> {
        let (sender, progress) = tokio::net::unix::pipe::pipe()?;
        let sender = FdMapping { parent_fd: sender.into_blocking_fd()?, child_fd: PROGRESS_FD };
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            // The container's own would put the agent into another trace.
            .env_remove("TRACEPARENT")
            .env_remove("TRACESTATE")
            .env_remove("BAGGAGE")
            .envs(&invocation.environment)
            .env("PROGRESS_FD", PROGRESS_FD.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .fd_mappings(vec![sender])
            .map_err(|error| error.to_string())?;
        let mut child =
            command.spawn().map_err(|error| format!("cannot start {:?}: {error}", self.program))?;
        // Closes the writing end of the pipe, which would keep the reading end open.
        drop(command);
        let group = ProcessGroup::of(&child).ok_or("the command has no process id")?;
        group.offer_to_the_kernel();
        let progress = read_progress(progress, invocation.context.clone()).in_current_span();
        let progress = AbortOnDropHandle::new(tokio::spawn(progress));
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let output = async {
            tokio::join!(feed(stdin, invocation.input), read_stdout(stdout), read_stderr(stderr),)
        };
        tokio::pin!(output);
        let (mut read, mut told) = (None, false);
        let status = loop {
            tokio::select! {
                done = &mut output, if read.is_none() => read = Some(done),
                status = child.wait() => break status?,
                () = invocation.context.ending(), if !told => {
                    told = true;
                    group.signal(Signal::SIGTERM);
                }
            }
        };
        if told {
            // Its children may still save their work, until this future is dropped.
            let empty = async {
                while group.is_there() {
                    tokio::time::sleep(POLL_INTERVAL).await;
                }
            };
            tokio::pin!(empty);
            loop {
                tokio::select! {
                    () = &mut empty => break,
                    done = &mut output, if read.is_none() => read = Some(done),
                }
            }
        }
        if read.is_none() {
            read = tokio::time::timeout(OUTPUT_GRACE, &mut output).await.ok();
        }
        // Kills the processes that the command left, which closes their end of the pipes.
        drop(group);
        let deadline = Instant::now() + LEFTOVER_GRACE;
        if read.is_none() {
            read = tokio::time::timeout_at(deadline, &mut output).await.ok();
        }
        let ((), stdout, stderr) =
            read.ok_or("a process outside the command's process group holds its output open")?;
        let progress = tokio::time::timeout_at(deadline, progress).await;
        if status.success() {
            let text = String::from_utf8_lossy(&stdout);
            let json = serde_json::from_str(&text);
            return Ok(json.or_else(|_| to_raw_value(text.trim_end_matches('\n')))?);
        }
        let AgentError { error_type, message } = failure(status, &stderr);
        let said = progress.ok().and_then(Result::ok).flatten();
        Err(AgentError::new(said.unwrap_or(error_type), message))
    }
}

/// A command's process group; killed when dropped.
struct ProcessGroup(Pid);

impl ProcessGroup {
    fn of(child: &Child) -> Option<Self> {
        child.id().and_then(|id| i32::try_from(id).ok()).map(|id| Self(Pid::from_raw(id)))
    }

    /// When memory runs out, the kernel shall take the agent and not the host: it goes by size and by
    /// this score, which children inherit.
    fn offer_to_the_kernel(&self) {
        // The command may have ended.
        let _ = std::fs::write(format!("/proc/{}/oom_score_adj", self.0), "1000");
    }

    /// Whether a process of the group is left.
    fn is_there(&self) -> bool {
        killpg(self.0, None).is_ok()
    }

    fn signal(&self, signal: Signal) {
        // An error means that no process of the group is left.
        let _ = killpg(self.0, signal);
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

/// Writes the input and closes stdin. A command that does not read it may fail or not, as it likes.
async fn feed(stdin: Option<ChildStdin>, input: Input) {
    if let Some(mut stdin) = stdin {
        let _ = stdin.write_all(input.as_str().as_bytes()).await;
        let _ = stdin.shutdown().await;
    }
}

/// What a command's exit and its last words mean.
fn failure(status: ExitStatus, stderr: &VecDeque<String>) -> AgentError {
    let last = stderr.iter().rev().find(|line| !line.is_empty()).map_or("", String::as_str);
    let error_type = match last {
        line if line.starts_with("botocore.exceptions.NoCredentialsError") => {
            SdkFault::CREDENTIALS_ERROR
        }
        line if line.starts_with("botocore.exceptions.ClientError") => SdkFault::CLIENT_ERROR,
        _ => AgentError::GENERIC,
    };
    let words = Vec::from_iter(stderr.iter().map(String::as_str)).join("\n");
    let words = truncate(tail(words.trim(), STDERR_TAIL_BYTES), STDERR_TAIL_BYTES);
    let memory = match status.signal() {
        Some(9) => "; the memory may have run out",
        _ => "",
    };
    let message = match words {
        "" => format!("the command failed without a word on stderr ({status}{memory})"),
        words => format!("{words} ({status}{memory})"),
    };
    AgentError::new(error_type, message)
}
