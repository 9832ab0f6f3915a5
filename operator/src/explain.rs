//! What happened to a session, in plain words.

use std::fmt;

use journal::{Ending, Event, Status, Timestamp};

use crate::alive::{alive, patience_left};
use crate::history::{Run, newest};
use crate::hop::{Hop, TRACE, hop, journal_refused, places};
use crate::timeline::{ago, details, duration, escape, failure, result};

/// Says what happened in a session's newest run, where it stopped, and where to look next. `now`
/// tells how long ago things were. A trace's id is appended to `traces_url`, the address of the
/// tracing tool.
#[must_use]
pub fn explain(runs: &[Run], now: Timestamp, traces_url: Option<&str>) -> String {
    let explained = newest(runs).map(|run| Explanation::of(run, runs, now, traces_url));
    explained.map_or_else(|| "Nothing is known.".to_owned(), |it| it.to_string())
}

/// What there is to say of a run, in words that are safe to print.
pub(crate) struct Explanation {
    pub verdict: String,
    /// On a failure: its type and the first line of its message.
    pub cause: Option<String>,
    /// What follows that line, such as a traceback.
    pub details: Vec<String>,
    /// What else a reader of the events would wonder about, in sentences.
    pub remarks: Vec<String>,
    /// The result as it fits a terminal, if there is one.
    result: Option<String>,
    completed: bool,
    /// What to look at, with a command or an address.
    pub places: Vec<(&'static str, String)>,
}

impl Explanation {
    /// Explains one of the session's `runs`.
    pub fn of(run: &Run, runs: &[Run], now: Timestamp, traces_url: Option<&str>) -> Self {
        let failed = run.failure();
        let mut remarks = Vec::from_iter(run.unwatched.clone());
        if run.has_expired(now) {
            let text = "Events of this run have expired. A missing event is not a sign of a fault.";
            remarks.push(text.to_owned());
        } else {
            let broken = |defect| format!("The history is broken: {defect}.");
            remarks.extend(run.defects.iter().map(broken));
            remarks.extend(patience_left(run, now));
        }
        remarks.extend(self::remarks(run, runs));
        let completed = match run.ending {
            Ending::Completed(end) => Some(end),
            Ending::Running | Ending::Failed(_) => {
                remarks.push(stopped_at(run));
                remarks.extend(last_progress(run));
                None
            }
        };
        Self {
            verdict: verdict(run, now),
            cause: failed.and_then(failure),
            details: failed.into_iter().flat_map(details).collect(),
            remarks,
            result: completed.and_then(result),
            completed: completed.is_some(),
            places: places(run, traces_url),
        }
    }

    /// Commands by which to find out more, unless the run completed.
    pub fn commands(&self) -> impl Iterator<Item = &str> {
        let places = self.places.iter().filter(|(what, _)| !self.completed && *what != TRACE);
        places.map(|(_, place)| place.as_str())
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.verdict)?;
        self.cause.iter().try_for_each(|cause| write!(f, "\nCause: {cause}"))?;
        self.details.iter().try_for_each(|line| write!(f, "\n  {line}"))?;
        self.remarks.iter().try_for_each(|remark| write!(f, "\n{remark}"))?;
        self.result.iter().try_for_each(|result| write!(f, "\nIts result: {result}"))?;
        let places = self.places.iter();
        // What completed needs no command to find out why.
        let mut places = places.filter(|(what, _)| !self.completed || *what == TRACE);
        places.try_for_each(|(what, place)| write!(f, "\n{what}: {place}"))
    }
}

/// The verdict in one sentence, or two.
fn verdict(run: &Run, now: Timestamp) -> String {
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

/// The step at which a run that has not completed is.
fn stopped_at(run: &Run) -> String {
    let verb = if run.ending == Ending::Running { "It is at" } else { "It stopped at" };
    format!("{verb}: {}", hop(run))
}

/// The agent's newest progress.
fn last_progress(run: &Run) -> Option<String> {
    let entry = run.entries.iter().rfind(|entry| entry.event.status.is_progress())?;
    let event = entry.event;
    let text = event.error_message.as_deref().or(event.message.as_deref()).map(escape);
    let (status, at) = (escape(event.status.as_str()), entry.offset.map(duration));
    let (text, at) = (text.map(|text| format!(": {text}")), at.unwrap_or_default());
    Some(format!("The agent's last progress: {status} at {at}{}", text.unwrap_or_default()))
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

/// What else a reader of the events would wonder about.
fn remarks(run: &Run, runs: &[Run]) -> Vec<String> {
    let count =
        |status: &Status| run.entries.iter().filter(|entry| entry.event.status == *status).count();
    let mut remarks = Vec::new();
    let invocations = count(&Status::AgentInvocationStarted);
    if invocations > 1 {
        let tasks = count(&Status::AgentBackgroundTaskStarted);
        remarks.push(format!("The Lambda ran {invocations} times; tasks started: {tasks}."));
    }
    let unknown = |event: &Event| event.error_type.as_deref() == Some("OutcomeUnknown");
    if run.entries.iter().any(|entry| unknown(entry.event)) {
        remarks.push("The invoker got no answer, so it could not know whether the agent had started (OutcomeUnknown). The agent's own events decide.".to_owned());
    }
    if run.ending == Ending::Running
        && let Some(refused) = run.find(&Status::AgentEntrypointFailed)
    {
        remarks.push(format!(
            "The container refused a request of this run: {}. If there was no other request, the agent does not work: its start is in the journal, but the container could not know that.",
            failure(refused.event).unwrap_or_default()
        ));
    }
    if let (Ending::Failed(last), Some(completed)) =
        (run.ending, run.find(&Status::AgentBackgroundTaskCompleted))
    {
        let result = result(completed.event).unwrap_or_default();
        let after = if completed.event.sort_key > last.sort_key { " after that" } else { "" };
        remarks.push(format!("The agent itself completed{after}. Its result: {result}"));
    }
    let came_back = run.find(&Status::AgentBackgroundTaskFailed);
    let came_back = came_back.is_some_and(|end| end.event.error_type.as_deref() == Some("Lost"));
    if came_back && run.failure().is_some_and(|cause| cause.status == Status::SessionFailed) {
        remarks.push("Its container reached the table again later, saw that the session had been given up, and ended the agent.".to_owned());
    }
    // The journal puts an event one microsecond after its cause if the writer's clock is behind.
    let behind = run.entries.windows(2).find_map(|pair| match pair {
        [cause, effect] if cause.offset.map(|offset| offset + 1) == effect.offset => {
            (cause.event.source != effect.event.source).then_some((cause.event, effect.event))
        }
        _ => None,
    });
    if let Some((cause, effect)) = behind {
        remarks.push(format!(
            "Clocks differ: the clock of the {} is behind that of the {}. The order of the events is right; their times and durations are not.",
            escape(&effect.source),
            escape(&cause.source)
        ));
    }
    let number =
        runs.iter().take_while(|other| other.invocation_id != run.invocation_id).count() + 1;
    let count = runs.len();
    if count > 1 {
        let which = if number == count { "the newest".to_owned() } else { format!("run {number}") };
        remarks.push(format!("This is {which} of {count} runs of the session."));
    }
    remarks
}
