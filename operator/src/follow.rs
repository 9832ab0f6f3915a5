use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use aws_sdk_sfn::types::ExecutionStatus;
use journal::{Ending, Event, Journal, SdkFault, SessionId, Status, display_chain};
use operator::execution_end::Ended;
use operator::history::{newest, runs};
use operator::{Printer, timeline};
use tokio::time::Instant;

use crate::show::end;

/// How often a session that is followed is read.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(1);

/// How long to wait for SESSION_FAILED after the agent's own failure, if a workflow started the run.
const SESSION_FAILED_GRACE: Duration = Duration::from_secs(10);

/// How long to ask a journal that does not answer.
const SILENCE: Duration = Duration::from_secs(30);

/// Shows events as they come until the run ends: the one called `run`, or the newest there is.
/// `ended` tells how its execution ended, if that is known, because not every end reaches the
/// journal.
pub async fn follow(
    journal: &Journal,
    id: &SessionId,
    mut printer: Printer,
    mut run: Option<String>,
    mut ended: impl AsyncFnMut() -> Result<Option<Ended>, SdkFault>,
) -> Result<ExitCode> {
    let mut events: Vec<Event> = Vec::new();
    let (mut failed_since, mut silent_since) = (None, None);
    let mut waiting = false;
    loop {
        // Asked first, so that what was written before the end is read.
        let elsewhere = ended().await;
        match journal.events(id).await {
            Ok(read) => (events, silent_since) = (read, None),
            Err(error) => {
                tolerate(&error.fault, &error, &events)?;
                let since = silent_since.get_or_insert_with(Instant::now);
                ensure!(
                    since.elapsed() < SILENCE,
                    "the journal has not answered for {} s; the session goes on",
                    SILENCE.as_secs()
                );
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
            (_, Ok(Some(ended))) => {
                printer.explain(&runs, name)?;
                writeln!(
                    std::io::stderr(),
                    "The journal does not say how the execution ended: {}",
                    timeline::escape(&ended.how)
                )?;
                return Ok(u8::from(ended.status != ExecutionStatus::Succeeded).into());
            }
            (_, Err(fault)) => tolerate(&fault, &fault, &events)?,
            (_, Ok(None)) => {}
        }
        tokio::time::sleep(FOLLOW_INTERVAL).await;
    }
}

/// Warns of a failure that may pass. It is an error if it cannot, or if nothing was read before.
fn tolerate<E>(fault: &SdkFault, error: &E, read: &[Event]) -> Result<()>
where
    E: Clone + std::error::Error + Send + Sync + 'static,
{
    if read.is_empty() || fault.is_refusal() {
        return Err(error.clone().into());
    }
    writeln!(std::io::stderr(), "warning: {}; trying again", display_chain(error))?;
    Ok(())
}
