//! The part of the system at which a run stands or stopped, and where to look for more there.

use std::fmt;

use journal::{Event, Status};

use crate::history::Run;

/// The part of the system at which a run stands or stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hop {
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
            Self::AgentCore => "AgentCore (between the invoker and the container)",
            Self::Entrypoint => "the container's entrypoint",
            Self::Agent => "the agent (background task in the container)",
        })
    }
}

impl Hop {
    /// In one word or two, for a list.
    pub fn short(self) -> &'static str {
        match self {
            Self::Workflow => "workflow",
            Self::Invoker => "invoker",
            Self::AgentCore => "AgentCore",
            Self::Entrypoint => "entrypoint",
            Self::Agent => "agent",
        }
    }
}

/// The deepest part of the system from which the run has an event; of a failure, the part that
/// failed.
pub(crate) fn hop(run: &Run) -> Hop {
    let failure = run.failure();
    if failure.is_some_and(|cause| cause.error_type.as_deref() == Some("NotStarted")) {
        return Hop::Entrypoint;
    }
    match failure.map(|cause| (&cause.status, journal_refused(cause))) {
        Some((Status::AgentEntrypointFailed, _)) => return Hop::Entrypoint,
        Some((Status::AgentInvocationFailed, _)) => return Hop::AgentCore,
        Some((Status::SessionFailed, Some(_))) => return Hop::Workflow,
        _ => {}
    }
    [
        (Hop::Agent, [Status::AgentBackgroundTaskStarted, Status::AgentBackgroundTaskFailed]),
        (Hop::Entrypoint, [Status::AgentEntrypointStarted, Status::AgentEntrypointFailed]),
        (Hop::AgentCore, [Status::AgentInvocationStarted, Status::AgentInvocationFailed]),
        (Hop::Invoker, [Status::SessionInitiated, Status::SessionInitiated]),
    ]
    .into_iter()
    .find(|(_, statuses)| statuses.iter().any(|status| run.has(status)))
    .map_or(Hop::Workflow, |(hop, _)| hop)
}

/// What the workflow itself could not do with the journal, if that is why it failed.
pub(crate) fn journal_refused(cause: &Event) -> Option<&'static str> {
    let error_type = cause.error_type.as_deref()?;
    if error_type.starts_with("DynamoDb.") {
        return Some("the workflow could not read the journal to see the agent's end");
    }
    (error_type.starts_with("DynamoDB.") || error_type == "SessionIdInUse")
        .then_some("the workflow could not write the session's first event")
}

/// Where to look for more: commands to paste, so nothing but ids and ARNs goes into them.
pub(crate) fn where_to_look(run: &Run, hop: Hop) -> Vec<String> {
    let session = run.entries.iter().find_map(|entry| entry.event.session_id());
    let part = match hop {
        Hop::Agent | Hop::Entrypoint => Some(("container's log", " --agent")),
        Hop::AgentCore => Some(("logs", "")),
        Hop::Invoker => Some(("invoker's log", " --invoker")),
        Hop::Workflow => None,
    };
    let logs = session.zip(part);
    let logs =
        logs.map(|(id, (what, part))| format!("See the {what}: agent-journal logs {id}{part}"));
    let mut lines = Vec::from_iter(logs);
    let arn = run.invocation_id;
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || b":_-".contains(&byte);
    if run.is_workflows() && arn.starts_with("arn:") && arn.bytes().all(safe) {
        lines.push(format!(
            "See the execution: aws stepfunctions get-execution-history --execution-arn {arn}"
        ));
    }
    lines
}
