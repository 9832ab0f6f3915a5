//! The part of the system at which a run stands or stopped, and where to look for more there.

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
    /// Its name: in one word, and in a sentence.
    pub const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Workflow => ("workflow", "the workflow (state machine)"),
            Self::Invoker => ("invoker", "the invoker (Lambda)"),
            Self::AgentCore => ("AgentCore", "AgentCore (between the invoker and the container)"),
            Self::Entrypoint => ("entrypoint", "the container's entrypoint"),
            Self::Agent => ("agent", "the agent (background task in the container)"),
        }
    }
}

/// The deepest part of the system from which the run has an event; of a failure, the part that
/// failed.
pub(crate) fn hop(run: &Run) -> Hop {
    use Status::*;
    let reached = |any_of: [Status; 2]| any_of.iter().any(|status| run.has(status));
    let cause = run.failure();
    let refused = cause.and_then(journal_refused).is_some();
    match cause.map(|cause| (&cause.status, cause.error_type.as_deref())) {
        Some((AgentEntrypointFailed, _) | (_, Some("NotStarted"))) => Hop::Entrypoint,
        Some((AgentInvocationFailed, _)) => Hop::AgentCore,
        Some((SessionFailed, _)) if refused => Hop::Workflow,
        _ if reached([AgentBackgroundTaskStarted, AgentBackgroundTaskFailed]) => Hop::Agent,
        _ if reached([AgentEntrypointStarted, AgentEntrypointFailed]) => Hop::Entrypoint,
        _ if reached([AgentInvocationStarted, AgentInvocationFailed]) => Hop::AgentCore,
        _ if run.has(&SessionInitiated) => Hop::Invoker,
        _ => Hop::Workflow,
    }
}

/// The part of the system in one word, and the agent's newest phase unless all its phases have completed.
pub(crate) fn place(run: &Run) -> String {
    let phase = phase(run).unwrap_or_default();
    format!("{} {phase}", hop(run).names().0).trim_end().to_owned()
}

fn phase(run: &Run) -> Option<String> {
    let is_progress = |event: &&Event| event.status.is_progress();
    let newest = run.entries.iter().map(|entry| entry.event).rfind(is_progress)?;
    let open = run.open.iter().copied().rfind(is_progress);
    let event = if newest.status.as_str().ends_with("_COMPLETED") { open? } else { newest };
    step(&event.status).map(|(step, _)| phase_name(step))
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

/// The account of the local system, which has no console.
const LOCAL_ACCOUNT: &str = ":000000000000:";

/// Where to look for more: what is there, and a command to paste or an address. Of the journal, only ids
/// and ARNs go into them.
pub(crate) fn places(run: &Run) -> Vec<(&'static str, String)> {
    let mut places = Vec::new();
    let logs = match hop(run) {
        Hop::Agent | Hop::Entrypoint => Some(("See the container's log", " --agent")),
        Hop::AgentCore => Some(("See the logs", "")),
        Hop::Invoker => Some(("See the invoker's log", " --invoker")),
        Hop::Workflow => None,
    };
    let id = run.session_id();
    if run.execution.is_some() && run.open_task().is_some() {
        places
            .push(("Its agent may still be working. Stop it", format!("agent-journal stop {id}")));
    }
    places.extend(logs.map(|(what, part)| (what, format!("agent-journal logs {id}{part}"))));
    let arn = run.invocation_id;
    let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || b":_-.".contains(&byte);
    if run.is_workflows() && arn.starts_with("arn:") && arn.bytes().all(is_safe) {
        let command = "aws stepfunctions get-execution-history --execution-arn";
        places.push(("See the execution", format!("{command} {arn}")));
        let has_console = arn.starts_with("arn:aws:") && !arn.contains(LOCAL_ACCOUNT);
        let region = arn.split(':').nth(3).filter(|_| has_console);
        places.extend(region.map(|region| {
            let console = format!("https://{region}.console.aws.amazon.com/states/home");
            let address = format!("{console}?region={region}#/v2/executions/details/{arn}");
            ("See it in the console", address)
        }));
    }
    places
}

/// The run's trace: its id, appended to `traces_url`.
pub(crate) fn trace(run: &Run, traces_url: Option<&str>) -> Option<String> {
    let trace = run.entries.iter().find_map(|entry| entry.event.trace_id.as_deref())?;
    let url = traces_url.map(|url| format!("{}/", url.trim_end_matches('/'))).unwrap_or_default();
    trace.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| format!("{url}{trace}"))
}
