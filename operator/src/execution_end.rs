//! The end of an execution of which the journal has no end.

use std::time::{Duration, SystemTime};

use aws_sdk_sfn::operation::describe_execution::DescribeExecutionOutput;
use aws_sdk_sfn::types::ExecutionStatus;
use journal::{Ending, SdkFault, SessionId, Timestamp, ending};

use crate::history::Run;
use crate::sessions::Sources;
use crate::timeline::{age, escape};

/// How long to wait for the answer of Step Functions if the journal says enough without it.
const PATIENCE: Duration = Duration::from_secs(3);

impl Sources {
    pub(crate) async fn described(&self, arn: &str) -> Result<DescribeExecutionOutput, SdkFault> {
        let answer = self.workflows.describe_execution().execution_arn(arn).send().await;
        answer.map_err(|error| SdkFault::new(&error))
    }

    /// A run's execution if that has ended and the journal has no end of the run. `None` also if Step
    /// Functions does not say.
    pub(crate) async fn ended(
        &self,
        run: &Run<'_>,
        id: &SessionId,
    ) -> Option<DescribeExecutionOutput> {
        let arn = run.invocation_id;
        let is_open = run.ending == Ending::Running && !run.has_expired(SystemTime::now().into());
        if !is_open || !arn.starts_with("arn:") {
            return None;
        }
        let described = tokio::time::timeout(PATIENCE, self.described(arn)).await.ok()?.ok();
        let described = described.filter(|it| it.status != ExecutionStatus::Running)?;
        // It may have ended, and written so, after its events were read.
        let events = self.journal.events(id).await.ok()?;
        (ending(&events, arn) == Ending::Running).then_some(described)
    }
}

/// Says that nobody watches a run any more, and how its execution ended.
pub(crate) fn unwatched(run: &Run, now: Timestamp) -> Option<String> {
    let ended = run.execution.as_ref()?;
    let stopped = ended.stop_date.and_then(|date| SystemTime::try_from(date).ok());
    let ago = stopped.map(|at| format!(" {} ago", age(at.into(), now))).unwrap_or_default();
    let said = [ended.error(), ended.cause()].into_iter().flatten().collect::<Vec<_>>().join(": ");
    let why = if said.is_empty() { said } else { format!(" ({})", escape(&said)) };
    let status = &ended.status;
    let mut text =
        format!("The execution has ended ({status}){ago}{why}: nobody watches this session.");
    if let Some(id) = run.open_task().and_then(|task| task.session_id()) {
        let stop = format!("agent-journal stop {id}");
        text += &format!(" Its agent may still be working; stop it with: {stop}");
    }
    Some(text)
}
