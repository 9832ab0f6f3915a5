use std::io::Write;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Result, ensure};
use aws_config::SdkConfig;
use aws_sdk_sfn::Client;
use clap::Args;
use journal::{Event, Journal, SessionId};
use operator::history::{Run, is_foreign, newest, runs};
use operator::page::{Links, session_page};
use operator::sessions::read_runs;
use operator::{Printer, View, explain_with};

use crate::follow::follow;

#[derive(Args)]
pub struct EventsArgs {
    /// The session's id
    #[arg(value_parser = crate::session_id)]
    id: SessionId,
    #[command(flatten)]
    view: View,
    /// Wait for more events until the session ends
    #[arg(long, short)]
    follow: bool,
}

/// Shows a session's events, and with `--follow` those that still come.
pub async fn show(config: &SdkConfig, journal: &Journal, args: &EventsArgs) -> Result<ExitCode> {
    let mut printer = Printer::new(args.view);
    if args.follow {
        return follow(journal, &args.id, printer, None, async || Ok(None)).await;
    }
    let events = read(journal, &args.id).await?;
    let (runs, unwatched) = match args.view.json {
        true => (runs(&events), None),
        false => read_runs(&Client::new(config), journal, &args.id, &events).await?,
    };
    let run = newest(&runs).map_or("", |run| run.invocation_id);
    printer.print(&runs, run)?;
    let code = end(&printer, &runs, run)?;
    if let Some(text) = unwatched {
        writeln!(anstream::stdout(), "{text}")?;
    }
    Ok(code)
}

/// Explains the run called `name`, and gives the exit code that says how it stands.
pub fn end(printer: &Printer, runs: &[Run], name: &str) -> Result<ExitCode> {
    printer.explain(runs, name)?;
    let run = runs.iter().find(|run| run.invocation_id == name);
    Ok(run.map_or(2, |run| run.exit_code(SystemTime::now().into())).into())
}

/// Says what happened to a session, and where its trace is shown.
pub async fn explain_session(
    config: &SdkConfig,
    journal: &Journal,
    id: &SessionId,
    traces: Option<String>,
) -> Result<ExitCode> {
    let events = read(journal, id).await?;
    let (runs, unwatched) = read_runs(&Client::new(config), journal, id, &events).await?;
    let now = SystemTime::now().into();
    let mut out = anstream::stdout();
    writeln!(out, "{}", explain_with(&runs, now, traces.as_deref()))?;
    if let Some(text) = unwatched {
        writeln!(out, "{text}")?;
    }
    Ok(newest(&runs).map_or(0, |run| run.exit_code(now)).into())
}

/// Prints a session's page.
pub async fn page(
    config: &SdkConfig,
    journal: &Journal,
    id: &SessionId,
    traces_url: Option<String>,
) -> Result<ExitCode> {
    let events = read(journal, id).await?;
    let (runs, unwatched) = read_runs(&Client::new(config), journal, id, &events).await?;
    let (now, links) = (SystemTime::now().into(), Links { traces_url, ..Links::default() });
    let page = session_page(id.as_str(), &runs, now, unwatched.as_deref(), &links);
    writeln!(std::io::stdout(), "{page}")?;
    Ok(ExitCode::SUCCESS)
}

/// The session's events. It is an error if there are none, and a warning if there are foreign items.
pub async fn read(journal: &Journal, id: &SessionId) -> Result<Vec<Event>> {
    let events = journal.events(id).await?;
    let foreign = events.iter().filter(|event| is_foreign(event)).count();
    if foreign > 0 {
        writeln!(
            std::io::stderr(),
            "warning: items of the session that are not events of this journal (no Status or no InvocationId), so they are not shown: {foreign}"
        )?;
    }
    ensure!(
        events.len() > foreign,
        "the journal has no event of session {id}: it never began, or it could not write its first event \
         (on AWS, see: aws stepfunctions list-executions --state-machine-arn ARN)"
    );
    Ok(events)
}
