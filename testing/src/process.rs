//! A service as a child process, with its log in a file.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{ChildStderr, Command};
use tokio::sync::{oneshot, watch};

/// How long a child may take to stop, as AgentCore gives it; the agent-runtime takes 10 s at most.
const STOP_DEADLINE: Duration = Duration::from_secs(15);

/// How long the agent-runtime may take to listen.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// How long to keep reading the log of a child that has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How to start a child.
#[derive(Clone)]
pub struct Spec {
    /// The executable.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// The child's name in messages.
    pub name: &'static str,
    /// Variables on top of this process's own.
    pub environment: Vec<(String, String)>,
    /// Where its log goes.
    pub log: PathBuf,
    /// What is done with each line of its log, besides writing it to the file. Must not wait.
    pub echo: Option<fn(&str)>,
}

/// A running child in a process group of its own; killed when dropped.
pub struct Process {
    name: &'static str,
    group: Pid,
    /// How the child ended, once its last lines are in the log.
    ended: watch::Receiver<Option<String>>,
    /// Whether it has ended; known a little earlier.
    exited: Arc<AtomicBool>,
}

impl Process {
    /// Starts a child. The receiver gets the address on which it says that it listens.
    ///
    /// # Errors
    /// If the program cannot be started or the log cannot be written.
    pub fn start(spec: &Spec) -> Result<(Self, oneshot::Receiver<String>)> {
        let log = open_log(&spec.log)?;
        let mut child = Command::new(&spec.program)
            .args(&spec.arguments)
            .envs(spec.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", spec.program.display()))?;
        let stderr = child.stderr.take().context("the child has no stderr")?;
        let id = child.id().and_then(|id| i32::try_from(id).ok()).context("the child has no id")?;
        let (said, listens) = oneshot::channel();
        let logged = tokio::spawn(follow(stderr, log, spec.echo, said));
        let (ended, when_ended) = watch::channel(None);
        let exited = Arc::new(AtomicBool::new(false));
        let has_exited = Arc::clone(&exited);
        tokio::spawn(async move {
            let status = child.wait().await;
            has_exited.store(true, Ordering::Relaxed);
            // Its last lines say why it ended, so they are in the log before its end is known.
            let _ = tokio::time::timeout(LAST_WORDS, logged).await;
            ended.send_replace(Some(
                status.map_or_else(|error| error.to_string(), |s| s.to_string()),
            ));
        });
        Ok((Self { name: spec.name, group: Pid::from_raw(id), ended: when_ended, exited }, listens))
    }

    /// Waits for the address on which the child listens.
    ///
    /// # Errors
    /// If the child ends first, or is slow.
    pub async fn address(&self, listens: oneshot::Receiver<String>) -> Result<String> {
        tokio::select! {
            Ok(address) = listens => Ok(address),
            status = self.ended() => Err(anyhow!("the {} ended at its start: {status}", self.name)),
            () = tokio::time::sleep(START_DEADLINE) => {
                Err(anyhow!("the {} does not listen after {} s", self.name, START_DEADLINE.as_secs()))
            }
        }
    }

    /// Resolves when the child has ended; the text says how.
    pub async fn ended(&self) -> String {
        let mut ended = self.ended.clone();
        let status = ended.wait_for(Option::is_some).await;
        status.ok().and_then(|status| status.clone()).unwrap_or_default()
    }

    /// Whether the child has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.exited.load(Ordering::Relaxed)
    }

    /// The child's process id.
    #[must_use]
    pub fn id(&self) -> i32 {
        self.group.as_raw()
    }

    /// Kills the child's group, if the child has not ended.
    pub fn kill(&self) {
        if !self.has_ended() {
            let _ = killpg(self.group, Signal::SIGKILL);
        }
    }

    /// Stops the child: SIGTERM, and SIGKILL to its group if that does not help.
    pub async fn stop(&self) {
        if !self.has_ended() {
            let _ = kill(self.group, Signal::SIGTERM);
            if tokio::time::timeout(STOP_DEADLINE, self.ended()).await.is_err() {
                self.kill();
                self.ended().await;
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn open_log(path: &Path) -> Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // Appended, because another run may write to it, and an earlier run's lines explain its sessions.
    let log = File::options().create(true).append(true).open(path);
    log.with_context(|| format!("cannot write {}", path.display()))
}

/// Copies the child's log, and sends the address on which the child says that it listens.
async fn follow(
    stderr: ChildStderr,
    mut log: File,
    echo: Option<fn(&str)>,
    said: oneshot::Sender<String>,
) {
    let mut said = Some(said);
    let mut lines = BufReader::new(stderr).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        let line = String::from_utf8_lossy(&line);
        if said.is_some()
            && let Some(address) = listening(&line)
        {
            let _ = said.take().map(|said| said.send(address));
        }
        let _ = writeln!(log, "{line}");
        if let Some(echo) = echo {
            echo(&line);
        }
    }
}

/// The address in the agent-runtime's log line `listening`.
fn listening(line: &str) -> Option<String> {
    let line: Value = serde_json::from_str(line).ok()?;
    let fields = line.get("fields")?;
    (fields.get("message")? == "listening")
        .then(|| fields.get("address")?.as_str().map(str::to_owned))
        .flatten()
}
