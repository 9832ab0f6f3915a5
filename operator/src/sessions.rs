//! Reads sessions: their executions, with what the journal knows of them.

use std::fmt;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use aws_sdk_sfn::Client;
use aws_sdk_sfn::primitives::DateTime;
use aws_sdk_sfn::types::{ExecutionListItem, ExecutionStatus};
use futures_util::{StreamExt, TryStreamExt, stream};
use journal::{Event, Journal, ReadError, SdkFault, SessionId};
use serde::Deserialize;
use serde_json::Value;

use crate::history::{Run, runs};
use crate::listing::{Listed, Standing};

/// How many sessions are read at the same time.
const AT_A_TIME: usize = 16;

/// Much longer than any session that the workflow waits for.
const LONGEST_SECONDS: i64 = 24 * 60 * 60;

/// Which sessions are listed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
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
    fn may_want(self, status: &str) -> bool {
        match (self, status) {
            (Self::All, _) => true,
            (Self::Running, status) => status == "RUNNING",
            // The journal says that a session has failed before its execution has ended.
            (Self::Failed | Self::Lost, status) => status != "SUCCEEDED",
        }
    }

    fn wants(self, standing: Standing) -> bool {
        match self {
            Self::All => true,
            Self::Failed => {
                matches!(standing, Standing::Lost | Standing::Failed | Standing::Unwatched)
            }
            Self::Running => matches!(standing, Standing::Running | Standing::Silent),
            Self::Lost => matches!(standing, Standing::Lost | Standing::Silent),
        }
    }
}

/// The name in an option and in an address.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{self:?}").to_lowercase())
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
    /// The newest `limit` sessions of a state machine, less those that ended longer than `since` ago.
    ///
    /// # Errors
    /// If the executions or the events of one cannot be read.
    pub async fn list(
        &self,
        state_machine: &str,
        filter: Filter,
        since: Option<Duration>,
        limit: usize,
    ) -> Result<Vec<Listed>> {
        let request = self.workflows.list_executions().state_machine_arn(state_machine);
        let pages = request.max_results(100).into_paginator().send();
        let pages = stream::unfold(pages, async |mut pages| Some((pages.next().await?, pages)));
        // Leave out those that ended before that time. Read on, because an older execution may have
        // ended after it.
        let now = DateTime::from(SystemTime::now()).secs();
        let earliest = since.map(|since| now.saturating_sub_unsigned(since.as_secs()));
        let too_early = |item: &ExecutionListItem| {
            earliest.is_some_and(|earliest| {
                item.start_date.secs() < earliest.saturating_sub(LONGEST_SECONDS)
            })
        };
        let ended_before = |item: &ExecutionListItem| {
            earliest.zip(item.stop_date).is_some_and(|(earliest, end)| end.secs() < earliest)
        };
        pages
            .map_err(|error| SdkFault::new(&error))
            .map_ok(|page| stream::iter(page.executions.into_iter().map(Ok::<_, SdkFault>)))
            .try_flatten()
            .try_take_while(|item| std::future::ready(Ok(!too_early(item))))
            .try_filter(|item| {
                let wanted = filter.may_want(item.status.as_str()) && !ended_before(item);
                std::future::ready(wanted)
            })
            .map(async |item| self.listed(item.context("cannot list the executions")?).await)
            .buffered(AT_A_TIME)
            .try_filter(|listed| std::future::ready(filter.wants(listed.standing)))
            .take(limit)
            .try_collect()
            .await
    }

    /// An execution's session.
    async fn listed(&self, item: ExecutionListItem) -> Result<Listed> {
        let (arn, mut failure) = (item.execution_arn.as_str(), None);
        let mut id = item.name.parse::<SessionId>().ok();
        let mut events = Vec::new();
        if let Some(id) = &id {
            events = self.journal.events(id).await?;
        }
        // Its session has another id, or has left nothing.
        if !events.iter().any(|event| event.invocation_id == arn) {
            let described = self.workflows.describe_execution().execution_arn(arn).send().await;
            let described = described.map_err(|error| SdkFault::new(&error))?;
            let input = described.input.as_deref().unwrap_or_default();
            let input = serde_json::from_str::<Value>(input).unwrap_or_default();
            let given = input.get("session_id").and_then(Value::as_str);
            if let Some(given) = given.and_then(|id| id.parse::<SessionId>().ok()) {
                events = self.journal.events(&given).await?;
                id = Some(given);
            }
            failure = described.error.map(|error| (error, described.cause.unwrap_or_default()));
        }
        let mut runs = runs(&events);
        runs.retain(|run| run.invocation_id == arn);
        if let (Some(id), ExecutionStatus::Running) = (&id, &item.status) {
            self.read_signs(id, &mut runs).await?;
        }
        let id = id.as_ref().map_or(item.name.as_str(), SessionId::as_str);
        Ok(Listed::new(id, &item, failure, runs.first(), SystemTime::now().into()))
    }

    /// The runs of a session by its `events`, with the signs of life of their open tasks, and with what
    /// Step Functions says of the newest if nobody watches it any more.
    ///
    /// # Errors
    /// If the signs cannot be read.
    pub async fn runs<'a>(
        &self,
        id: &SessionId,
        events: &'a [Event],
    ) -> Result<Vec<Run<'a>>, ReadError> {
        let mut runs = runs(events);
        self.read_signs(id, &mut runs).await?;
        if let Some(run) = runs.last_mut() {
            run.unwatched = self.unwatched(run, id).await;
        }
        Ok(runs)
    }

    async fn read_signs(&self, id: &SessionId, runs: &mut [Run<'_>]) -> Result<(), ReadError> {
        for run in runs {
            if let Some(task) = run.open_task() {
                run.signs = Some(self.journal.signs(id, &task.timestamp).await?);
            }
        }
        Ok(())
    }
}
