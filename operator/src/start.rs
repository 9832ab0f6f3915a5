use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use aws_config::SdkConfig;
use clap::Args;
use journal::{Journal, SdkFault, SessionId};
use operator::{Printer, View, execution_end};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::follow::follow;

#[derive(Args)]
pub struct StartArgs {
    /// What to tell the agent: its input is {"prompt": PROMPT}
    #[arg(conflicts_with = "input")]
    prompt: Vec<String>,
    /// The agent's input: a JSON object, @ and the file that has it, or - for standard input
    #[arg(long, value_name = "JSON")]
    input: Option<String>,
    /// The session's id; without it, a new one
    #[arg(long)]
    id: Option<SessionId>,
    /// Show the session's events until it ends
    #[arg(long)]
    watch: bool,
    /// The state machine's ARN
    #[arg(long, value_name = "ARN", env = "STATE_MACHINE_ARN", hide_env_values = true)]
    state_machine: Option<String>,
}

/// Starts an execution and prints the session's id.
pub async fn start(
    config: &SdkConfig,
    journal: impl FnOnce() -> Result<Journal>,
    args: StartArgs,
) -> Result<ExitCode> {
    let state_machine = crate::state_machine(args.state_machine.as_deref())?;
    let mut input = input(args.input.as_deref(), &args.prompt)?;
    // A name of its own makes a retried request start one execution, and not two.
    let name = Uuid::new_v4().to_string();
    let session_id = session_id(&input, args.id, &name)?;
    if session_id.as_str() != name {
        input.insert("session_id".to_owned(), json!(session_id));
    }
    let watched = args.watch.then(journal).transpose()?;
    let client = aws_sdk_sfn::Client::new(config);
    let started = client
        .start_execution()
        .state_machine_arn(state_machine)
        .name(&name)
        .input(Value::Object(input).to_string())
        .send()
        .await
        .map_err(|error| SdkFault::new(&error))
        .with_context(|| format!("cannot start an execution of {state_machine}"))?;
    writeln!(anstream::stdout(), "{session_id}")?;
    let Some(journal) = watched else { return Ok(ExitCode::SUCCESS) };
    let arn = started.execution_arn;
    let ended = async || execution_end::ended(&client, &arn).await;
    follow(&journal, &session_id, Printer::new(View::default()), Some(arn.clone()), ended).await
}

fn input(json: Option<&str>, prompt: &[String]) -> Result<Map<String, Value>> {
    let Some(json) = json else {
        let prompt = (!prompt.is_empty()).then(|| ("prompt".to_owned(), json!(prompt.join(" "))));
        return Ok(prompt.into_iter().collect());
    };
    let json = match (json, json.strip_prefix('@')) {
        ("-", _) => std::io::read_to_string(std::io::stdin()).context("cannot read --input")?,
        (_, Some(file)) => {
            std::fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?
        }
        (json, None) => json.to_owned(),
    };
    match serde_json::from_str(&json).context("--input is not JSON")? {
        Value::Object(input) => Ok(input),
        _ => bail!("--input must be a JSON object, such as {{\"prompt\": \"hi\"}}"),
    }
}

/// The session's id: given twice, it must be the same; not given, it is the execution's name.
fn session_id(
    input: &Map<String, Value>,
    given: Option<SessionId>,
    name: &str,
) -> Result<SessionId> {
    ensure!(
        given.is_some() || input.contains_key("session_id") || !input.contains_key("sessionId"),
        "the input has \"sessionId\" and no session id: its name is \"session_id\""
    );
    let inside = input.get("session_id").map(SessionId::deserialize);
    let inside = inside.transpose().context("session_id in --input")?;
    if let (Some(given), Some(inside)) = (&given, &inside) {
        ensure!(given == inside, "--id and session_id in --input differ");
    }
    Ok(given.or(inside).map_or_else(|| name.parse(), Ok)?)
}
