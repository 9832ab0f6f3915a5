//! What happened to a session, in plain words.

use std::fmt;

use journal::{Ending, Event, Status, Timestamp};

use crate::history::{Run, newest};
use crate::timeline::{ago, duration, escape, failure};

/// The part of the system at which a run stands or stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hop {
    Workflow,
    Invoker,
    AgentCore,
    Entrypoint,
    Agent,
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Workflow => "the workflow (state machine)",
            Self::Invoker => "the invoker (Lambda)",
            Self::AgentCore => "the way from the invoker to the container (AgentCore)",
            Self::Entrypoint => "the container's entrypoint",
            Self::Agent => "the agent (background task in the container)",
        })
    }
}

/// Says of a session's newest run what happened, where it stopped, and what to look at next. `now`
/// tells how long ago things were.
#[must_use]
pub fn explain(runs: &[Run], now: Timestamp) -> String {
    let Some(run) = newest(runs) else { return "Nothing is known.".to_owned() };
    let mut said = vec![what_happened(run, now)];
    if let Some(failure) = run.failure().and_then(failure) {
        said.push(format!("Cause: {failure}"));
    }
    said.extend(
        run.defects.iter().map(|defect| format!("The history is broken: {}.", escape(defect))),
    );
    said.extend(remarks(run, runs.len()));
    if !matches!(run.ending, Ending::Completed(_)) {
        let stopped = stopped_at(run);
        let verb = if run.ending == Ending::Running { "It is at" } else { "It stopped at" };
        said.push(format!("{verb}: {stopped}"));
        said.extend(last_word(run));
        said.extend(next(run, stopped));
    }
    said.join("\n")
}

/// The verdict in one sentence, or two.
fn what_happened(run: &Run, now: Timestamp) -> String {
    let worked = |status: &Status| {
        let worked = run.find(status).and_then(|entry| entry.duration).map(duration);
        worked.unwrap_or_else(|| "an unknown time".to_owned())
    };
    let Ending::Failed(last) = run.ending else {
        return match run.ending {
            Ending::Completed(end) => {
                format!("The session completed: the agent worked for {}.", worked(&end.status))
            }
            _ => format!("The session has not ended. {}", silence(run, now)),
        };
    };
    let cause = run.failure().unwrap_or(last);
    let error_type = cause.error_type.as_deref().unwrap_or_default();
    let why = match &cause.status {
        Status::AgentBackgroundTaskFailed => {
            let how = match error_type {
                "Panic" => "the agent panicked",
                "Terminated" => "the container was told to stop while the agent worked",
                "CredentialsError" => "the agent had no valid AWS credentials",
                "ClientError" => "an AWS service refused a call of the agent",
                _ => "the agent ended with an error",
            };
            format!("{how}, {} after it had started", worked(&cause.status))
        }
        Status::AgentEntrypointFailed => {
            "the container received the request and did not start the agent".to_owned()
        }
        Status::AgentInvocationFailed => {
            let started = run.find(&Status::AgentBackgroundTaskStarted).is_some();
            let agent = if started { "had been started and may work" } else { "was not started" };
            format!("InvokeAgentRuntime failed, the agent {agent}")
        }
        _ if error_type == "PollAttemptsSpent" => format!(
            "the workflow waited for the end of the agent until its polls were spent. {}",
            silence(run, now)
        ),
        _ => {
            let called = run.find(&Status::AgentInvocationStarted).is_some();
            let otherwise = match called {
                true => "the workflow gave up",
                false => "the invoker failed before it called AgentCore",
            };
            journal_refused(cause).unwrap_or(otherwise).to_owned()
        }
    };
    format!("The session failed: {}.", why.trim_end_matches('.'))
}

/// The newest of the agent's own phases.
fn last_word(run: &Run) -> Option<String> {
    let entry = run.entries.iter().rfind(|entry| entry.event.status.is_progress())?;
    let event = entry.event;
    let text = event.error_message.as_deref().or(event.message.as_deref()).map(escape);
    let (status, at) = (escape(event.status.as_str()), entry.offset.map(duration));
    let (text, at) = (text.unwrap_or_default(), at.unwrap_or_default());
    Some(format!("The agent's last word: {status} at {at} {text}").trim_end().to_owned())
}

/// What the workflow itself could not do with the journal, if that is why it failed.
fn journal_refused(cause: &Event) -> Option<&'static str> {
    let error_type = cause.error_type.as_deref()?;
    if error_type.starts_with("DynamoDb.") {
        return Some(
            "the workflow could not read the journal, so it could not see the agent's end",
        );
    }
    (error_type.starts_with("DynamoDB.") || error_type == "SessionIdInUse")
        .then_some("the workflow could not write the session's first event")
}

/// What is known of a run of which no end was journaled: the deepest step that began.
fn silence(run: &Run, now: Timestamp) -> String {
    let since =
        |status: &Status| run.find(status).map(|entry| ago(entry.event, now)).unwrap_or_default();
    let has = |status: &Status| run.find(status).is_some();
    match stopped_at(run) {
        Hop::Agent
            if has(&Status::AgentBackgroundTaskCompleted)
                || has(&Status::AgentBackgroundTaskFailed) =>
        {
            "The agent's own end came only after that.".to_owned()
        }
        Hop::Agent => format!(
            "AGENT_BACKGROUND_TASK_STARTED was {} ago and has no end: the agent still works, or its container was killed.",
            since(&Status::AgentBackgroundTaskStarted)
        ),
        Hop::Entrypoint => format!(
            "AGENT_ENTRYPOINT_STARTED was {} ago and has no end: the container died before it started the agent, or it cannot write to the journal.",
            since(&Status::AgentEntrypointStarted)
        ),
        Hop::AgentCore if has(&Status::AgentInvocationFailed) => format!(
            "AGENT_INVOCATION_FAILED was {} ago, and no container has journaled the request: {}.",
            since(&Status::AgentInvocationFailed),
            run.find(&Status::AgentInvocationFailed)
                .and_then(|entry| failure(entry.event))
                .unwrap_or_default()
        ),
        Hop::AgentCore if has(&Status::AgentInvocationSucceeded) => format!(
            "AGENT_INVOCATION_SUCCEEDED was {} ago, and no container has journaled the request: what answered is not this agent-runtime, or it writes to another journal.",
            since(&Status::AgentInvocationSucceeded)
        ),
        Hop::AgentCore => format!(
            "AGENT_INVOCATION_STARTED was {} ago, and no container has journaled the request: the invoker died, the request is under way, or the container cannot write to the journal.",
            since(&Status::AgentInvocationStarted)
        ),
        Hop::Invoker => format!(
            "SESSION_INITIATED was {} ago and the invoker has journaled nothing: it has not started, or it cannot write to the journal.",
            since(&Status::SessionInitiated)
        ),
        Hop::Workflow => "No event that this version knows has been journaled.".to_owned(),
    }
}

/// The deepest part of the system from which the run has an event; of a failure, the part that
/// failed.
fn stopped_at(run: &Run) -> Hop {
    let has = |status: &Status| run.find(status).is_some();
    match run.failure().map(|cause| (&cause.status, journal_refused(cause))) {
        Some((Status::AgentEntrypointFailed, _)) => return Hop::Entrypoint,
        Some((Status::AgentInvocationFailed, _)) => return Hop::AgentCore,
        Some((Status::SessionFailed, Some(_))) => return Hop::Workflow,
        _ => {}
    }
    if has(&Status::AgentBackgroundTaskStarted) || has(&Status::AgentBackgroundTaskFailed) {
        Hop::Agent
    } else if has(&Status::AgentEntrypointStarted) || has(&Status::AgentEntrypointFailed) {
        Hop::Entrypoint
    } else if has(&Status::AgentInvocationStarted) {
        Hop::AgentCore
    } else if has(&Status::SessionInitiated) {
        Hop::Invoker
    } else {
        Hop::Workflow
    }
}

/// What else a reader of the events would stumble over.
fn remarks(run: &Run, runs: usize) -> Vec<String> {
    let count =
        |status: &Status| run.entries.iter().filter(|entry| entry.event.status == *status).count();
    let mut remarks = Vec::new();
    let invocations = count(&Status::AgentInvocationStarted);
    if invocations > 1 {
        let tasks = count(&Status::AgentBackgroundTaskStarted);
        remarks.push(format!("The Lambda was run {invocations} times; tasks started: {tasks}."));
    }
    let unknown = run.entries.iter().map(|entry| entry.event).find(|event| {
        let unknown = event.error_type.as_deref() == Some("OutcomeUnknown");
        event.status == Status::AgentInvocationFailed && unknown
    });
    if unknown.is_some() {
        remarks.push("The invoker got no answer and could not know whether the agent was started (OutcomeUnknown); the agent's own events decide.".to_owned());
    }
    if run.ending == Ending::Running
        && let Some(refused) = run.find(&Status::AgentEntrypointFailed)
    {
        remarks.push(format!(
            "The container refused a request of this run: {}. If there was no other, the agent does not work: its start is in the journal, but the container could not know that.",
            failure(refused.event).unwrap_or_default()
        ));
    }
    let completed = run.find(&Status::AgentBackgroundTaskCompleted);
    if completed.is_some() && matches!(run.ending, Ending::Failed(_)) {
        remarks.push("The agent itself completed, and its result is in the journal; it is the workflow that failed.".to_owned());
    }
    // What one clock puts before its cause, the journal puts one microsecond behind it.
    let behind = run.entries.windows(2).find_map(|pair| match pair {
        [cause, effect] if cause.offset.map(|offset| offset + 1) == effect.offset => {
            (cause.event.source != effect.event.source).then_some((cause.event, effect.event))
        }
        _ => None,
    });
    if let Some((cause, effect)) = behind {
        remarks.push(format!(
            "Clocks differ: the clock of the {} is behind that of the {}, so its events stand one microsecond behind their cause. Their order is right; their times and durations are not.",
            escape(&effect.source),
            escape(&cause.source)
        ));
    }
    if runs > 1 {
        remarks.push(format!("This is the newest of {runs} runs of the session."));
    }
    remarks
}

/// Where to look for more.
fn next(run: &Run, stopped: Hop) -> Vec<String> {
    let session = run.entries.iter().find_map(|entry| entry.event.session_id());
    let session = session.map(|id| format!(", filtered for {id}")).unwrap_or_default();
    let container = format!(
        "Look at the container's log{session}: log group /aws/bedrock-agentcore/runtimes/<runtime id>-<endpoint>, or .local/agent-runtime-process.log"
    );
    let invoker = format!(
        "Look at the invoker's log{session}: log group /aws/lambda/<function>, or .local/invoker-process.log"
    );
    let mut next = match stopped {
        Hop::Agent | Hop::Entrypoint => vec![container],
        Hop::AgentCore => vec![invoker, container],
        Hop::Invoker => vec![invoker],
        Hop::Workflow => Vec::new(),
    };
    // A command is for pasting: nothing goes into it that is not an ARN.
    let arn = run.invocation_id;
    let pasted = |byte: u8| byte.is_ascii_alphanumeric() || b":_-".contains(&byte);
    if run.is_workflows() && arn.starts_with("arn:") && arn.bytes().all(pasted) {
        next.push(format!(
            "Look at the execution, on AWS: aws stepfunctions get-execution-history --execution-arn {arn}"
        ));
    }
    let trace = run.trace_id().map(escape);
    next.extend(trace.map(|trace| format!("Look at the trace: {trace} in your tracing tool")));
    next
}
