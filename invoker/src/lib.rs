//! The Lambda function between the workflow and the agent. It calls InvokeAgentRuntime for one
//! session and journals the outcome.
//!
//! It does not wait for the agent, only for the entrypoint's answer. Which failures it retries:
//!
//! | InvokeAgentRuntime | then |
//! |---|---|
//! | 409 RetryableConflict, 429, 500, no connection | again, with the same session, a few times |
//! | 400, 402, 403, 404, 424, no credentials, or the retries spent | AGENT_INVOCATION_FAILED, and the function fails with the code as `errorType` |
//! | timeout, cut connection or response, an answer that is not AgentCore's (502, 504) | AGENT_INVOCATION_FAILED with `OutcomeUnknown`, and the function *succeeds* without a status code: the agent may be running, so the workflow has to look |
//!
//! `handler` is the function, `invoke` the call, `run` the process around them.

mod handler;
mod invoke;
mod run;
mod settings;

pub use handler::{Handler, Request, Response};
pub use run::run;
pub use settings::Settings;
