//! How far an agent is, on its way into the journal.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use journal::{Draft, Reserved, SessionJournal, Step, Timestamp};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
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

/// Takes a phase that is one, what becomes of it, and the text.
type Sink = Box<dyn FnMut(&str, Step, &str) + Send>;

/// Where progress goes; nowhere before and after the agent runs. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Progress(Arc<Mutex<Option<Sink>>>);

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress").finish_non_exhaustive()
    }
}

impl Progress {
    /// Progress that goes to `sink`.
    pub fn to(sink: impl FnMut(&str, Step, &str) + Send + 'static) -> Self {
        let progress = Self::default();
        *progress.sink() = Some(Box::new(sink));
        progress
    }

    pub fn say(&self, phase: &str, step: Step, text: &str) {
        if let Some(sink) = &mut *self.sink() {
            sink(phase, step, text);
        }
    }

    /// Begins to take progress, which `journal` then gets behind `after`, at the time it is said.
    /// Runs in the runtime that is to write it.
    pub fn open(&self, journal: SessionJournal, after: Timestamp) -> Writer {
        let writes = Arc::new(Writes {
            journal,
            latest: Mutex::new(after),
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
        *self.sink() = Some(Box::new(move |phase, step, text| {
            if let Ok(draft) = Draft::progress(phase, step, text) {
                sink.say(draft);
            }
        }));
        Writer { progress: self.clone(), writes }
    }

    fn sink(&self) -> MutexGuard<'_, Option<Sink>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes a task's progress beside the agent.
pub(crate) struct Writer {
    progress: Progress,
    writes: Arc<Writes>,
}

impl Writer {
    /// Takes no more. What came before the end of the agent is still written, but the end waits a
    /// second for that and no longer. Returns the time behind which the end belongs.
    pub async fn finish(self) -> Timestamp {
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
        *writes.latest()
    }
}

/// Progress on its way. A task that says nothing costs nothing: each event is a task of its own.
struct Writes {
    journal: SessionJournal,
    /// The task's start, or the last of its progress. The journal may forget it: it has many sessions.
    latest: Mutex<Timestamp>,
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
        let event = {
            let mut latest = self.latest();
            let event = self.journal.reserve(draft, Some(*latest));
            *latest = event.timestamp();
            event
        };
        let writes = Arc::clone(self);
        let write = async move { writes.abort.run_until_cancelled(writes.write(event)).await };
        self.under_way.spawn_on(write.instrument(self.logs.clone()), &self.runtime);
    }

    async fn write(&self, event: Reserved) {
        let Ok(_turn) = self.turns.acquire().await else { return };
        match self.journal.append_reserved(event, DEADLINE).await {
            Ok(time) => {
                self.written.fetch_add(1, Ordering::Relaxed);
                // A collision has moved it.
                let mut latest = self.latest();
                *latest = time.max(*latest);
            }
            Err(error) if !self.told.swap(true, Ordering::Relaxed) => {
                let error = journal::display_chain(&error);
                tracing::warn!("a progress event is not in the journal: {error}");
            }
            Err(_) => {}
        }
    }

    fn latest(&self) -> MutexGuard<'_, Timestamp> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
