use std::collections::HashSet;
use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use clap::Args;
use journal::{Ending, Event, FaultKind, Journal, SdkFault, SessionId, Status, display_chain};
use tokio::time::Instant;
use workflow::history::{Run, newest, runs};
use workflow::{explain, timeline};

/// How often a session that is followed is read.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(1);

/// How long SESSION_FAILED is waited for after the agent's own failure in a workflow's run.
const SESSION_FAILED_GRACE: Duration = Duration::from_secs(10);

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

#[derive(Args, Default)]
pub struct View {
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

/// Shows a session's events, and with `--follow` those that still come.
pub async fn show(journal: &Journal, args: &EventsArgs) -> Result<ExitCode> {
    let mut screen = Screen::new(&args.view);
    if args.follow {
        return follow(journal, &args.id, screen, None, async || Ok(None)).await;
    }
    let mut pages = journal.pages(&args.id);
    let mut events = Vec::new();
    // The run of a long session's newest event, which is the newest run as a rule.
    let mut probable = None;
    while let Some(page) = pages.next().await? {
        let first_page = events.is_empty();
        events.extend(page);
        if first_page && !pages.is_done() && !args.view.json {
            probable = journal.newest(&args.id).await?.map(|event| event.invocation_id);
        }
        // Nobody has to wait for the last page to see the first line.
        if let (Some(probable), [run]) = (&probable, &*runs(&events))
            && run.invocation_id == probable
        {
            screen.show(std::slice::from_ref(run), probable)?;
        }
    }
    let runs = runs(not_empty(&events, &args.id)?);
    let run = newest(&runs).map_or("", |run| run.invocation_id);
    screen.show(&runs, run)?;
    screen.end(&runs, run)
}

/// Says what happened to a session, and where its trace is shown.
pub async fn tell(journal: &Journal, id: &SessionId, traces: Option<String>) -> Result<ExitCode> {
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
        "the journal has no event of session {id}: it never began, or it could not write its first event (on AWS, aws stepfunctions list-executions tells)"
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
    mut screen: Screen<'_>,
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
        screen.show(&runs, name)?;
        let ending = runs.iter().find(|run| run.invocation_id == name).map(|run| (run, run.ending));
        match (ending, elsewhere) {
            (Some((_, Ending::Completed(_))), _) => return screen.end(&runs, name),
            (Some((run, Ending::Failed(event))), elsewhere) => {
                let since = failed_since.get_or_insert_with(Instant::now);
                let last = event.status == Status::SessionFailed || !run.is_workflows();
                if last
                    || matches!(elsewhere, Ok(Some(_)) | Err(_))
                    || since.elapsed() >= SESSION_FAILED_GRACE
                {
                    return screen.end(&runs, name);
                }
            }
            (_, Ok(Some(Elsewhere { how, code }))) => {
                screen.end(&runs, name)?;
                writeln!(
                    std::io::stderr(),
                    "The journal does not tell how the execution ended: {}",
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

/// What was shown of a session. Events that arrive late are shown when they arrive.
pub struct Screen<'a> {
    view: &'a View,
    /// The sort keys of the events that were shown.
    shown: HashSet<String>,
    /// The run of the last line.
    run: Option<String>,
}

impl<'a> Screen<'a> {
    pub fn new(view: &'a View) -> Self {
        Self { view, shown: HashSet::new(), run: None }
    }

    /// Shows the events that are new, of the run called `name` or of all.
    fn show(&mut self, runs: &[Run], name: &str) -> Result<()> {
        let mut out = anstream::stdout().lock();
        let wanted = (1..).zip(runs).filter(|(_, run)| self.view.all || run.invocation_id == name);
        let mut entries: Vec<_> = wanted
            .flat_map(|(number, run)| {
                run.entries.iter().map(move |entry| (number, run.invocation_id, entry))
            })
            .collect();
        entries.sort_by(|(_, _, a), (_, _, b)| a.event.sort_key.cmp(&b.event.sort_key));
        for (number, run, entry) in entries {
            let wanted = !self.view.failed || entry.event.status.is_failure();
            if !wanted || !self.shown.insert(entry.event.sort_key.clone()) {
                continue;
            }
            if self.view.json {
                writeln!(out, "{}", timeline::json_line(entry.event)?)?;
                continue;
            }
            let another = self.run.as_deref() != Some(run);
            if another && (self.view.all || self.run.is_some()) {
                writeln!(out, "run {number}: {}", timeline::escape(run))?;
            }
            self.run = Some(run.to_owned());
            writeln!(out, "{}", timeline::line(entry))?;
        }
        Ok(())
    }

    /// Shows how the run called `name` stands, and gives the exit code that says so.
    fn end(&self, runs: &[Run], name: &str) -> Result<ExitCode> {
        let run = (1..).zip(runs).find(|(_, run)| run.invocation_id == name);
        let Some((number, run)) = run else { return Ok(ExitCode::from(2)) };
        if !self.view.json {
            let mut out = anstream::stdout().lock();
            let now = SystemTime::now().into();
            let told = (1..).zip(runs).filter(|(other, _)| self.view.all || *other == number);
            for (at, (number, run)) in told.enumerate() {
                if at > 0 || !self.shown.is_empty() {
                    writeln!(out)?;
                }
                writeln!(out, "{}", timeline::summary(run, number, runs.len(), now))?;
            }
        }
        Ok(run.exit_code().into())
    }
}
