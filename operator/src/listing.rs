//! A session as one line of a list: how it stands, where it stopped and why.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use anstyle::{AnsiColor, Style};
use aws_sdk_sfn::primitives::DateTime;
use aws_sdk_sfn::types::ExecutionListItem;
use journal::text::{headline, truncate};
use journal::{Ending, Timestamp};
use serde::Serialize;

use crate::alive::{alive, is_silent};
use crate::history::Run;
use crate::hop::{Hop, hop, phase};
use crate::timeline::{duration, escape};

/// How much of a reason a line of a terminal has.
const MAX_WHY_BYTES: usize = 200;

/// What the columns of [`Listed::line`] are.
pub const HEAD: &str = "started (UTC)               took  standing   session                               where             why";

/// Failures of sessions from whose container nothing more was heard.
const LOST: [&str; 3] = ["AgentNotStarted", "ContainerLost", "PollAttemptsSpent"];

/// How a session stands, ordered by urgency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// It failed because nothing more was heard from its container.
    Lost,
    /// It failed.
    Failed,
    /// It runs, and its container gives no sign of life.
    Silent,
    /// Somebody stopped its execution, or a time limit did. Its agent may still be working.
    Unwatched,
    /// It runs.
    Running,
    /// It completed.
    Completed,
}

impl Standing {
    /// How a session stands by its run, the type of its failure, and its execution's status.
    pub(crate) fn of(
        run: Option<&Run>,
        error_type: Option<&str>,
        status: &str,
        now: Timestamp,
    ) -> Self {
        match (run.map_or(Ending::Running, |run| run.ending), status) {
            (Ending::Completed(_), _) | (Ending::Running, "SUCCEEDED") => Self::Completed,
            (Ending::Failed(_), _) | (Ending::Running, "FAILED") => {
                let is_lost = error_type.is_some_and(|name| LOST.contains(&name));
                if is_lost { Self::Lost } else { Self::Failed }
            }
            (Ending::Running, "ABORTED" | "TIMED_OUT") => Self::Unwatched,
            (Ending::Running, _) if run.is_some_and(|run| is_silent(run, now)) => Self::Silent,
            (Ending::Running, _) => Self::Running,
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{self:?}").to_lowercase())
    }
}

/// A session as one line of a list.
#[derive(Debug, Clone, Serialize)]
pub struct Listed {
    /// The session's id; the execution's name if that is not known.
    pub id: String,
    /// How it stands.
    pub standing: Standing,
    /// When its execution started.
    pub started: String,
    /// When it ended, if it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    /// How long it took, or has taken so far, in microseconds.
    pub micros: i64,
    /// Where it stands or stopped, unless it completed.
    #[serde(rename = "where", skip_serializing_if = "Option::is_none")]
    pub place: Option<&'static str>,
    /// The agent's phase there, if it reports some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// On a failure: its type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_type: Option<String>,
    /// On a failure: its type and the first line of its message. Of a silent one: since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The execution's ARN.
    pub execution: String,
}

impl Listed {
    /// The session `id` by its execution and that one's error and cause, and by its run if the journal
    /// has one.
    #[must_use]
    pub fn new(
        id: &str,
        execution: &ExecutionListItem,
        failure: Option<(String, String)>,
        run: Option<&Run>,
        now: Timestamp,
    ) -> Self {
        let failed = run.and_then(Run::failure).map(|event| {
            let error_type = event.error_type.as_deref().unwrap_or("Error");
            (error_type.to_owned(), event.error_message.clone().unwrap_or_default())
        });
        let (error_type, message) = failed.or(failure).unzip();
        let status = execution.status.as_str();
        let standing = Standing::of(run, error_type.as_deref(), status, now);
        let time =
            |date: DateTime| Timestamp::from(SystemTime::try_from(date).unwrap_or(UNIX_EPOCH));
        let (started, ended) = (time(execution.start_date), execution.stop_date.map(time));
        let why = match standing {
            Standing::Unwatched if error_type.is_none() => {
                Some(format!("the execution has ended ({status})"))
            }
            Standing::Silent => run.and_then(|run| alive(run, now)),
            _ => error_type.as_deref().zip(message.as_deref()).map(|(of, text)| headline(of, text)),
        };
        let hop = run.map_or(Hop::Workflow, hop);
        Self {
            id: id.to_owned(),
            standing,
            started: started.to_string(),
            ended: ended.map(|time| time.to_string()),
            micros: (ended.unwrap_or(now).as_micros() - started.as_micros()).max(0),
            place: (standing != Standing::Completed).then(|| hop.short()),
            phase: run.filter(|_| standing != Standing::Completed).and_then(phase),
            why,
            error_type,
            execution: execution.execution_arn.clone(),
        }
    }

    /// The line for a terminal, with colours.
    #[must_use]
    pub fn line(&self) -> String {
        let style = match self.standing {
            Standing::Lost | Standing::Failed => AnsiColor::Red.on_default(),
            Standing::Silent | Standing::Unwatched => AnsiColor::Yellow.on_default(),
            Standing::Running => Style::new(),
            Standing::Completed => AnsiColor::Green.on_default(),
        };
        let started = self.started.get(..19).unwrap_or_default().replace('T', " ");
        let (took, standing) = (duration(self.micros), self.standing);
        let phase = self.phase.as_ref().map(|phase| format!(" {phase}")).unwrap_or_default();
        let place = format!("{}{phase}", self.place.unwrap_or_default());
        let why = escape(truncate(self.why.as_deref().unwrap_or_default(), MAX_WHY_BYTES));
        let line = format!(
            "{started}  {took:>11}  {style}{standing:<9}{style:#}  {:<36}  {place:<16}  {why}",
            escape(&self.id)
        );
        line.trim_end().to_owned()
    }
}

/// How many sessions stand how, in one line.
#[must_use]
pub fn counted(sessions: &[Listed]) -> String {
    let mut standings = Vec::from_iter(sessions.iter().map(|session| session.standing));
    standings.sort_unstable();
    let groups = standings.chunk_by(PartialEq::eq);
    let counts = groups.filter_map(|group| Some(format!("{} {}", group.len(), group.first()?)));
    let counts = Vec::from_iter(counts).join(", ");
    match sessions.len() {
        0 => "no session".to_owned(),
        1 => format!("1 session: {counts}"),
        number => format!("{number} sessions: {counts}"),
    }
}
