//! Reads sessions: their executions, with what the journal knows of them.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use aws_sdk_sfn::Client;
use aws_sdk_sfn::operation::describe_execution::DescribeExecutionOutput;
use aws_sdk_sfn::primitives::DateTime;
use aws_sdk_sfn::types::{ExecutionListItem, ExecutionStatus};
use futures_util::{StreamExt, TryStreamExt, stream};
use journal::{Ending, Event, Journal, ReadError, SdkFault, SessionId, ending};
use serde::Deserialize;

use crate::history::{Run, runs};
use crate::listing::Listed;
use crate::standing::Filter;

/// How many sessions are read at the same time.
const AT_A_TIME: usize = 16;

/// Much longer than any session that the workflow waits for.
const LONGEST_SECONDS: i64 = 24 * 60 * 60;

/// How long to wait for the answer of Step Functions if the journal says enough without it.
const PATIENCE: Duration = Duration::from_secs(3);

/// How an execution ended, as Step Functions says it.
#[derive(Debug)]
pub struct ExecutionEnd {
    /// `SUCCEEDED`, `FAILED`, `ABORTED` or `TIMED_OUT`.
    pub status: ExecutionStatus,
    /// The type of its failure.
    pub error: Option<String>,
    /// The message of its failure, or what the person said who stopped it.
    pub cause: Option<String>,
}

/// What a list reads of an execution's input.
#[derive(Deserialize)]
struct Input {
    session_id: SessionId,
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
        // Leave out those that ended before that time; the agent of one that was aborted may still work.
        // Read on, because an older execution may have ended after it.
        let now = DateTime::from(SystemTime::now()).secs();
        let earliest = since.map_or(i64::MIN, |since| now.saturating_sub_unsigned(since.as_secs()));
        let wanted = |item: &ExecutionListItem| {
            let is_old = item.start_date.secs() < earliest.saturating_sub(LONGEST_SECONDS);
            let ended = item.stop_date.filter(|_| item.status != ExecutionStatus::Aborted);
            let in_time = !is_old && ended.is_none_or(|end| end.secs() >= earliest);
            in_time && filter.may_want(&item.status)
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
        let mut end = ExecutionEnd { status: item.status.clone(), error: None, cause: None };
        // Its session has another id, or has left nothing.
        if !events.iter().any(|event| event.invocation_id == arn) {
            let execution = self.execution(arn).await?;
            let input = execution.input.as_deref().unwrap_or_default();
            if let Ok(Input { session_id }) = serde_json::from_str(input) {
                events = self.journal.events(&session_id).await?;
                id = Some(session_id);
            }
            (end.error, end.cause) = (execution.error, execution.cause);
        }
        let run = runs(&events).into_iter().find(|run| run.invocation_id == arn);
        let mut run = run.unwrap_or_else(|| Run::without_events(arn));
        match (&id, &item.status) {
            (Some(id), ExecutionStatus::Running) => self.read_signs(id, &mut run).await?,
            (None, ExecutionStatus::Running) => {}
            _ => run.execution = Some(end),
        }
        let id = id.as_ref().map_or(item.name.as_str(), SessionId::as_str);
        Ok(Listed::new(id, &item, &run, SystemTime::now().into()))
    }

    /// The runs of a session by its `events`, with the signs of life of their open tasks, and with the end
    /// of the newest's execution if the journal has none.
    ///
    /// # Errors
    /// If the signs cannot be read.
    pub async fn runs<'a>(
        &self,
        id: &SessionId,
        events: &'a [Event],
    ) -> Result<Vec<Run<'a>>, ReadError> {
        let mut runs = runs(events);
        for run in &mut runs {
            self.read_signs(id, run).await?;
        }
        if let Some(run) = runs.last_mut() {
            run.execution = self.end_unless_journaled(run, id).await;
        }
        Ok(runs)
    }

    async fn read_signs(&self, id: &SessionId, run: &mut Run<'_>) -> Result<(), ReadError> {
        if let Some(task) = run.open_task() {
            run.signs = Some(self.journal.signs(id, &task.timestamp).await?);
        }
        Ok(())
    }

    async fn execution(&self, arn: &str) -> Result<DescribeExecutionOutput, SdkFault> {
        let answer = self.workflows.describe_execution().execution_arn(arn).send().await;
        answer.map_err(|error| SdkFault::new(&error))
    }

    /// The end of an execution, if it has ended.
    ///
    /// # Errors
    /// If Step Functions does not say.
    pub async fn end(&self, arn: &str) -> Result<Option<ExecutionEnd>, SdkFault> {
        let it = self.execution(arn).await?;
        let end = ExecutionEnd { status: it.status, error: it.error, cause: it.cause };
        Ok(Some(end).filter(|end| end.status != ExecutionStatus::Running))
    }

    /// The end of a run's execution if the journal has no end of the run. `None` also if Step Functions
    /// does not say.
    async fn end_unless_journaled(&self, run: &Run<'_>, id: &SessionId) -> Option<ExecutionEnd> {
        let arn = run.invocation_id;
        let is_open = run.ending == Ending::Running && !run.has_expired(SystemTime::now().into());
        if !is_open || !arn.starts_with("arn:") {
            return None;
        }
        let end = tokio::time::timeout(PATIENCE, self.end(arn)).await.ok()?.ok()??;
        // It may have ended, and written so, after its events were read.
        let events = self.journal.events(id).await.ok()?;
        (ending(&events, arn) == Ending::Running).then_some(end)
    }
}
