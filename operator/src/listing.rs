//! A session as one line of a list: how it stands, where it stopped and why.

use std::time::{SystemTime, UNIX_EPOCH};

use anstyle::{AnsiColor, Style};
use aws_sdk_sfn::primitives::DateTime;
use aws_sdk_sfn::types::ExecutionListItem;
use journal::Timestamp;
use journal::text::{headline, truncate};
use serde::Serialize;

use crate::alive::alive;
use crate::explain::unwatched;
use crate::history::Run;
use crate::hop::place;
use crate::standing::Standing;
use crate::timeline::{day_and_time, duration, escape};

/// How much of a reason a line of a terminal has.
const MAX_WHY_BYTES: usize = 200;

/// What the columns of [`Listed::line`] are.
pub const HEAD: &str = "started (UTC)               took  standing   session                               where             why";

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
    pub ended: Option<String>,
    /// How long it took, or has taken so far, in microseconds.
    pub micros: i64,
    /// Where it stands or stopped, with the agent's phase if it reports some. Nothing if it completed.
    #[serde(rename = "where")]
    pub place: String,
    /// On a failure: its type.
    pub error_type: Option<String>,
    /// On a failure: its type and the first line of its message. Of a silent one: since when.
    pub why: Option<String>,
    /// The execution's ARN.
    pub execution: String,
}

impl Listed {
    /// The session `id` by its execution and the run of that.
    #[must_use]
    pub fn new(id: &str, execution: &ExecutionListItem, run: &Run, now: Timestamp) -> Self {
        let standing = run.standing(now);
        let time =
            |date: DateTime| Timestamp::from(SystemTime::try_from(date).unwrap_or(UNIX_EPOCH));
        let (started, ended) = (time(execution.start_date), execution.stop_date.map(time));
        let error = run.error();
        let why = match standing {
            Standing::Silent => alive(run, now),
            Standing::Unwatched => unwatched(run),
            _ => error.map(|(error_type, message)| headline(error_type, message)),
        };
        Self {
            id: id.to_owned(),
            standing,
            started: started.to_string(),
            ended: ended.map(|time| time.to_string()),
            micros: (ended.unwrap_or(now).as_micros() - started.as_micros()).max(0),
            place: if standing == Standing::Completed { String::new() } else { place(run) },
            error_type: error.map(|(error_type, _)| error_type.to_owned()),
            why,
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
        let (started, took) = (day_and_time(&self.started), duration(self.micros));
        let (standing, place) = (self.standing.to_string(), &self.place);
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
    let (number, counts) = (sessions.len(), Vec::from_iter(counts).join(", "));
    let sessions = if number == 1 { "session" } else { "sessions" };
    format!("{number} {sessions}: {counts}").trim_end_matches(": ").to_owned()
}
