use std::io::{Write, stderr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use journal::{Ending, SessionId, Status, display_chain};
use operator::Printer;
use operator::history::{Run, runs};
use tokio::time::{Instant, MissedTickBehavior, interval};

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
    let (mut answered, mut failing, mut failed) = (false, None, None);
    let mut ticks = interval(FOLLOW_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // Asked first, so that what was written before the end is read.
        let end = match execution {
            Some(arn) => sources.end(arn).await,
            None => Ok(None),
        };
        let read = match end {
            Ok(end) => match sources.journal.events(id).await {
                Ok(events) => Ok((end, events)),
                Err(error) => Err((error.fault.clone(), error.into())),
            },
            Err(fault) => Err((fault.clone(), fault.into())),
        };
        let (end, events) = match read {
            Ok(read) => read,
            Err((fault, error)) if fault.is_refusal() || !answered => return Err(error),
            Err((_, error)) => {
                let since = failing.get_or_insert_with(Instant::now);
                ensure!(since.elapsed() < SILENCE, "{error}; the session goes on");
                writeln!(stderr(), "warning: {}; trying again", display_chain(error.as_ref()))?;
                continue;
            }
        };
        if events.is_empty() && !answered {
            writeln!(stderr(), "Session {id} has no event yet; waiting for its first.")?;
        }
        (answered, failing) = (true, None);
        let mut runs = runs(&events);
        name = name.or_else(|| runs.last().map(|run| run.invocation_id.to_owned()));
        let Some(name) = name.as_deref() else { continue };
        printer.print(&runs, name)?;
        if end.is_some() && runs.iter().all(|run| run.invocation_id != name) {
            runs.push(Run::without_events(name));
        }
        let Some(run) = runs.iter_mut().find(|run| run.invocation_id == name) else { continue };
        let has_ended = match run.ending {
            Ending::Running => end.is_some(),
            Ending::Failed(event) if event.status != Status::SessionFailed && end.is_none() => {
                let since = failed.get_or_insert_with(Instant::now);
                !run.is_workflows() || since.elapsed() >= SESSION_FAILED_GRACE
            }
            Ending::Failed(_) | Ending::Completed(_) => true,
        };
        run.execution = end;
        if has_ended {
            return Ok(printer.explain(&runs, name)?.into());
        }
    }
}
