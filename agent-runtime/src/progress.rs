//! An agent's progress on its way into the journal.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use journal::{Draft, InvalidPhase, SessionJournal, Step, Timestamp};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinHandle;
use tracing::{Instrument, Span};

/// Progress events that one task may write.
pub const MAX_PROGRESS_EVENTS: usize = 1_000;

/// How long one of them is tried.
const DEADLINE: Duration = Duration::from_secs(5);

/// How long the end of a task waits for the progress that came before it.
const GRACE: Duration = Duration::from_secs(1);

/// Takes progress while the agent runs, and drops it before and afterwards. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Progress(Arc<Mutex<Option<Taker>>>);

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress").finish_non_exhaustive()
    }
}

struct Taker {
    journal: SessionJournal,
    /// The journal's runtime: an agent that blocks its own thread must not keep events back.
    runtime: Handle,
    logs: Span,
    /// How many events came, including those over the limit.
    count: usize,
    /// When the newest one came.
    last: Option<Timestamp>,
    /// Made for the first event: a task that has none costs nothing.
    writer: Option<(UnboundedSender<Draft>, JoinHandle<()>)>,
}

impl Progress {
    /// Takes progress for `journal` from now on. Runs in the runtime that is to write it.
    pub fn open(&self, journal: SessionJournal) {
        let (runtime, logs) = (Handle::current(), Span::current());
        *self.taker() = Some(Taker { journal, runtime, logs, count: 0, last: None, writer: None });
    }

    /// Journals a phase, at the time of this call.
    pub fn add(&self, phase: &str, step: Step, text: &str) -> Result<(), InvalidPhase> {
        let draft = Draft::progress(phase, step, text)?;
        let mut taker = self.taker();
        let Some(taker) = taker.as_mut() else { return Ok(()) };
        let now = taker.journal.now();
        (taker.count, taker.last) = (taker.count + 1, Some(now));
        if taker.count > MAX_PROGRESS_EVENTS {
            return Ok(());
        }
        let draft = draft.at(now);
        let (sender, _) = taker.writer.get_or_insert_with(|| {
            let (sender, drafts) = mpsc::unbounded_channel();
            let write = write(taker.journal.clone(), drafts).instrument(taker.logs.clone());
            (sender, taker.runtime.spawn(write))
        });
        // The writer goes on until the sender is dropped.
        let _ = sender.send(draft);
        Ok(())
    }

    /// When the agent's newest progress came.
    pub fn last(&self) -> Option<Timestamp> {
        self.taker().as_ref()?.last
    }

    /// Takes no more progress, and waits one second until the journal has all of it. Then the rest is
    /// dropped, so that it does not delay the end of the task.
    pub async fn close(&self) {
        let taker = self.taker().take();
        let Some(Taker { count, writer: Some((sender, mut writer)), .. }) = taker else { return };
        drop(sender);
        if tokio::time::timeout(GRACE, &mut writer).await.is_err() {
            tracing::warn!("the end of the task did not wait longer than 1 s for its progress");
            writer.abort();
            let _ = writer.await;
        }
        let dropped = count.saturating_sub(MAX_PROGRESS_EVENTS);
        if dropped > 0 {
            tracing::warn!(
                dropped,
                "progress is missing in the journal: a task may write {MAX_PROGRESS_EVENTS} events"
            );
        }
    }

    fn taker(&self) -> MutexGuard<'_, Option<Taker>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes one event after the other, so that a collision, which moves an event, cannot change their
/// order.
async fn write(journal: SessionJournal, mut drafts: UnboundedReceiver<Draft>) {
    let mut logged = false;
    while let Some(draft) = drafts.recv().await {
        let written = journal.append(draft, None, DEADLINE).await;
        if let Err(error) = written
            && !std::mem::replace(&mut logged, true)
        {
            let error = journal::display_chain(&error);
            tracing::warn!("progress is missing in the journal, the first of it: {error}");
        }
    }
}
