//! The binary as a process.

use std::path::Path;

use agent_runtime::SESSION_HEADER;
use journal::{Event, Mark, SessionId, Source, Status};
use serde_json::Value;
use testing::{Program, Table};

use super::{eventually, open_table, session_id};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_agent-runtime");

/// The binary with a command as its agent, on a table of its own.
pub struct Container {
    pub program: Program,
    pub table: Table,
    pub client: reqwest::Client,
}

impl Container {
    pub async fn start(agent_command: &str) -> Self {
        Self::start_with(agent_command, &[]).await
    }

    pub async fn start_with(agent_command: &str, environment: &[(&str, &str)]) -> Self {
        Self::of(Path::new(PROGRAM), agent_command, environment).await
    }

    /// Another program than the one built for tests.
    pub async fn of(program: &Path, agent_command: &str, environment: &[(&str, &str)]) -> Self {
        let table = Table::open(None, 0).await.unwrap();
        let environment = [&[("AGENT_COMMAND", agent_command)], environment].concat();
        let program = Program::start(program, &table, &environment).await;
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { program, table, client }
    }

    /// What the command wrote to `$FOLDER/file`, once it has.
    pub async fn file(&self) -> String {
        let file = self.program.folder.path().join("file");
        eventually("the command's file", async || {
            std::fs::read_to_string(&file).ok().filter(|text| text.ends_with('\n'))
        })
        .await
    }

    pub async fn post(&self, id: &SessionId, input: &Value) -> (u16, Value) {
        self.post_bytes(id, input.to_string()).await
    }

    pub async fn post_bytes(&self, id: &SessionId, body: String) -> (u16, Value) {
        let request = self
            .client
            .post(format!("{}/invocations", self.program.url))
            .header(SESSION_HEADER, id.as_str());
        let answer = request.body(body).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    pub async fn events(&self, id: &SessionId) -> Vec<Event> {
        open_table(&self.table).events(id).await.unwrap()
    }

    /// The most memory that it has taken, in kB.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.program.id()));
        let status = status.unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Runs the command to its terminal event.
    pub async fn run(&self, input: &Value) -> Event {
        let id = session_id();
        assert_eq!(self.post(&id, input).await.0, 200);
        self.end(&id).await
    }

    /// The session's terminal event, once it is there.
    pub async fn end(&self, id: &SessionId) -> Event {
        let ends = |event: &Event| {
            let ends = [Status::AgentBackgroundTaskCompleted, Status::AgentBackgroundTaskFailed];
            ends.contains(&event.status)
        };
        let end = async || self.events(id).await.into_iter().find(ends);
        eventually("a terminal event", end).await
    }

    /// Has an operator stop the session's task.
    pub async fn stop_task(&self, id: &SessionId) {
        let started = Status::AgentBackgroundTaskStarted;
        let events = self.events(id).await;
        let started = events.iter().find(|event| event.status == started).unwrap();
        let session = open_table(&self.table).session(id.clone(), "any", Source::Operator);
        let mut slots = session.signs(&started.timestamp, 0);
        while slots.take(Mark::Stop("wrong input")).await.unwrap().is_some() {}
    }
}
