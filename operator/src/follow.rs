use std::io::{Write, stderr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use journal::{Ending, ReadError, SessionId, Status, display_chain};
use operator::Printer;
use tokio::time::{Instant, interval};

use crate::access::Access;

/// How often a session that is followed is read.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(1);

/// How long to wait for SESSION_FAILED after the agent's own failure, if a workflow started the run.
const SESSION_FAILED_GRACE: Duration = Duration::from_secs(10);

/// How long to ask a journal that does not answer.
const SILENCE: Duration = Duration::from_secs(30);

/// Shows events as they come until the run ends: that of `execution`, or the newest there is. Not every
/// end of an execution reaches the journal.
pub async fn follow(
    access: &Access,
    id: &SessionId,
    mut printer: Printer,
    execution: Option<&str>,
) -> Result<ExitCode> {
    let sources = access.sources()?;
    let mut name = execution.map(str::to_owned);
    let (mut waits, mut answered, mut failed) = (false, None, None);
    let mut ticks = interval(FOLLOW_INTERVAL);
    loop {
        ticks.tick().await;
        let events = sources.journal.events(id).await;
        let runs = match &events {
            Ok(events) => sources.runs(id, events, execution).await,
            Err(error) => Err(error.clone()),
        };
        let Some(runs) = tolerated(runs, &mut answered)? else { continue };
        if !waits && runs.iter().all(|run| run.entries.is_empty()) {
            waits = true;
            writeln!(stderr(), "Session {id} has no event yet; waiting for its first.")?;
        }
        name = name.or_else(|| runs.last().map(|run| run.invocation_id.to_owned()));
        let run = runs.iter().find(|run| Some(run.invocation_id) == name.as_deref());
        let Some(run) = run else { continue };
        printer.print(&runs, run.invocation_id)?;
        let has_ended = match run.ending {
            Ending::Running => run.execution.is_some(),
            Ending::Failed(event) if event.status != Status::SessionFailed => {
                let since = failed.get_or_insert_with(Instant::now);
                !run.is_workflows() || since.elapsed() >= SESSION_FAILED_GRACE
            }
            Ending::Failed(_) | Ending::Completed(_) => true,
        };
        if has_ended {
            return Ok(printer.explain(&runs, run.invocation_id)?.into());
        }
    }
}

/// What was read. Of a failure that may pass, it warns: since the journal has `answered` before, for a while.
fn tolerated<T>(read: Result<T, ReadError>, answered: &mut Option<Instant>) -> Result<Option<T>> {
    let error = match (read, *answered) {
        (Ok(read), _) => {
            *answered = Some(Instant::now());
            return Ok(Some(read));
        }
        (Err(error), Some(last)) if !error.fault.is_refusal() && last.elapsed() < SILENCE => error,
        (Err(error), _) => return Err(error.into()),
    };
    writeln!(stderr(), "warning: {}; trying again", display_chain(&error))?;
    Ok(None)
}
