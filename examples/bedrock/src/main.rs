//! A model of Bedrock that calls tools, as an agent: a container's whole program.
//!
//! It works on the input's `prompt` (or on the whole input, if it has none) through Bedrock's
//! Converse API, until the model has an answer. The answer is the session's result. Take this as a
//! start: the tools in `tools.rs` are what you would change.
//!
//! An error of Bedrock fails the task with the type `ClientError` (code and message in the text),
//! one of the credentials with `CredentialsError`, spent limits with `TurnsSpent` or `TokensSpent`,
//! and an unusable answer with the model's stop reason, such as `guardrail_intervened`.

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
