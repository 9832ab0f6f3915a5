//! What Step Functions knows of the end of an execution.

use std::time::{Duration, SystemTime};

use aws_sdk_sfn::Client;
use aws_sdk_sfn::operation::describe_execution::DescribeExecutionOutput;
use aws_sdk_sfn::types::ExecutionStatus;
use journal::{Ending, SdkFault, SessionId, Timestamp, ending};

use crate::history::Run;
use crate::sessions::Sources;
use crate::timeline::{age, escape};

/// How long to wait for the answer of Step Functions if the journal says enough without it.
const PATIENCE: Duration = Duration::from_secs(3);

/// An execution that has ended; `None` if it still runs.
///
/// # Errors
/// If Step Functions does not say.
pub async fn ended(
    client: &Client,
    arn: &str,
) -> Result<Option<DescribeExecutionOutput>, SdkFault> {
    let answer = client.describe_execution().execution_arn(arn).send().await;
    let answer = answer.map_err(|error| SdkFault::new(&error))?;
    Ok(Some(answer).filter(|ended| ended.status != ExecutionStatus::Running))
}

/// How an execution ended: its status, and on a failure its error and cause.
#[must_use]
pub fn how(ended: &DescribeExecutionOutput) -> String {
    let said = [Some(ended.status.as_str()), ended.error(), ended.cause()];
    escape(&said.into_iter().flatten().collect::<Vec<_>>().join(": "))
}

impl Sources {
    /// Says that nobody watches a run any more, if the journal has no end of it and Step Functions says
    /// that its execution has ended. `None` if the execution runs, or Step Functions does not say.
    pub(crate) async fn unwatched(&self, run: &Run<'_>, id: &SessionId) -> Option<String> {
        let arn = run.invocation_id;
        let now: Timestamp = SystemTime::now().into();
        if run.ending != Ending::Running || run.has_expired(now) || !arn.starts_with("arn:") {
            return None;
        }
        let ended =
            tokio::time::timeout(PATIENCE, ended(&self.workflows, arn)).await.ok()?.ok()??;
        // It may have ended, and written so, after its events were read.
        let events = self.journal.events(id).await.ok()?;
        if ending(&events, arn) != Ending::Running {
            return None;
        }
        let how = match &ended.status {
            // Its end has expired.
            ExecutionStatus::Succeeded => return None,
            ExecutionStatus::Aborted => "was aborted".to_owned(),
            _ => format!("has ended ({})", how(&ended)),
        };
        let stopped = ended.stop_date.and_then(|date| SystemTime::try_from(date).ok());
        let ago = stopped.map(|at| format!(" {} ago", age(at.into(), now))).unwrap_or_default();
        let why = ended.cause.filter(|_| ended.status == ExecutionStatus::Aborted);
        let why = why.map(|cause| format!(" ({})", escape(&cause))).unwrap_or_default();
        let mut text = format!("The execution {how}{ago}{why}: nobody watches this session.");
        if run.open_task().is_some() {
            let stop = format!("agent-journal stop {id}");
            text += &format!(" Its agent may still be working; stop it with: {stop}");
        }
        Some(text)
    }
}
