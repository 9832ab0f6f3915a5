//! An agent's program as the command of another agent-runtime, which is how one tries a program that
//! is made to be a container's: input on stdin, result on stdout, progress on a file descriptor.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::process::ExitCode;

use journal::Step;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::command::PROGRESS_FD_VARIABLE;
use crate::outcome::not_joined;
use crate::{Agent, AgentError, Context, Invocation};

/// Whether another agent-runtime has started this process.
pub(crate) fn is_command() -> bool {
    std::env::var_os(PROGRESS_FD_VARIABLE).is_some()
}

/// Runs the agent on stdin's input. An error is its message on stderr and exit code 1.
pub(crate) fn run_once(agent: impl Agent) -> ExitCode {
    let result = run(agent).and_then(|result| Ok(writeln!(std::io::stdout(), "{result}")?));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", error.message);
            ExitCode::FAILURE
        }
    }
}

fn run(agent: impl Agent) -> Result<Value, AgentError> {
    let mut input = Vec::new();
    std::io::stdin().read_to_end(&mut input)?;
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let names = ["SESSION_ID", "INVOCATION_ID", "TRACEPARENT", "TRACESTATE", "BAGGAGE"];
    let set =
        names.into_iter().filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)));
    let path = format!("/dev/fd/{}", variable(PROGRESS_FD_VARIABLE));
    let mut progress = std::fs::File::options().write(true).open(path)?;
    let context = Context::saying(move |phase, step, text| {
        let step = match step {
            Step::Started => "started",
            Step::Completed => "completed",
            Step::Failed => "failed",
        };
        // One line, whatever the text is; and nobody may be listening any more.
        let text = text.replace('\n', " ");
        let _ = progress.write_all(format!("{step} {phase} {text}\n").as_bytes());
    });
    let invocation = Invocation {
        session_id: variable("SESSION_ID").parse().map_err(|error| AgentError::other(&error))?,
        invocation_id: variable("INVOCATION_ID"),
        input: serde_json::from_slice(&input)?,
        environment: BTreeMap::from_iter(set),
        context: context.clone(),
    };
    Runtime::new()?.block_on(async {
        let result = agent.run(invocation).await?;
        context.join_children().await.map_err(not_joined)?;
        Ok(result)
    })
}
