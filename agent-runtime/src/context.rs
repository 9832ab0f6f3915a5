//! What an agent may do besides returning: run further tasks, and say how far it is.

use std::sync::{Arc, Mutex, PoisonError};

use journal::{InvalidPhase, Status, Step};
use opentelemetry::context::FutureExt;
use tokio::task::{JoinError, JoinSet};
use tracing::Instrument;

use crate::progress::Progress;

/// Belongs to the agent's task. Cheap to clone.
///
/// What is [spawned](Self::spawn) by it is tied to the task. What is [started](Self::started),
/// [completed](Self::completed) or [failed](Self::failed) by it is a phase of the task in the
/// journal: `TASK_{PHASE}_STARTED` and so on, between the task's own first event and its last. A
/// phase is named by 1 to 50 of `A-Z a-z 0-9 _ -`. The text is for people, may be empty, and is cut
/// at 1 KB. A task may write 1,000 such events; more are counted and dropped, as are those that come
/// when the agent has ended. None of these calls waits.
///
/// ```
/// # use agent_runtime::{AgentError, Context};
/// fn read(context: &Context) -> Result<(), AgentError> {
///     context.started("read", "3 files")?;
///     context.completed("read", "")?;
///     assert!(context.started("a phase", "").is_err(), "no spaces");
///     Ok(())
/// }
/// # read(&Context::default()).unwrap();
/// ```
#[derive(Debug, Clone, Default)]
pub struct Context {
    children: Arc<Mutex<JoinSet<()>>>,
    pub(crate) progress: Progress,
}

impl Context {
    /// Runs a future as part of the agent's task: it is aborted with it, the agent does not complete
    /// before it does, and if it panics the agent has failed. (A plain `tokio::spawn` does none of
    /// this: its panic is lost with the handle.)
    pub fn spawn(&self, child: impl Future<Output = ()> + Send + 'static) {
        let child = child.with_current_context().in_current_span();
        self.children.lock().unwrap_or_else(PoisonError::into_inner).spawn(child);
    }

    /// A phase begins.
    ///
    /// # Errors
    /// If `phase` breaks the rule.
    pub fn started(&self, phase: &str, text: &str) -> Result<(), InvalidPhase> {
        self.progress(phase, Step::Started, text)
    }

    /// A phase has ended well.
    ///
    /// # Errors
    /// If `phase` breaks the rule.
    pub fn completed(&self, phase: &str, text: &str) -> Result<(), InvalidPhase> {
        self.progress(phase, Step::Completed, text)
    }

    /// A phase has failed; the task need not.
    ///
    /// # Errors
    /// If `phase` breaks the rule.
    pub fn failed(&self, phase: &str, text: &str) -> Result<(), InvalidPhase> {
        self.progress(phase, Step::Failed, text)
    }

    pub(crate) fn progress(&self, phase: &str, step: Step, text: &str) -> Result<(), InvalidPhase> {
        Status::phase(phase, step)?;
        self.progress.say(phase, step, text);
        Ok(())
    }

    /// A context whose progress goes to `sink`.
    pub(crate) fn saying(sink: impl FnMut(&str, Step, &str) + Send + 'static) -> Self {
        Self { progress: Progress::to(sink), ..Self::default() }
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
