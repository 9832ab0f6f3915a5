//! Reads sessions: their executions, with what the journal knows of them.

use std::fmt;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use aws_sdk_sfn::Client;
use aws_sdk_sfn::primitives::DateTime;
use aws_sdk_sfn::types::{ExecutionListItem, ExecutionStatus};
use futures_util::{StreamExt, TryStreamExt, stream};
use journal::{Event, Journal, ReadError, SdkFault, SessionId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::history::{Run, runs};
use crate::listing::Listed;
use crate::standing::Standing;

/// How many sessions are read at the same time.
const AT_A_TIME: usize = 16;

/// Much longer than any session that the workflow waits for.
const LONGEST_SECONDS: i64 = 24 * 60 * 60;

/// Which sessions are listed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    /// All of them.
    #[default]
    All,
    /// Those that failed, were lost, or are not watched any more.
    Failed,
    /// Those that run.
    Running,
    /// Those that failed because nothing more was heard from their container.
    Lost,
}

impl Filter {
    /// All filters, as they are offered.
    pub(crate) const ALL: [Self; 4] = [Self::All, Self::Failed, Self::Running, Self::Lost];

    /// Whether an execution of this status may be wanted.
    fn may_want(self, status: &ExecutionStatus) -> bool {
        match self {
            Self::All => true,
            Self::Running => *status == ExecutionStatus::Running,
            // The journal says that a session has failed before its execution has ended.
            Self::Failed | Self::Lost => *status != ExecutionStatus::Succeeded,
        }
    }

    fn wants(self, standing: Standing) -> bool {
        use Standing::*;
        match self {
            Self::All => true,
            Self::Failed => matches!(standing, Lost | Failed | Unwatched),
            Self::Running => matches!(standing, Running | Silent),
            Self::Lost => matches!(standing, Lost | Silent),
        }
    }
}

/// The name in an option and in an address.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// Where everything that is known of sessions is read.
#[derive(Clone)]
pub struct Sources {
    /// The journal.
    pub journal: Journal,
    /// Step Functions.
    pub workflows: Client,
}

impl Sources {
    /// The newest `limit` sessions of a state machine, less those that ended longer than `since` ago, and
    /// whether there are more.
    ///
    /// # Errors
    /// If the executions or the events of one cannot be read.
    pub async fn list(
        &self,
        state_machine: &str,
        filter: Filter,
        since: Option<Duration>,
        limit: usize,
    ) -> Result<(Vec<Listed>, bool)> {
        // Leave out those that ended before that time. Read on, because an older execution may have
        // ended after it.
        let now = DateTime::from(SystemTime::now()).secs();
        let earliest = since.map_or(i64::MIN, |since| now.saturating_sub_unsigned(since.as_secs()));
        let wanted = |item: &ExecutionListItem| {
            let ended_before = item.stop_date.is_some_and(|end| end.secs() < earliest);
            filter.may_want(&item.status) && !ended_before
        };
        let request = self.workflows.list_executions().state_machine_arn(state_machine);
        let mut pages = request.max_results(100).into_paginator().send();
        let mut sessions = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| SdkFault::new(&error));
            let executions = page.context("cannot list the executions")?.executions;
            let oldest = executions.last().map_or(i64::MAX, |item| item.start_date.secs());
            let read = stream::iter(executions.into_iter().filter(wanted));
            let mut read = read.map(|item| self.listed(item)).buffered(AT_A_TIME).boxed_local();
            while let Some(session) = read.try_next().await? {
                match filter.wants(session.standing) {
                    true if sessions.len() == limit => return Ok((sessions, true)),
                    true => sessions.push(session),
                    false => {}
                }
            }
            if oldest < earliest.saturating_sub(LONGEST_SECONDS) {
                break;
            }
        }
        Ok((sessions, false))
    }

    /// An execution's session.
    async fn listed(&self, item: ExecutionListItem) -> Result<Listed> {
        let arn = item.execution_arn.as_str();
        let mut id = item.name.parse::<SessionId>().ok();
        let mut events = Vec::new();
        if let Some(id) = &id {
            events = self.journal.events(id).await?;
        }
        let mut described = None;
        // Its session has another id, or has left nothing.
        if !events.iter().any(|event| event.invocation_id == arn) {
            let execution = described.insert(self.described(arn).await?);
            let input = execution.input.as_deref().unwrap_or_default();
            let input = serde_json::from_str::<Value>(input).unwrap_or_default();
            let given = input.get("session_id").and_then(Value::as_str);
            if let Some(given) = given.and_then(|id| id.parse::<SessionId>().ok()) {
                events = self.journal.events(&given).await?;
                id = Some(given);
            }
        }
        let mut runs = Vec::new();
        if let Some(id) = &id {
            runs = self.runs(id, &events, Some(arn)).await?;
        }
        let run = runs.into_iter().find(|run| run.invocation_id == arn);
        let mut run = run.unwrap_or_else(|| Run::without_events(arn));
        let ended = described.filter(|it| it.status != ExecutionStatus::Running);
        run.execution = run.execution.or(ended);
        let id = id.as_ref().map_or(item.name.as_str(), SessionId::as_str);
        Ok(Listed::new(id, &item, &run, SystemTime::now().into()))
    }

    /// The runs of a session by its `events`, with the signs of life of their open tasks, and with their
    /// executions if those have ended and the journal does not say so. There is a run of `execution` even
    /// if it has no event.
    ///
    /// # Errors
    /// If the signs cannot be read.
    pub async fn runs<'a>(
        &self,
        id: &SessionId,
        events: &'a [Event],
        execution: Option<&'a str>,
    ) -> Result<Vec<Run<'a>>, ReadError> {
        let mut runs = runs(events);
        let unknown = execution.filter(|arn| runs.iter().all(|run| run.invocation_id != *arn));
        runs.extend(unknown.map(Run::without_events));
        for run in &mut runs {
            if let Some(task) = run.open_task() {
                run.signs = Some(self.journal.signs(id, &task.timestamp).await?);
            }
            run.execution = self.ended(run, id).await;
        }
        Ok(runs)
    }
}
