use std::io::Write;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Result, ensure};
use aws_config::SdkConfig;
use aws_sdk_sfn::Client;
use clap::Args;
use journal::{Ending, Event, Journal, SessionId, ending};
use operator::execution_end::unwatched;
use operator::history::{Run, is_foreign, newest, runs};
use operator::page::{Links, session_page};
use operator::sessions::with_signs;
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
    let runs = with_signs(journal, &args.id, runs(&events)).await?;
    let run = newest(&runs).map_or("", |run| run.invocation_id);
    printer.print(&runs, run)?;
    let code = end(&printer, &runs, run)?;
    if !args.view.json {
        print_unwatched(config, journal, &runs, &args.id).await?;
    }
    Ok(code)
}

/// Prints how the run called `name` stands, and gives the exit code that says so.
pub fn end(printer: &Printer, runs: &[Run], name: &str) -> Result<ExitCode> {
    printer.print_summary(runs, name)?;
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
    let runs = with_signs(journal, id, runs(&events)).await?;
    let (newest, now) = (newest(&runs), SystemTime::now().into());
    let mut out = anstream::stdout();
    writeln!(out, "{}", explain_with(&runs, now, traces.as_deref()))?;
    print_unwatched(config, journal, &runs, id).await?;
    Ok(newest.map_or(0, |run| run.exit_code(now)).into())
}

/// Prints a session's page, which needs nothing but itself.
pub async fn page(
    config: &SdkConfig,
    journal: &Journal,
    id: &SessionId,
    traces_url: Option<String>,
) -> Result<ExitCode> {
    let events = read(journal, id).await?;
    let runs = with_signs(journal, id, runs(&events)).await?;
    let unwatched = match newest(&runs) {
        Some(run) => unwatched(&Client::new(config), run, id).await,
        None => None,
    };
    let (now, links) = (SystemTime::now().into(), Links { traces_url, ..Links::default() });
    let page = session_page(id.as_str(), &runs, now, unwatched.as_deref(), &links);
    writeln!(std::io::stdout(), "{page}")?;
    Ok(ExitCode::SUCCESS)
}

/// Where the journal has no end of the newest run: says if its execution has one.
async fn print_unwatched(
    config: &SdkConfig,
    journal: &Journal,
    runs: &[Run<'_>],
    id: &SessionId,
) -> Result<()> {
    let Some(run) = newest(runs) else { return Ok(()) };
    let Some(text) = unwatched(&Client::new(config), run, id).await else { return Ok(()) };
    // It may have ended, and written so, after its events were read.
    let events = journal.events(id).await?;
    if ending(&events, run.invocation_id) == Ending::Running {
        writeln!(anstream::stdout(), "{text}")?;
    }
    Ok(())
}

/// The session's events. It is an error if there are none, and a warning if there are foreign items.
pub async fn read(journal: &Journal, id: &SessionId) -> Result<Vec<Event>> {
    let events = journal.events(id).await?;
    let foreign = events.iter().filter(|event| is_foreign(event)).count();
    if foreign > 0 {
        writeln!(
            std::io::stderr(),
            "warning: items of the session that are no events of this journal (no Status or no InvocationId), and are not shown: {foreign}"
        )?;
    }
    ensure!(
        events.len() > foreign,
        "the journal has no event of session {id}: it never began, or it could not write its first event \
         (on AWS, see: aws stepfunctions list-executions --state-machine-arn ARN)"
    );
    Ok(events)
}
