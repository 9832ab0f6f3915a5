//! What Step Functions knows of the end of an execution.

use std::time::{Duration, SystemTime};

use aws_sdk_sfn::Client;
use aws_sdk_sfn::operation::describe_execution::DescribeExecutionOutput;
use aws_sdk_sfn::types::ExecutionStatus;
use journal::{Ending, Journal, SdkFault, SessionId, Timestamp, ending};

use crate::history::Run;
use crate::timeline::{age, escape};

/// How long to wait for the answer of Step Functions if the journal says enough without it.
const PATIENCE: Duration = Duration::from_secs(3);

/// An execution that has ended.
pub struct Ended {
    /// How, in one word.
    pub status: ExecutionStatus,
    /// When it ended, if Step Functions says so.
    stopped: Option<SystemTime>,
    /// Its status, and on a failure its error and cause.
    pub how: String,
    cause: Option<String>,
}

/// How an execution ended; `None` if it still runs.
///
/// # Errors
/// If Step Functions does not say.
pub async fn ended(client: &Client, arn: &str) -> Result<Option<Ended>, SdkFault> {
    let answer = client.describe_execution().execution_arn(arn).send().await;
    let DescribeExecutionOutput { status, stop_date, error, cause, .. } =
        answer.map_err(|error| SdkFault::new(&error))?;
    if status == ExecutionStatus::Running {
        return Ok(None);
    }
    let said = [Some(status.to_string()), error, cause.clone()];
    let how = said.into_iter().flatten().collect::<Vec<_>>().join(": ");
    let stopped = stop_date.and_then(|date| SystemTime::try_from(date).ok());
    Ok(Some(Ended { status, stopped, how, cause }))
}

/// Says that nobody watches a run any more, if the journal has no end of it and Step Functions says that
/// its execution has ended. `None` if the execution runs, or Step Functions does not say.
pub(crate) async fn unwatched(
    client: &Client,
    journal: &Journal,
    run: &Run<'_>,
    id: &SessionId,
) -> Option<String> {
    let arn = run.invocation_id;
    let now: Timestamp = SystemTime::now().into();
    if run.ending != Ending::Running || run.has_expired(now) || !arn.starts_with("arn:") {
        return None;
    }
    let ended = tokio::time::timeout(PATIENCE, ended(client, arn)).await.ok()?.ok()??;
    // It may have ended, and written so, after its events were read.
    let events = journal.events(id).await.ok()?;
    if ending(&events, arn) != Ending::Running {
        return None;
    }
    let verb = match &ended.status {
        // Its end has expired.
        ExecutionStatus::Succeeded => return None,
        ExecutionStatus::Aborted => "was aborted".to_owned(),
        _ => format!("has ended ({})", escape(&ended.how)),
    };
    let ago = ended.stopped.map(|at| format!(" {} ago", age(at.into(), now))).unwrap_or_default();
    let why = ended.cause.filter(|_| ended.status == ExecutionStatus::Aborted);
    let why = why.map(|cause| format!(" ({})", escape(&cause))).unwrap_or_default();
    let mut text = format!("The execution {verb}{ago}{why}: nobody watches this session.");
    if run.open_task().is_some() {
        text += &format!(" Its agent may still be working; stop it with: agent-journal stop {id}");
    }
    Some(text)
}
