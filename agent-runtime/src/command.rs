//! The agent that the binary ships: any program, in any language.

use std::collections::VecDeque;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use journal::text::{tail, truncate};
use journal::{SdkFault, SettingError, Step};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use crate::{Agent, AgentError, Context, Invocation};

/// How much of stdout is kept; the journal's limit for a result is smaller.
const MAX_STDOUT_BYTES: usize = 1024 * 1024;

/// How much of one stderr line is logged; a longer one is logged in pieces.
const MAX_LINE_BYTES: u64 = 8 * 1024;

/// How much of the end of stderr a failure carries.
const STDERR_TAIL_BYTES: usize = 4 * 1024;

/// The file descriptor on which a command says how far it is.
const PROGRESS_FD: i32 = 3;

/// The variable that names it.
pub(crate) const PROGRESS_FD_VARIABLE: &str = "PROGRESS_FD";

/// How much of a line that is no progress is logged.
const MAX_QUOTED_BYTES: usize = 200;

/// How long a command's own background processes may hold its output open after it has exited.
const OUTPUT_GRACE: Duration = Duration::from_secs(1);

/// How long what outlives even that, outside of its process group, is listened to.
const LEFTOVER_GRACE: Duration = Duration::from_millis(250);

/// Runs a command for each invocation: the input as JSON on stdin, `SESSION_ID` and the rest of the
/// invocation's environment on top of the container's own, stdout as the result (JSON if it parses,
/// else text), each line of stderr as a log line, each line on file descriptor 3 (which `PROGRESS_FD`
/// names, too) as progress: `started PHASE`, `completed PHASE` or `failed PHASE`, and a text if there
/// is one (see [`Context`]). An exit code other than 0, or a signal, is a failure with the tail of
/// stderr, and of the type that a line `error TYPE` on that descriptor gave.
///
/// The command leads a process group, which is killed when the command has exited or the task is
/// aborted.
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
        const EXPECTED: &str = "it must be the command to run for each invocation, with matching quotes (or else \
             MODEL_ID must name a model of Bedrock)";
        journal::settings::required(env, "AGENT_COMMAND", EXPECTED, |command| {
            let mut words = shell_words::split(command).ok()?.into_iter();
            Some(Self { program: words.next()?, arguments: words.collect() })
        })
    }
}

impl Agent for CommandAgent {
    async fn run(&self, invocation: Invocation) -> Result<Value, AgentError> {
        let (sender, progress) = tokio::net::unix::pipe::pipe()?;
        let sender = FdMapping { parent_fd: sender.into_blocking_fd()?, child_fd: PROGRESS_FD };
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            // The container's own, which would belong to no trace or to another one.
            .env_remove("TRACEPARENT")
            .env_remove("TRACESTATE")
            .env_remove("BAGGAGE")
            // Of a command that is an agent-runtime itself, this would be its agent, without end.
            .env_remove("AGENT_COMMAND")
            .envs(&invocation.environment)
            .env(PROGRESS_FD_VARIABLE, PROGRESS_FD.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .fd_mappings(vec![sender])
            .map_err(|error| error.to_string())?;
        let mut child =
            command.spawn().map_err(|error| format!("cannot start {:?}: {error}", self.program))?;
        // It holds our end of the pipe, which would keep the other open.
        drop(command);
        let group = ProcessGroup::of(&child);
        let progress = read_progress(progress, invocation.context.clone()).in_current_span();
        let progress = AbortOnDropHandle::new(tokio::spawn(progress));
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let output = async {
            tokio::join!(feed(stdin, &invocation.input), read_stdout(stdout), read_stderr(stderr),)
        };
        tokio::pin!(output);
        let mut read = None;
        let status = loop {
            tokio::select! {
                done = &mut output, if read.is_none() => read = Some(done),
                status = child.wait() => break status?,
            }
        };
        if read.is_none() {
            read = tokio::time::timeout(OUTPUT_GRACE, &mut output).await.ok();
        }
        // Kills what the command left behind, and so closes that end of the pipes.
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
            return Ok(serde_json::from_str(&text)
                .unwrap_or_else(|_| Value::from(text.trim_end_matches('\n'))));
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
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        // An error means that no process of the group is left.
        let _ = killpg(self.0, Signal::SIGKILL);
    }
}

/// Writes the input and closes stdin. A command that does not read it may fail or not, as it likes.
async fn feed(stdin: Option<ChildStdin>, input: &Value) {
    if let Some(mut stdin) = stdin {
        let _ = stdin.write_all(input.to_string().as_bytes()).await;
        let _ = stdin.shutdown().await;
    }
}

/// Reads to the end and keeps the beginning.
async fn read_stdout(stdout: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let Some(mut stdout) = stdout else { return Vec::new() };
    let mut kept = Vec::new();
    let _ = (&mut stdout).take(MAX_STDOUT_BYTES as u64).read_to_end(&mut kept).await;
    let _ = tokio::io::copy(&mut stdout, &mut tokio::io::sink()).await;
    kept
}

/// Logs every line and keeps the last ones.
async fn read_stderr(stderr: Option<impl AsyncRead + Unpin>) -> VecDeque<String> {
    let mut lines = VecDeque::new();
    let Some(stderr) = stderr else { return lines };
    let mut stderr = BufReader::new(stderr);
    let (mut line, mut kept) = (Vec::new(), 0);
    while (&mut stderr).take(MAX_LINE_BYTES).read_until(b'\n', &mut line).await.is_ok_and(|n| n > 0)
    {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        line.clear();
        tracing::info!(target: "agent::stderr", "{text}");
        kept += text.len();
        lines.push_back(text);
        while kept > STDERR_TAIL_BYTES && lines.len() > 1 {
            kept -= lines.pop_front().map_or(0, |dropped| dropped.len());
        }
    }
    lines
}

/// Hands the command's progress on, to the end, and gives the type of its failure if it names one.
/// Lines that say something else are counted and logged once.
async fn read_progress(lines: impl AsyncRead + Unpin, context: Context) -> Option<String> {
    let mut lines = BufReader::new(lines);
    let (mut line, mut begins, mut invalid) = (Vec::new(), true, 0);
    let mut error_type = None;
    while (&mut lines).take(MAX_LINE_BYTES).read_until(b'\n', &mut line).await.is_ok_and(|n| n > 0)
    {
        // The rest of a line that is longer says nothing new.
        let text = String::from_utf8_lossy(&line);
        if begins && let Some(said) = text.trim().strip_prefix("error ") {
            error_type = Some(said.trim().to_owned());
        } else if begins && let Err(rule) = progress(text.trim(), &context) {
            if invalid == 0 {
                let said = truncate(text.trim(), MAX_QUOTED_BYTES);
                tracing::warn!("not a line of progress: {rule}: {said:?}");
            }
            invalid += 1;
        }
        begins = line.ends_with(b"\n");
        line.clear();
    }
    if invalid > 1 {
        tracing::warn!("{invalid} lines were no progress");
    }
    error_type
}

/// `started PHASE`, `completed PHASE` or `failed PHASE`, with a text behind it if there is one.
fn progress(line: &str, context: &Context) -> Result<(), String> {
    let mut words = line.splitn(3, char::is_whitespace);
    let step = words.next().unwrap_or_default().parse::<Step>();
    let step = step.map_err(|error| error.to_string())?;
    let (phase, text) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    context.progress(phase, step, text).map_err(|error| error.to_string())
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
    let message = match words {
        "" => format!("the command failed without a word on stderr ({status})"),
        words => format!("{words} ({status})"),
    };
    AgentError::new(error_type, message)
}
