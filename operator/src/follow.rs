use std::io::{Write, stderr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Error, Result, ensure};
use aws_sdk_sfn::types::ExecutionStatus;
use journal::{Ending, Event, SdkFault, SessionId, Status, display_chain};
use operator::Printer;
use operator::execution_end::{ended, how};
use operator::history::{newest, runs};
use tokio::time::{Instant, sleep};

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
    execution: Option<String>,
) -> Result<ExitCode> {
    let (journal, workflows) = (access.journal()?, access.workflows());
    let mut events: Vec<Event> = Vec::new();
    let (mut run, mut waiting) = (execution.clone(), false);
    let (mut failed_since, mut silent_since) = (None, None);
    loop {
        // Asked first, so that what was written before the end is read.
        let elsewhere = match &execution {
            Some(arn) => ended(&workflows, arn).await,
            None => Ok(None),
        };
        match journal.events(id).await {
            Ok(read) => (events, silent_since) = (read, None),
            Err(error) => {
                tolerate(&error.fault.clone(), error.into(), &events)?;
                let since = silent_since.get_or_insert_with(Instant::now);
                ensure!(
                    since.elapsed() < SILENCE,
                    "the journal has not answered for {} s; the session goes on",
                    SILENCE.as_secs()
                );
                sleep(FOLLOW_INTERVAL).await;
                continue;
            }
        }
        if events.is_empty() && !waiting {
            waiting = true;
            writeln!(stderr(), "Session {id} has no event yet; waiting for its first.")?;
        }
        let runs = runs(&events);
        run = run.or_else(|| newest(&runs).map(|run| run.invocation_id.to_owned()));
        let name = run.as_deref().unwrap_or_default();
        printer.print(&runs, name)?;
        let ending = runs.iter().find(|run| run.invocation_id == name).map(|run| (run, run.ending));
        match (ending, elsewhere) {
            (Some((_, Ending::Completed(_))), _) => {
                return Ok(printer.explain(&runs, name)?.into());
            }
            (Some((run, Ending::Failed(event))), elsewhere) => {
                let since = failed_since.get_or_insert_with(Instant::now);
                let last = event.status == Status::SessionFailed || !run.is_workflows();
                if last || !matches!(elsewhere, Ok(None)) || since.elapsed() >= SESSION_FAILED_GRACE
                {
                    return Ok(printer.explain(&runs, name)?.into());
                }
            }
            (_, Ok(Some(ended))) => {
                printer.explain(&runs, name)?;
                let how = how(&ended);
                writeln!(stderr(), "The journal does not say how the execution ended: {how}")?;
                return Ok(u8::from(ended.status != ExecutionStatus::Succeeded).into());
            }
            (_, Err(fault)) => tolerate(&fault.clone(), fault.into(), &events)?,
            (_, Ok(None)) => {}
        }
        sleep(FOLLOW_INTERVAL).await;
    }
}

/// Warns of a failure that may pass. It is an error if it cannot, or if nothing was read before.
fn tolerate(fault: &SdkFault, error: Error, read: &[Event]) -> Result<()> {
    if read.is_empty() || fault.is_refusal() {
        return Err(error);
    }
    writeln!(stderr(), "warning: {}; trying again", display_chain(error.as_ref()))?;
    Ok(())
}
