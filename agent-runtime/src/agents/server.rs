//! A server that hosts the agent, as a child process of the runtime.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::process::Child;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::CommandLine;
use super::desk::{Desk, InHand, lock};
use super::failure::{failure, quoted};
use super::log::Stream;
use super::output::{read_lines, read_progress};
use super::process_group::{ProcessGroup, how};
use crate::{AgentError, TaskContext};

/// How long to wait for the last lines of a server that has ended.
const LAST_WORDS: Duration = Duration::from_millis(250);

/// A server's process; killed when dropped.
#[derive(Debug)]
pub(super) struct Server {
    /// The port on which it must listen (`PORT`).
    pub port: u16,
    /// How it ended, once its last lines are in the log.
    ended: watch::Receiver<Option<String>>,
    /// Whether its process has ended; known a little earlier.
    exited: Arc<AtomicBool>,
    terminate: CancellationToken,
    kill: CancellationToken,
    desk: Arc<Mutex<Desk>>,
}

impl Server {
    /// Starts the server of a session. It may take some time until it listens.
    pub fn start(
        command_line: &CommandLine,
        environment: &BTreeMap<String, String>,
    ) -> Result<Self, AgentError> {
        let port = free_port()?;
        let of_session = environment.iter().filter(|(name, _)| *name == "SESSION_ID");
        let of_session = of_session.map(|(name, value)| (name.clone(), value.clone())).collect();
        let (mut child, group, said) = command_line.start(&of_session, |command| {
            command
                .env("PORT", port.to_string())
                .env("UVICORN_PORT", port.to_string())
                .env("HOST", "127.0.0.1")
                .stdin(Stdio::null());
        })?;
        let desk = Desk::open();
        let (stdout, stderr, at) = (child.stdout.take(), child.stderr.take(), Arc::clone(&desk));
        let read = async move {
            let said = read_progress(said, None, |line| lock(&at).progress(line));
            let stdout = read_lines(stdout, |line| lock(&at).line(Stream::Stdout, line));
            let stderr = read_lines(stderr, |line| lock(&at).line(Stream::Stderr, line));
            tokio::join!(said, stdout, stderr);
        };
        let (ended, when_ended) = watch::channel(None);
        let (terminate, kill) = (CancellationToken::new(), CancellationToken::new());
        let (told, killed) = (terminate.clone(), kill.clone());
        let exited = Arc::new(AtomicBool::new(false));
        let has_exited = Arc::clone(&exited);
        tokio::spawn(async move {
            let read = tokio::spawn(read);
            let how = watch_over(child, group, told, killed).await;
            has_exited.store(true, Ordering::Relaxed);
            let _ = tokio::time::timeout(LAST_WORDS, read).await;
            ended.send_replace(Some(how));
        });
        Ok(Self { port, ended: when_ended, exited, terminate, kill, desk })
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.exited.load(Ordering::Relaxed)
    }

    /// Resolves when it has ended; the text says how.
    pub async fn ended(&self) -> String {
        let mut ended = self.ended.clone();
        let how = ended.wait_for(Option::is_some).await;
        how.ok().and_then(|how| how.clone()).unwrap_or_else(|| "it was killed".to_owned())
    }

    /// Asks it to end. Dropping the guard kills it.
    pub fn terminate(&self) -> DropGuard {
        self.terminate.cancel();
        self.kill.clone().drop_guard()
    }

    /// Begins a task. The server's lines and progress belong to it from now on.
    pub fn take(&self, context: &TaskContext) -> InHand {
        InHand::take(&self.desk, context)
    }

    /// Why it ended before it listened, with its last lines.
    pub fn last_words(&self, how: &str) -> AgentError {
        failure(&lock(&self.desk).last_words((0, 0)), how)
    }

    /// A failure that the server's last lines may explain.
    pub fn with_last_lines(&self, words: &str) -> AgentError {
        quoted(words, &lock(&self.desk).last_words((0, 0)))
    }
}

/// A port on which nothing listens. It is outside of the range from which the operating system assigns
/// ports.
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

/// Waits for the end of a server, and ends it when asked to.
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
