use crate::{Event, Status};

/// How one run of a session stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Ending<'a> {
    /// Nothing says that it ended.
    Running,
    /// This event says that the agent completed.
    Completed(&'a Event),
    /// This event says that it failed.
    Failed(&'a Event),
}

/// How the run `invocation_id` ended, by the events of its session in any order.
///
/// SESSION_FAILED decides; else the terminal event of the background task; else
/// AGENT_ENTRYPOINT_FAILED if no task was started.
#[must_use]
pub fn ending<'a>(events: &'a [Event], invocation_id: &str) -> Ending<'a> {
    let find = |status: Status| {
        events.iter().find(|event| event.invocation_id == invocation_id && event.status == status)
    };
    if let Some(event) = find(Status::SessionFailed) {
        return Ending::Failed(event);
    }
    if let Some(event) = find(Status::AgentBackgroundTaskCompleted) {
        return Ending::Completed(event);
    }
    if let Some(event) = find(Status::AgentBackgroundTaskFailed) {
        return Ending::Failed(event);
    }
    match find(Status::AgentEntrypointFailed) {
        Some(event) if find(Status::AgentBackgroundTaskStarted).is_none() => Ending::Failed(event),
        _ => Ending::Running,
    }
}
