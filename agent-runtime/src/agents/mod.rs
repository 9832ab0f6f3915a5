//! The kinds of agent that this crate contains.

mod answer;
mod call;
mod command;
mod desk;
mod failure;
mod http;
mod log;
mod output;
mod process_group;
mod server;
mod traceback;

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use journal::SettingError;
use journal::settings::optional;
use tokio::net::unix::pipe::{Receiver, pipe};
use tokio::process::{Child, Command};

use crate::AgentError;
use crate::agent_environment::agent_environment;
use process_group::ProcessGroup;

pub use command::CommandAgent;
pub use http::HttpAgent;

/// How long an agent's process may save its work when it has to end: from SIGTERM to SIGKILL.
const GRACE: Duration = Duration::from_secs(3);

/// The file descriptor on which an agent's program reports its progress, and a command its result.
const PROGRESS_FD: i32 = 3;

/// The agent that the environment names.
#[derive(Debug)]
pub(crate) enum NamedAgent {
    Command(CommandAgent),
    Http(HttpAgent),
}

impl NamedAgent {
    /// Reads `AGENT_COMMAND`, `AGENT_SERVER_COMMAND` or `AGENT_URL`.
    ///
    /// # Errors
    /// Unless exactly one of them is there, and is valid.
    pub fn from_env(env: impl Fn(&str) -> Option<String>) -> Result<Self, SettingError> {
        const ONE: &str = "exactly one of AGENT_COMMAND (a program that is run for each invocation), \
            AGENT_SERVER_COMMAND (a server that is started and called) and AGENT_URL (the URL of a \
            server's invocations) must name the agent";
        let names = ["AGENT_COMMAND", "AGENT_SERVER_COMMAND", "AGENT_URL"];
        let given = |name: &&str| env(name).is_some_and(|value| !value.is_empty());
        let mut given = names.into_iter().filter(given);
        match (given.next(), given.next()) {
            (Some("AGENT_COMMAND"), None) => CommandAgent::from_env(env).map(Self::Command),
            (Some(_), None) => HttpAgent::from_env(env).map(Self::Http),
            (None, _) => Err(SettingError::Missing { name: "AGENT_COMMAND", expected: ONE }),
            (Some(_), Some(name)) => {
                let value = env(name).unwrap_or_default();
                Err(SettingError::Malformed { name, value, expected: ONE })
            }
        }
    }
}

/// A program and its arguments.
#[derive(Debug, Clone)]
struct CommandLine {
    program: String,
    arguments: Vec<String>,
    /// Variables that the deployment gives to the agent.
    environment: BTreeMap<String, String>,
}

impl CommandLine {
    /// Reads a variable, split into words as a shell splits them; no shell is started.
    fn from_env(
        env: impl Fn(&str) -> Option<String>,
        name: &'static str,
    ) -> Result<Option<Self>, SettingError> {
        const WORDS: &str = "it must be a program and its arguments, with matching quotes";
        const SHELL: &str = "no shell reads it, so `|`, `&&`, `;`, `<` and `>` do nothing: write \
            sh -c 'first | second'";
        // In quotes, these are ordinary arguments.
        let of_a_shell =
            |word: &str| ["|", "||", "&&", "&", ";", "<", ">", ">>", "2>", "2>&1"].contains(&word);
        let words = optional(&env, name, WORDS, |line| {
            let mut words = shell_words::split(line).ok()?.into_iter();
            Some((line.to_owned(), words.next()?, Vec::from_iter(words)))
        })?;
        let Some((value, program, arguments)) = words else { return Ok(None) };
        let is_bare = |word: &str| value.split_whitespace().any(|bare| bare == word);
        if arguments.iter().any(|word| of_a_shell(word) && is_bare(word)) {
            return Err(SettingError::Malformed { name, value, expected: SHELL });
        }
        Ok(Some(Self { program, arguments, environment: agent_environment(env)? }))
    }

    /// Starts the program as the leader of a process group, with what it writes on pipes. One of them
    /// is for its progress.
    fn start(
        &self,
        environment: &BTreeMap<String, String>,
        prepare: impl FnOnce(&mut Command),
    ) -> Result<(Child, ProcessGroup, Receiver), AgentError> {
        let (sender, progress) = pipe()?;
        let sender = FdMapping { parent_fd: sender.into_blocking_fd()?, child_fd: PROGRESS_FD };
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            // The container's own would put the agent into another trace.
            .env_remove("TRACEPARENT")
            .env_remove("TRACESTATE")
            .env_remove("BAGGAGE")
            // These concern the runtime alone.
            .env_remove(journal::settings::ENDPOINT_URL)
            .env_remove("AGENT_ENVIRONMENT")
            .envs(&self.environment)
            .envs(environment)
            .env("PROGRESS_FD", PROGRESS_FD.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .fd_mappings(vec![sender])
            .map_err(|error| error.to_string())?;
        prepare(&mut command);
        // What is dropped here is the writing end of the pipe, which would keep the reading end open.
        let child = command.spawn().map_err(|error| self.not_started(&error))?;
        let group = ProcessGroup::of(&child).ok_or("the agent's program has no process id")?;
        Ok((child, group, progress))
    }

    /// Why it could not be started.
    fn not_started(&self, error: &std::io::Error) -> AgentError {
        let hint = match error.kind() {
            std::io::ErrorKind::NotFound if self.program.contains(['|', '&', ';', '=', '$']) => {
                "\nNo shell reads it: write sh -c '…', and env NAME=VALUE before the program"
            }
            std::io::ErrorKind::NotFound => {
                "\nIs the program in the image and in PATH? If it is a script, does the image have the interpreter that its first line names?"
            }
            std::io::ErrorKind::PermissionDenied => {
                "\nMake a script executable (`chmod +x`), or name its interpreter: python3 /agent.py"
            }
            _ => "",
        };
        AgentError::new(
            AgentError::GENERIC,
            format!("cannot start {:?}: {error}{hint}", self.program),
        )
    }
}
