//! A container's program under test.

#![allow(clippy::unwrap_used, reason = "what cannot start must fail the test")]

use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::process::{Process, Spec};
use crate::table::{CREDENTIAL, REGION, TABLE_NAME, Table};

/// A running program that serves a container's HTTP contract; killed when dropped.
pub struct Program {
    /// Where it serves: `http://host:port`.
    pub url: String,
    /// A folder of its own, which it finds in `FOLDER`. The log is in it.
    pub folder: TempDir,
    process: Process,
}

impl Program {
    /// Starts a program on `table`, with these variables on top of what it needs for that, and
    /// waits until it listens.
    ///
    /// # Panics
    /// If it does not listen.
    pub async fn start(program: &Path, table: &Table, environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let endpoint = table.endpoint();
        let own = [
            ("JOURNAL_TABLE_NAME", TABLE_NAME),
            ("AWS_ENDPOINT_URL_DYNAMODB", &endpoint),
            ("AWS_REGION", REGION),
            ("AWS_ACCESS_KEY_ID", CREDENTIAL),
            ("AWS_SECRET_ACCESS_KEY", CREDENTIAL),
            ("HOST", "127.0.0.1"),
            ("PORT", "0"),
            ("FOLDER", folder.path().to_str().unwrap()),
        ];
        let variables = own.iter().chain(environment);
        let spec = Spec {
            program: program.to_owned(),
            arguments: Vec::new(),
            name: "program",
            environment: variables.map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
            log: folder.path().join("log"),
            echo: None,
        };
        let (process, listens) = Process::start(&spec).unwrap();
        let url = format!("http://{}", process.address(listens).await.unwrap());
        Self { url, folder, process }
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
    #[must_use]
    pub fn id(&self) -> i32 {
        self.process.id()
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// If it has ended.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.id()), signal).unwrap();
    }

    /// Waits for its end; the text says how it ended.
    pub async fn ended(&self) -> String {
        self.process.ended().await
    }
}
