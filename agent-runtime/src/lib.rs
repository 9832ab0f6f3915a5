//! The container's program: runs agents as supervised background tasks and journals how each of
//! them begins and ends.
//!
//! It is not an agent framework: the agent decides what it does, and with which model. It keeps its
//! state only in the journal: missing events show what a killed container was doing.
//!
//! # An agent of your own
//!
//! Implement [`Agent`] and call [`run`]. This is a container's whole program:
//!
//! ```no_run
//! use agent_runtime::{Agent, AgentError, Invocation};
//! use serde_json::Value;
//!
//! struct Greeter;
//!
//! impl Agent for Greeter {
//!     type Output = String;
//!
//!     async fn run(&self, invocation: Invocation) -> Result<String, AgentError> {
//!         let input: Value = invocation.input.read()?;
//!         let name = input["name"].as_str().ok_or("the input has no \"name\"")?;
//!         Ok(format!("Hello, {name}!"))
//!     }
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     agent_runtime::run(Greeter)
//! }
//! ```
//!
//! - The return value is the session's result. An [`AgentError`], a panic or a signal fails the
//!   session, with type and message in the journal.
//! - [`Invocation::context`] journals the agent's own [phases](TaskContext), and spawns
//!   [further tasks](TaskContext::spawn) that end with the agent.
//! - [`CommandAgent`] runs a program in any language, [`HttpAgent`] calls a server. The binary of this
//!   crate is [`run_from_env`], which runs the agent that the environment names.
//! - The program's allocator is mimalloc. If your program has another one, turn off the feature
//!   `mimalloc`: `default-features = false`.
//! - [`Settings`] are the environment variables. [`serve`] does the same as [`run`] for a program that
//!   has a listener and a journal already, such as a test.
//!
//! # How it works
//!
//! A request passes these modules:
//!
//! - `entrypoint` journals the request and answers at once. `caller` reads its head, `body_reader`
//!   receives its body, `request` (with `body`) reads it, and a `refusal` says why no task was started.
//! - `supervisor` (an actor) starts each invocation once, with a `worker` (an actor) that stands for
//!   the running agent.
//! - `task` (a plain task) guards the agent and writes its one terminal event, as `outcome` decides.
//!   `progress` is the agent's own way into the journal, `heartbeat` gives signs of life.
//! - `host` is what these parts share. `agents` are the kinds of agent. `health` answers `/ping`,
//!   `socket` what actix does not answer. `server` and `run` are the process around all this.
//!   `web_page` refuses requests of web pages to a port of the user's machine.

mod agent;
mod agent_environment;
mod agents;
mod body;
mod body_reader;
mod caller;
mod entrypoint;
mod health;
mod heartbeat;
mod host;
mod input;
mod outcome;
mod progress;
mod refusal;
mod request;
mod run;
mod server;
mod settings;
mod socket;
mod supervisor;
mod task;
mod task_context;
mod web_page;
mod worker;

pub use agent::{Agent, AgentError, Invocation};
pub use agent_environment::agent_variable;
pub use agents::{CommandAgent, HttpAgent};
pub use caller::{REQUEST_HEADER, SESSION_HEADER};
pub use input::Input;
pub use journal::{InvalidPhase, SessionId, SettingError};
pub use progress::MAX_PROGRESS_EVENTS;
pub use run::{check_agent, run, run_from_env};
pub use server::serve;
pub use settings::{Limits, Settings};
#[doc(hidden)]
pub use task::run_task;
pub use task_context::TaskContext;
#[doc(hidden)]
pub use web_page::refuse_web_pages;
