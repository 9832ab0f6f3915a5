use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use operator::listing::{HEAD, counted};
use operator::standing::Filter;
use operator::timeline::json_line;

use crate::access::Access;

#[derive(Args)]
pub struct ListArgs {
    /// Only sessions that failed, give no sign of life, or are not watched any more
    #[arg(long, conflicts_with_all = ["running", "lost"])]
    failed: bool,
    /// Only sessions that run
    #[arg(long, conflicts_with = "lost")]
    running: bool,
    /// Only sessions that give no sign of life, or failed because nothing more was heard
    #[arg(long)]
    lost: bool,
    /// Only sessions that ended in this time, were aborted, or still run: 90m, 24h, 7d
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<Duration>,
    /// Most sessions to list, newest first
    #[arg(long, default_value_t = 50, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    limit: usize,
    /// One JSON object per session
    #[arg(long)]
    json: bool,
}

fn since(text: &str) -> Result<Duration, &'static str> {
    humantime::parse_duration(text).map_err(|_| "it must be a time such as 90m, 24h or 7d")
}

/// Lists sessions by their executions, the newest first.
pub async fn list(access: &Access, args: &ListArgs) -> Result<ExitCode> {
    let (sources, state_machine) = (access.sources()?, access.state_machine()?);
    let filter = match (args.failed, args.running, args.lost) {
        (true, ..) => Filter::Failed,
        (_, true, _) => Filter::Running,
        (.., true) => Filter::Lost,
        _ => Filter::All,
    };
    let (listed, more) = sources.list(state_machine, filter, args.since, args.limit).await?;
    let mut out = anstream::stdout();
    if args.json {
        for session in &listed {
            writeln!(out, "{}", json_line(session)?)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(out, "{HEAD}")?;
    for session in &listed {
        writeln!(out, "{}", session.line())?;
    }
    writeln!(out, "{}{}", if more { "the newest " } else { "" }, counted(&listed))?;
    if more {
        let limit = args.limit.saturating_mul(2);
        writeln!(std::io::stderr(), "There are more: --limit {limit}")?;
    }
    Ok(ExitCode::SUCCESS)
}
