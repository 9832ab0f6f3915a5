use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use aws_config::SdkConfig;
use aws_sdk_sfn::Client;
use clap::Args;
use journal::Journal;
use operator::listing::counted;
use operator::sessions::{Filter, sessions};

#[derive(Args)]
pub struct ListArgs {
    /// Only sessions that failed, or that nobody watches any more
    #[arg(long, conflicts_with_all = ["running", "lost"])]
    failed: bool,
    /// Only sessions that run
    #[arg(long, conflicts_with = "lost")]
    running: bool,
    /// Only sessions that failed because nothing more was heard from their container
    #[arg(long)]
    lost: bool,
    /// Only sessions that ended in this time or still run: 90m, 24h, 7d
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<Duration>,
    /// Most sessions to list, newest first
    #[arg(long, default_value_t = 50, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
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

/// Lists sessions by their executions, the newest first.
pub async fn list(config: &SdkConfig, journal: &Journal, args: &ListArgs) -> Result<ExitCode> {
    let state_machine = crate::state_machine(args.state_machine.as_deref())?;
    let filter = match (args.failed, args.running, args.lost) {
        (true, ..) => Filter::Failed,
        (_, true, _) => Filter::Running,
        (.., true) => Filter::Lost,
        _ => Filter::All,
    };
    let client = Client::new(config);
    // One more than are shown, which says whether there are more.
    let limit = args.limit.saturating_add(1);
    let mut listed = sessions(&client, journal, state_machine, filter, args.since, limit).await?;
    let more = listed.len() > args.limit;
    listed.truncate(args.limit);
    let mut out = anstream::stdout();
    for session in &listed {
        match args.json {
            true => writeln!(out, "{}", serde_json::to_string(session)?)?,
            false => writeln!(out, "{}", session.line())?,
        }
    }
    if !args.json {
        writeln!(out, "{}{}", if more { "the newest " } else { "" }, counted(&listed))?;
        if more {
            writeln!(
                std::io::stderr(),
                "There are more: --limit {}",
                args.limit.saturating_mul(2)
            )?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
