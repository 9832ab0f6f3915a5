//! Any program, in any language, run once for each invocation.

use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use journal::SettingError;
use nix::sys::signal::Signal;
use serde_json::value::RawValue;
use tokio::io::AsyncWriteExt;
use tokio::process::ChildStdin;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::failure::{failure, quoted};
use super::log::{AgentLog, Stream, last_words};
use super::output::{
    Head, Said, ends_in_json, given_result, printed_result, progress, read_lines, read_progress,
};
use super::process_group::how;
use super::{CommandLine, GRACE};
use crate::{Agent, AgentError, Input, Invocation};

/// How long a command's own background processes may hold its output open after it has exited.
const OUTPUT_GRACE: Duration = Duration::from_secs(1);

/// How long to keep reading from processes that left the group.
const LEFTOVER_GRACE: Duration = Duration::from_millis(250);

/// Runs a command for each invocation.
///
/// - Input: the invocation's, byte for byte on stdin. The environment is the container's, with
///   `SESSION_ID` and the rest of the invocation's environment.
/// - Result: a line `result JSON` on file descriptor 3 (`PROGRESS_FD` has the number). Without one,
///   stdout is the result: JSON if it parses, otherwise text.
/// - Log: each line of stdout and stderr is a log line.
/// - Progress: lines on file descriptor 3: `started PHASE`, `completed PHASE` or `failed PHASE`, and a
///   text if there is one (see [`TaskContext`](crate::TaskContext)).
/// - Failure: an exit code other than 0, or a signal. The message begins with the cause, from the
///   end of stderr, or of stdout if stderr is empty. A line `error TYPE` on the descriptor sets
///   the type.
///
/// The command leads a process group. If the task has to end, the group gets SIGTERM, and SIGKILL
/// three seconds later. When the command has exited, the rest of the group is killed.
#[derive(Debug, Clone)]
pub struct CommandAgent(CommandLine);

impl CommandAgent {
    /// Reads `AGENT_COMMAND`, split into words as a shell splits them; no shell is started.
    ///
    /// # Errors
    /// If it is missing or empty, if its quotes do not match, or if it is meant for a shell.
    pub fn from_env(env: impl Fn(&str) -> Option<String>) -> Result<Self, SettingError> {
        const EXPECTED: &str = "it must be the command to run for each invocation";
        let missing = SettingError::Missing { name: "AGENT_COMMAND", expected: EXPECTED };
        CommandLine::from_env(env, "AGENT_COMMAND")?.map(Self).ok_or(missing)
    }
}

impl Agent for CommandAgent {
    type Output = Box<RawValue>;

    fn grace(&self) -> Duration {
        GRACE
    }

    async fn run(&self, invocation: Invocation) -> Result<Box<RawValue>, AgentError> {
        let context = &invocation.context;
        let (mut child, group, report) = self.0.start(&invocation.environment, |command| {
            command.stdin(Stdio::piped());
        })?;
        let said = Arc::new(Mutex::new(Said::default()));
        let (owned, saying) = (context.clone(), Arc::clone(&said));
        let reading = async move {
            read_progress(report, Some(&saying), |line| progress(line, &owned)).await;
        };
        let reading = AbortOnDropHandle::new(tokio::spawn(reading.in_current_span()));
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (mut printed, mut out) = (Head::default(), AgentLog::new(Stream::Stdout));
        let mut err = AgentLog::new(Stream::Stderr);
        let (status, whole) = {
            let output = async {
                let stdout = read_lines(stdout, |line| {
                    printed.push(line);
                    out.line(line);
                });
                let stderr = read_lines(stderr, |line| err.line(line));
                tokio::join!(feed(stdin, invocation.input), stdout, stderr);
            };
            tokio::pin!(output);
            let (mut read, mut told) = (false, false);
            let status = loop {
                tokio::select! {
                    () = &mut output, if !read => read = true,
                    status = child.wait() => break status?,
                    () = context.ending(), if !told => {
                        told = true;
                        group.signal(Signal::SIGTERM);
                    }
                }
            };
            if told {
                // Its children may still save their work, until this future is dropped.
                let empty = group.empty();
                tokio::pin!(empty);
                loop {
                    tokio::select! {
                        () = &mut empty => break,
                        () = &mut output, if !read => read = true,
                    }
                }
            }
            read = read || tokio::time::timeout(OUTPUT_GRACE, &mut output).await.is_ok();
            // Kills the processes that the command left, which closes their end of the pipes.
            drop(group);
            read = read || tokio::time::timeout(LEFTOVER_GRACE, &mut output).await.is_ok();
            (status, read)
        };
        // A process outside of the group may hold the descriptor open. The lines so far count.
        let _ = tokio::time::timeout(LEFTOVER_GRACE, reading).await;
        let said = std::mem::take(&mut *said.lock().unwrap_or_else(PoisonError::into_inner));
        if !status.success() {
            let words = last_words(&out, &err, 0, 0);
            // What was killed did not say why.
            let error = match status.signal() {
                Some(_) => quoted(&format!("the agent was killed: {}", how(status)), &words),
                None => failure(&words, &how(status)),
            };
            let error_type = said.error_type.unwrap_or(error.error_type);
            return Err(AgentError { error_type, ..error });
        }
        if let Some(result) = said.result {
            return given_result(result, context);
        }
        if !whole {
            return Err(
                "a process outside the command's process group holds its output open".into()
            );
        }
        let result = printed_result(printed, context)?;
        if result.get().starts_with('"')
            && serde_json::from_str(result.get()).is_ok_and(|text: String| ends_in_json(&text))
        {
            tracing::warn!(
                "the result is a text, because the agent printed more than its JSON on stdout: give the result with agent_journal.result(…) or as a line `result JSON` on file descriptor 3"
            );
        }
        Ok(result)
    }
}

/// Writes the input and closes stdin. It is no error if the command does not read its input.
async fn feed(stdin: Option<ChildStdin>, input: Input) {
    if let Some(mut stdin) = stdin {
        let _ = stdin.write_all(input.as_str().as_bytes()).await;
        let _ = stdin.shutdown().await;
    }
}
