//! What happened to a run, in one sentence or two.

use journal::{Ending, Status, Timestamp};

use crate::alive::alive;
use crate::history::Run;
use crate::hop::journal_refused;
use crate::timeline::{ago, duration};

/// The verdict in one sentence, or two.
pub(crate) fn verdict(run: &Run, now: Timestamp) -> String {
    use Status::*;
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
        Ending::Running => {
            let end = if run.execution.is_none() { "not ended" } else { "no end in the journal" };
            return format!("The session has {end}. {}", silence(run, now));
        }
        Ending::Failed(last) => last,
    };
    let cause = run.failure().unwrap_or(last);
    let error_type = cause.error_type.as_deref().unwrap_or_default();
    let later = || run.entries.iter().any(|entry| entry.event.sort_key > last.sort_key);
    let why: &str = match (&cause.status, error_type) {
        (AgentBackgroundTaskFailed, "NotStarted") => {
            "the container could not journal the agent's start, and did not start it"
        }
        (AgentBackgroundTaskFailed, _) => {
            &format!("{}, {} after its start", how(error_type), worked(&cause.status))
        }
        (AgentEntrypointFailed, _) => {
            "the container received the request and did not start the agent"
        }
        (AgentInvocationFailed, _) if run.has(&AgentBackgroundTaskStarted) => {
            "InvokeAgentRuntime failed. The agent had started and may still work"
        }
        (AgentInvocationFailed, _) => "InvokeAgentRuntime failed. The agent was not started",
        (_, "ContainerLost") if later() => {
            "the container was cut off or stopped for a while, and the workflow gave the session up"
        }
        (_, "ContainerLost") => "the container was killed, or could not reach the table any more",
        (_, "AgentNotStarted") => &format!("no container started a task. {}", silence(run, now)),
        (_, "PollAttemptsSpent") => {
            &format!("the workflow gave up waiting for the agent's end. {}", silence(run, now))
        }
        _ if run.has(&AgentInvocationStarted) => {
            journal_refused(cause).unwrap_or("the workflow gave up")
        }
        _ => journal_refused(cause).unwrap_or("the invoker failed before it called AgentCore"),
    };
    format!("The session failed: {}.", why.trim_end_matches('.'))
}

/// How an agent ended, by the type of its failure.
fn how(error_type: &str) -> &'static str {
    match error_type {
        "Panic" => "the agent panicked",
        "Stopped" => "an operator stopped the task",
        "Lost" => "the workflow had given the session up, and the container ended its agent",
        "TimedOut" => "the agent worked longer than allowed, and was ended",
        "LifetimeSpent" => "the container's lifetime was nearly over, and the agent was ended",
        "Terminated" => "the container was told to stop while the agent worked",
        "CredentialsError" => "the agent had no valid AWS credentials",
        "ClientError" => "an AWS service refused a call of the agent",
        _ => "the agent ended with an error",
    }
}

/// What is known of a run without an end: the deepest step that began, and what that may mean.
fn silence(run: &Run, now: Timestamp) -> String {
    use Status::*;
    if run.has(&AgentBackgroundTaskCompleted) || run.has(&AgentBackgroundTaskFailed) {
        return "The agent's own end came later.".to_owned();
    }
    if let Some(alive) = alive(run, now) {
        return format!("Its task: {alive}.");
    }
    let steps = [
        AgentBackgroundTaskStarted, AgentEntrypointStarted, AgentInvocationFailed,
        AgentInvocationSucceeded, AgentInvocationStarted, SessionInitiated,
    ];
    let Some(began) = steps.iter().find_map(|status| run.find(status)) else {
        return "No event that this version knows was journaled.".to_owned();
    };
    let (status, ago) = (&began.event.status, ago(began.event, now));
    let time = began.event.timestamp.parse::<Timestamp>();
    let is_recent = time.is_ok_and(|time| now.as_micros() - time.as_micros() < 10_000_000);
    if is_recent && run.ending == Ending::Running {
        return format!("{status} was {ago} ago.");
    }
    let meaning = match status {
        AgentBackgroundTaskStarted => {
            "and has no end: the agent still works, or its container was killed"
        }
        AgentEntrypointStarted => {
            "and has no end: the container died before it started the agent, or it cannot write to the journal"
        }
        AgentInvocationFailed => {
            "and no container has journaled the request: it may not have come that far"
        }
        AgentInvocationSucceeded => {
            "and no container has journaled the request: another program answered, or the container writes to another journal"
        }
        AgentInvocationStarted => {
            "and no container has journaled the request: the invoker died, the request is on its way, or the container cannot write to the journal"
        }
        _ => {
            "and the invoker has journaled nothing: it has not started, or it cannot write to the journal"
        }
    };
    format!("{status} was {ago} ago {meaning}.")
}
