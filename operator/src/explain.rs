//! What there is to say of a session: the verdict, its cause, what else one would wonder about, and where to
//! look.

use std::fmt;

use aws_sdk_sfn::types::ExecutionStatus;
use journal::{Ending, Event, Status, Timestamp};

use crate::alive::patience_left;
use crate::history::Run;
use crate::hop::{hop, places, trace};
use crate::timeline::{duration, escape, failure, result};
use crate::verdict::verdict;

/// Says what happened in a session's newest run, where it stopped, and where to look next. `now`
/// tells how long ago things were. A trace's id is appended to `traces_url`, the address of the
/// tracing tool.
#[must_use]
pub fn explain(runs: &[Run], now: Timestamp, traces_url: Option<&str>) -> String {
    let explained = runs.last().map(|run| Explanation::of(run, runs, now, traces_url));
    explained.map_or_else(|| "Nothing is known.".to_owned(), |it| it.to_string())
}

/// What there is to say of a run. Its texts are safe to print.
pub(crate) struct Explanation<'a> {
    pub verdict: String,
    /// On a failure: its type and the first line of its message.
    pub cause: Option<String>,
    /// What follows that line, such as a traceback.
    pub details: Vec<String>,
    /// What else a reader of the events would wonder about, in sentences.
    pub remarks: Vec<String>,
    /// The end of a run that completed.
    pub completed: Option<&'a Event>,
    /// What to look at, with a command or an address.
    pub places: Vec<(&'static str, String)>,
    /// The trace: its address, or its id.
    pub trace: Option<String>,
}

impl<'a> Explanation<'a> {
    /// Explains one of the session's `runs`.
    pub fn of(run: &Run<'a>, runs: &[Run], now: Timestamp, traces_url: Option<&str>) -> Self {
        let failed = run.failure();
        let mut remarks = Vec::from_iter(unwatched(run));
        if run.has_expired(now) {
            let text = "Events of this run have expired. A missing event is not a sign of a fault.";
            remarks.push(text.to_owned());
        } else {
            let broken = |defect| format!("The history is broken: {defect}.");
            remarks.extend(run.defects.iter().map(broken));
            remarks.extend(patience_left(run, now));
        }
        remarks.extend(self::remarks(run, runs));
        let (completed, verb) = match run.ending {
            Ending::Completed(end) => (Some(end), ""),
            Ending::Running => (None, "It is at"),
            Ending::Failed(_) => (None, "It stopped at"),
        };
        if completed.is_none() {
            remarks.push(format!("{verb}: {}", hop(run).names().1));
            remarks.extend(last_progress(run));
        }
        let message = failed.and_then(|event| event.error_message.as_deref());
        Self {
            verdict: verdict(run, now),
            cause: failed.and_then(failure),
            details: message.unwrap_or_default().lines().skip(1).map(escape).collect(),
            remarks,
            completed,
            places: places(run),
            trace: trace(run, traces_url),
        }
    }
}

impl fmt::Display for Explanation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.verdict)?;
        self.cause.iter().try_for_each(|cause| write!(f, "\nCause: {cause}"))?;
        self.details.iter().try_for_each(|line| write!(f, "\n  {line}"))?;
        self.remarks.iter().try_for_each(|remark| write!(f, "\n{remark}"))?;
        let result = self.completed.and_then(result);
        result.iter().try_for_each(|result| write!(f, "\nIts result: {result}"))?;
        // What completed needs no command to find out why.
        let mut places = self.places.iter().filter(|_| self.completed.is_none());
        places.try_for_each(|(what, place)| write!(f, "\n{what}: {place}"))?;
        self.trace.iter().try_for_each(|trace| write!(f, "\nIts trace: {trace}"))
    }
}

/// Says that nobody watches a run any more, although the journal has no end of it.
pub(crate) fn unwatched(run: &Run) -> Option<String> {
    let end = run.execution.as_ref().filter(|_| run.ending == Ending::Running)?;
    let said = [Some(end.status.as_str()), end.error.as_deref(), end.cause.as_deref()];
    let said = escape(&said.into_iter().flatten().collect::<Vec<_>>().join(": "));
    let is_good = end.status == ExecutionStatus::Succeeded;
    let nobody = if is_good { "" } else { ": nobody watches this session" };
    Some(format!("The execution has ended ({said}){nobody}."))
}

/// The agent's newest progress.
fn last_progress(run: &Run) -> Option<String> {
    let entry = run.entries.iter().rfind(|entry| entry.event.status.is_progress())?;
    let (status, at) = (escape(entry.event.status.as_str()), entry.offset.map(duration));
    let text = entry.event.error_message.as_deref().or(entry.event.message.as_deref());
    let text = text.map(|text| format!(": {}", escape(text))).unwrap_or_default();
    Some(format!("The agent's last progress: {status} at {}{text}", at.unwrap_or_default()))
}

/// What else a reader of the events would wonder about.
fn remarks(run: &Run, runs: &[Run]) -> Vec<String> {
    let events = || run.entries.iter().map(|entry| entry.event);
    let count = |status: &Status| events().filter(|event| event.status == *status).count();
    let has_error = |name| events().any(|event| event.error_type.as_deref() == Some(name));
    let mut remarks = Vec::new();
    let invocations = count(&Status::AgentInvocationStarted);
    if invocations > 1 {
        let tasks = count(&Status::AgentBackgroundTaskStarted);
        remarks.push(format!("The Lambda ran {invocations} times; tasks started: {tasks}."));
    }
    if has_error("OutcomeUnknown") {
        remarks.push("The invoker got no answer, so it could not know whether the agent had started (OutcomeUnknown). The agent's own events decide.".to_owned());
    }
    let refused = run.find(&Status::AgentEntrypointFailed);
    if let Some(refused) = refused.filter(|_| run.ending == Ending::Running) {
        remarks.push(format!(
            "The container refused a request of this run: {}. If there was no other request, the agent does not work: its start is in the journal, but the container could not know that.",
            failure(refused.event).unwrap_or_default()
        ));
    }
    let completed = run.find(&Status::AgentBackgroundTaskCompleted);
    if let (Ending::Failed(last), Some(completed)) = (run.ending, completed) {
        let result = result(completed.event).unwrap_or_default();
        let after = if completed.event.sort_key > last.sort_key { " after that" } else { "" };
        remarks.push(format!("The agent itself completed{after}. Its result: {result}"));
    }
    // The journal puts an event one microsecond after its cause if the writer's clock is behind.
    let mut pairs = run.entries.iter().zip(run.entries.iter().skip(1));
    let behind = pairs.find(|(cause, effect)| {
        let next = cause.offset.is_some_and(|offset| effect.offset == Some(offset + 1));
        next && cause.event.source != effect.event.source
    });
    if let Some((cause, effect)) = behind {
        let (cause, effect) = (escape(&cause.event.source), escape(&effect.event.source));
        remarks.push(format!(
            "Clocks differ: the {effect}'s clock is behind the {cause}'s. The events are in the right order, but their times and durations are wrong."
        ));
    }
    let number = runs.iter().position(|other| other.invocation_id == run.invocation_id);
    let (number, count) = (number.unwrap_or_default() + 1, runs.len());
    if count > 1 {
        let which = if number == count { "the newest".to_owned() } else { format!("run {number}") };
        let all = format!("agent-journal events {} --all", run.session_id());
        remarks.push(format!("This is {which} of {count} runs of the session. See all: {all}"));
    }
    remarks
}
