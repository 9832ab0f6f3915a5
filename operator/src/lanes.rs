//! A run as lanes: when each part of the system worked on it, and which part never began.

use journal::{Ending, SignKind, Status, Timestamp};

use crate::history::{Entry, Run, phase_name, step};

/// What one part of the system did, or a phase of the agent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Lane {
    pub name: String,
    pub bar: Option<Bar>,
    /// Who should have written what, if the part never began.
    pub missing: Option<String>,
}

/// From when to when, in microseconds since the run's first event.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Bar {
    pub from: i64,
    pub to: i64,
    pub state: State,
}

/// How what a bar stands for ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Done,
    Failed,
    /// It has no end. Its last sign of life was then, in microseconds.
    Open(i64),
}

/// A part, the status with which it begins, those with which it ends, and who writes the first.
type Part = (&'static str, Status, Vec<Status>, &'static str);

fn parts() -> [Part; 5] {
    use Status::*;
    let called = vec![AgentInvocationSucceeded, AgentInvocationFailed];
    let reached = vec![AgentEntrypointStarted, AgentInvocationFailed];
    let taken = vec![AgentBackgroundTaskStarted, AgentEntrypointFailed];
    let ended = vec![AgentBackgroundTaskCompleted, AgentBackgroundTaskFailed];
    [
        ("workflow", SessionInitiated, vec![SessionFailed], "the state machine"),
        ("invoker", AgentInvocationStarted, called, "the Lambda"),
        ("AgentCore", AgentInvocationStarted, reached, "the Lambda"),
        ("entrypoint", AgentEntrypointStarted, taken, "the container"),
        ("agent", AgentBackgroundTaskStarted, ended, "the container"),
    ]
}

/// The lanes of a run, in the order of cause and effect, and where the last of them ends. `now` is the
/// end of what still runs.
pub(crate) fn lanes(run: &Run, now: Timestamp) -> (Vec<Lane>, i64) {
    let first = run.entries.iter().find_map(|entry| entry.event.timestamp.parse().ok());
    let since =
        |time: Timestamp| first.map_or(0, |first: Timestamp| time.as_micros() - first.as_micros());
    let last = run.entries.iter().filter_map(|entry| entry.offset).max().unwrap_or_default();
    let end = if run.ending == Ending::Running { since(now).max(last) } else { last };
    let signs = run.signs.iter().flatten();
    let beat = signs.filter(|sign| sign.kind == SignKind::Beat).find_map(|sign| sign.timestamp);
    let bar = |started: &Status, ends: &dyn Fn(&Status) -> bool| {
        let at = run.entries.iter().position(|entry| entry.event.status == *started)?;
        let from = run.entries.get(at)?.offset?;
        let ended = run.entries.iter().skip(at + 1).rfind(|entry| ends(&entry.event.status));
        let state = match ended {
            Some(entry) if entry.event.status.is_failure() => State::Failed,
            Some(_) => State::Done,
            None => State::Open(from),
        };
        Some(Bar { from, to: ended.and_then(|entry| entry.offset).unwrap_or(end), state })
    };
    // A direct call has no parts before the container.
    let skipped = if run.is_workflows() { 0 } else { 3 };
    let mut lanes = Vec::new();
    for (name, started, ends, writer) in parts().into_iter().skip(skipped) {
        let mut bar = bar(&started, &|status| ends.contains(status));
        match &mut bar {
            // The end of an execution that succeeds is not in the journal.
            Some(bar) if name == "workflow" && matches!(run.ending, Ending::Completed(_)) => {
                bar.state = State::Done;
            }
            // It gives no signs of life; a service of AWS runs it.
            Some(Bar { to, state: State::Open(sign), .. }) if name == "workflow" => *sign = *to,
            Some(Bar { from, state: State::Open(sign), .. }) if name == "agent" => {
                *sign = beat.map_or(*from, since).max(*from);
            }
            _ => {}
        }
        let missing = || format!("{writer} should have written {started}");
        let missing = bar.is_none().then(missing);
        lanes.push(Lane { name: name.to_owned(), bar, missing });
    }
    // A phase that is left open ends with the agent.
    let agent = lanes.last().and_then(|lane| lane.bar.as_ref()).map_or(end, |bar| bar.to);
    lanes.extend(phases(run, agent));
    (lanes, end.max(1))
}

/// The agent's own phases, in the order in which they began. `end` is that of those without one.
fn phases(run: &Run, end: i64) -> Vec<Lane> {
    let lane = |entry: &Entry| {
        let (at, (step, ends)) = (entry.offset?, step(&entry.event.status)?);
        let key = &entry.event.sort_key;
        let bar = match ends {
            true => {
                let state =
                    if entry.event.status.is_failure() { State::Failed } else { State::Done };
                Bar { from: at - entry.duration.unwrap_or_default(), to: at, state }
            }
            // The others are shown with their end.
            false => {
                run.open.binary_search_by(|open| open.sort_key.cmp(key)).ok()?;
                Bar { from: at, to: end, state: State::Open(at) }
            }
        };
        Some(Lane { name: phase_name(step), bar: Some(bar), missing: None })
    };
    let progress = run.entries.iter().filter(|entry| entry.event.status.is_progress());
    let mut lanes = Vec::from_iter(progress.filter_map(lane));
    lanes.sort_by_key(|lane| lane.bar.as_ref().map(|bar| bar.from));
    // A flood of phases is in the table of events.
    lanes.truncate(50);
    lanes
}
