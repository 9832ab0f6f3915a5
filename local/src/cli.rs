use std::collections::HashSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use journal::{Event, SessionId, Timestamp};
use local::asl::{Execution, Outcome};
use local::system::{Options, System};
use local::table::{CREDENTIAL, REGION, TABLE_NAME};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use uuid::Uuid;
use workflow::timeline;

/// How often the journal is read while a session is shown.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// As many polls as a session of 8 hours needs.
const MAX_POLL_ATTEMPTS: u32 = 600;

/// The whole system on this machine, offline: runs one session and shows its journal.
#[derive(Parser)]
#[command(name = "local", args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to tell the agent; the bundled one takes a path and counts the lines below it
    #[arg(default_value = ".")]
    prompt: String,
    #[command(flatten)]
    agent: AgentArgs,
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Args)]
pub struct AgentArgs {
    /// The agent: a command that gets the input as JSON on stdin and prints its result
    #[arg(long, value_name = "COMMAND")]
    agent_command: Option<String>,
}

#[derive(Subcommand)]
pub enum Command {
    /// Start the system and keep it up, for curl and the AWS CLI
    Up {
        #[command(flatten)]
        agent: AgentArgs,
        /// Port of the agent's entrypoint
        #[arg(long, default_value_t = 8080)]
        port: u16,
        /// Port of DynamoDB
        #[arg(long, default_value_t = 8000)]
        dynamodb_port: u16,
    },
    #[command(name = local::system::AGENT, hide = true)]
    AgentRuntimeProcess,
    #[command(name = local::system::INVOKER, hide = true)]
    InvokerProcess,
}

/// Runs what the command line asks for. The exit code is 0 if the session completed, 1 if it
/// failed, 130 after Ctrl-C.
pub fn run(cli: Cli) -> ExitCode {
    let result = tokio::runtime::Runtime::new().context("no runtime").and_then(|runtime| {
        runtime.block_on(async {
            match cli.command {
                Some(Command::Up { agent, port, dynamodb_port }) => {
                    up(agent, port, dynamodb_port).await
                }
                _ => one_session(cli.agent, &cli.prompt).await,
            }
        })
    });
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

async fn one_session(agent: AgentArgs, prompt: &str) -> Result<ExitCode> {
    let mut stop = Stop::new()?;
    let system = System::start(&options(agent, 0, 0, false)?).await?;
    let name = Uuid::new_v4().to_string();
    let session_id: SessionId = name.parse()?;
    let execution = Execution::new(&name, json!({ "prompt": prompt }));
    let endpoint = system.table.endpoint();
    println!("session  {session_id}");
    println!("table    {TABLE_NAME} at {endpoint}, kept in .local/journal.db\n");
    let code = tokio::select! {
        outcome = show(&system, &session_id, &execution) => report(&outcome?),
        how = system.agent_ended() => {
            eprintln!("\nThe agent-runtime ended: {how}. Its log is .local/agent-runtime-process.log");
            ExitCode::FAILURE
        }
        () = stop.requested() => {
            eprintln!("\nStopping.");
            ExitCode::from(130)
        }
    };
    system.stop().await;
    println!("\nTry next:");
    println!("  cargo run -- /does/not/exist    a session that fails");
    println!("  cargo run -- --agent-command 'tr a-z A-Z'    an agent of your own");
    println!("  cargo run -- up    the system for curl and the AWS CLI");
    Ok(code)
}

/// Runs an execution and prints its events as they arrive.
async fn show(system: &System, session_id: &SessionId, execution: &Execution) -> Result<Outcome> {
    let (journal, mut shown) = (system.journal(), Shown::default());
    let run = system.run(execution);
    tokio::pin!(run);
    loop {
        tokio::select! {
            outcome = &mut run => {
                shown.print(journal.events(session_id).await?);
                return Ok(outcome);
            }
            () = tokio::time::sleep(WATCH_INTERVAL) => shown.print(journal.events(session_id).await?),
        }
    }
}

/// The events that were printed. One that arrives late may sort before them.
#[derive(Default)]
struct Shown {
    start: Option<Timestamp>,
    keys: HashSet<String>,
}

impl Shown {
    fn print(&mut self, events: Vec<Event>) {
        for event in events {
            let time = event.timestamp.parse().ok();
            let start = *self.start.get_or_insert(time.unwrap_or(chrono::Utc::now().into()));
            if self.keys.insert(event.sort_key.clone()) {
                println!("{}", timeline::line(&event, start));
            }
        }
    }
}

fn report(outcome: &Outcome) -> ExitCode {
    match outcome {
        Outcome::Succeeded(result) => {
            println!("\nThe session completed. Result:\n{result:#}");
            ExitCode::SUCCESS
        }
        Outcome::Failed { error, cause } => {
            println!(
                "\nThe session failed. {}: {}",
                timeline::escape(error),
                timeline::escape(cause)
            );
            ExitCode::FAILURE
        }
    }
}

async fn up(agent: AgentArgs, port: u16, dynamodb_port: u16) -> Result<ExitCode> {
    let mut stop = Stop::new()?;
    let system = System::start(&options(agent, port, dynamodb_port, true)?).await?;
    let (address, endpoint) = (&system.agent_address, system.table.endpoint());
    let session_id = Uuid::new_v4();
    println!("The agent's entrypoint is http://{address}, DynamoDB is {endpoint}.\n");
    println!("Start a session:");
    println!("  curl -s http://{address}/invocations -H 'Content-Type: application/json' \\");
    println!("    -d '{{\"session_id\": \"{session_id}\", \"prompt\": \".\"}}'\n");
    println!("Ask whether it runs:");
    println!("  curl -s http://{address}/ping\n");
    println!("Read its journal:");
    println!(
        "  export AWS_ACCESS_KEY_ID={CREDENTIAL} AWS_SECRET_ACCESS_KEY={CREDENTIAL} AWS_REGION={REGION}"
    );
    println!("  aws dynamodb query --endpoint-url {endpoint} --table-name {TABLE_NAME} \\");
    println!("    --key-condition-expression 'PK = :session' \\");
    println!(
        "    --expression-attribute-values '{{\":session\": {{\"S\": \"SESSION#{session_id}\"}}}}'\n"
    );
    println!("Ctrl-C stops it.");
    let code = tokio::select! {
        how = system.agent_ended() => {
            eprintln!("error: the agent-runtime ended: {how}");
            ExitCode::FAILURE
        }
        () = stop.requested() => ExitCode::SUCCESS,
    };
    system.stop().await;
    Ok(code)
}

/// The system as the command line wants it, with its files in `.local/`.
fn options(agent: AgentArgs, agent_port: u16, dynamodb_port: u16, echo: bool) -> Result<Options> {
    let bundled = || shell_words::join(["sh", "-c", include_str!("count-lines.sh")]);
    Ok(Options {
        program: std::env::current_exe()?,
        database: Some(PathBuf::from(".local/journal.db")),
        logs: PathBuf::from(".local"),
        agent_port,
        dynamodb_port,
        agent_command: agent.agent_command.unwrap_or_else(bundled),
        max_poll_attempts: MAX_POLL_ATTEMPTS,
        echo,
    })
}

/// The signals that ask this process to stop.
struct Stop(Vec<tokio::signal::unix::Signal>);

impl Stop {
    fn new() -> Result<Self> {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        Ok(Self(kinds.into_iter().map(signal).collect::<Result<_, _>>()?))
    }

    async fn requested(&mut self) {
        let signals = self.0.iter_mut().map(|signal| Box::pin(signal.recv()));
        futures_util::future::select_all(signals).await;
    }
}
