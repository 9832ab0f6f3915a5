use std::collections::HashSet;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use journal::{Event, SessionId};
use local::asl::{Execution, Outcome};
use local::collector::Collector;
use local::step_functions::{STATE_MACHINE_ARN, StepFunctions};
use local::system::{Options, System};
use local::table::{CREDENTIAL, REGION, TABLE_NAME};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use uuid::Uuid;
use workflow::history::runs;
use workflow::timeline;

/// How often the journal is read while a session is shown.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// How long `up` is without a container after one has ended.
const RESTART_DELAY: Duration = Duration::from_secs(1);

const TRY_NEXT: &str = "Try next:
  cargo run -- /does/not/exist    a session that fails
  cargo run -- --agent-command 'tr a-z A-Z'    an agent of your own
  cargo run -- up    the system for curl, the AWS CLI, and `session explain`";

/// As many polls as a session of 8 hours needs.
const MAX_POLL_ATTEMPTS: u32 = 600;

/// The whole system on this machine, offline: runs one session and shows its journal.
#[derive(Parser)]
#[command(name = "local", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to tell the agent; the bundled one takes a path and counts the lines below it
    #[arg(default_value = ".")]
    prompt: Vec<String>,
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
        /// Port of Step Functions
        #[arg(long, default_value_t = 8083)]
        step_functions_port: u16,
        /// Port on which traces are taken and shown
        #[arg(long, default_value_t = 4318)]
        otlp_port: u16,
        /// Send traces and metrics to this collector, such as Jaeger's http://127.0.0.1:4318, instead
        #[arg(long, value_name = "URL", value_parser = collector_url, conflicts_with = "otlp_port")]
        otlp: Option<String>,
        /// Polls after which a session without an end is given up
        #[arg(long, default_value_t = MAX_POLL_ATTEMPTS)]
        max_poll_attempts: u32,
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
                Some(Command::Up {
                    agent,
                    port,
                    dynamodb_port,
                    step_functions_port,
                    otlp_port,
                    otlp,
                    max_poll_attempts,
                }) => {
                    let options = options(agent, port, dynamodb_port, true)?;
                    let options = Options { max_poll_attempts, otlp, ..options };
                    up(options, step_functions_port, otlp_port).await
                }
                _ => one_session(cli.agent, &cli.prompt.join(" ")).await,
            }
        })
    });
    result.unwrap_or_else(|error| {
        // Whoever reads the output may stop reading, as `head` does.
        let unread = error.downcast_ref::<io::Error>().map(io::Error::kind);
        if unread != Some(io::ErrorKind::BrokenPipe) {
            eprintln!("error: {error:#}");
        }
        ExitCode::FAILURE
    })
}

async fn one_session(agent: AgentArgs, prompt: &str) -> Result<ExitCode> {
    let mut stop = Stop::new()?;
    let collector = Collector::start(0)?;
    let otlp = Some(collector.endpoint());
    let system = System::start(&Options { otlp, ..options(agent, 0, 0, false)? }).await?;
    let name = Uuid::new_v4().to_string();
    let session_id: SessionId = name.parse()?;
    let execution = Execution::new(&name, json!({ "prompt": prompt }));
    let code = tokio::select! {
        code = show(&system, &session_id, &execution) => code,
        how = system.agent_ended() => {
            eprintln!("\nThe agent-runtime ended: {how}. Its log is .local/{}.log", local::system::AGENT);
            Ok(ExitCode::FAILURE)
        }
        () = stop.requested() => {
            eprintln!("\nStopped. The journal in .local/journal.db says how far the session came.");
            Ok(ExitCode::from(130))
        }
    };
    // With their end the processes send their last spans.
    system.stop().await;
    let mut out = io::stdout();
    for (trace_id, spans) in collector.traces() {
        write!(out, "\n{}", local::trace::tree(&trace_id, &spans))?;
    }
    if code.is_ok() {
        writeln!(out, "\n{TRY_NEXT}")?;
    }
    code
}

/// Runs an execution, and prints its events as they arrive and how it ended.
async fn show(system: &System, session_id: &SessionId, execution: &Execution) -> Result<ExitCode> {
    let mut out = io::stdout();
    let endpoint = system.table.endpoint();
    writeln!(out, "session  {session_id}")?;
    writeln!(out, "table    {TABLE_NAME} at {endpoint}, kept in .local/journal.db\n")?;
    let (journal, mut shown) = (system.journal(), Shown::default());
    let run = system.run(execution);
    tokio::pin!(run);
    let outcome = loop {
        tokio::select! {
            outcome = &mut run => break outcome,
            () = tokio::time::sleep(WATCH_INTERVAL) => {}
        }
        shown.print(&journal.events(session_id).await?)?;
    };
    let events = journal.events(session_id).await?;
    shown.print(&events)?;
    let code = match &outcome {
        Outcome::Succeeded(result) => {
            writeln!(out, "\nThe session completed. Result:")?;
            for line in format!("{result:#}").lines() {
                writeln!(out, "{}", timeline::escape(line))?;
            }
            if events.iter().any(|event| event.result_truncated) {
                writeln!(out, "(cut: the journal keeps the first 64 KB)")?;
            }
            ExitCode::SUCCESS
        }
        Outcome::Failed { error, cause } => {
            let (error, cause) = (timeline::escape(error), timeline::escape(cause));
            writeln!(out, "\nThe session failed. {error}: {cause}")?;
            ExitCode::FAILURE
        }
    };
    Ok(code)
}

/// The events that were printed, by sort key. One that arrives late may sort before them.
#[derive(Default)]
struct Shown(HashSet<String>);

impl Shown {
    fn print(&mut self, events: &[Event]) -> io::Result<()> {
        let runs = runs(events);
        let mut entries: Vec<_> = runs.iter().flat_map(|run| &run.entries).collect();
        entries.sort_by(|a, b| a.event.sort_key.cmp(&b.event.sort_key));
        for entry in entries {
            if self.0.insert(entry.event.sort_key.clone()) {
                writeln!(anstream::stdout(), "{}", timeline::line(entry))?;
            }
        }
        Ok(())
    }
}

/// The base of a collector's URLs; the exporters put `/v1/traces` behind it.
fn collector_url(url: &str) -> Result<String, &'static str> {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    match rest {
        Some(rest) if !rest.is_empty() && !rest.contains("/v1/") => Ok(url.to_owned()),
        _ => Err("it must be a collector's http:// or https:// address, without /v1/traces"),
    }
}

async fn up(options: Options, step_functions_port: u16, otlp_port: u16) -> Result<ExitCode> {
    let mut stop = Stop::new()?;
    let (otlp, traces, export) = match options.otlp {
        Some(url) => (url.clone(), format!("go to {url}"), String::new()),
        None => {
            let otlp = Collector::start(otlp_port)?.endpoint();
            let traces = format!("are at {otlp}/traces/TRACE_ID");
            (otlp.clone(), traces, format!(" TRACES_URL={otlp}/traces"))
        }
    };
    let system = Arc::new(System::start(&Options { otlp: Some(otlp), ..options }).await?);
    let step_functions = StepFunctions::start(step_functions_port, Arc::clone(&system))?;
    let (address, dynamodb) = (&system.agent_address, system.table.endpoint());
    let workflow = step_functions.address;
    let session_id = Uuid::new_v4();
    writeln!(
        io::stdout(),
        "The agent's entrypoint is http://{address}, DynamoDB is {dynamodb}, Step Functions is http://{workflow}.
Traces {traces}.

For the commands below and the AWS CLI, paste this into another terminal:
  export AWS_ACCESS_KEY_ID={CREDENTIAL} AWS_SECRET_ACCESS_KEY={CREDENTIAL} AWS_REGION={REGION} AWS_DEFAULT_REGION={REGION} AWS_ENDPOINT_URL_DYNAMODB={dynamodb} AWS_ENDPOINT_URL_SFN=http://{workflow} JOURNAL_TABLE_NAME={TABLE_NAME} STATE_MACHINE_ARN={STATE_MACHINE_ARN}{export}

Start a session and watch it:
  cargo run --bin session -- start --watch .

Call the agent's entrypoint directly, and show what it journaled:
  curl -s http://{address}/invocations -d '{{\"session_id\": \"{session_id}\", \"prompt\": \".\"}}'
  cargo run --bin session -- events {session_id}

Ctrl-C stops it."
    )?;
    let outcome = tokio::select! {
        error = keep_agent(&system) => Err(error),
        () = stop.requested() => Ok(ExitCode::SUCCESS),
    };
    step_functions.stop().await;
    system.stop().await;
    outcome
}

/// Replaces an agent-runtime that has ended; resolves when that fails.
async fn keep_agent(system: &System) -> anyhow::Error {
    loop {
        let how = system.agent_ended().await;
        eprintln!("warning: the agent-runtime ended ({how}); starting another");
        tokio::time::sleep(RESTART_DELAY).await;
        if let Err(error) = system.replace_agent().await {
            return error;
        }
    }
}

/// The system as the command line wants it, with its files in `.local/`.
fn options(agent: AgentArgs, agent_port: u16, dynamodb_port: u16, echo: bool) -> Result<Options> {
    let settings = journal::Settings::from_env(|name| match name {
        "JOURNAL_TABLE_NAME" => Some(TABLE_NAME.to_owned()),
        name => std::env::var(name).ok(),
    })?;
    let bundled = || shell_words::join(["sh", "-c", include_str!("count-lines.sh")]);
    Ok(Options {
        program: std::env::current_exe()?,
        database: Some(PathBuf::from(".local/journal.db")),
        logs: PathBuf::from(".local"),
        agent_port,
        dynamodb_port,
        agent_command: agent.agent_command.unwrap_or_else(bundled),
        max_poll_attempts: MAX_POLL_ATTEMPTS,
        retention_days: settings.retention_days,
        otlp: None,
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
