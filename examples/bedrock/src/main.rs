//! An agent that runs a model on Bedrock, with tools: a container's whole program.
//!
//! It sends the input's `prompt` (or the whole input, if it has no prompt) to the model through
//! Bedrock's Converse API and runs the model's tools, until the model answers. The answer is the
//! session's result. Copy it, and change the tools in `tools.rs`.
//!
//! The task fails with the type `ClientError` if Bedrock refuses a call (code and message in the
//! text), `CredentialsError` without valid credentials, `TurnsSpent` or `TokensSpent` at a limit, and
//! with the model's stop reason, such as `guardrail_intervened`, if there is no usable answer.

mod agent;
mod documents;
mod settings;
mod tools;

use std::process::ExitCode;

use crate::agent::BedrockAgent;
use crate::settings::Settings;

fn main() -> ExitCode {
    match Settings::from_env(agent_runtime::agent_variable) {
        Ok(settings) => agent_runtime::run(BedrockAgent::new(settings)),
        Err(error) => {
            eprintln!("bedrock-agent: {error}");
            ExitCode::from(2)
        }
    }
}
