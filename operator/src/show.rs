use std::io::{self, Write};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Result, ensure};
use clap::Args;
use journal::{Event, Journal, SessionId};
use operator::history::is_foreign;
use operator::page::session_page;
use operator::{Printer, View, explain};

use crate::access::Access;
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
pub async fn events(access: &Access, args: &EventsArgs) -> Result<ExitCode> {
    let (sources, mut printer) = (access.sources()?, Printer::new(args.view, access.traces_url()));
    if args.follow {
        return follow(access, &args.id, printer, None).await;
    }
    let events = read(&sources.journal, &args.id).await?;
    let runs = sources.runs(&args.id, &events).await?;
    let run = runs.last().map_or("", |run| run.invocation_id);
    printer.print(&runs, run)?;
    Ok(printer.explain(&runs, run)?.into())
}

/// Says what happened to a session, and where its trace is shown.
pub async fn explained(access: &Access, id: &SessionId) -> Result<ExitCode> {
    let (sources, now) = (access.sources()?, SystemTime::now().into());
    let events = read(&sources.journal, id).await?;
    let runs = sources.runs(id, &events).await?;
    writeln!(anstream::stdout(), "{}", explain(&runs, now, access.traces_url()))?;
    Ok(runs.last().map_or(0, |run| run.exit_code(now)).into())
}

/// Prints a session's page.
pub async fn page(access: &Access, id: &SessionId) -> Result<ExitCode> {
    let sources = access.sources()?;
    let events = read(&sources.journal, id).await?;
    let runs = sources.runs(id, &events).await?;
    let now = SystemTime::now().into();
    let page = session_page(id.as_str(), &runs, now, access.traces_url(), None);
    writeln!(io::stdout(), "{page}")?;
    Ok(ExitCode::SUCCESS)
}

/// The session's events. It is an error if there are none, and a warning if there are foreign items.
pub async fn read(journal: &Journal, id: &SessionId) -> Result<Vec<Event>> {
    let events = journal.events(id).await?;
    let foreign = events.iter().filter(|event| is_foreign(event)).count();
    if foreign > 0 {
        writeln!(
            io::stderr(),
            "warning: items of the session that are not events of this journal (no Status or no InvocationId), so they are not shown: {foreign}"
        )?;
    }
    ensure!(
        events.len() > foreign,
        "the journal has no event of session {id}: the id is wrong, the session never began, or it could not \
         write its first event. agent-journal list shows what was started"
    );
    Ok(events)
}
