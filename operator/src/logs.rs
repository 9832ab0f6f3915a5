use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use aws_config::SdkConfig;
use aws_sdk_cloudwatchlogs::Client;
use clap::Args;
use journal::{Journal, SdkFault, SessionId, Timestamp};
use operator::log_line::readable;
use operator::timeline::escape;

use crate::show::read;

/// The log files of the local system in their folder.
const FILES: [(Part, &str); 2] =
    [(Part::Agent, "agent-runtime-process.log"), (Part::Invoker, "invoker-process.log")];

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

/// Who wrote a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Agent,
    Invoker,
}

/// A line of a log; in order of time.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Line {
    /// A text whose order is that of time.
    time: String,
    who: &'static str,
    text: String,
}

/// Shows what the container and the invoker logged for a session.
pub async fn logs(config: &SdkConfig, journal: &Journal, args: &LogsArgs) -> Result<ExitCode> {
    let wanted = |part: &Part| match part {
        Part::Agent => !args.invoker,
        Part::Invoker => !args.agent,
    };
    let mut lines: Vec<Line> = match &args.folder {
        Some(folder) => {
            let files = FILES.into_iter().filter(|(part, _)| wanted(part));
            let read = files.map(|(part, file)| of_file(part, &folder.join(file), &args.id));
            read.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect()
        }
        None => of_groups(config, journal, args, wanted).await?,
    };
    lines.sort();
    let mut out = anstream::stdout();
    for Line { who, text, .. } in &lines {
        writeln!(out, "{who:<9}  {}", escape(&readable(text)))?;
    }
    if lines.is_empty() {
        writeln!(std::io::stderr(), "The logs have no line of session {}.", args.id)?;
        return Ok(2.into());
    }
    Ok(ExitCode::SUCCESS)
}

fn name(part: Part) -> &'static str {
    match part {
        Part::Agent => "container",
        Part::Invoker => "invoker",
    }
}

/// The session's lines of a local log; none if the file does not exist.
fn of_file(part: Part, path: &Path, id: &SessionId) -> Result<Vec<Line>> {
    let file = match std::fs::File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        file => file.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let mut lines = Vec::new();
    for line in BufReader::new(file).split(b'\n') {
        let line = line?;
        let text = String::from_utf8_lossy(&line);
        if text.contains(id.as_str()) {
            // {"timestamp":"2026-11-26T02:55:27.162514Z",…
            let time = text.split('"').nth(3).unwrap_or_default().to_owned();
            lines.push(Line { time, who: name(part), text: text.into_owned() });
        }
    }
    Ok(lines)
}

/// The session's lines in CloudWatch Logs, around the time of its events.
async fn of_groups(
    config: &SdkConfig,
    journal: &Journal,
    args: &LogsArgs,
    wanted: impl Fn(&Part) -> bool,
) -> Result<Vec<Line>> {
    let groups = [
        (Part::Agent, &args.agent_log_group, "AGENT_LOG_GROUP"),
        (Part::Invoker, &args.invoker_log_group, "INVOKER_LOG_GROUP"),
    ];
    let events = read(journal, &args.id).await?;
    let millis = |event: Option<&journal::Event>| {
        let time = event.and_then(|event| event.timestamp.parse::<Timestamp>().ok());
        time.map(|time| time.as_micros() / 1_000)
    };
    let client = Client::new(config);
    let mut lines = Vec::new();
    for (part, group, variable) in groups.into_iter().filter(|(part, ..)| wanted(part)) {
        let Some(group) = group else {
            bail!(
                "the {}'s log group is not known: set {variable} (deploy.sh prints it), or for the local \
                 system run `. .local/env`",
                name(part)
            );
        };
        let request = client
            .filter_log_events()
            .log_group_name(group)
            .filter_pattern(format!("\"{}\"", args.id))
            .set_start_time(millis(events.first()).map(|time| time - MARGIN_MILLIS))
            .set_end_time(millis(events.last()).map(|time| time + MARGIN_MILLIS));
        let mut pages = request.into_paginator().send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| SdkFault::new(&error));
            let page = page.with_context(|| format!("cannot read the log group {group}"))?;
            for event in page.events() {
                let time = format!("{:015}", event.timestamp().unwrap_or_default());
                let text = event.message().unwrap_or_default().trim_end().to_owned();
                lines.push(Line { time, who: name(part), text });
            }
        }
    }
    Ok(lines)
}
