//! How a task ended, and the one event that says so.

use std::any::Any;
use std::time::Duration;

use journal::{Draft, Status};
use serde_json::value::RawValue;
use tokio::task::JoinError;

use crate::AgentError;

/// How a task ended: with its result as JSON, or with its error.
pub(crate) type Outcome = Result<Box<RawValue>, AgentError>;

/// Turns an outcome into the task's one terminal event. A long result is passed separately: its
/// beginning, and its size in bytes.
pub(crate) fn terminal_event(outcome: &Outcome, long_result: Option<&(String, usize)>) -> Draft {
    match outcome {
        Ok(result) => match long_result {
            Some((beginning, bytes)) => Draft::completed(beginning, *bytes),
            None => Draft::completed(result.get(), result.get().len()),
        },
        Err(error) => {
            Draft::failure(Status::AgentBackgroundTaskFailed, &error.error_type, &error.message)
        }
    }
}

/// The error of a task that was told to stop before it ended.
pub(crate) fn terminated() -> AgentError {
    AgentError::new("Terminated", "the container was told to stop before the agent ended")
}

/// The error of a task that an operator stopped.
pub(crate) fn stopped(reason: Option<String>) -> AgentError {
    AgentError::new("Stopped", reason.unwrap_or_else(|| "an operator stopped the task".to_owned()))
}

/// The error of a task for which the workflow does not wait any more.
pub(crate) fn lost() -> AgentError {
    let text = "the workflow gave the session up, because it saw no sign of life of this container";
    AgentError::new("Lost", text)
}

/// The error of a task that worked longer than allowed.
pub(crate) fn timed_out(limit: Duration) -> AgentError {
    let text =
        format!("the agent has not ended within {} s (TASK_TIMEOUT_SECONDS)", limit.as_secs());
    AgentError::new("TimedOut", text)
}

/// The error of a task whose container is about to be stopped for its age.
pub(crate) fn lifetime_spent(lifetime: Duration) -> AgentError {
    let text = format!(
        "the container will be stopped soon, because its lifetime of {} s is nearly over: the agent was ended before that",
        lifetime.as_secs()
    );
    AgentError::new("LifetimeSpent", text)
}

/// The error of a task whose start may be in the journal although the agent was not started.
pub(crate) fn not_started() -> AgentError {
    let text = "the agent was not started: it is unknown whether its start was journaled";
    AgentError::new("NotStarted", text)
}

/// The error of a task that did not end by itself.
pub(crate) fn not_joined(error: JoinError) -> AgentError {
    match error.try_into_panic() {
        Ok(panic) => AgentError::new("Panic", panic_text(&*panic)),
        Err(cancelled) => AgentError::new("Cancelled", cancelled.to_string()),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("the agent panicked: {}", text.unwrap_or("(the panic carries no text)"))
}
