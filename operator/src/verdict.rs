//! What happened to a run, in one sentence or two.

use journal::{Ending, Status, Timestamp};

use crate::alive::alive;
use crate::history::Run;
use crate::hop::{Hop, hop, journal_refused};
use crate::timeline::{ago, duration};

/// The verdict in one sentence, or two.
pub(crate) fn verdict(run: &Run, now: Timestamp) -> String {
    let worked = |status: &Status| {
        let worked = run.find(status).and_then(|entry| entry.duration).map(duration);
        worked.unwrap_or_else(|| "an unknown time".to_owned())
    };
    let last = match run.ending {
        Ending::Completed(end) => {
            let worked = worked(&end.status);
            return format!("The session completed. The agent worked for {worked}.");
        }
        Ending::Running if run.has_expired(now) => {
            return "It is not known any more how the session ended.".to_owned();
        }
        Ending::Running => return format!("The session has not ended. {}", silence(run, now)),
        Ending::Failed(last) => last,
    };
    let cause = run.failure().unwrap_or(last);
    let error_type = cause.error_type.as_deref().unwrap_or_default();
    let why = match &cause.status {
        Status::AgentBackgroundTaskFailed if error_type == "NotStarted" => {
            "the container could not journal the agent's start, and did not start it".to_owned()
        }
        Status::AgentBackgroundTaskFailed => {
            let how = match error_type {
                "Panic" => "the agent panicked",
                "Stopped" => "an operator stopped the task",
                "Lost" => {
                    "the workflow had given the session up, and the container ended its agent"
                }
                "TimedOut" => "the agent worked longer than allowed, and was ended",
                "LifetimeSpent" => {
                    "the container's lifetime was nearly over, and the agent was ended"
                }
                "Terminated" => "the container was told to stop while the agent worked",
                "CredentialsError" => "the agent had no valid AWS credentials",
                "ClientError" => "an AWS service refused a call of the agent",
                _ => "the agent ended with an error",
            };
            format!("{how}, {} after its start", worked(&cause.status))
        }
        Status::AgentEntrypointFailed => {
            "the container received the request and did not start the agent".to_owned()
        }
        Status::AgentInvocationFailed => {
            let started = run.has(&Status::AgentBackgroundTaskStarted);
            let agent = if started { "had started and may still work" } else { "was not started" };
            format!("InvokeAgentRuntime failed. The agent {agent}")
        }
        _ if error_type == "ContainerLost" => {
            let later = run.entries.iter().any(|entry| entry.event.sort_key > last.sort_key);
            let what = match later {
                true => {
                    "the container was cut off or stopped for a while, and the workflow gave the session up"
                }
                false => "the container was killed, or could not reach the table any more",
            };
            what.to_owned()
        }
        _ if error_type == "AgentNotStarted" => {
            format!("no container started a task. {}", silence(run, now))
        }
        _ if error_type == "PollAttemptsSpent" => {
            format!("the workflow gave up waiting for the agent's end. {}", silence(run, now))
        }
        _ => {
            let otherwise = match run.has(&Status::AgentInvocationStarted) {
                true => "the workflow gave up",
                false => "the invoker failed before it called AgentCore",
            };
            journal_refused(cause).unwrap_or(otherwise).to_owned()
        }
    };
    format!("The session failed: {}.", why.trim_end_matches('.'))
}

/// What is known of a run without an end: the deepest step that began, and what that may mean.
fn silence(run: &Run, now: Timestamp) -> String {
    let (status, meaning) = match hop(run) {
        Hop::Agent
            if run.has(&Status::AgentBackgroundTaskCompleted)
                || run.has(&Status::AgentBackgroundTaskFailed) =>
        {
            return "The agent's own end came later.".to_owned();
        }
        Hop::Agent if run.signs.is_some() => {
            let alive = alive(run, now).unwrap_or_default();
            return format!("Its task: {alive}.");
        }
        Hop::Agent => (
            Status::AgentBackgroundTaskStarted,
            "and has no end: the agent still works, or its container was killed",
        ),
        Hop::Entrypoint => (
            Status::AgentEntrypointStarted,
            "and has no end: the container died before it started the agent, or it cannot write to the journal",
        ),
        Hop::AgentCore if run.has(&Status::AgentInvocationFailed) => (
            Status::AgentInvocationFailed,
            "and no container has journaled the request: it may not have come that far",
        ),
        Hop::AgentCore if run.has(&Status::AgentInvocationSucceeded) => (
            Status::AgentInvocationSucceeded,
            "and no container has journaled the request: another program answered, or the container writes to another journal",
        ),
        Hop::AgentCore => (
            Status::AgentInvocationStarted,
            "and no container has journaled the request: the invoker died, the request is on its way, or the container cannot write to the journal",
        ),
        Hop::Invoker => (
            Status::SessionInitiated,
            "and the invoker has journaled nothing: it has not started, or it cannot write to the journal",
        ),
        Hop::Workflow => return "No event that this version knows was journaled.".to_owned(),
    };
    let since = run.find(&status).map(|entry| ago(entry.event, now)).unwrap_or_default();
    format!("{status} was {since} ago {meaning}.")
}
