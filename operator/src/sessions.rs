//! Lists sessions: their executions, with what the journal knows of them.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use aws_sdk_sfn::Client;
use aws_sdk_sfn::primitives::DateTime;
use aws_sdk_sfn::types::ExecutionListItem;
use futures_util::{StreamExt, TryStreamExt, stream};
use journal::{Event, Journal, ReadError, SdkFault, SessionId, Timestamp};
use serde::Deserialize;
use serde_json::Value;

use crate::execution_end::unwatched;
use crate::history::{Run, newest, runs};
use crate::listing::{Execution, Listed, Standing};

/// How many sessions are read at the same time.
const AT_A_TIME: usize = 16;

/// Much longer than any session that the workflow waits for.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

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

    /// Its name on the page.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Failed => "failed",
            Self::Running => "running",
            Self::Lost => "lost",
        }
    }

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

/// The newest `limit` sessions of a state machine, less those that ended longer than `since` ago.
///
/// # Errors
/// If the executions or the events of one cannot be read.
pub async fn sessions(
    client: &Client,
    journal: &Journal,
    state_machine: &str,
    filter: Filter,
    since: Option<Duration>,
    limit: usize,
) -> Result<Vec<Listed>> {
    let request = client.list_executions().state_machine_arn(state_machine);
    let pages = request.max_results(100).into_paginator().send();
    let pages = stream::unfold(pages, async |mut pages| Some((pages.next().await?, pages)));
    let earliest = since.and_then(|since| SystemTime::now().checked_sub(since));
    let is_before = |time: DateTime, earliest: SystemTime| {
        SystemTime::try_from(time).is_ok_and(|time| time < earliest)
    };
    // Leave out those that ended before that time. Read on, because an older execution may have
    // ended after it.
    let too_early = |item: &ExecutionListItem| {
        let oldest = earliest.and_then(|earliest| earliest.checked_sub(LONGEST));
        oldest.is_some_and(|oldest| is_before(item.start_date, oldest))
    };
    let ended_before = |item: &ExecutionListItem| {
        earliest.zip(item.stop_date).is_some_and(|(earliest, end)| is_before(end, earliest))
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
        .map(|item| async {
            let item = item.context("cannot list the executions")?;
            session(client, journal, item).await
        })
        .buffered(AT_A_TIME)
        .try_filter(|listed| std::future::ready(filter.wants(listed.standing)))
        .take(limit)
        .try_collect()
        .await
}

/// An execution's session.
async fn session(client: &Client, journal: &Journal, item: ExecutionListItem) -> Result<Listed> {
    let time = |date: DateTime| SystemTime::try_from(date).map(Timestamp::from);
    let mut execution = Execution {
        arn: item.execution_arn,
        status: item.status.to_string(),
        started: time(item.start_date)?,
        stopped: item.stop_date.map(time).transpose()?,
        failure: None,
    };
    let mut id = item.name.parse::<SessionId>().ok();
    let mut events = Vec::new();
    if let Some(id) = &id {
        events = journal.events(id).await?;
    }
    let is_own = |events: &[Event]| events.iter().any(|event| event.invocation_id == execution.arn);
    // Its session has another id, or has left nothing.
    if !is_own(&events) {
        let described = client.describe_execution().execution_arn(&execution.arn).send().await;
        let described = described.map_err(|error| SdkFault::new(&error))?;
        let input = serde_json::from_str::<Value>(described.input.as_deref().unwrap_or_default());
        let given = input.unwrap_or_default();
        let given = given.get("session_id").and_then(Value::as_str);
        if let Some(given) = given.and_then(|id| id.parse::<SessionId>().ok()) {
            events = journal.events(&given).await?;
            id = Some(given);
        }
        execution.failure =
            described.error.map(|error| (error, described.cause.unwrap_or_default()));
    }
    let mut runs = runs(&events);
    runs.retain(|run| run.invocation_id == execution.arn);
    if let Some(id) = &id
        && execution.status == "RUNNING"
    {
        runs = with_signs(journal, id, runs).await?;
    }
    let id = id.as_ref().map_or(item.name.as_str(), SessionId::as_str);
    Ok(Listed::new(id, &execution, runs.first(), SystemTime::now().into()))
}

/// The runs of one session, with the signs of life of their open tasks; and what Step Functions says of
/// the newest, if nobody watches it any more.
///
/// # Errors
/// If the signs cannot be read.
pub async fn read_runs<'a>(
    workflows: &Client,
    journal: &Journal,
    id: &SessionId,
    events: &'a [Event],
) -> Result<(Vec<Run<'a>>, Option<String>), ReadError> {
    let runs = with_signs(journal, id, runs(events)).await?;
    let unwatched = match newest(&runs) {
        Some(run) => unwatched(workflows, journal, run, id).await,
        None => None,
    };
    Ok((runs, unwatched))
}

/// Reads the signs of life of each run that has an open task.
///
/// # Errors
/// If they cannot be read.
pub async fn with_signs<'a>(
    journal: &Journal,
    id: &SessionId,
    mut runs: Vec<Run<'a>>,
) -> Result<Vec<Run<'a>>, ReadError> {
    for run in &mut runs {
        if let Some(task) = run.open_task() {
            run.signs = Some(journal.signs(id, &task.timestamp).await?);
        }
    }
    Ok(runs)
}
