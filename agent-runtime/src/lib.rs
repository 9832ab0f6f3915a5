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
//! use serde_json::{Value, json};
//!
//! struct Greeter;
//!
//! impl Agent for Greeter {
//!     async fn run(&self, invocation: Invocation) -> Result<Value, AgentError> {
//!         let name = invocation.input["name"].as_str().ok_or("the input has no \"name\"")?;
//!         Ok(json!(format!("Hello, {name}!")))
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
//! - [`Invocation::context`] journals [phases](Context) of the agent's own, and ties
//!   [further tasks](Context::spawn) to it.
//! - [`CommandAgent`] runs a program in any language, [`BedrockAgent`] a model of Bedrock with
//!   [tools](Tool); the binary of this crate is [`run_from_env`], which takes one of the two.
//! - The program's allocator is mimalloc. One that has its own turns the feature `mimalloc` off:
//!   `default-features = false`.
//! - [`Settings`] are the environment variables. [`serve`] is the same without a process around it,
//!   for a program that has a listener and a journal already, such as a test.
//!
//! # How it works
//!
//! A request goes this way, one module each:
//!
//! `entrypoint` (journals the request, answers at once) → `request` (what the body means) →
//! `supervisor` (an actor: each invocation once) → `worker` (an actor: the agent's abort) beside
//! `task` (a plain task that guards the agent and writes its one terminal event, whose content
//! `outcome` decides). `health` answers `/ping`; `server` and `run` are the process around it.

mod agent;
mod bedrock;
mod command;
mod context;
mod entrypoint;
mod health;
mod once;
mod outcome;
mod progress;
mod request;
mod run;
mod server;
mod settings;
mod supervisor;
mod task;
mod tool;
mod worker;

pub use agent::{Agent, AgentError, Invocation};
pub use bedrock::{BedrockAgent, BedrockSettings};
pub use command::CommandAgent;
pub use context::Context;
pub use entrypoint::{REQUEST_HEADER, SESSION_HEADER};
pub use journal::{InvalidPhase, SessionId, SettingError};
pub use progress::MAX_PROGRESS_EVENTS;
pub use run::{run, run_from_env};
pub use server::serve;
pub use settings::Settings;
pub use tool::Tool;
