//! The configuration of the system.

use std::path::PathBuf;

use workflow::Definition;

use crate::agentcore::Lifecycle;

/// What runs in the container.
pub enum Agent {
    /// The agent-runtime with this command as its agent.
    Command(String),
    /// The agent-runtime, whose agent is the server that this command starts.
    Server(String),
    /// The agent-runtime, whose agent is the server at this URL.
    Url(String),
    /// A program that hosts its agent itself.
    Program(PathBuf),
}

/// The configuration of the system.
pub struct Options {
    /// The executable that becomes the agent-runtime and the invoker.
    pub executable: PathBuf,
    /// Folder of the database and the logs; `None` keeps the database in memory.
    pub database: Option<PathBuf>,
    /// Where the children's logs go.
    pub logs: PathBuf,
    /// Port of a container for direct calls, as `docker run -p` would give it; 0 takes a free one,
    /// `None` starts none.
    pub agent_port: Option<u16>,
    /// Port of AgentCore's front door; 0 takes a free one.
    pub agentcore_port: u16,
    /// When AgentCore ends a container.
    pub lifecycle: Lifecycle,
    /// Port of DynamoDB; 0 takes a free one.
    pub dynamodb_port: u16,
    /// What runs in the container.
    pub agent: Agent,
    /// Variables of the container, on top of what it needs.
    pub container: Vec<(&'static str, String)>,
    /// How the workflow polls; its table, function and retention are not used.
    pub workflow: Definition,
    /// Days until an event may expire; `None` keeps events.
    pub retention_days: Option<u32>,
    /// The collector to which the children send spans (`OTEL_EXPORTER_OTLP_ENDPOINT`);
    /// `None` leaves it to the environment.
    pub otlp: Option<String>,
    /// What is done with each line of the children's logs. Must not wait.
    pub echo: Option<fn(&str)>,
}
