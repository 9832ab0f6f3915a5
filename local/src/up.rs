//! `up`: keeps the system running.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use local::agentcore::Lifecycle;
use local::collector::Collector;
use local::options::Options;
use local::step_functions::{self, STATE_MACHINE_ARN};
use local::system::{AGENT_RUNTIME_ARN, System};
use operator::log_line;
use operator::sessions::Sources;
use operator::ui::Ui;
use testing::{CREDENTIAL, REGION, TABLE_NAME};
use uuid::Uuid;
use workflow::Definition;

use crate::cli::{Stop, UpArgs, as_installed, options};

/// The file that points another terminal to this system instead of AWS.
const ENVIRONMENT_FILE: &str = ".local/env";

/// How long `up` waits after a container has ended before it starts the next.
const RESTART_DELAY: Duration = Duration::from_secs(1);
const MAX_RESTART_DELAY: Duration = Duration::from_secs(30);

/// Starts the system and keeps it up until a signal ends it.
pub async fn up(args: UpArgs) -> Result<ExitCode> {
    let mut stop = Stop::new()?;
    std::fs::create_dir_all(".local").context("cannot make the folder .local")?;
    let lock = File::create(".local/up.lock").context("cannot write .local/up.lock")?;
    ensure!(
        lock.try_lock().is_ok(),
        "another `up` runs in this folder, and .local has its journal"
    );
    let (otlp, traces_url) = match args.otlp {
        Some(url) => (url, None),
        None => {
            let kept = Some(Path::new(".local/traces.jsonl"));
            let otlp = Collector::start_keeping(args.otlp_port, kept)?.endpoint();
            let traces_url = format!("{otlp}/traces");
            (otlp, Some(traces_url))
        }
    };
    let traces = match &traces_url {
        Some(url) => format!("are listed at {}", url.trim_end_matches("traces")),
        None => format!("go to {otlp}"),
    };
    let options = options(args.agent)?;
    let options = Options {
        agent_port: Some(args.port),
        agentcore_port: args.agentcore_port,
        lifecycle: Lifecycle {
            idle_timeout: Duration::from_secs(args.agent_idle_timeout),
            max_lifetime: Duration::from_secs(args.agent_max_lifetime),
        },
        dynamodb_port: args.dynamodb_port,
        workflow: Definition {
            max_poll_attempts: args.max_poll_attempts,
            patience_seconds: args.patience_seconds,
            ..options.workflow
        },
        otlp: Some(otlp),
        echo: Some(echo),
        ..options
    };
    let system = Arc::new(System::start(&options).await?);
    let file = Some(Path::new(".local/executions.jsonl"));
    let (port, shared) = (args.step_functions_port, Arc::clone(&system));
    let step_functions = step_functions::start(port, shared, file, Some(echo))?;
    let (address, dynamodb) = (&system.agent_address, system.table.endpoint());
    let workflow = step_functions.address;
    let agentcore = format!("http://{}", system.agentcore);
    write_environment(&dynamodb, &format!("http://{workflow}"), &agentcore, traces_url.clone())?;
    let workflows = sfn_client(&format!("http://{workflow}"));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, args.ui_port))
        .with_context(|| format!("cannot serve the pages on 127.0.0.1:{}", args.ui_port))?;
    let pages = listener.local_addr()?;
    let ui = Ui {
        sources: Sources { journal: system.journal(), workflows },
        state_machine: STATE_MACHINE_ARN.to_owned(),
        traces_url: traces_url.clone(),
    };
    let ui = ui.serve(listener)?;
    let ui_handle = ui.handle();
    tokio::spawn(ui);
    let session_id = Uuid::new_v4();
    let text = format!(
        "The agent's entrypoint is http://{address}, DynamoDB is {dynamodb}, Step Functions is http://{workflow}, AgentCore is {agentcore}.
The sessions are listed at http://{pages}. Traces {traces}.

In another terminal, so that the commands below and the AWS CLI reach this system:
  . {ENVIRONMENT_FILE}

Start a session and watch it:
  cargo run --bin agent-journal -- start --watch .

Call the agent's entrypoint directly, and show what it journaled:
  curl -s http://{address}/invocations -d '{{\"session_id\": \"{session_id}\", \"prompt\": \".\"}}'
  cargo run --bin agent-journal -- events {session_id}

Ctrl-C stops it."
    );
    let text = as_installed(&text);
    // A terminal that is paused (Ctrl-S) must not block the system.
    std::thread::spawn(move || writeln!(io::stdout(), "{text}"));
    tokio::select! {
        () = keep_agent(&system) => {}
        () = stop.requested() => {}
    }
    ui_handle.stop(false).await;
    step_functions.stop().await;
    system.stop().await;
    Ok(ExitCode::SUCCESS)
}

/// A client of Step Functions at this address.
fn sfn_client(url: &str) -> aws_sdk_sfn::Client {
    use aws_sdk_sfn::config::{BehaviorVersion, Config, Credentials, Region};
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(url)
        .region(Region::new(REGION))
        .credentials_provider(Credentials::new(CREDENTIAL, CREDENTIAL, None, None, "local"));
    aws_sdk_sfn::Client::from_conf(config.build())
}

fn write_environment(
    dynamodb: &str,
    workflow: &str,
    agentcore: &str,
    traces_url: Option<String>,
) -> Result<()> {
    let variables = [
        ("AWS_ACCESS_KEY_ID", CREDENTIAL),
        ("AWS_SECRET_ACCESS_KEY", CREDENTIAL),
        ("AWS_REGION", REGION),
        ("AWS_DEFAULT_REGION", REGION),
        ("AWS_ENDPOINT_URL_DYNAMODB", dynamodb),
        ("AWS_ENDPOINT_URL_SFN", workflow),
        ("AWS_ENDPOINT_URL_BEDROCK_AGENTCORE", agentcore),
        ("AGENT_RUNTIME_ARN", AGENT_RUNTIME_ARN),
        ("JOURNAL_TABLE_NAME", TABLE_NAME),
        ("STATE_MACHINE_ARN", STATE_MACHINE_ARN),
    ];
    let logs = std::path::absolute(".local")?.display().to_string();
    let logs = shell_words::quote(&logs).into_owned();
    let logs = std::iter::once(("LOGS_FOLDER", logs.as_str()));
    let traces_url = traces_url.as_deref().map(|url| ("TRACES_URL", url));
    let lines = variables.into_iter().chain(logs).chain(traces_url);
    let text: String = lines.map(|(name, value)| format!("export {name}={value}\n")).collect();
    // The terminal's own settings for AWS would override these.
    let text = text + "unset AWS_PROFILE AWS_SESSION_TOKEN AWS_IGNORE_CONFIGURED_ENDPOINT_URLS\n";
    std::fs::write(ENVIRONMENT_FILE, text)
        .with_context(|| format!("cannot write {ENVIRONMENT_FILE}"))
}

/// Shows a log line of a child or of this process. An agent's output must not control the terminal.
fn echo(line: &str) {
    let line = if io::stderr().is_terminal() { log_line::readable(line) } else { line.to_owned() };
    telemetry::log_line(&operator::timeline::escape(&line));
}

/// Replaces an agent-runtime that has ended, again and again.
async fn keep_agent(system: &System) {
    loop {
        let how = system.agent_ended().await;
        echo(&format!("warning: the agent-runtime ended ({how}); starting another"));
        let mut delay = RESTART_DELAY;
        tokio::time::sleep(delay).await;
        // Its port may be taken for a moment, or it may die before it listens.
        while let Err(error) = system.replace_agent().await {
            delay = (delay * 2).min(MAX_RESTART_DELAY);
            let seconds = delay.as_secs();
            let next = format!("trying again in {seconds} s");
            echo(&format!("warning: the agent-runtime was not started; {next}: {error:#}"));
            tokio::time::sleep(delay).await;
        }
    }
}
