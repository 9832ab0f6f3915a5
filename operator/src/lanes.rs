//! A run as lanes: when each part of the system worked on it, and which part never began.

use journal::{Ending, SignKind, Status, Timestamp};

use crate::history::{Run, phase_name, step};
use crate::timeline::duration;

/// What one part of the system did, or a phase of the agent.
pub(crate) struct Lane {
    pub name: String,
    /// `phase`, or `missing` if the part never began.
    pub class: &'static str,
    /// Each with its class, and from when to when in microseconds since the run's first event.
    pub bars: Vec<(&'static str, i64, i64)>,
    /// How long it took; who should have written what if the part never began.
    pub text: String,
}

impl Lane {
    fn ended(name: &str, from: i64, to: i64, failed: bool) -> Self {
        let (class, how) = if failed { ("bad", ", failed") } else { ("", "") };
        let text = format!("{}{how}", duration(to - from));
        Self { name: name.to_owned(), class: "", bars: vec![(class, from, to)], text }
    }

    /// It has no end. Its last sign of life was at `sign`.
    fn open(name: &str, from: i64, sign: i64, to: i64) -> Self {
        let bars = vec![("open", from, sign), ("waiting", sign, to)];
        let text = format!("from {}, no end", duration(from));
        Self { name: name.to_owned(), class: "", bars, text }
    }
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
    let mut signs = run.signs.iter().flatten().filter(|sign| sign.kind == SignKind::Beat);
    let sign = signs.find_map(|sign| sign.timestamp).map(since);
    let beat = |from: i64| sign.unwrap_or(from).clamp(from, end);
    // A direct call has no parts before the container.
    let skipped = if run.is_workflows() { 0 } else { 3 };
    let mut lanes = Vec::new();
    for (name, started, ends, writer) in parts().into_iter().skip(skipped) {
        let at = run.entries.iter().position(|entry| entry.event.status == started);
        let began = at.and_then(|at| Some((at, run.entries.get(at)?.offset?)));
        let Some((at, from)) = began else {
            let text = format!("Never began: {writer} should have written {started}.");
            lanes.push(Lane { name: name.to_owned(), class: "missing", bars: vec![], text });
            continue;
        };
        let mut later = run.entries.iter().skip(at + 1);
        let ended = later.rfind(|entry| ends.contains(&entry.event.status));
        lanes.push(match ended {
            Some(entry) => {
                let to = entry.offset.unwrap_or(end);
                Lane::ended(name, from, to, entry.event.status.is_failure())
            }
            // The end of an execution that succeeds is not in the journal.
            None if name == "workflow" && matches!(run.ending, Ending::Completed(_)) => {
                Lane::ended(name, from, end, false)
            }
            // It gives no signs of life; a service of AWS runs it.
            None if name == "workflow" => Lane::open(name, from, end, end),
            None if name == "agent" => Lane::open(name, from, beat(from), end),
            None => Lane::open(name, from, from, end),
        });
    }
    // A phase that is left open ends with the agent.
    let agent = lanes.last().and_then(|lane| lane.bars.last()).map_or(end, |(.., to)| *to);
    lanes.extend(phases(run, agent));
    (lanes, end.max(1))
}

/// The agent's own phases, in the order in which they began. `end` is that of those without one.
fn phases(run: &Run, end: i64) -> Vec<Lane> {
    let progress = run.entries.iter().filter(|entry| entry.event.status.is_progress());
    let lanes = progress.filter_map(|entry| {
        let (at, (step, ends)) = (entry.offset?, step(&entry.event.status)?);
        let name = phase_name(step);
        let lane = if ends {
            let from = at - entry.duration.unwrap_or_default();
            Lane::ended(&name, from, at, entry.event.status.is_failure())
        } else {
            // The others are shown with their end.
            run.open.binary_search_by(|open| open.sort_key.cmp(&entry.event.sort_key)).ok()?;
            Lane::open(&name, at, at, end)
        };
        Some(Lane { class: "phase", ..lane })
    });
    let mut lanes = Vec::from_iter(lanes);
    lanes.sort_by_key(|lane| lane.bars.first().map(|(_, from, _)| *from));
    // A flood of phases is in the table of events.
    lanes.truncate(50);
    lanes
}
