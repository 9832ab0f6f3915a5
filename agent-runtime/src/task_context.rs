use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use journal::{InvalidPhase, Step};
use opentelemetry::context::FutureExt;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::progress::Progress;

/// What an agent can do besides returning: run further tasks, and journal its progress. Cheap to
/// clone.
///
/// A task that it [spawns](Self::spawn) is tied to the agent's task. A phase that it
/// [starts](Self::started), [completes](Self::completed) or [fails](Self::failed) is an event of the
/// task in the journal: `TASK_{PHASE}_STARTED` and so on, between the task's first event and its
/// last. The name of a phase has 1 to 50 characters of `A-Z a-z 0-9 _ -`. The text is for people, may
/// be empty, and is cut at 1 KB. A task may write 1,000 such events. Further ones are dropped, and so
/// are those that come after the agent has ended. None of these calls waits.
///
/// ```
/// # use agent_runtime::{AgentError, TaskContext};
/// fn read(context: &TaskContext) -> Result<(), AgentError> {
///     context.started("read", "3 files")?;
///     context.completed("read", "")?;
///     assert!(context.started("a phase", "").is_err(), "no spaces");
///     Ok(())
/// }
/// # read(&TaskContext::default()).unwrap();
/// ```
#[derive(Debug, Clone, Default)]
pub struct TaskContext {
    /// Cancelled when the task has to end.
    pub(crate) ending: CancellationToken,
    children: Arc<Mutex<JoinSet<()>>>,
    pub(crate) progress: Progress,
    /// The beginning of a result that is too long to be kept, and its size in bytes.
    pub(crate) long_result: Arc<OnceLock<(String, usize)>>,
}

impl TaskContext {
    /// Runs a future as part of the agent's task. It is aborted with the task, the agent completes only
    /// after it, and its panic fails the agent. (A plain `tokio::spawn` does none of this: its panic
    /// is lost with the handle.)
    pub fn spawn(&self, child: impl Future<Output = ()> + Send + 'static) {
        let child = child.with_current_context().in_current_span();
        self.children.lock().unwrap_or_else(PoisonError::into_inner).spawn(child);
    }

    /// Resolves when the task has to end: an operator stops it, its time is over, or its container
    /// is told to stop. See [`Agent::grace`](crate::Agent::grace).
    pub async fn ending(&self) {
        self.ending.cancelled().await;
    }

    /// A phase begins.
    ///
    /// # Errors
    /// If `phase` breaks the rule.
    pub fn started(&self, phase: &str, text: &str) -> Result<(), InvalidPhase> {
        self.progress.add(phase, Step::Started, text)
    }

    /// A phase has ended well.
    ///
    /// # Errors
    /// If `phase` breaks the rule.
    pub fn completed(&self, phase: &str, text: &str) -> Result<(), InvalidPhase> {
        self.progress.add(phase, Step::Completed, text)
    }

    /// A phase has failed; the task need not.
    ///
    /// # Errors
    /// If `phase` breaks the rule.
    pub fn failed(&self, phase: &str, text: &str) -> Result<(), InvalidPhase> {
        self.progress.add(phase, Step::Failed, text)
    }

    /// Waits for what was spawned, and for what that has spawned.
    pub(crate) async fn join_children(&self) -> Result<(), JoinError> {
        loop {
            let mut children = self.take_children();
            if children.is_empty() {
                return Ok(());
            }
            while let Some(child) = children.join_next().await {
                child?;
            }
        }
    }

    /// Takes the children out; dropping what is returned aborts them.
    pub(crate) fn take_children(&self) -> JoinSet<()> {
        std::mem::take(&mut self.children.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
