//! Decides by the table what became of sessions. It shares no code with what wrote them: what it knows
//! of the journal is in this file.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde_json::Value;

/// Causes, and their effects.
const ORDER: [(&str, &[&str]); 5] = [
    ("SESSION_INITIATED", &["AGENT_INVOCATION_STARTED"]),
    ("AGENT_INVOCATION_STARTED", &["AGENT_INVOCATION_SUCCEEDED", "AGENT_INVOCATION_FAILED"]),
    ("AGENT_INVOCATION_STARTED", &["AGENT_ENTRYPOINT_STARTED"]),
    ("AGENT_ENTRYPOINT_STARTED", &[TASK_STARTED]),
    (TASK_STARTED, &[COMPLETED, FAILED]),
];
const TASK_STARTED: &str = "AGENT_BACKGROUND_TASK_STARTED";
const COMPLETED: &str = "AGENT_BACKGROUND_TASK_COMPLETED";
const FAILED: &str = "AGENT_BACKGROUND_TASK_FAILED";
const SESSION_FAILED: &str = "SESSION_FAILED";

/// What was done to the container of a session. Times are seconds since the beginning of the storm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Hurt {
    /// It was killed then.
    Killed(f64),
    /// It was stopped, or cut off from the table, then and for so long.
    Silenced(f64, Duration),
}

/// How an execution ended.
#[derive(Debug, Clone)]
pub struct End {
    /// `SUCCEEDED` or `FAILED`; anything else is no end.
    pub status: String,
    /// Its error's name.
    pub error: String,
    /// When, in seconds since the beginning of the storm.
    pub at: f64,
}

/// What is known of a session from outside.
#[derive(Debug, Clone, Default)]
pub struct Session {
    /// Its id.
    pub id: String,
    /// How its execution ended; `None`: a direct call started it, and no workflow watches it.
    pub end: Option<End>,
    /// Whether the caller was told that the task is started, or the execution is.
    pub accepted: bool,
    /// How often its agent has begun.
    pub begun: usize,
    /// How often its agent has come to its end.
    pub done: usize,
    /// What was done to its containers.
    pub hurts: Vec<Hurt>,
}

/// What the checker found; each line names a session.
#[derive(Debug, Default)]
pub struct Found {
    /// Events in the table.
    pub events: usize,
    /// What happened and is not in the table.
    pub lost: Vec<String>,
    /// Items that are not what was put, or were put twice.
    pub overwritten: Vec<String>,
    /// Effects before their causes.
    pub out_of_order: Vec<String>,
    /// Tasks and sessions that ended twice.
    pub second_ends: Vec<String>,
    /// Runs that have no end although a workflow watched them.
    pub open: Vec<String>,
    /// Containers called lost that were not, and ends that were not.
    pub false_verdicts: Vec<String>,
    /// From the death of a container to the end of its execution, in seconds, in rising order.
    pub noticed: Vec<f64>,
    /// Likewise from the moment from which it was silent for more than 90 s.
    pub noticed_silence: Vec<f64>,
}

impl Found {
    /// All that must not be, by name.
    #[must_use]
    pub fn wrong(&self) -> [(&'static str, &[String]); 6] {
        [
            ("lost", &self.lost),
            ("overwritten", &self.overwritten),
            ("out of order", &self.out_of_order),
            ("second ends", &self.second_ends),
            ("left open", &self.open),
            ("false verdicts", &self.false_verdicts),
        ]
    }
}

/// An item as DynamoDB's JSON has it.
type Item = Value;

fn text<'a>(item: &'a Item, name: &str) -> &'a str {
    item.pointer(&format!("/{name}/S")).and_then(Value::as_str).unwrap_or_default()
}

/// Judges the sessions by all items of the table, and by what puts have applied, in their order.
#[must_use]
pub fn check(sessions: &[Session], table: &[Item], applied: &[Item]) -> Found {
    let mut found = Found::default();
    let key = |item: &Item| format!("{} {}", text(item, "PK"), text(item, "SK"));
    let in_table: HashMap<String, &Item> = table.iter().map(|item| (key(item), item)).collect();
    let mut first = HashMap::new();
    for item in applied {
        let before = first.entry(key(item)).or_insert(item);
        if text(before, "EventId") != text(item, "EventId") {
            found.overwritten.push(format!("{} was put twice", key(item)));
        }
        match in_table.get(&key(item)) {
            None => found.lost.push(format!("{} is gone", key(item))),
            // The same put again may say it in other words, such as a later `ExpiresAt`.
            Some(now) if text(now, "EventId") != text(item, "EventId") => {
                found.overwritten.push(format!("{} was replaced", key(item)));
            }
            Some(_) => {}
        }
    }
    let mut events: BTreeMap<&str, Vec<&Item>> = BTreeMap::new();
    for item in table {
        if let Some(id) = text(item, "PK").strip_prefix("SESSION#") {
            events.entry(id).or_default().push(item);
            found.events += 1;
        }
    }
    for session in sessions {
        let mut own = events.remove(&*session.id).unwrap_or_default();
        own.sort_by_key(|item| text(item, "SK"));
        judge(session, &own, &mut found);
    }
    found.lost.extend(events.keys().map(|id| format!("{id}: nobody started it")));
    found.noticed.sort_by(f64::total_cmp);
    found.noticed_silence.sort_by(f64::total_cmp);
    found
}

/// Judges one session by its events in the order of their keys.
fn judge(session: &Session, events: &[&Item], found: &mut Found) {
    let id = &session.id;
    let statuses = Vec::from_iter(events.iter().map(|event| text(event, "Status")));
    let count = |status: &str| statuses.iter().filter(|it| **it == status).count();
    let first = |any: &[&str]| statuses.iter().position(|status| any.contains(status));
    let (tasks, completed, failed) = (count(TASK_STARTED), count(COMPLETED), count(FAILED));
    let killed = session.hurts.iter().any(|hurt| matches!(hurt, Hurt::Killed(_)));

    let mut lost = |what: &str| found.lost.push(format!("{id}: {what}: {statuses:?}"));
    if session.begun > tasks {
        lost("an agent began without its event");
    }
    if session.done > completed + failed && !killed {
        lost("an agent came to its end without its event");
    }
    if session.end.is_none() && session.accepted && tasks == 0 {
        lost("the caller was told that a task is started");
    }

    for (cause, effect) in ORDER {
        let Some(effect_at) = first(effect) else { continue };
        // A direct call has no workflow; a task that may not have started has an end nevertheless.
        let alone = session.end.is_none() || completed == 0 && effect.contains(&FAILED);
        if first(&[cause]).map_or(!alone, |cause_at| cause_at > effect_at) {
            found.out_of_order.push(format!("{id}: {effect:?} before {cause:?}: {statuses:?}"));
        }
    }

    if completed + failed > tasks.max(usize::from(failed == 1)) || count(SESSION_FAILED) > 1 {
        found.second_ends.push(format!("{id}: {statuses:?}"));
    }
    if completed > session.done {
        found.false_verdicts.push(format!("{id}: completed, and the agent is not"));
    }
    if let Some(end) = &session.end {
        judge_end(session, end, &statuses, found);
    } else if !killed && completed + failed < tasks {
        found.lost.push(format!("{id}: its task has no end: {statuses:?}"));
    }
}

/// Judges the end of a session that a workflow watched.
fn judge_end(session: &Session, end: &End, statuses: &[&str], found: &mut Found) {
    let line =
        format!("{}: {} {}: {statuses:?}, {:?}", session.id, end.status, end.error, session.hurts);
    let has = |status: &str| statuses.contains(&status);
    let said = match &*end.status {
        "SUCCEEDED" => has(COMPLETED),
        "FAILED" => has(SESSION_FAILED),
        _ => false,
    };
    if !said {
        found.open.push(line.clone());
    }
    let silence = session.hurts.iter().find_map(|hurt| match hurt {
        Hurt::Silenced(since, time) if *time > Duration::from_secs(90) => Some(*since),
        _ => None,
    });
    let death = session.hurts.iter().find_map(|hurt| match hurt {
        Hurt::Killed(at) => Some(*at),
        Hurt::Silenced(..) => None,
    });
    match (&*end.error, death, silence) {
        ("ContainerLost", Some(at), _) if at < end.at => found.noticed.push(end.at - at),
        ("ContainerLost", _, Some(at)) if at < end.at => {
            found.noticed_silence.push(end.at - at);
            if !has(COMPLETED) && !has(FAILED) {
                found.open.push(format!("{line}: the agent was not ended"));
            }
        }
        ("ContainerLost", ..) => found.false_verdicts.push(line),
        ("AgentNotStarted", ..) if has(TASK_STARTED) => found.false_verdicts.push(line),
        ("AgentNotStarted", ..) => {}
        // Nobody noticed.
        (_, None, Some(_)) if !has(COMPLETED) && !has(FAILED) => found.open.push(line),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const WHOLE: [&str; 5] = [
        "SESSION_INITIATED", "AGENT_INVOCATION_STARTED", "AGENT_ENTRYPOINT_STARTED", TASK_STARTED,
        COMPLETED,
    ];

    fn items(statuses: &[&str]) -> Vec<Item> {
        let item = |(at, status): (usize, &&str)| {
            let id = format!("{status} {at}");
            json!({
                "PK": {"S": "SESSION#s"}, "SK": {"S": format!("EVENT#{at}")}, "EventId": {"S": id},
                "Status": {"S": status},
            })
        };
        statuses.iter().enumerate().map(item).collect()
    }

    fn session(error: &str) -> Session {
        let status = if error.is_empty() { "SUCCEEDED" } else { "FAILED" }.to_owned();
        let end = Some(End { status, error: error.to_owned(), at: 100.0 });
        Session { id: "s".to_owned(), end, accepted: true, begun: 1, done: 1, hurts: Vec::new() }
    }

    /// How many: lost, overwritten, out of order, second ends, open, false verdicts.
    fn counts(session: Session, table: &[Item], applied: &[Item]) -> [usize; 6] {
        check(&[session], table, applied).wrong().map(|(_, wrong)| wrong.len())
    }

    #[test]
    fn each_fault_of_a_journal_is_found() {
        let whole = items(&WHOLE);
        assert_eq!(counts(session(""), &whole, &whole), [0; 6]);
        let twice = [whole.clone(), items(&["SESSION_FAILED"])].concat();
        assert_eq!(counts(session(""), &whole, &twice), [0, 2, 0, 0, 0, 0]);
        assert_eq!(counts(session(""), &whole[..4], &whole), [2, 0, 0, 0, 1, 0]);
        let mut swapped = WHOLE;
        swapped.swap(1, 2);
        assert_eq!(counts(session(""), &items(&swapped), &[]), [0, 0, 1, 0, 0, 0]);
        let second = items(&[&WHOLE[..], &[FAILED]].concat());
        assert_eq!(counts(session(""), &second, &[]), [0, 0, 0, 1, 0, 0]);
        let unfinished = Session { done: 0, ..session("") };
        assert_eq!(counts(unfinished, &whole, &[]), [0, 0, 0, 0, 0, 1]);
        let runs = Session { begun: 2, ..session("") };
        assert_eq!(counts(runs, &whole, &[]), [1, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_verdict_is_right_only_after_a_death_or_a_long_silence() {
        let given_up = items(&[&WHOLE[..4], &[SESSION_FAILED]].concat());
        let hurt = |hurt| Session { done: 0, hurts: vec![hurt], ..session("ContainerLost") };
        let of = |session: Session| counts(session, &given_up, &[]);
        let (short, long) = (Duration::from_secs(60), Duration::from_secs(240));
        assert_eq!(of(Session { done: 0, ..session("ContainerLost") }), [0, 0, 0, 0, 0, 1]);
        assert_eq!(of(hurt(Hurt::Silenced(10.0, short))), [0, 0, 0, 0, 0, 1]);
        assert_eq!(of(hurt(Hurt::Killed(10.0))), [0; 6]);
        assert_eq!(of(hurt(Hurt::Killed(110.0))), [0, 0, 0, 0, 0, 1]);
        // The agent of a container that comes back has to be ended.
        assert_eq!(of(hurt(Hurt::Silenced(10.0, long))), [0, 0, 0, 0, 1, 0]);
        let ended = items(&[&WHOLE[..4], &[SESSION_FAILED, FAILED]].concat());
        assert_eq!(counts(hurt(Hurt::Silenced(10.0, long)), &ended, &[]), [0; 6]);
        let found = check(&[hurt(Hurt::Killed(10.0))], &given_up, &[]);
        assert_eq!(found.noticed, [90.0]);
        // A session without an end.
        let end = Some(End { status: "RUNNING".to_owned(), error: String::new(), at: 0.0 });
        let running = Session { done: 0, end, ..session("") };
        assert_eq!(counts(running, &items(&WHOLE[..4]), &[]), [0, 0, 0, 0, 1, 0]);
    }
}
