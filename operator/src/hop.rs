//! The part of the system at which a run stands or stopped, and where to look for more there.

use std::fmt;

use journal::{Event, Status};

use crate::history::{Run, phase_name, step};

/// The part of the system at which a run stands or stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hop {
    Workflow,
    Invoker,
    AgentCore,
    Entrypoint,
    Agent,
}

impl Hop {
    /// In a sentence, and in one word for a list.
    const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Workflow => ("the workflow (state machine)", "workflow"),
            Self::Invoker => ("the invoker (Lambda)", "invoker"),
            Self::AgentCore => ("AgentCore (between the invoker and the container)", "AgentCore"),
            Self::Entrypoint => ("the container's entrypoint", "entrypoint"),
            Self::Agent => ("the agent (background task in the container)", "agent"),
        }
    }

    /// In one word, for a list.
    pub const fn short(self) -> &'static str {
        self.names().1
    }
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.names().0)
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

/// The agent's newest phase, unless that and all others have completed.
pub(crate) fn phase(run: &Run) -> Option<String> {
    let entry = run.entries.iter().rfind(|entry| entry.event.status.is_progress())?;
    let is_open = |event: &&&Event| event.status.is_progress();
    let event = match entry.event.status.as_str().ends_with("_COMPLETED") {
        true => run.open.iter().rfind(is_open)?,
        false => entry.event,
    };
    let (step, _) = step(&event.status)?;
    Some(phase_name(step))
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

/// What [`places`] calls the trace.
pub(crate) const TRACE: &str = "Its trace";

/// The account of the local system, which has no console.
const LOCAL_ACCOUNT: &str = ":000000000000:";

/// Where to look for more: what is there, and a command to paste or an address. Of the journal, only ids
/// and ARNs go into them.
pub(crate) fn places(run: &Run, traces_url: Option<&str>) -> Vec<(&'static str, String)> {
    let mut places = Vec::new();
    let logs = match hop(run) {
        Hop::Agent | Hop::Entrypoint => Some(("See the container's log", " --agent")),
        Hop::AgentCore => Some(("See the logs", "")),
        Hop::Invoker => Some(("See the invoker's log", " --invoker")),
        Hop::Workflow => None,
    };
    let id = run.entries.iter().find_map(|entry| entry.event.session_id());
    let logs = id.zip(logs);
    places.extend(logs.map(|(id, (what, part))| (what, format!("agent-journal logs {id}{part}"))));
    let arn = run.invocation_id;
    let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || b":_-.".contains(&byte);
    if run.is_workflows() && arn.starts_with("arn:") && arn.bytes().all(is_safe) {
        let command = "aws stepfunctions get-execution-history --execution-arn";
        places.push(("See the execution", format!("{command} {arn}")));
        let region = arn.strip_prefix("arn:aws:states:").and_then(|rest| rest.split(':').next());
        let region = region.filter(|_| !arn.contains(LOCAL_ACCOUNT));
        places.extend(region.map(|region| {
            let console = format!("https://{region}.console.aws.amazon.com/states/home");
            let address = format!("{console}?region={region}#/v2/executions/details/{arn}");
            ("See it in the console", address)
        }));
    }
    let trace = run.trace_id().filter(|trace| trace.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let url = traces_url.map(|url| format!("{}/", url.trim_end_matches('/'))).unwrap_or_default();
    places.extend(trace.map(|trace| (TRACE, format!("{url}{trace}"))));
    places
}
