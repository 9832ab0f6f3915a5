//! The containerized agent host: runs agents as supervised background tasks and journals how each
//! of them begins and ends.
//!
//! It is not an agent framework: what an agent does, and with which model, is the agent's matter.
//! It keeps no state besides the journal's: what a killed container was doing is known from the
//! events that are missing.
//!
//! A request goes this way, one module each:
//!
//! `entrypoint` (journals the request, answers at once) → `request` (what the body means) →
//! `supervisor` (an actor: each invocation once) → `worker` (an actor: the agent's abort) beside
//! `task` (a plain task that guards the agent and writes its one terminal event, whose content
//! `outcome` decides). `health` answers `/ping`; `server` and `run` are the process around it.
//!
//! To run an agent of your own, implement [`Agent`] and call [`run`]; [`CommandAgent`] runs a
//! program in any language.

mod agent;
mod bedrock;
mod command;
mod context;
mod entrypoint;
mod health;
mod outcome;
mod request;
mod run;
mod server;
mod settings;
mod supervisor;
mod task;
mod worker;

pub use agent::{Agent, AgentError, Invocation};
pub use bedrock::{BedrockAgent, BedrockSettings, Tool};
pub use command::CommandAgent;
pub use context::{Context, MAX_PROGRESS_EVENTS};
pub use entrypoint::{REQUEST_HEADER, SESSION_HEADER};
pub use run::{run, run_from_env};
pub use server::serve;
pub use settings::Settings;
