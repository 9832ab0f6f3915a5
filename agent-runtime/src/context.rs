//! What an agent may do besides returning: run further tasks, and say how far it is.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use journal::{Draft, InvalidPhase, Reserved, SessionJournal, Status, Step, Timestamp};
use opentelemetry::context::FutureExt;
use tokio::sync::mpsc::{self, Receiver};
use tokio::task::{JoinError, JoinSet};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

/// Progress events that one task may write.
pub const MAX_PROGRESS_EVENTS: usize = 1_000;

/// Progress events of one task that are written at a time.
const AT_A_TIME: usize = 8;

/// How long one of them is tried.
const DEADLINE: Duration = Duration::from_secs(5);

/// How long the terminal event waits for those that came before it.
const GRACE: Duration = Duration::from_secs(1);

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
    progress: Arc<Progress>,
}

/// Takes a phase that is one, what becomes of it, and the text.
type Sink = Box<dyn FnMut(&str, Step, &str) + Send>;

#[derive(Default)]
struct Progress {
    /// `None` before and after the agent runs.
    sink: Mutex<Option<Sink>>,
    said: AtomicUsize,
    written: AtomicUsize,
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress").field("said", &self.said).finish_non_exhaustive()
    }
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
        if let Some(sink) = &mut *self.progress.sink() {
            sink(phase, step, text);
        }
        Ok(())
    }

    /// A context whose progress goes to `sink`.
    pub(crate) fn saying(sink: impl FnMut(&str, Step, &str) + Send + 'static) -> Self {
        let context = Self::default();
        *context.progress.sink() = Some(Box::new(sink));
        context
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

    /// Begins to take progress, which `journal` then gets behind `after`, at the time it is said.
    pub(crate) fn open(&self, journal: SessionJournal, after: Timestamp) -> Writer {
        let (queue, events) = mpsc::channel(MAX_PROGRESS_EVENTS);
        let writer = write(events, journal.clone(), Arc::clone(&self.progress));
        let progress = Arc::clone(&self.progress);
        *self.progress.sink() = Some(Box::new(move |phase, step, text| {
            if progress.said.fetch_add(1, Ordering::Relaxed) < MAX_PROGRESS_EVENTS
                && let Ok(draft) = Draft::progress(phase, step, text)
            {
                // There is room for all of them.
                let _ = queue.try_send(journal.reserve(draft, Some(after)));
            }
        }));
        let writer = tokio::spawn(writer.in_current_span());
        Writer { progress: Arc::clone(&self.progress), writer: AbortOnDropHandle::new(writer) }
    }
}

impl Progress {
    fn sink(&self) -> MutexGuard<'_, Option<Sink>> {
        self.sink.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes a task's progress beside the agent.
pub(crate) struct Writer {
    progress: Arc<Progress>,
    writer: AbortOnDropHandle<()>,
}

impl Writer {
    /// Takes no more. What came before the end of the agent is still written, but the end waits a
    /// second for that and no longer.
    pub async fn finish(mut self) {
        *self.progress.sink() = None;
        if tokio::time::timeout(GRACE, &mut self.writer).await.is_err() {
            self.writer.abort();
            // Until it has stopped, a collision could move an event behind the task's end.
            let _ = (&mut self.writer).await;
        }
        let [said, written] = [&self.progress.said, &self.progress.written]
            .map(|count| count.load(Ordering::Relaxed));
        let over_the_limit = said.saturating_sub(MAX_PROGRESS_EVENTS);
        // One of them may be there all the same: what was under way when the second was over.
        let not_durable = said - over_the_limit - written;
        if over_the_limit + not_durable > 0 {
            tracing::warn!(
                over_the_limit,
                not_durable,
                "progress is missing in the journal: a task may write {MAX_PROGRESS_EVENTS} events, \
                 and its end waits a second for them"
            );
        }
    }
}

/// Writes events, which have their order already, until no more can come.
async fn write(mut events: Receiver<Reserved>, journal: SessionJournal, progress: Arc<Progress>) {
    let told = AtomicBool::new(false);
    let write = async |event| match journal.append_reserved(event, DEADLINE).await {
        Ok(_) => drop(progress.written.fetch_add(1, Ordering::Relaxed)),
        // Of more than one, their number is told at the end.
        Err(error) if !told.swap(true, Ordering::Relaxed) => {
            let error = journal::display_chain(&error);
            tracing::warn!("a progress event is not in the journal: {error}");
        }
        Err(_) => {}
    };
    stream::poll_fn(|cx| events.poll_recv(cx)).for_each_concurrent(AT_A_TIME, write).await;
}
