use std::collections::BTreeMap;
use std::error::Error;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use journal::text::MAX_RESULT_BYTES;
use journal::{FaultKind, InvalidPhase, SdkFault, SessionId};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use crate::outcome::Outcome;
use crate::{Input, TaskContext};

/// What runs in the background for one invocation.
///
/// The runtime calls `run` in a task of its own. It may panic, block its thread or never end: the
/// journal still gets one terminal event.
pub trait Agent: Send + Sync + 'static {
    /// What the agent returns: `serde_json::Value`, a type of its own, or a
    /// `Box<serde_json::value::RawValue>` to keep the spelling of JSON that it already has.
    type Output: Serialize + Send + 'static;

    /// Does the work. `Ok` is the result that AGENT_BACKGROUND_TASK_COMPLETED carries, as JSON.
    ///
    /// If the task has to end early, the future is dropped, so what it owns must clean up in `Drop`.
    ///
    /// # Errors
    /// The error becomes AGENT_BACKGROUND_TASK_FAILED with its type and message.
    fn run(
        &self,
        invocation: Invocation,
    ) -> impl Future<Output = Result<Self::Output, AgentError>> + Send;

    /// How long the future may go on after [`TaskContext::ending`] has resolved, to save its work.
    /// Then it is dropped. By default, it is dropped at once.
    fn grace(&self) -> Duration {
        Duration::ZERO
    }

    /// Ends what the agent keeps between two tasks. Called once, when the container stops and its tasks
    /// have ended. It may take one second.
    fn stop(&self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}

/// An [`Agent`] of any type. Cheap to clone.
#[derive(Clone)]
pub(crate) struct AnyAgent {
    pub run: Arc<dyn Fn(Invocation) -> BoxFuture<'static, Outcome> + Send + Sync>,
    pub stop: Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>,
    pub grace: Duration,
}

impl AnyAgent {
    pub fn new(agent: impl Agent) -> Self {
        let (grace, agent) = (agent.grace(), Arc::new(agent));
        let stopped = Arc::clone(&agent);
        let run = move |invocation| {
            let agent = Arc::clone(&agent);
            async move { Ok(usable(to_raw_value(&agent.run(invocation).await?)?)?) }.boxed()
        };
        let stop = move || {
            let agent = Arc::clone(&stopped);
            async move { agent.stop().await }.boxed()
        };
        Self { run: Arc::new(run), stop: Arc::new(stop), grace }
    }
}

/// JSON that some parsers refuse (`1e999`, half of a surrogate pair, hundreds of levels) would fail
/// the workflow, which parses the result. So it becomes a text.
fn usable(result: Box<RawValue>) -> serde_json::Result<Box<RawValue>> {
    let text = result.get();
    // A longer one is cut, and nobody parses it.
    if text.len() <= MAX_RESULT_BYTES && serde_json::from_str::<Value>(text).is_err() {
        return to_raw_value(text);
    }
    Ok(result)
}

/// One request to an agent.
#[derive(Debug, Clone)]
pub struct Invocation {
    /// The session.
    pub session_id: SessionId,
    /// The run of the session: the execution's id, or for a direct call the request id.
    pub invocation_id: String,
    /// What the caller sent.
    pub input: Input,
    /// `SESSION_ID`, `INVOCATION_ID` and the trace context, as a command finds them in its
    /// environment.
    pub environment: BTreeMap<String, String>,
    /// The request's other headers, in small letters: those that AgentCore passes to an agent, such as
    /// `workloadaccesstoken`.
    pub headers: BTreeMap<String, String>,
    /// The task's own tasks and progress.
    pub context: TaskContext,
}

/// Why an agent failed: the journal's `ErrorType` and `ErrorMessage`.
///
/// `?` turns an error of any AWS SDK client into one with the type `CredentialsError` or
/// `ClientError`, and a text, an invalid phase, or an I/O or JSON error into one with the type `AgentError`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentError {
    /// A stable name that a program can match.
    pub error_type: String,
    /// A text that a person can act on.
    pub message: String,
}

impl AgentError {
    /// The type of an error that has no better one.
    pub const GENERIC: &str = "AgentError";

    /// An error with a type of its own.
    pub fn new(error_type: impl Into<String>, message: impl Into<String>) -> Self {
        Self { error_type: error_type.into(), message: message.into() }
    }

    /// Any error, with all its causes in the message.
    #[must_use]
    pub fn other(error: &(dyn Error + 'static)) -> Self {
        Self::new(Self::GENERIC, journal::display_chain(error))
    }
}

impl<E> From<SdkError<E, HttpResponse>> for AgentError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    fn from(error: SdkError<E, HttpResponse>) -> Self {
        let fault = SdkFault::new(&error);
        let error_type = match (&fault.kind, error.as_service_error()) {
            (FaultKind::Credentials, _) => SdkFault::CREDENTIALS_ERROR,
            (_, Some(_)) => SdkFault::CLIENT_ERROR,
            (_, None) => Self::GENERIC,
        };
        Self::new(error_type, fault.to_string())
    }
}

impl From<String> for AgentError {
    fn from(message: String) -> Self {
        Self::new(Self::GENERIC, message)
    }
}

impl From<&str> for AgentError {
    fn from(message: &str) -> Self {
        message.to_owned().into()
    }
}

macro_rules! from_error {
    ($($error:ty),*) => {$(
        impl From<$error> for AgentError {
            fn from(error: $error) -> Self {
                Self::other(&error)
            }
        }
    )*};
}

from_error!(InvalidPhase, std::io::Error, serde_json::Error);
