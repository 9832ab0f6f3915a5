use std::io::Write;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Result, ensure};
use clap::Args;
use journal::{Event, Journal, SessionId};
use operator::history::{Run, newest, runs};
use operator::{Printer, View, explain, timeline};

use crate::follow::follow;

#[derive(Args)]
pub struct EventsArgs {
    /// The session's id
    id: SessionId,
    #[command(flatten)]
    view: View,
    /// Wait for more events until the session ends
    #[arg(long, short)]
    follow: bool,
}

/// Shows a session's events, and with `--follow` those that still come.
pub async fn show(journal: &Journal, args: &EventsArgs) -> Result<ExitCode> {
    let mut printer = Printer::new(args.view);
    if args.follow {
        return follow(journal, &args.id, printer, None, async || Ok(None)).await;
    }
    let events = journal.events(&args.id).await?;
    let runs = with_signs(journal, &args.id, runs(not_empty(&events, &args.id)?)).await?;
    let run = newest(&runs).map_or("", |run| run.invocation_id);
    printer.print(&runs, run)?;
    end(&printer, &runs, run)
}

/// Prints how the run called `name` stands, and gives the exit code that says so.
pub fn end(printer: &Printer, runs: &[Run], name: &str) -> Result<ExitCode> {
    printer.print_summary(runs, name)?;
    let run = runs.iter().find(|run| run.invocation_id == name);
    Ok(run.map_or(2, Run::exit_code).into())
}

/// Says what happened to a session, and where its trace is shown.
pub async fn explain_session(
    journal: &Journal,
    id: &SessionId,
    traces: Option<String>,
) -> Result<ExitCode> {
    let events = journal.events(id).await?;
    let runs = with_signs(journal, id, runs(not_empty(&events, id)?)).await?;
    let newest = newest(&runs);
    let mut out = anstream::stdout();
    writeln!(out, "{}", explain(&runs, SystemTime::now().into()))?;
    if let (Some(url), Some(trace)) = (traces, newest.and_then(Run::trace_id)) {
        let url = url.trim_end_matches('/');
        writeln!(out, "The trace is at {url}/{}", timeline::escape(trace))?;
    }
    Ok(newest.map_or(0, Run::exit_code).into())
}

/// Reads the signs of life of each run that has an open task.
async fn with_signs<'a>(
    journal: &Journal,
    id: &SessionId,
    mut runs: Vec<Run<'a>>,
) -> Result<Vec<Run<'a>>> {
    for run in &mut runs {
        if let Some(task) = run.open_task() {
            run.signs = Some(journal.signs(id, &task.timestamp).await?);
        }
    }
    Ok(runs)
}

fn not_empty<'a>(events: &'a [Event], id: &SessionId) -> Result<&'a [Event]> {
    ensure!(
        !events.is_empty(),
        "the journal has no event of session {id}: it never began, or it could not write its first event \
         (on AWS, see: aws stepfunctions list-executions --state-machine-arn ARN)"
    );
    Ok(events)
}
