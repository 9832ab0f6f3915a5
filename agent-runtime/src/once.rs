//! An agent's program as the command of another agent-runtime, which is how one tries a program that
//! is made to be a container's: input on stdin, result on stdout, progress on a file descriptor.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::process::ExitCode;
use std::sync::Arc;

use nix::unistd::{dup, dup2_stdout};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::command::PROGRESS_FD_VARIABLE;
use crate::outcome::not_joined;
use crate::{Agent, AgentError, Context, Invocation};

/// Whether another agent-runtime has started this process.
pub(crate) fn is_command() -> bool {
    [PROGRESS_FD_VARIABLE, "INVOCATION_ID"].iter().all(|name| std::env::var_os(name).is_some())
}

/// Runs the agent on stdin's input. An error is its message on stderr, its type as a line of the
/// progress, and exit code 1.
pub(crate) fn run_once(agent: impl Agent) -> ExitCode {
    // Stderr is the error's message, in which a backtrace would hide the rest.
    std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
    let path = format!("/dev/fd/{}", variable(PROGRESS_FD_VARIABLE));
    let progress = Arc::new(File::options().write(true).open(path).ok());
    let say = move |line: &str| {
        // One line, whatever it says; and nobody may be listening any more.
        let line = format!("{}\n", line.replace('\n', " "));
        let _ = (*progress).as_ref().map(|mut progress| progress.write_all(line.as_bytes()));
    };
    match run(agent, say.clone()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error {}", error.error_type));
            eprintln!("{}", error.message);
            ExitCode::FAILURE
        }
    }
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

fn run(agent: impl Agent, say: impl Fn(&str) + Send + 'static) -> Result<(), AgentError> {
    // What the agent prints is not its result.
    let mut stdout = File::from(dup(std::io::stdout()).map_err(std::io::Error::from)?);
    dup2_stdout(std::io::stderr()).map_err(std::io::Error::from)?;
    let mut input = Vec::new();
    std::io::stdin().read_to_end(&mut input)?;
    let names = ["SESSION_ID", "INVOCATION_ID", "TRACEPARENT", "TRACESTATE", "BAGGAGE"];
    let set =
        names.into_iter().filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)));
    let context = Context::saying(move |phase, step, text| {
        say(&format!("{} {phase} {text}", step.as_str()));
    });
    let invocation = Invocation {
        session_id: variable("SESSION_ID").parse().map_err(|error| AgentError::other(&error))?,
        invocation_id: variable("INVOCATION_ID"),
        input: serde_json::from_slice(&input)?,
        environment: BTreeMap::from_iter(set),
        context: context.clone(),
    };
    let runtime = Runtime::new()?;
    let result: Result<Value, AgentError> = runtime.block_on(async {
        let agent = tokio::spawn(async move { agent.run(invocation).await });
        let result = agent.await.map_err(not_joined)??;
        context.join_children().await.map_err(not_joined)?;
        Ok(result)
    });
    // As in a container, the end does not wait for what the agent has left behind.
    runtime.shutdown_background();
    Ok(writeln!(stdout, "{}", result?)?)
}
