//! What an agent may do besides returning: run further tasks, and say how far it is.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use journal::{Draft, InvalidPhase, Reserved, SessionJournal, Status, Step, Timestamp};
use opentelemetry::context::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, Span};

/// Progress events that one task may write.
pub const MAX_PROGRESS_EVENTS: usize = 1_000;

/// Progress events of one task that are written at a time.
const AT_A_TIME: usize = 8;

/// How long one of them is tried.
const DEADLINE: Duration = Duration::from_secs(5);

/// How long the terminal event waits for those that came before it.
const GRACE: Duration = Duration::from_millis(750);

/// How long it then waits for those under way, so that what is cut off is known not to be written.
const LAST_GRACE: Duration = Duration::from_millis(250);

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

/// Where progress goes; nowhere before and after the agent runs.
#[derive(Default)]
struct Progress(Mutex<Option<Sink>>);

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress").finish_non_exhaustive()
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
    /// Runs in the runtime that is to write it.
    pub(crate) fn open(&self, journal: SessionJournal, after: Timestamp) -> Writer {
        let writes = Arc::new(Writes {
            journal,
            after,
            runtime: Handle::current(),
            logs: Span::current(),
            under_way: TaskTracker::new(),
            turns: Semaphore::new(AT_A_TIME),
            abort: CancellationToken::new(),
            said: AtomicUsize::new(0),
            written: AtomicUsize::new(0),
            told: AtomicBool::new(false),
        });
        let sink = Arc::clone(&writes);
        *self.progress.sink() = Some(Box::new(move |phase, step, text| {
            if let Ok(draft) = Draft::progress(phase, step, text) {
                sink.say(draft);
            }
        }));
        Writer { progress: Arc::clone(&self.progress), writes }
    }
}

impl Progress {
    fn sink(&self) -> MutexGuard<'_, Option<Sink>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes a task's progress beside the agent.
pub(crate) struct Writer {
    progress: Arc<Progress>,
    writes: Arc<Writes>,
}

impl Writer {
    /// Takes no more. What came before the end of the agent is still written, but the end waits a
    /// second for that and no longer.
    pub async fn finish(self) {
        *self.progress.sink() = None;
        let writes = self.writes;
        writes.under_way.close();
        let _ = tokio::time::timeout(GRACE, writes.under_way.wait()).await;
        writes.turns.close();
        if tokio::time::timeout(LAST_GRACE, writes.under_way.wait()).await.is_err() {
            writes.abort.cancel();
            // Until they have stopped, a collision could move an event behind the task's end.
            writes.under_way.wait().await;
        }
        let [said, written] =
            [&writes.said, &writes.written].map(|count| count.load(Ordering::Relaxed));
        let over_the_limit = said.saturating_sub(MAX_PROGRESS_EVENTS);
        // Some may be there all the same: those that were still under way when the second was over.
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

/// Progress on its way. A task that says nothing costs nothing: each event is a task of its own.
struct Writes {
    journal: SessionJournal,
    after: Timestamp,
    runtime: Handle,
    logs: Span,
    under_way: TaskTracker,
    turns: Semaphore,
    abort: CancellationToken,
    said: AtomicUsize,
    written: AtomicUsize,
    /// Whether a failure was logged. Of more than one, their number is told at the end.
    told: AtomicBool,
}

impl Writes {
    fn say(self: &Arc<Self>, draft: Draft) {
        if self.said.fetch_add(1, Ordering::Relaxed) >= MAX_PROGRESS_EVENTS {
            return;
        }
        // Its order is fixed here; the writes may overtake each other.
        let event = self.journal.reserve(draft, Some(self.after));
        let writes = Arc::clone(self);
        let write = async move { writes.abort.run_until_cancelled(writes.write(event)).await };
        self.under_way.spawn_on(write.instrument(self.logs.clone()), &self.runtime);
    }

    async fn write(&self, event: Reserved) {
        let Ok(_turn) = self.turns.acquire().await else { return };
        match self.journal.append_reserved(event, DEADLINE).await {
            Ok(_) => drop(self.written.fetch_add(1, Ordering::Relaxed)),
            Err(error) if !self.told.swap(true, Ordering::Relaxed) => {
                let error = journal::display_chain(&error);
                tracing::warn!("a progress event is not in the journal: {error}");
            }
            Err(_) => {}
        }
    }
}
