//! What there is to say of a session: the verdict, its cause, what else one would wonder about, and where to
//! look.

use std::fmt;

use journal::{Ending, Event, Status, Timestamp};

use crate::alive::patience_left;
use crate::history::{Run, newest};
use crate::hop::{TRACE, hop, places};
use crate::timeline::{details, duration, escape, failure, result};
use crate::verdict::verdict;

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

    /// The command by which to find out more, unless the run completed.
    pub fn next(&self) -> Option<&str> {
        let mut places = self.places.iter().filter(|(what, _)| !self.completed && *what != TRACE);
        places.next().map(|(_, place)| place.as_str())
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
