//! The whole system in a test: real processes, the real state machine file, nothing kept.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test support")]

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use aws_sdk_sfn::config::{BehaviorVersion, Credentials, Region};
use journal::{Event, Journal, SessionId};
use local::Server;
use local::agentcore::Lifecycle;
use local::asl::{Execution, ExecutionEnd, Resource, ServiceError, Services};
use local::front_door;
use local::options::{Agent, Options};
use local::system::System;
use nix::unistd::Pid;
use operator::history::runs;
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use testing::{CREDENTIAL, REGION, TABLE_NAME, Table};
use tokio::sync::oneshot;
use workflow::Definition;

/// The executable that `cargo run` starts.
pub const LOCAL: &str = env!("CARGO_BIN_EXE_agent-local");

/// An executable of another crate, which `cargo test --workspace` builds beside it.
pub fn sibling(name: &str) -> PathBuf {
    let program = Path::new(LOCAL).with_file_name(name);
    assert!(program.exists(), "cargo build --workspace builds {}", program.display());
    program
}

/// Signs of life are judged twenty times as fast as by default.
pub const IMPATIENT: Definition = Definition {
    journal_table_name: String::new(),
    invoker_function_arn: String::new(),
    journal_retention_days: 0,
    poll_min_seconds: 1,
    poll_max_seconds: 3,
    max_poll_attempts: 600,
    patience_seconds: 6,
    silence_seconds: 2,
    answer_seconds: 1,
    start_seconds: 3,
};

/// Signs of life are judged as by default.
pub fn patient(max_poll_attempts: u32) -> Definition {
    Definition { poll_min_seconds: 1, max_poll_attempts, ..Definition::default() }
}

/// A system, with a folder for its logs.
pub struct Stack {
    pub system: System,
    logs: TempDir,
}

pub fn options(logs: &TempDir, agent_command: &str, max_poll_attempts: u32) -> Options {
    Options {
        executable: PathBuf::from(LOCAL),
        database: None,
        logs: logs.path().to_owned(),
        agent_port: None,
        agentcore_port: 0,
        lifecycle: Lifecycle::default(),
        dynamodb_port: 0,
        agent: Agent::Command(agent_command.to_owned()),
        container: Vec::new(),
        workflow: patient(max_poll_attempts),
        retention_days: None,
        otlp: None,
        echo: None,
    }
}

impl Stack {
    pub async fn start(agent_command: &str, max_poll_attempts: u32) -> Self {
        let change = |mut options: Options| {
            options.workflow.max_poll_attempts = max_poll_attempts;
            options
        };
        Self::start_with(change, agent_command).await
    }

    /// A system that gives a session up after some six seconds without a sign of life.
    pub async fn impatient(agent_command: &str) -> Self {
        let change = |options| Options {
            agent_port: Some(0),
            container: vec![("HEARTBEAT_SECONDS", "1".to_owned())],
            workflow: IMPATIENT,
            ..options
        };
        Self::start_with(change, agent_command).await
    }

    /// A system whose spans go to this collector.
    pub async fn exporting(agent_command: &str, otlp: &str) -> Self {
        let otlp = Some(otlp.to_owned());
        Self::start_with(|options| Options { otlp, ..options }, agent_command).await
    }

    /// A system whose container is this program.
    pub async fn of_program(program: PathBuf) -> Self {
        Self::start_with(|options| Options { agent: Agent::Program(program), ..options }, "").await
    }

    pub async fn start_with(change: impl FnOnce(Options) -> Options, agent_command: &str) -> Self {
        let logs = tempfile::tempdir().unwrap();
        let options = change(options(&logs, agent_command, 600));
        Self { system: System::start(&options).await.unwrap(), logs }
    }

    /// What the agent-runtime and the invoker logged.
    pub fn logs(&self) -> String {
        self.log(local::system::AGENT) + &self.log(local::system::INVOKER)
    }

    /// Where they log, for as long as the stack's folder is kept.
    pub fn folder(&self) -> PathBuf {
        self.logs.path().to_owned()
    }

    /// What one of them logged.
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.logs.path().join(format!("{name}.log"))).unwrap()
    }

    /// A system around an agent-runtime that listens elsewhere, or not at all.
    pub async fn around(table: Table, agent_address: &str, max_poll_attempts: u32) -> Self {
        let front_door = front_door::start(agent_address).unwrap();
        Self::behind(table, front_door, max_poll_attempts).await
    }

    /// The same, [impatient](Self::impatient).
    pub async fn around_impatient(table: Table, agent_address: &str) -> Self {
        let front_door = front_door::start(agent_address).unwrap();
        Self::behind_impatient(table, front_door).await
    }

    /// A system whose AgentCore is elsewhere, [impatient](Self::impatient).
    pub async fn behind_impatient(table: Table, front_door: SocketAddr) -> Self {
        Self::behind_with(table, front_door, IMPATIENT, None).await
    }

    /// A system around an agent-runtime that is elsewhere, whose spans go to this collector.
    pub async fn around_exporting(table: Table, agent_address: &str, otlp: &str) -> Self {
        let front_door = front_door::start(agent_address).unwrap();
        Self::behind_with(table, front_door, patient(600), Some(otlp.to_owned())).await
    }

    /// A system whose AgentCore is elsewhere.
    pub async fn behind(table: Table, front_door: SocketAddr, max_poll_attempts: u32) -> Self {
        Self::behind_with(table, front_door, patient(max_poll_attempts), None).await
    }

    pub async fn behind_with(
        table: Table,
        front_door: SocketAddr,
        workflow: Definition,
        otlp: Option<String>,
    ) -> Self {
        let logs = tempfile::tempdir().unwrap();
        let options = Options { otlp, workflow, ..options(&logs, "unused", 600) };
        let system = System::around(&options, table, front_door).await.unwrap();
        Self { system, logs }
    }

    /// The process id of a session's container.
    pub fn container(&self, session_id: &str) -> Pid {
        let process = self.system.container(&session_id.parse().unwrap()).unwrap();
        Pid::from_raw(process.id())
    }

    pub async fn events(&self, session_id: &str) -> Vec<Event> {
        let id: SessionId = session_id.parse().unwrap();
        self.system.journal().events(&id).await.unwrap()
    }

    pub async fn statuses(&self, session_id: &str) -> Vec<String> {
        self.events(session_id).await.iter().map(|event| event.status.to_string()).collect()
    }

    /// Waits until the session has an event of each of these statuses.
    pub async fn wait_for(&self, session_id: &str, wanted: &[&str]) -> Vec<Event> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let events = self.events(session_id).await;
            let has = |status: &&str| events.iter().any(|event| event.status.as_str() == *status);
            if wanted.iter().all(has) {
                return events;
            }
            assert!(Instant::now() < deadline, "{wanted:?} did not come: {events:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A container in this process, with an agent in Rust.
pub struct Container {
    pub address: String,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Container {
    pub fn start(journal: Journal, agent: impl agent_runtime::Agent) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(|| {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            actix::System::with_tokio_rt(|| runtime).block_on(async {
                let shutdown = async { drop(stopped.await) };
                agent_runtime::serve(
                    listener,
                    std::future::ready(journal),
                    agent_runtime::Limits::default(),
                    agent,
                    shutdown,
                )
                .await
                .unwrap();
            });
        });
        Self { address, stop, thread }
    }

    pub async fn stop(self) {
        drop(self.stop);
        tokio::task::spawn_blocking(|| self.thread.join().unwrap()).await.unwrap();
    }
}

/// The system's services with a fault in front of some of them.
pub struct Faulty<'a, F>(pub &'a System, pub F);

/// What the fault does: nothing, fail before the call, or fail after it.
pub enum Break {
    No,
    Before(&'static str),
    After(&'static str),
}

impl<F: Fn(Resource, &Value) -> Break> Services for Faulty<'_, F> {
    async fn call(&self, resource: Resource, arguments: Value) -> Result<Value, ServiceError> {
        let error = |error: &str| {
            Err(ServiceError { error: error.to_owned(), cause: "injected".to_owned() })
        };
        match self.1(resource, &arguments) {
            Break::No => self.0.call(resource, arguments).await,
            Break::Before(name) => error(name),
            Break::After(name) => {
                self.0.call(resource, arguments).await.unwrap();
                error(name)
            }
        }
    }
}

/// An execution with a name that is a session id.
pub fn execution(input: Value) -> Execution {
    Execution::new(&uuid::Uuid::new_v4().to_string(), input)
}

/// The two words of a failed execution.
pub fn failure(outcome: ExecutionEnd) -> (String, String) {
    match outcome {
        ExecutionEnd::Failed { error, cause } => (error, cause),
        ExecutionEnd::Succeeded(output) => unreachable!("succeeded with {output}"),
    }
}

/// What two histories of one kind have in common: for each run who wrote what, and what it carries.
/// The end of the invocation, which no cause orders against the agent's events, is put last.
pub fn shape(events: &[Event]) -> Vec<Vec<String>> {
    let line = |event: &Event| {
        let error = event.error_type.as_deref().unwrap_or_default();
        let result = if event.result.is_some() { "with result" } else { "" };
        assert_eq!(event.error_message.is_some(), event.error_type.is_some(), "{event:?}");
        let trace = if event.trace_id.is_some() { "in a trace" } else { "" };
        let line = format!("{} {} {trace} {error} {result}", event.source, event.status);
        line.trim_end().to_owned()
    };
    let run = |run: &operator::history::Run| {
        let mut lines: Vec<_> = run.entries.iter().map(|entry| line(entry.event)).collect();
        let floats = ["AGENT_INVOCATION_SUCCEEDED", "AGENT_INVOCATION_FAILED"];
        lines.sort_by_key(|line| floats.iter().any(|status| line.contains(status)));
        lines
    };
    runs(events).iter().map(run).collect()
}

/// A kept history: `workflow/histories/{name}.jsonl`.
pub fn history_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../workflow/histories/{name}.jsonl"))
}

/// Checks that the events are of the same shape as the kept history. With `UPDATE_HISTORIES` set,
/// keeps them instead.
pub fn check_history(name: &str, events: &[Event]) {
    let file = history_file(name);
    if std::env::var_os("UPDATE_HISTORIES").is_some() {
        let lines = events.iter().map(|event| serde_json::to_string(event).unwrap() + "\n");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        return std::fs::write(file, lines.collect::<String>()).unwrap();
    }
    let kept = std::fs::read_to_string(&file).unwrap();
    let kept: Vec<Event> = kept.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(shape(events), shape(&kept), "{name}");
}

/// The journal that an SDK configuration reaches.
pub fn open(config: aws_sdk_dynamodb::config::Builder) -> Journal {
    let settings = journal::Settings { table_name: TABLE_NAME.to_owned(), retention_days: None };
    Journal::new(config, settings)
}

/// Puts an event as it stands, whatever it says.
pub fn put(table: &Table, event: &Event) {
    let fields: Map<String, Value> =
        serde_json::from_value(serde_json::to_value(event).unwrap()).unwrap();
    let item: Map<_, _> = fields
        .into_iter()
        .map(|(name, value)| match value {
            Value::Bool(value) => (name, json!({"BOOL": value})),
            Value::Number(value) => (name, json!({"N": value.to_string()})),
            value => (name, json!({"S": value})),
        })
        .collect();
    let request = json!({"TableName": TABLE_NAME, "Item": item});
    table.database.put_item(serde_json::from_value(request).unwrap()).unwrap();
}

/// Puts a kept history; gives its events.
pub fn put_history(table: &Table, name: &str) -> Vec<Event> {
    let text = std::fs::read_to_string(history_file(name)).unwrap();
    let events: Vec<Event> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    events.iter().for_each(|event| put(table, event));
    events
}

/// The local Step Functions through the real SDK.
pub fn sfn(step_functions: &Server) -> aws_sdk_sfn::Client {
    let config = aws_sdk_sfn::config::Builder::new()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(REGION))
        .credentials_provider(Credentials::new(CREDENTIAL, CREDENTIAL, None, None, "test"))
        .endpoint_url(format!("http://{}", step_functions.address));
    aws_sdk_sfn::Client::from_conf(config.build())
}
