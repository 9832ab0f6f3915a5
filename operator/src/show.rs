use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use clap::Args;
use journal::{Ending, Event, FaultKind, Journal, SdkFault, SessionId, Status, display_chain};
use operator::history::{Run, newest, runs};
use operator::{Printer, View, explain, timeline};
use tokio::time::Instant;

/// How often a session that is followed is read.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(1);

/// How long SESSION_FAILED is waited for after the agent's own failure in a workflow's run.
const SESSION_FAILED_GRACE: Duration = Duration::from_secs(10);

#[derive(Args)]
pub struct EventsArgs {
    /// The session's id
    id: SessionId,
    #[command(flatten)]
    view: ViewArgs,
    /// Wait for more events until the session ends
    #[arg(long, short)]
    follow: bool,
}

#[derive(Args, Clone, Copy)]
struct ViewArgs {
    /// One JSON object per event, with the table's attribute names
    #[arg(long)]
    json: bool,
    /// Only events that report a failure
    #[arg(long)]
    failed: bool,
    /// The events of all runs of the session; without it, those of the newest
    #[arg(long)]
    all: bool,
}

impl From<ViewArgs> for View {
    fn from(ViewArgs { json, failed, all }: ViewArgs) -> Self {
        Self { json, failed, all }
    }
}

/// Shows a session's events, and with `--follow` those that still come.
pub async fn show(journal: &Journal, args: &EventsArgs) -> Result<ExitCode> {
    let mut printer = Printer::new(args.view.into());
    if args.follow {
        return follow(journal, &args.id, printer, None, async || Ok(None)).await;
    }
    let events = journal.events(&args.id).await?;
    let runs = runs(not_empty(&events, &args.id)?);
    let run = newest(&runs).map_or("", |run| run.invocation_id);
    printer.print(&runs, run)?;
    end(&printer, &runs, run)
}

/// Prints how the run called `name` stands, and gives the exit code that says so.
fn end(printer: &Printer, runs: &[Run], name: &str) -> Result<ExitCode> {
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
    let runs = runs(not_empty(&events, id)?);
    let newest = newest(&runs);
    let mut out = anstream::stdout();
    writeln!(out, "{}", explain(&runs, SystemTime::now().into()))?;
    if let (Some(url), Some(trace)) = (traces, newest.and_then(Run::trace_id)) {
        let url = url.trim_end_matches('/');
        writeln!(out, "The trace is at {url}/{}", timeline::escape(trace))?;
    }
    Ok(newest.map_or(0, Run::exit_code).into())
}

fn not_empty<'a>(events: &'a [Event], id: &SessionId) -> Result<&'a [Event]> {
    ensure!(
        !events.is_empty(),
        "the journal has no event of session {id}: it never began, or it could not write its first event \
         (on AWS, see: aws stepfunctions list-executions)"
    );
    Ok(events)
}

/// An end that somebody else than the journal tells of.
pub struct Elsewhere {
    pub how: String,
    /// The exit code that says so.
    pub code: u8,
}

/// Shows events as they come until the run ends: the one called `run`, or the newest there is.
/// `ended` tells how it ended if that is known from elsewhere: not every end reaches the journal.
pub async fn follow(
    journal: &Journal,
    id: &SessionId,
    mut printer: Printer,
    mut run: Option<String>,
    mut ended: impl AsyncFnMut() -> Result<Option<Elsewhere>, SdkFault>,
) -> Result<ExitCode> {
    let mut events: Vec<Event> = Vec::new();
    let mut failed_since = None;
    let mut waiting = false;
    loop {
        // Asked first: what was written before the end is then in what is read.
        let elsewhere = ended().await;
        match journal.events(id).await {
            Ok(read) => events = read,
            Err(error) => {
                tolerate(&error.fault, &error, &events)?;
                tokio::time::sleep(FOLLOW_INTERVAL).await;
                continue;
            }
        }
        if events.is_empty() && !waiting {
            waiting = true;
            writeln!(std::io::stderr(), "Session {id} has no event yet; waiting for its first.")?;
        }
        let runs = runs(&events);
        run = run.or_else(|| newest(&runs).map(|run| run.invocation_id.to_owned()));
        let name = run.as_deref().unwrap_or_default();
        printer.print(&runs, name)?;
        let ending = runs.iter().find(|run| run.invocation_id == name).map(|run| (run, run.ending));
        match (ending, elsewhere) {
            (Some((_, Ending::Completed(_))), _) => return end(&printer, &runs, name),
            (Some((run, Ending::Failed(event))), elsewhere) => {
                let since = failed_since.get_or_insert_with(Instant::now);
                let last = event.status == Status::SessionFailed || !run.is_workflows();
                if last
                    || matches!(elsewhere, Ok(Some(_)) | Err(_))
                    || since.elapsed() >= SESSION_FAILED_GRACE
                {
                    return end(&printer, &runs, name);
                }
            }
            (_, Ok(Some(Elsewhere { how, code }))) => {
                printer.print_summary(&runs, name)?;
                writeln!(
                    std::io::stderr(),
                    "The journal does not say how the execution ended: {}",
                    timeline::escape(&how)
                )?;
                return Ok(code.into());
            }
            (_, Err(fault)) => tolerate(&fault, &fault, &events)?,
            (_, Ok(None)) => {}
        }
        tokio::time::sleep(FOLLOW_INTERVAL).await;
    }
}

/// Says on stderr what passes by itself; an error if it does not, or if nothing was read before.
fn tolerate<E>(fault: &SdkFault, error: &E, read: &[Event]) -> Result<()>
where
    E: Clone + std::error::Error + Send + Sync + 'static,
{
    let lasts = matches!(fault.kind, FaultKind::Credentials | FaultKind::Refused { .. });
    if read.is_empty() || lasts {
        return Err(error.clone().into());
    }
    writeln!(std::io::stderr(), "warning: {}; trying again", display_chain(error))?;
    Ok(())
}
