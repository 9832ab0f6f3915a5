use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use aws_sdk_cloudwatchlogs::Client;
use clap::Args;
use journal::{Event, SdkFault, SessionId, Timestamp};
use operator::log_line::readable;
use operator::timeline::escape;

use crate::access::{Access, LOCAL};
use crate::show::read;

/// Read from so long before the first event to so long after the last one, because clocks may differ.
const MARGIN_MILLIS: i64 = 10 * 60 * 1_000;

#[derive(Args)]
pub struct LogsArgs {
    /// The session's id
    #[arg(value_parser = crate::session_id)]
    id: SessionId,
    /// Only the log of the container, with what the agent wrote
    #[arg(long, conflicts_with = "invoker")]
    agent: bool,
    /// Only the log of the invoker
    #[arg(long)]
    invoker: bool,
    /// The container's log group: the stack's output AgentLogGroup
    #[arg(long, value_name = "NAME", env = "AGENT_LOG_GROUP", hide_env_values = true)]
    agent_log_group: Option<String>,
    /// The invoker's log group: the stack's output InvokerLogGroup
    #[arg(long, value_name = "NAME", env = "INVOKER_LOG_GROUP", hide_env_values = true)]
    invoker_log_group: Option<String>,
    /// The folder with the logs of the local system
    #[arg(long, value_name = "PATH", env = "LOGS_FOLDER", hide_env_values = true)]
    folder: Option<PathBuf>,
}

/// A text whose order is that of time, who wrote the line, and the line.
type Line = (String, &'static str, String);

/// Shows what the container and the invoker logged for a session, in order of time.
pub async fn logs(access: &Access, args: &LogsArgs) -> Result<ExitCode> {
    let (container, invoker) = (&args.agent_log_group, &args.invoker_log_group);
    let parts = [
        (!args.invoker, "container", "agent-runtime-process.log", container, "AGENT_LOG_GROUP"),
        (!args.agent, "invoker", "invoker-process.log", invoker, "INVOKER_LOG_GROUP"),
    ];
    let events = match &args.folder {
        Some(_) => Vec::new(),
        None => read(&access.journal()?, &args.id).await?,
    };
    let mut lines = Vec::new();
    for (_, name, file, group, variable) in parts.into_iter().filter(|(wanted, ..)| *wanted) {
        lines.extend(match (&args.folder, group) {
            (Some(folder), _) => of_file(name, &folder.join(file), &args.id)?,
            (None, Some(group)) => of_group(access, name, group, &args.id, &events).await?,
            (None, None) => bail!(
                "the {name}'s log group is not known: set {variable} (deploy.sh prints it); {LOCAL}"
            ),
        });
    }
    ensure!(!lines.is_empty(), "the logs have no line of session {}", args.id);
    lines.sort();
    let mut out = anstream::stdout();
    for (_, who, text) in &lines {
        writeln!(out, "{who:<9}  {}", escape(&readable(text)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The session's lines of a local log; none if the file does not exist.
fn of_file(who: &'static str, path: &Path, id: &SessionId) -> Result<Vec<Line>> {
    let log = match std::fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        log => log.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let log = String::from_utf8_lossy(&log);
    let lines = log.lines().filter(|line| line.contains(id.as_str()));
    // {"timestamp":"2026-11-26T02:55:27.162514Z",…
    let time = |line: &str| line.split('"').nth(3).unwrap_or_default().to_owned();
    Ok(lines.map(|line| (time(line), who, line.to_owned())).collect())
}

/// The session's lines in CloudWatch Logs, around the time of its events.
async fn of_group(
    access: &Access,
    who: &'static str,
    group: &str,
    id: &SessionId,
    events: &[Event],
) -> Result<Vec<Line>> {
    let millis = |event: Option<&Event>| {
        let time = event.and_then(|event| event.timestamp.parse::<Timestamp>().ok());
        time.map(|time| time.as_micros() / 1_000)
    };
    let request = Client::new(&access.config)
        .filter_log_events()
        .log_group_name(group)
        .filter_pattern(format!("\"{id}\""))
        .set_start_time(millis(events.first()).map(|time| time - MARGIN_MILLIS))
        .set_end_time(millis(events.last()).map(|time| time + MARGIN_MILLIS));
    let mut pages = request.into_paginator().send();
    let mut lines = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.map_err(|error| SdkFault::new(&error));
        let page = page.with_context(|| format!("cannot read the log group {group}"))?;
        lines.extend(page.events.into_iter().flatten().map(|event| {
            let time = format!("{:015}", event.timestamp.unwrap_or_default());
            (time, who, event.message.unwrap_or_default().trim_end().to_owned())
        }));
    }
    Ok(lines)
}
