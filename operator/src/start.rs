use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use aws_sdk_sfn::Client;
use clap::Args;
use journal::{SdkFault, SessionId};
use operator::{Printer, View};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::access::Access;
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
}

/// Starts an execution and prints the session's id.
pub async fn start(access: &Access, args: StartArgs) -> Result<ExitCode> {
    let state_machine = access.state_machine()?;
    let mut input = input(args.input.as_deref(), &args.prompt)?;
    // A name of its own makes a retried request start one execution, and not two.
    let name = Uuid::new_v4().to_string();
    if let Some(id) = args.id.map(|id| json!(id)) {
        let inside = input.insert("session_id".to_owned(), id.clone());
        ensure!(inside.is_none_or(|it| it == id), "--id and session_id in --input differ");
    }
    ensure!(
        input.contains_key("session_id") || !input.contains_key("sessionId"),
        "the input has \"sessionId\" and no session id: its name is \"session_id\""
    );
    // Without an id, it is the execution's name.
    let id = input.get("session_id").cloned().unwrap_or_else(|| json!(name));
    let session_id = SessionId::deserialize(id).context("session_id in --input")?;
    args.watch.then(|| access.journal()).transpose()?;
    let request = Client::new(&access.config).start_execution().state_machine_arn(state_machine);
    let request = request.name(&name).input(Value::Object(input).to_string());
    let started = request.send().await.map_err(|error| SdkFault::new(&error));
    let started =
        started.with_context(|| format!("cannot start an execution of {state_machine}"))?;
    writeln!(anstream::stdout(), "{session_id}")?;
    if !args.watch {
        return Ok(ExitCode::SUCCESS);
    }
    let printer = Printer::new(View::default(), access.traces_url());
    follow(access, &session_id, printer, Some(&started.execution_arn)).await
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
