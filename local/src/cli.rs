//! The command line, and the code that both commands share.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use local::agentcore::Lifecycle;
use local::options::{Agent, Options};
use testing::TABLE_NAME;
use tokio::signal::unix::{SignalKind, signal};
use workflow::Definition;

/// The whole system on this machine, offline: runs one session and shows its journal.
#[derive(Parser)]
#[command(name = "agent-local", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(flatten)]
    pub session: SessionArgs,
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Args)]
pub struct SessionArgs {
    /// The prompt; for the bundled agent a path, below which it counts the lines
    #[arg(default_value = ".")]
    pub prompt: Vec<String>,
    #[command(flatten)]
    pub agent: AgentArgs,
}

#[derive(Args)]
pub struct AgentArgs {
    /// The agent: a command that gets the input as JSON on stdin and prints its result
    #[arg(long, value_name = "COMMAND")]
    agent_command: Option<String>,
    /// The agent: a command that starts a server, such as 'uvicorn app:app'
    #[arg(long, value_name = "COMMAND", conflicts_with = "agent_command")]
    agent_server: Option<String>,
    /// The agent: the URL of a running server's invocations
    #[arg(long, value_name = "URL", conflicts_with_all = ["agent_command", "agent_server"])]
    agent_url: Option<String>,
    /// The container: a program that hosts its agent itself, such as an agent in Rust
    #[arg(long, value_name = "PATH", conflicts_with_all = ["agent_command", "agent_server", "agent_url"])]
    agent_program: Option<PathBuf>,
}

impl AgentArgs {
    /// Whether the options name no agent.
    pub fn is_bundled(&self) -> bool {
        let given = [&self.agent_command, &self.agent_server, &self.agent_url];
        given.iter().all(|agent| agent.is_none()) && self.agent_program.is_none()
    }
}

#[derive(Subcommand)]
pub enum Command {
    /// Start the system and keep it up, for curl and the AWS CLI
    Up(UpArgs),
    #[command(name = local::system::AGENT, hide = true)]
    AgentRuntimeProcess,
    #[command(name = local::system::AGENT_PROGRAM, hide = true)]
    AgentProgramProcess { program: PathBuf },
    #[command(name = local::system::INVOKER, hide = true)]
    InvokerProcess,
}

#[derive(Args)]
pub struct UpArgs {
    #[command(flatten)]
    pub agent: AgentArgs,
    /// Port of the agent's entrypoint
    #[arg(long, default_value_t = 8080)]
    pub port: u16,
    /// Port of AgentCore
    #[arg(long, default_value_t = 8084)]
    pub agentcore_port: u16,
    /// Seconds without a task after which AgentCore ends a container
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..))]
    pub agent_idle_timeout: u64,
    /// Seconds after which AgentCore ends a container, whatever it does
    #[arg(long, value_name = "SECONDS", default_value_t = 28_800, value_parser = clap::value_parser!(u64).range(1..))]
    pub agent_max_lifetime: u64,
    /// Port of DynamoDB
    #[arg(long, default_value_t = 8000)]
    pub dynamodb_port: u16,
    /// Port of Step Functions
    #[arg(long, default_value_t = 8083)]
    pub step_functions_port: u16,
    /// Port of the pages with the sessions
    #[arg(long, default_value_t = 8085)]
    pub ui_port: u16,
    /// Port on which traces are collected and shown
    #[arg(long, default_value_t = 4318)]
    pub otlp_port: u16,
    /// Send traces to this collector instead, such as Jaeger's http://127.0.0.1:4318
    #[arg(long, value_name = "URL", value_parser = collector_url, conflicts_with = "otlp_port")]
    pub otlp: Option<String>,
    /// Polls after which a session without an end is given up
    #[arg(
        long,
        default_value_t = Definition::default().max_poll_attempts,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(workflow::MAX_POLL_ATTEMPTS))
    )]
    pub max_poll_attempts: u32,
    /// Seconds without a sign of life after which a session is given up: 120 or more, or 0 for never
    #[arg(
        long,
        default_value_t = Definition::default().patience_seconds,
        value_parser = patience
    )]
    pub patience_seconds: u32,
}

fn patience(seconds: &str) -> Result<u32, &'static str> {
    let patience = seconds.parse().ok().filter(|seconds| matches!(seconds, 0 | 120..=3_600));
    patience.ok_or("it must be 0, or a number of seconds from 120 to 3600")
}

/// The base of a collector's URLs; the exporters append `/v1/traces`.
fn collector_url(url: &str) -> Result<String, &'static str> {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    match rest {
        Some(rest) if !rest.is_empty() && !rest.contains("/v1/") => Ok(url.to_owned()),
        _ => Err("it must be a collector's http:// or https:// address, without /v1/traces"),
    }
}

/// Runs a command. The exit code is 0 if the session completed, 1 if it failed, 130 after Ctrl-C.
pub fn run(command: impl Future<Output = Result<ExitCode>>) -> ExitCode {
    let runtime = tokio::runtime::Runtime::new().context("no runtime");
    let result = runtime.and_then(|runtime| runtime.block_on(command));
    result.unwrap_or_else(|error| {
        // The reader of the output has stopped, as `head` does.
        let unread = error.downcast_ref::<io::Error>().map(io::Error::kind);
        if unread != Some(io::ErrorKind::BrokenPipe) {
            eprintln!("error: {error:#}");
            if unread == Some(io::ErrorKind::AddrInUse) {
                eprintln!("Each port has an option: see --help.");
            }
        }
        ExitCode::FAILURE
    })
}

/// The system as the command line wants it, with its files in `.local/`.
pub fn options(agent: AgentArgs) -> Result<Options> {
    let settings = journal::Settings::from_env(|name| match name {
        "JOURNAL_TABLE_NAME" => Some(TABLE_NAME.to_owned()),
        name => std::env::var(name).ok(),
    })?;
    // Refused here and not in each container. The error names the container's variable.
    let names = [
        ("AGENT_COMMAND", &agent.agent_command),
        ("AGENT_SERVER_COMMAND", &agent.agent_server),
        ("AGENT_URL", &agent.agent_url),
    ];
    let given = |name: &str| names.iter().find(|(known, _)| *known == name)?.1.clone();
    if names.iter().any(|(_, value)| value.is_some()) {
        agent_runtime::check_agent(given)?;
    }
    let bundled = || shell_words::join(["sh", "-c", include_str!("count-lines.sh")]);
    Ok(Options {
        executable: std::env::current_exe()?,
        database: Some(PathBuf::from(".local/journal.db")),
        logs: PathBuf::from(".local"),
        agent_port: None,
        agentcore_port: 0,
        lifecycle: Lifecycle::default(),
        dynamodb_port: 0,
        agent: match agent {
            AgentArgs { agent_program: Some(program), .. } => Agent::Program(program),
            AgentArgs { agent_server: Some(command), .. } => Agent::Server(command),
            AgentArgs { agent_url: Some(url), .. } => Agent::Url(url),
            AgentArgs { agent_command, .. } => {
                Agent::Command(agent_command.unwrap_or_else(bundled))
            }
        },
        container: Vec::new(),
        // The end of a short session is shown sooner than on AWS.
        workflow: Definition { poll_min_seconds: 1, ..Definition::default() },
        retention_days: settings.retention_days,
        otlp: None,
        echo: None,
    })
}

/// Rewrites the commands in a text for a user of the installed programs, who has no cargo.
pub fn as_installed(text: &str) -> String {
    // cargo sets it for what it runs.
    if std::env::var_os("CARGO").is_some() {
        return text.to_owned();
    }
    text.replace("cargo run --bin agent-journal --", "agent-journal")
        .replace("cargo run --", "agent-local")
}

/// The signals that ask this process to stop.
pub struct Stop(Vec<tokio::signal::unix::Signal>);

impl Stop {
    pub fn new() -> Result<Self> {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        Ok(Self(kinds.into_iter().map(signal).collect::<Result<_, _>>()?))
    }

    pub async fn requested(&mut self) {
        let signals = self.0.iter_mut().map(|signal| Box::pin(signal.recv()));
        futures_util::future::select_all(signals).await;
    }
}
