//! The plain tokio task that guards an agent: whatever the agent does, it writes the one terminal
//! event. It belongs to no actor, because actix drops an actor and all that it runs when a handler
//! panics.

use std::time::Duration;

use journal::{AppendError, Draft, SessionJournal, Status, Timestamp};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::Invocation;
use crate::agent::AnyAgent;
use crate::health::Busy;
use crate::outcome::{Outcome, not_joined, terminal_event, terminated};

/// How long AGENT_BACKGROUND_TASK_STARTED is tried before the agent is given up.
const STARTED_DEADLINE: Duration = Duration::from_secs(10);

/// How long an aborted agent may take to drop what it owns. One that blocks its thread takes longer;
/// its terminal event does not wait for it.
const ABORT_GRACE: Duration = Duration::from_millis(500);

pub(crate) struct Task {
    pub journal: SessionJournal,
    pub agent: AnyAgent,
    /// The runtime on which agents run, apart from the journal's: an agent that blocks its thread
    /// must not keep an event from being written.
    pub agents: Handle,
    /// AGENT_ENTRYPOINT_STARTED, the cause of this task.
    pub after: Timestamp,
    /// Cancelled by the worker actor's drop: stop the agent.
    pub abort: CancellationToken,
    /// Cancelled when the process is about to exit: log the event instead of writing it.
    pub give_up: CancellationToken,
    pub busy: Busy,
}

impl Task {
    /// Runs the agent from its first event to its last. `started` learns whether it was started.
    pub(crate) async fn run(
        self,
        invocation: Invocation,
        started: oneshot::Sender<Result<Timestamp, AppendError>>,
    ) {
        let draft = Draft::new(Status::AgentBackgroundTaskStarted);
        let durable = self.journal.append(draft, Some(self.after), STARTED_DEADLINE).await;
        let after = durable.as_ref().ok().copied();
        // The caller may have gone away; the task runs all the same.
        let _ = started.send(durable);
        if after.is_some() {
            let outcome = self.outcome(invocation).await;
            self.end(&outcome, after).await;
        }
        drop(self.busy);
    }

    async fn outcome(&self, invocation: Invocation) -> Outcome {
        let context = invocation.context.clone();
        let mut agent = self.agents.spawn((self.agent)(invocation));
        let abort = agent.abort_handle();
        let work = async {
            let outcome = (&mut agent).await.map_err(not_joined)??;
            loop {
                let mut children = context.take_children();
                if children.is_empty() {
                    return Ok(outcome);
                }
                while let Some(child) = children.join_next().await {
                    child.map_err(not_joined)?;
                }
            }
        };
        let outcome = tokio::select! {
            biased;
            outcome = work => outcome,
            () = self.abort.cancelled() => {
                abort.abort();
                Err(terminated())
            }
        };
        drop(context.take_children());
        if !agent.is_finished() && tokio::time::timeout(ABORT_GRACE, agent).await.is_err() {
            let session_id = self.journal.session_id();
            tracing::warn!(%session_id, "the agent does not stop; its thread stays blocked");
        }
        outcome
    }

    /// Writes the terminal event; as the last resort it is one JSON line of the log.
    async fn end(&self, outcome: &Outcome, after: Option<Timestamp>) {
        let draft = terminal_event(outcome);
        if let Err(error) =
            self.journal.append_terminal(draft, after, self.give_up.cancelled()).await
        {
            let event = serde_json::to_string(error.event()).unwrap_or_default();
            let error = journal::display_chain(&error);
            tracing::error!(event, "the terminal event is not in the journal: {error}");
        }
    }
}
