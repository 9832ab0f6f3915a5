use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use aws_config::SdkConfig;
use aws_sdk_sfn::Client;
use aws_sdk_sfn::primitives::DateTime;
use aws_sdk_sfn::types::ExecutionListItem;
use clap::Args;
use futures_util::{StreamExt, TryStreamExt, stream};
use journal::{Journal, SdkFault, SessionId, Timestamp};
use operator::history::runs;
use operator::listing::{Execution, Listed, Standing, counted};
use serde_json::Value;

use crate::show::with_signs;

/// Sessions that are read at a time.
const AT_A_TIME: usize = 16;

#[derive(Args)]
pub struct ListArgs {
    /// Only sessions that failed, were lost, or are not watched any more
    #[arg(long, conflicts_with_all = ["running", "lost"])]
    failed: bool,
    /// Only sessions that run
    #[arg(long, conflicts_with = "lost")]
    running: bool,
    /// Only sessions of which nothing was heard any more
    #[arg(long)]
    lost: bool,
    /// Only sessions that started in this time: 90m, 24h, 7d
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<Duration>,
    /// How many sessions, the newest first
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// One JSON object per session
    #[arg(long)]
    json: bool,
    /// The state machine's ARN
    #[arg(long, value_name = "ARN", env = "STATE_MACHINE_ARN", hide_env_values = true)]
    state_machine: Option<String>,
}

fn since(text: &str) -> Result<Duration, &'static str> {
    const RULE: &str = "it must be a number of minutes, hours or days, such as 90m, 24h or 7d";
    let at = text.len().saturating_sub(1);
    let (number, unit) = text.split_at_checked(at).ok_or(RULE)?;
    let number = number.parse::<u64>().map_err(|_| RULE)?;
    let seconds = match unit {
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(RULE),
    };
    number.checked_mul(seconds).map(Duration::from_secs).ok_or(RULE)
}

impl ListArgs {
    /// Whether an execution of this status may be wanted.
    fn may_want(&self, status: &str) -> bool {
        match status {
            "RUNNING" => !self.failed && !self.lost,
            "SUCCEEDED" => !self.failed && !self.running && !self.lost,
            _ => !self.running,
        }
    }

    fn wants(&self, listed: &Listed) -> bool {
        match listed.standing {
            Standing::Completed => !self.failed && !self.running && !self.lost,
            Standing::Running => !self.failed && !self.lost,
            Standing::Silent => !self.failed,
            Standing::Lost => !self.running,
            Standing::Failed | Standing::Unwatched => !self.running && !self.lost,
        }
    }
}

/// Lists sessions by their executions, the newest first.
pub async fn list(config: &SdkConfig, journal: &Journal, args: &ListArgs) -> Result<ExitCode> {
    let listed = sessions(config, journal, args).await?;
    let mut out = anstream::stdout();
    for session in &listed {
        match args.json {
            true => writeln!(out, "{}", serde_json::to_string(session)?)?,
            false => writeln!(out, "{}", session.line())?,
        }
    }
    if !args.json {
        writeln!(out, "{}", counted(&listed))?;
        if listed.len() == args.limit {
            writeln!(std::io::stderr(), "There may be more: --limit {}", args.limit * 2)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn sessions(config: &SdkConfig, journal: &Journal, args: &ListArgs) -> Result<Vec<Listed>> {
    let client = Client::new(config);
    let state_machine = crate::state_machine(args.state_machine.as_deref())?;
    let request = client.list_executions().state_machine_arn(state_machine);
    let pages = request.max_results(100).into_paginator().send();
    let pages = stream::unfold(pages, async |mut pages| Some((pages.next().await?, pages)));
    let earliest = args.since.map(|since| SystemTime::now() - since);
    let too_early = |item: &ExecutionListItem| {
        let started = SystemTime::try_from(item.start_date).ok();
        earliest.is_some_and(|earliest| started.is_some_and(|started| started < earliest))
    };
    pages
        .map_err(|error| SdkFault::new(&error))
        .map_ok(|page| stream::iter(page.executions.into_iter().map(Ok::<_, SdkFault>)))
        .try_flatten()
        .try_take_while(|item| std::future::ready(Ok(!too_early(item))))
        .try_filter(|item| std::future::ready(args.may_want(item.status.as_str())))
        .map(|item| async {
            let item = item.context("cannot list the executions")?;
            session(&client, journal, item).await
        })
        .buffered(AT_A_TIME)
        .try_filter(|listed| std::future::ready(args.wants(listed)))
        .take(args.limit)
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
    let is_own =
        |events: &[journal::Event]| events.iter().any(|event| event.invocation_id == execution.arn);
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
