//! A session's runs: how long each step took, what has no end, and what contradicts the journal's
//! rules.

use std::collections::HashMap;

use indexmap::IndexMap;
use journal::{Ending, Event, SORT_KEY_PREFIX, Sign, Status, Timestamp, ending};

use crate::sessions::ExecutionEnd;
use crate::timeline::escape;

/// Steps whose start is always journaled before their end.
const STEPS: [&str; 4] = ["SESSION", "AGENT_INVOCATION", "AGENT_ENTRYPOINT", TASK];
const TASK: &str = "AGENT_BACKGROUND_TASK";

/// One run of a session, by its events.
#[derive(Debug)]
pub struct Run<'a> {
    /// The execution's ARN, or for a direct call the request's id.
    pub invocation_id: &'a str,
    /// Its events in the journal's order.
    pub entries: Vec<Entry<'a>>,
    /// How it ended.
    pub ending: Ending<'a>,
    /// Events that started a step which has no end, in the journal's order.
    pub open: Vec<&'a Event>,
    /// Contradictions to the journal's rules, in words that are safe to print.
    pub defects: Vec<String>,
    /// The newest signs of life of its [open task](Run::open_task), newest first, if they were read.
    pub signs: Option<Vec<Sign>>,
    /// The end of its execution, if Step Functions was asked.
    pub execution: Option<ExecutionEnd>,
}

/// One event in its run.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// The event.
    pub event: &'a Event,
    /// Microseconds since the run's first event, unless its timestamp is not the journal's.
    pub offset: Option<i64>,
    /// For the end of a step: microseconds since its start.
    pub duration: Option<i64>,
}

/// The runs of a session in the order in which they began. Who names a session means its last run.
///
/// `events` are the session's, in the journal's order. [Foreign](is_foreign) items are left out.
#[must_use]
pub fn runs(events: &[Event]) -> Vec<Run<'_>> {
    let mut grouped: IndexMap<&str, Vec<_>> = IndexMap::new();
    for event in events.iter().filter(|event| !is_foreign(event)) {
        grouped.entry(&event.invocation_id).or_default().push(event);
    }
    grouped.into_iter().map(|(id, run)| Run::new(id, &run, ending(events, id))).collect()
}

/// Whether an item is not an event of this journal: it has no `Status` or no `InvocationId`.
#[must_use]
pub fn is_foreign(event: &Event) -> bool {
    event.status.as_str().is_empty() || event.invocation_id.is_empty()
}

impl<'a> Run<'a> {
    /// A run of which the journal has no event.
    #[must_use]
    pub fn without_events(invocation_id: &'a str) -> Self {
        Self::new(invocation_id, &[], Ending::Running)
    }

    fn new(invocation_id: &'a str, events: &[&'a Event], ending: Ending<'a>) -> Self {
        let mut run = Self {
            invocation_id,
            entries: Vec::new(),
            ending,
            open: Vec::new(),
            defects: Vec::new(),
            signs: None,
            execution: None,
        };
        let start = events.first().and_then(|event| time(event));
        let mut started: HashMap<&str, Vec<&Event>> = HashMap::new();
        let mut task_ended = false;
        for &event in events {
            let status = escape(event.status.as_str());
            let mut duration = None;
            match step(&event.status) {
                Some((name, false)) => started.entry(name).or_default().push(event),
                Some((name, true)) => {
                    match started.get_mut(name).and_then(Vec::pop) {
                        Some(start) => duration = since(event, time(start)),
                        None if name == TASK && task_ended => {
                            run.defects.push(format!("{status} is the second end of one task"))
                        }
                        // Its start may not have reached the journal.
                        None if event.error_type.as_deref() == Some("NotStarted") => {}
                        None if STEPS.contains(&name) => run
                            .defects
                            .push(format!("{status} ends a step that no event has started")),
                        None => {}
                    }
                    task_ended |= name == TASK;
                }
                None => {}
            }
            if event.sort_key.strip_prefix(SORT_KEY_PREFIX) != Some(event.timestamp.as_str()) {
                let (key, time) = (escape(&event.sort_key), escape(&event.timestamp));
                run.defects
                    .push(format!("{status} has the sort key {key} and the timestamp {time}"));
            }
            run.entries.push(Entry { event, offset: since(event, start), duration });
        }
        if events.iter().any(|event| event.status == Status::AgentBackgroundTaskStarted) {
            // The entrypoint's end is the task's start.
            started.remove("AGENT_ENTRYPOINT");
        }
        run.open = started.into_values().flatten().collect();
        run.open.sort_by(|a, b| a.sort_key.cmp(&b.sort_key));
        run
    }

    /// The session's id; nothing if the run has no event.
    pub(crate) fn session_id(&self) -> String {
        let id = self.entries.iter().find_map(|entry| entry.event.session_id());
        id.map(|id| id.to_string()).unwrap_or_default()
    }

    /// The last of its events with this status.
    #[must_use]
    pub fn find(&self, status: &Status) -> Option<Entry<'a>> {
        self.entries.iter().rfind(|entry| entry.event.status == *status).copied()
    }

    /// Whether it has an event with this status.
    #[must_use]
    pub fn has(&self, status: &Status) -> bool {
        self.find(status).is_some()
    }

    /// The start of its newest task, if that gives signs of life and has no end.
    #[must_use]
    pub fn open_task(&self) -> Option<&'a Event> {
        let started = Status::AgentBackgroundTaskStarted;
        let task = self.open.iter().rfind(|event| event.status == started)?;
        task.heartbeat_seconds.map(|_| *task)
    }

    /// Whether the state machine started it. Such a run may end with SESSION_FAILED.
    #[must_use]
    pub fn is_workflows(&self) -> bool {
        self.entries.iter().any(|entry| entry.event.source == "workflow")
    }

    /// The event that says why the run failed, if it did: the one nearest to the cause.
    ///
    /// As a rule, SESSION_FAILED repeats an earlier failure. Then this is the earlier one, and of
    /// several the deepest in the system.
    #[must_use]
    pub fn failure(&self) -> Option<&'a Event> {
        let Ending::Failed(last) = self.ending else { return None };
        // A later event is not a cause, nor is a request that was refused beside a started task.
        let find = |status: &Status| {
            let event = self.find(status).map(|entry| entry.event);
            event.filter(|event| event.sort_key <= last.sort_key)
        };
        let started = self.has(&Status::AgentBackgroundTaskStarted);
        let causes = [
            find(&Status::AgentBackgroundTaskFailed),
            find(&Status::AgentEntrypointFailed).filter(|_| !started),
            find(&Status::AgentInvocationFailed),
        ];
        // A failure of the workflow itself, such as too many polls, repeats none of them.
        let repeated = causes.iter().flatten().any(|cause| cause.error_type == last.error_type);
        causes.into_iter().flatten().next().filter(|_| repeated).or(Some(last))
    }

    /// Whether some of its events may have expired by `now`. Events expire one by one, in any order,
    /// and can be read until then.
    #[must_use]
    pub fn has_expired(&self, now: Timestamp) -> bool {
        let passed = |seconds: i64| seconds.saturating_mul(1_000_000) <= now.as_micros();
        self.entries.iter().any(|entry| entry.event.expires_at.is_some_and(passed))
    }
}

/// The step that a status is about, by its name alone so that unknown ones count too, and whether
/// the status ends it.
pub(crate) fn step(status: &Status) -> Option<(&str, bool)> {
    let status = status.as_str();
    let strip = |suffixes: &[&str]| suffixes.iter().find_map(|suffix| status.strip_suffix(suffix));
    if let Some(name) = strip(&["_STARTED", "_INITIATED"]) {
        return Some((name, false));
    }
    strip(&["_SUCCEEDED", "_COMPLETED", "_FAILED"]).map(|name| (name, true))
}

/// The agent's own name for a step of its progress.
pub(crate) fn phase_name(step: &str) -> String {
    escape(step.strip_prefix("TASK_").unwrap_or(step))
}

fn time(event: &Event) -> Option<Timestamp> {
    event.timestamp.parse().ok()
}

fn since(event: &Event, start: Option<Timestamp>) -> Option<i64> {
    Some(time(event)?.as_micros() - start?.as_micros())
}
