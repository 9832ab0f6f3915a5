//! The containerized agent host: runs agents as supervised background tasks and journals how each
//! of them begins and ends.
//!
//! It is not an agent framework: what an agent does, and with which model, is the agent's matter.
//! It keeps no state besides the journal's: what a killed container was doing is known from the
//! events that are missing.
//!
//! # An agent of your own
//!
//! Implement [`Agent`] and call [`run`]: that is a container's whole program.
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
//! - What it returns is the result of the session; an [`AgentError`], a panic or a signal is its
//!   failure, with type and message in the journal.
//! - [`Invocation::context`] journals [phases](TaskContext) of the agent's own, and ties
//!   [further tasks](TaskContext::spawn) to it.
//! - [`CommandAgent`] runs a program in any language, [`HttpAgent`] calls a server. The binary of this
//!   crate is [`run_from_env`], which takes the one that the environment names.
//! - The program's allocator is mimalloc. A program that has its own turns the feature `mimalloc`
//!   off: `default-features = false`.
//! - [`Settings`] are the environment variables. [`serve`] is the same without a process around it,
//!   for a program that has a listener and a journal already, such as a test.
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
//! - `agents` are the kinds of agent. `health` answers `/ping`, `socket` what actix does not. `server`
//!   and `run` are the process around all this. `web_page` guards a port of one's own machine.

mod agent;
mod agent_environment;
mod agents;
mod body;
mod body_reader;
mod caller;
mod entrypoint;
mod health;
mod heartbeat;
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
