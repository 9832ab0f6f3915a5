//! An agent in Rust: counts the words of its prompt. This is a container's whole program.

use std::process::ExitCode;

use agent_runtime::{Agent, AgentError, Invocation};
use serde_json::{Value, json};

struct WordCounter;

impl Agent for WordCounter {
    type Output = Value;

    async fn run(&self, invocation: Invocation) -> Result<Value, AgentError> {
        let context = &invocation.context;
        // Becomes TASK_COUNT_STARTED in the journal.
        context.started("count", "")?;
        let input: Value = invocation.input.read()?;
        let Some(prompt) = input["prompt"].as_str() else {
            context.failed("count", "there is no prompt")?;
            return Err("the input has no \"prompt\"".into());
        };
        let words = prompt.split_whitespace().count();
        context.completed("count", &format!("{words} words"))?;
        Ok(json!({ "words": words }))
    }
}

fn main() -> ExitCode {
    agent_runtime::run(WordCounter)
}
