//! The whole system in a test: real processes, the real state machine file, nothing kept.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "test support")]

use std::path::PathBuf;

use journal::{Event, SessionId};
use local::asl::{Execution, Outcome};
use local::system::{Options, System};
use local::table::Table;
use serde_json::Value;
use tempfile::TempDir;

/// The executable that `cargo run` starts.
pub const LOCAL: &str = env!("CARGO_BIN_EXE_local");

/// A system, with a folder for its logs.
pub struct Stack {
    pub system: System,
    logs: TempDir,
}

pub fn options(logs: &TempDir, agent_command: &str, max_poll_attempts: u32) -> Options {
    Options {
        program: PathBuf::from(LOCAL),
        database: None,
        logs: logs.path().to_owned(),
        agent_port: 0,
        dynamodb_port: 0,
        agent_command: agent_command.to_owned(),
        max_poll_attempts,
        echo: false,
    }
}

impl Stack {
    pub async fn start(agent_command: &str, max_poll_attempts: u32) -> Self {
        let logs = tempfile::tempdir().unwrap();
        let system =
            System::start(&options(&logs, agent_command, max_poll_attempts)).await.unwrap();
        Self { system, logs }
    }

    /// A system around an agent-runtime that listens elsewhere, or not at all.
    pub async fn around(table: Table, agent_address: &str, max_poll_attempts: u32) -> Self {
        let logs = tempfile::tempdir().unwrap();
        let options = options(&logs, "unused", max_poll_attempts);
        let system = System::around(&options, table, agent_address.to_owned(), None).await.unwrap();
        Self { system, logs }
    }

    pub async fn events(&self, session_id: &str) -> Vec<Event> {
        let id: SessionId = session_id.parse().unwrap();
        self.system.journal().events(&id).await.unwrap()
    }

    pub async fn statuses(&self, session_id: &str) -> Vec<String> {
        self.events(session_id).await.iter().map(|event| event.status.to_string()).collect()
    }
}

/// An execution with a name that is a session id.
pub fn execution(input: Value) -> Execution {
    Execution::new(&uuid::Uuid::new_v4().to_string(), input)
}

/// The two words of a failed execution.
pub fn failure(outcome: Outcome) -> (String, String) {
    match outcome {
        Outcome::Failed { error, cause } => (error, cause),
        Outcome::Succeeded(output) => unreachable!("succeeded with {output}"),
    }
}
