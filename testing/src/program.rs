//! A container's program under test.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot start must fail the test")]

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::table::{CREDENTIAL, REGION, TABLE_NAME, Table};

/// How long a program may take to listen.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// A running program that serves a container's HTTP contract; killed when dropped.
pub struct Program {
    /// Where it serves: `http://host:port`.
    pub url: String,
    /// A folder of its own. The log is in it.
    pub folder: TempDir,
    child: Child,
}

impl Program {
    /// Starts a program on `table`, with these variables on top of what it needs for that, and
    /// waits until its log says where it listens.
    ///
    /// # Panics
    /// If it does not listen within 30 s.
    pub async fn start(program: &Path, table: &Table, environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let child = Command::new(program)
            .envs([
                ("JOURNAL_TABLE_NAME", TABLE_NAME),
                ("AWS_ENDPOINT_URL_DYNAMODB", &table.endpoint()),
                ("AWS_REGION", REGION),
                ("AWS_ACCESS_KEY_ID", CREDENTIAL),
                ("AWS_SECRET_ACCESS_KEY", CREDENTIAL),
                ("HOST", "127.0.0.1"),
                ("PORT", "0"),
            ])
            .env("FOLDER", folder.path())
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("the program cannot be started");
        let mut started = Self { url: String::new(), folder, child };
        let deadline = Instant::now() + START_DEADLINE;
        while started.url.is_empty() {
            let log = started.log();
            if let Some(address) = log.lines().find_map(listening) {
                started.url = format!("http://{address}");
            } else {
                assert!(Instant::now() < deadline, "the program does not listen: {log}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        started
    }

    /// What it has logged.
    ///
    /// # Panics
    /// If the log cannot be read.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// Its process id.
    ///
    /// # Panics
    /// If it has ended and was waited for.
    #[must_use]
    pub fn id(&self) -> i32 {
        self.child.id().unwrap().try_into().unwrap()
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// If it has ended and was waited for.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.id()), signal).unwrap();
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it cannot be waited for.
    pub async fn ended(&mut self) -> ExitStatus {
        self.child.wait().await.unwrap()
    }
}

/// The address in the log line `listening`.
fn listening(line: &str) -> Option<String> {
    let line: Value = serde_json::from_str(line).ok()?;
    let fields = line.get("fields")?;
    (fields.get("message")? == "listening").then_some(())?;
    fields.get("address")?.as_str().map(str::to_owned)
}
